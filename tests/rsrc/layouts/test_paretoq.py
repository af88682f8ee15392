"""ParetoQ: masters with a learned clip value for each row, and what became of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_testing.checkpoints import Kit
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts import paretoq

Array = npt.NDArray[Any]

BASE = "layers.0.up_proj."
NAME, CLIP = BASE + "weight", BASE + "weight_clip_val"
ALPHA = np.array([[3], [0.75], [1e-9]], np.float32)
# Beside a third of alpha, beyond alpha, and of both signs; the last row's alpha counts as 1e-5.
W = np.array(
    [[1, -1, 1.0625, -1.0625, 9, 0], [0.25, -0.25, 0.2578125, -3, 0.5, -0.5], [3e-6, -4e-6] * 3],
    np.float32,
)
DIGITS = [[0, 0, 1, -1, 1, 0], [0, 0, 1, -1, 1, -1], [0, -1] * 3]


class Model:
    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.rsr = folder / "x.rsr"

    def compile(
        self, tensors: dict[str, Any], config: dict[str, Any] | None = None
    ) -> dict[str, TensorReport]:
        if config is not None:
            (self.folder / "config.json").write_text(json.dumps(config))
        tensors = {"ternary": np.array([[1, 0, -1]], np.int8), **tensors}
        source = self.kit.save(self.folder / "model.safetensors", tensors)
        report = rsrc.compile(source, self.rsr, force=True)
        assert compare(self.rsr, source) == len(tensors)
        return {t.name: t for t in report.tensors}

    def matrix(self) -> rsr_runtime.Matrix:
        matrix = rsr_runtime.load(self.rsr, verify=True)[NAME]
        assert isinstance(matrix, rsr_runtime.Matrix)
        return matrix


@pytest.fixture
def model(kit: Kit, tmp_path: Path) -> Model:
    return Model(kit, tmp_path)


TERNARY = {"model_type": "llama", "w_bits": 0}


@pytest.mark.parametrize("w_bits", [0, 0.0, 1.58])
def test_thresholds_and_values(model: Model, w_bits: float) -> None:
    found = model.compile({NAME: W, CLIP: ALPHA}, {"w_bits": w_bits})
    assert (found[NAME].layout, found[CLIP].kind) == ("paretoq", "dense")
    assert str(found[NAME].scale).startswith("paretoq per row, as the model computes: 2/3 of")
    assert found[NAME].cosine is None
    matrix = model.matrix()
    assert matrix.to_dense(np.int8).tolist() == DIGITS
    np.testing.assert_allclose(matrix.scale, [2, 0.5, 2e-5 / 3], rtol=2e-7)
    (t,) = (t for t in RsrFile(model.rsr).header.tensors if t.name == NAME)
    assert isinstance(t, IndexedTensor)
    assert t.scale is not None
    assert (t.scale.rows, t.scale.columns) == (1, None)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("clip", [CLIP, BASE + "scale"])
@pytest.mark.parametrize("flat", [False, True])
def test_types_shapes_and_names(model: Model, dtype: str, clip: str, flat: bool) -> None:
    alpha = model.kit.cast(ALPHA[:2].reshape(-1) if flat else ALPHA[:2], dtype)
    w = model.kit.cast(W[:2], dtype)
    assert model.compile({NAME: w, clip: alpha}, TERNARY)[NAME].layout == "paretoq"
    assert model.matrix().to_dense(np.int8).tolist() == DIGITS[:2]
    np.testing.assert_allclose(model.matrix().scale, [2, 0.5], rtol=2e-7)


def test_equals_the_formula(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, operation by operation; also at the floats next to a third of alpha."""
    rng = np.random.default_rng(1)
    alpha = rng.uniform(1e-4, 2, (200, 1)).astype(np.float32)
    alpha[::20] = rng.standard_normal((10, 1)) * 1e-5  # negative ones, too: 1e-5 counts
    third = np.maximum(alpha, np.float32(1e-5)) / np.float32(3)
    near = third.view(np.uint32) + rng.integers(-3, 4, (200, 30)).astype(np.uint32)
    w = near.view(np.float32) * rng.choice(np.array([-1, 1], np.float32), near.shape)
    w = np.concatenate([w, rng.standard_normal((200, 40)).astype(np.float32)], axis=1)
    monkeypatch.setattr(paretoq, "BLOCK", 999)
    model.compile({NAME: w, CLIP: alpha}, TERNARY)
    a = np.where(alpha > np.float32(1e-5), alpha, np.float32(1e-5))
    levels = np.float32(1.5)
    clipped = np.clip(w / a, np.float32(-0.99), np.float32(0.99))
    expected = np.rint(clipped * levels) / levels * a
    assert len(set(np.unique(np.sign(expected[:, :30])))) == 3
    np.testing.assert_array_equal(model.matrix().to_dense(), expected)


