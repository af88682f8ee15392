"""The typed accessors of a model: `matrix`, `dense` and `matrices`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_runtime import ClosedError, DenseTensor, Matrix, OptionError
from rsr_testing.matrices import Spec, Workshop

BITS = np.array([[0x3F80, 0xC000, 0x7F80], [0x0001, 0x8000, 0x4049]], "<u2")
DENSE = [
    ("bf16", "BF16", (2, 3), BITS.tobytes()),
    ("f16", "F16", (3,), np.array([1, -2, 0.5], "<f2").tobytes()),
    ("f32", "F32", (1, 2), np.array([[1, -2]], "<f4").tobytes()),
    ("i8", "I8", (2, 3), bytes(range(6))),
    ("f8", "F8_E4M3", (2, 2), bytes(range(4))),
    ("f4", "F4", (2, 5), bytes(range(5))),
    ("scalar", "BF16", (), b"\x80\x3f"),
    ("empty", "BF16", (0, 4), b""),
]


@pytest.fixture(params=[None, 3], ids=["raw", "zstd"])
def path(request: pytest.FixtureRequest, workshop: Workshop) -> Path:
    path = workshop.path()
    specs = [Spec((4, 6), name="b"), Spec((6, 4), name="a")]
    workshop.write(path, specs, dense=DENSE, zstd=request.param)
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "numpy_dtype", "data_shape"),
    [
        ("bf16", "BF16", (2, 3), "<u2", (2, 3)),
        ("f16", "F16", (3,), "<f2", (3,)),
        ("f32", "F32", (1, 2), "<f4", (1, 2)),
        ("i8", "I8", (2, 3), "i1", (2, 3)),
        ("f8", "F8_E4M3", (2, 2), "u1", (2, 2)),
        ("f4", "F4", (2, 5), "u1", (5,)),
        ("scalar", "BF16", (), "<u2", ()),
        ("empty", "BF16", (0, 4), "<u2", (0, 4)),
    ],
)
def test_dense_is_as_stored(
    path: Path, name: str, dtype: str, shape: tuple[int, ...], numpy_dtype: str,
    data_shape: tuple[int, ...],
) -> None:  # fmt: skip
    with rsr.load(path) as model:
        tensor = model.dense(name)
        assert isinstance(tensor, DenseTensor)
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, shape)
        assert (tensor.data.dtype, tensor.data.shape) == (np.dtype(numpy_dtype), data_shape)
        assert not tensor.data.flags.writeable
        stored = next(data for other, _, _, data in DENSE if other == name)
        assert tensor.data.tobytes() == stored
        assert tensor.nbytes == len(stored)
        if stored:
            assert np.shares_memory(tensor.data, model.dense(name).data), "no copy"


def test_widening_is_exact_and_on_request(path: Path) -> None:
    with rsr.load(path) as model:
        wide = model.dense("bf16").to_float32()
        np.testing.assert_array_equal(wide.view(np.uint32), BITS.astype(np.uint32) << 16)
        np.testing.assert_array_equal(model["bf16"], wide)
        np.testing.assert_array_equal(model.dense("f16").to_float32(), [1, -2, 0.5])
        assert model.dense("scalar").to_float32() == 1
        assert np.shares_memory(model.dense("f32").to_float32(), model.dense("f32").data)
        for name in ("bf16", "f16", "f32", "scalar"):
            found = model.dense(name).to_float32()
            assert found.dtype == np.float32
            assert found.shape == model.dense(name).shape
            assert not found.flags.writeable
        with pytest.raises(OptionError, match="'i8' is I8, expected BF16, F16 or F32"):
            model.dense("i8").to_float32()


def test_matrix(path: Path) -> None:
    with rsr.load(path) as model:
        w = model.matrix("b")
        assert isinstance(w, Matrix)
        assert w is model["b"]
        with pytest.raises(OptionError, match=r"'i8' is a dense I8 tensor.*model\.dense"):
            model.matrix("i8")
        with pytest.raises(OptionError, match=r"'b' is an indexed matrix.*model\.matrix"):
            model.dense("b")
        for access in (model.matrix, model.dense):
            with pytest.raises(KeyError, match="other"):
                access("other")
    for closed in (model.matrix, model.dense):
        with pytest.raises(ClosedError, match="closed"):
            closed("other")
    with pytest.raises(ClosedError, match="closed"):
        list(model.matrices())


def test_matrices_are_those_of_the_file_in_order(path: Path) -> None:
    with rsr.load(path) as model:
        assert [w.name for w in model.matrices()] == [n for n in model if model.is_indexed(n)]
        assert sorted(w.name for w in model.matrices()) == ["a", "b"]


def test_stored_is_deprecated(path: Path) -> None:
    with rsr.load(path) as model:
        with pytest.warns(DeprecationWarning, match=r"Model\.dense\(name\)\.data"):
            found = model.stored("bf16")
        assert np.shares_memory(found, model.dense("bf16").data)
