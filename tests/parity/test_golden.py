"""The runtime compared with what transformers computed for two small BitNet checkpoints.

``rsr_testing.parity.golden_layers`` recorded the data, so this needs no torch. The checkpoints are
read and unpacked by the lines below, independently of the compiler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.parity import golden_layers as golden


def _read_safetensors(path: Path) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    """Return dtype and values of each tensor, BF16 widened to float32."""
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    body = data[8 + header_size :]
    tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for name, entry in json.loads(data[8 : 8 + header_size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = entry["dtype"]
        values: npt.NDArray[Any]
        if dtype == "BF16":
            high = np.frombuffer(body[begin:end], dtype="<u2").astype(np.uint32)
            values = (high << np.uint32(16)).view(np.float32)
        else:
            assert dtype == "U8"
            values = np.frombuffer(body[begin:end], dtype=np.uint8)
        tensors[name] = (dtype, values.reshape(entry["shape"]))
    return tensors


def _unpack(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Unpack 2-bit codes: the low bits hold the first quarter of the rows, and so on."""
    quarters = [(codes >> shift) & 3 for shift in (0, 2, 4, 6)]
    return np.concatenate(quarters).astype(np.int8) - np.int8(1)


@dataclass(frozen=True)
class Case:
    """A golden checkpoint, compiled and loaded."""

    linear_class: str
    folder: Path
    tensors: dict[str, tuple[str, npt.NDArray[Any]]]
    model: Any

    def modules(self) -> list[str]:
        return [
            name.removesuffix(".weight")
            for name, (dtype, _) in self.tensors.items()
            if dtype == "U8"
        ]

    def ternary(self, module: str) -> npt.NDArray[np.int8]:
        return _unpack(self.tensors[f"{module}.weight"][1])

    def multiplier(self, module: str) -> np.float32:
        """Return the factor of the ternary values; bitlinear stores its reciprocal."""
        dtype, stored = self.tensors[f"{module}.weight_scale"]
        assert dtype == "BF16"
        assert stored.shape == (1,)
        scale = np.float32(stored[0])
        return scale if self.linear_class == "autobitlinear" else np.float32(1) / scale

    def recording(self, file_name: str) -> dict[str, npt.NDArray[Any]]:
        with np.load(self.folder / file_name) as archive:
            return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module", params=golden.LINEAR_CLASSES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = golden.GOLDEN_DIR / request.param
    output = tmp_path_factory.mktemp(request.param) / "m.rsr"
    rsrc.compile(folder / "model", output)
    with rsr_runtime.load(output) as model:
        tensors = _read_safetensors(folder / "model" / "model.safetensors")
        yield Case(request.param, folder, tensors, model)


def _assert_outputs(case: Case, recording: dict[str, npt.NDArray[Any]]) -> None:
    tolerance = golden.TOLERANCE[case.linear_class]
    names = [key.removesuffix("/input") for key in recording if key.endswith("/input")]
    assert names
    for name in names:
        x, want = recording[f"{name}/input"], recording[f"{name}/output"]
        got = case.model[f"{name}.weight"].linear(x, activations="int8")
        assert got.shape == want.shape
        assert got.dtype == np.float32
        assert golden.row_error(got, want) <= tolerance, name


def test_recording_covers_every_quantized_layer(case: Case) -> None:
    recorded = {key.rpartition("/")[0] for key in case.recording("activations.npz") if "/" in key}
    assert recorded == set(case.modules())
    assert len(recorded) == 14


def test_linear_gives_the_recorded_outputs(case: Case) -> None:
    _assert_outputs(case, case.recording("activations.npz"))


def test_linear_gives_the_recorded_outputs_of_edge_rows(case: Case) -> None:
    """Exact ties, saturation, the 1e-5 floor and all-zero rows; see ``edge_rows``."""
    _assert_outputs(case, case.recording("edge_rows.npz"))


def test_matrices_hold_the_stored_values(case: Case) -> None:
    for name in case.modules():
        matrix = case.model[f"{name}.weight"]
        ternary, multiplier = case.ternary(name), case.multiplier(name)
        assert matrix.shape == ternary.shape
        unscaled = matrix.to_dense(dtype=np.int8)
        assert unscaled.dtype == np.int8
        np.testing.assert_array_equal(unscaled, ternary, err_msg=name)
        dense = matrix.to_dense()
        assert dense.dtype == np.float32
        # exact: -1, 0 or 1 times a float32 needs no rounding
        np.testing.assert_array_equal(dense, ternary.astype(np.float32) * multiplier, err_msg=name)
        scale = np.asarray(matrix.scale)
        assert scale.dtype == np.float32
        assert (scale == multiplier).all(), name


def test_scales_tell_division_from_multiplication(case: Case) -> None:
    """With a scale near 1 a confusion of the two would pass."""
    for name in case.modules():
        stored = float(case.tensors[f"{name}.weight_scale"][1][0])
        assert 10 < (stored if case.linear_class == "bitlinear" else 1 / stored) < 100