def test_what_is_dequantized_already_is_floats_with_a_scale_per_row(model: Model) -> None:
    """2 alpha / 3 exactly: nothing of ParetoQ is left to be seen."""
    q = np.array(DIGITS, np.float32)[:2] * (np.float32(1) / np.float32(1.5) * ALPHA[:2])
    found = model.compile({NAME: q}, TERNARY)[NAME]
    assert (found.layout, found.scale) == ("float", "per row")
    assert model.matrix().to_dense().tolist() == q.tolist()


def test_what_is_ternary_already_is_quantized_as_the_model_does(model: Model) -> None:
    """From either of them, the model computes 2 alpha / 3; what is up to alpha / 3 is 0."""
    w = np.array([[2, 0, -2], [0.25, -0.25, 0]], np.float32)
    assert model.compile({NAME: w, CLIP: ALPHA[:2]}, TERNARY)[NAME].layout == "paretoq"
    assert model.matrix().to_dense(np.int8).tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no w_bits"), ({}, "no w_bits"), ({"w_bits": None}, "no w_bits"),
        ({"w_bits": 1}, "w_bits 1"), ({"w_bits": 2}, "w_bits 2"), ({"w_bits": 4}, "w_bits 4"),
        ({"w_bits": 16}, "w_bits 16"), ({"w_bits": "0"}, "w_bits 0"), ({"w_bits": False}, "w_bits"),
        ({"w_bits": [0]}, "w_bits"),
    ],
)  # fmt: skip
def test_other_bits(model: Model, config: dict[str, Any] | None, words: str) -> None:
    reason = model.compile({NAME: W, CLIP: ALPHA}, config)[NAME].reason
    assert reason is not None
    assert reason.startswith(f"beside {CLIP!r}, but config.json has {words}")
    assert "; 0 would be ternary; F32, not ternary: row " in reason


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.ones(4, np.float32), f"{CLIP} is F32 [4], expected a float for each row"),
        (np.ones((1, 3), np.float32), f"{CLIP} is F32 [1, 3], expected a float for each row"),
        (np.ones((3, 2), np.float32), f"{CLIP} is F32 [3, 2], expected a float for each row"),
        (np.ones(3, np.int32), f"{CLIP} is I32 [3], expected a float for each row"),
        (np.array([1, np.nan, 1], np.float32), f"{CLIP} has NaN or infinite values"),
        (np.array([1, np.inf, 1], np.float32), f"{CLIP} has NaN or infinite values"),
    ],
)
def test_other_clip_values(model: Model, clip: Array, reason: str) -> None:
    found = model.compile({NAME: W, CLIP: clip}, TERNARY)[NAME].reason
    assert str(found).startswith(reason)


def test_not_finite(model: Model) -> None:
    w = W.copy()
    w[1, 2] = np.inf
    found = model.compile({NAME: w, CLIP: ALPHA}, TERNARY)[NAME]
    assert str(found.reason).startswith("F32 with NaN or infinite values")


def test_a_scale_alone_means_nothing(model: Model) -> None:
    found = model.compile({NAME: W, BASE + "scale": ALPHA}, {"model_type": "llama"})[NAME]
    assert str(found.reason).startswith("F32, not ternary: row ")


def test_decompile_writes_what_the_model_computes(model: Model) -> None:
    w, alpha = model.kit.bf16(W[:2]), model.kit.bf16(ALPHA[:2])
    model.compile({NAME: w, CLIP: alpha}, TERNARY)
    assert decompile(model.rsr, model.folder / "back.safetensors").quantized == [NAME]
    back = model.kit.judge(model.folder / "back.safetensors")
    values = np.array(DIGITS[:2]) * np.array([[2], [0.5]])
    assert back[NAME] == model.kit.bf16(values + 0.0)
    assert back[CLIP] == alpha


def test_sharded(kit: Kit, tmp_path: Path) -> None:
    """Clip values may lie in another shard; another one of them is noticed."""
    (tmp_path / "config.json").write_text(json.dumps(TERNARY))
    source = kit.save_sharded(
        tmp_path, {"a.safetensors": {NAME: W}, "b.safetensors": {CLIP: ALPHA}}
    )
    rsr = tmp_path / "x.rsr"
    assert [t.layout for t in rsrc.compile(source, rsr).tensors] == ["paretoq", None]
    assert compare(rsr, source) == 2
    kit.save(tmp_path / "b.safetensors", {CLIP: ALPHA * np.float32(1.001)})
    with pytest.raises(rsrc.MismatchError, match=f"{NAME}: quantizes to another scale"):
        compare(rsr, source)
