"""Rotations against their definition, and the native steps that compute them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats import records
from rsr_runtime import _native
from rsr_testing.rotation import rotation

Floats = npt.NDArray[np.float32]


def make(block: int, blocks: int, seed: int = 0) -> tuple[rsr.Rotation, npt.NDArray[np.float64]]:
    """Return a rotation with random signs, and its matrix."""
    bits = np.random.default_rng(seed).integers(0, 2, block * blocks, dtype=np.uint8)
    record = records.Rotation(block, np.packbits(bits, bitorder="little").tobytes())
    return rsr.Rotation(record), rotation(block, 1.0 - 2.0 * bits)


def bound(x: Floats, block: int) -> npt.NDArray[np.float64]:
    """Return the error that the class states, for every entry of the block."""
    sums = np.abs(x.astype(np.float64)).reshape(*x.shape[:-1], -1, block).sum(axis=-1)
    each = (np.log2(block) + 2) * 2.0**-24 * block**-0.5 * sums * (1 + 1e-5)
    return np.repeat(each, block, axis=-1)


@pytest.mark.parametrize("block", [16, 32, 128, 1024])
def test_it_is_h_times_the_signs(block: int) -> None:
    r, Q = make(block, 3)
    assert (r.block, r.columns) == (block, 3 * block)
    x = np.random.default_rng(1).standard_normal((2, 5, r.columns)).astype(np.float32)
    assert (np.abs(r.apply(x) - x @ Q.T) <= bound(x, block)).all()
    assert (np.abs(r.undo(x) - x @ Q) <= bound(x, block)).all()


def test_signs() -> None:
    r = rsr.Rotation(records.Rotation(16, b"\x01\x80"))
    assert r.signs.tolist() == [-1] + [1] * 14 + [-1]
    x = np.arange(16, dtype=np.float32)
    assert r.apply(x)[0] == (-x[0] + x[1:15].sum() - x[15]) / 4
    assert repr(r) == "<Rotation of 16 columns in blocks of 16>"


def test_vectors_in_any_layout() -> None:
    r, _ = make(32, 2)
    x = np.random.default_rng(2).standard_normal((64, 7)).astype(np.float32)
    whole = r.apply(np.ascontiguousarray(x.T))
    np.testing.assert_array_equal(r.apply(x.T), whole)
    np.testing.assert_array_equal([r.apply(x[:, i]) for i in range(7)], whole)
    assert r.apply(np.zeros((0, 64), np.float32)).shape == (0, 64)


@pytest.mark.parametrize("function", ["apply", "undo"])
def test_other_vectors_are_refused(function: str) -> None:
    call: Any = getattr(make(32, 2)[0], function)
    with pytest.raises(rsr.InputTypeError, match="float64"):
        call(np.zeros(64))
    with pytest.raises(rsr.InputShapeError, match=r"shape \(63,\), expected \(\.\.\., 64\)"):
        call(np.zeros(63, np.float32))
    with pytest.raises(rsr.InputShapeError, match=r"shape \(\)"):
        call(np.zeros((), np.float32))


@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("rows", [1, 67])
def test_quantized_together(group: int, rows: int) -> None:
    """It gives what quantizing the rotated rows gives, whether these are kept or not."""
    r, _ = make(64, 3)
    x = np.random.default_rng(3).standard_normal((rows, 192)).astype(np.float32)
    scales = (rows, 192 // group if group else 1)
    y, q, s = r.apply(x), np.zeros((rows, 192), np.int8), np.zeros(scales, np.float32)
    _native.normalize(y, None, None, 0.0, None, q, s, group)
    for keeps in (True, False):
        out = np.zeros_like(x) if keeps else None
        found = np.zeros_like(q), np.zeros_like(s)
        _native.rotate(x, r.factors, r.block, out, *found, group)
        np.testing.assert_array_equal(found[0], q)
        np.testing.assert_array_equal(found[1], s)
        if out is not None:
            np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize(
    ("columns", "factors", "block", "match"),
    [
        (48, 48, 24, "a power of two from 16 on"),
        (64, 64, 8, "a power of two from 16 on"),
        (48, 48, 32, "divides the columns"),
        (64, 32, 32, "an entry for each column"),
    ],
)
def test_native_arguments(columns: int, factors: int, block: int, match: str) -> None:
    x, f = np.zeros((2, columns), np.float32), np.zeros(factors, np.float32)
    with pytest.raises(ValueError, match=match):
        _native.rotate(x, f, block, x, None, None)
    with pytest.raises(ValueError, match=match):
        _native.rotate_back(x, f, block, x)
    with pytest.raises(ValueError, match="shape of x"):
        _native.rotate_back(np.zeros((2, 64), np.float32), np.ones(64, np.float32), 64, x[:1])


def test_a_matrix_says_its_basis(tmp_path: Path) -> None:
    from rsr_testing import models

    path = models.FAMILIES["bonsai-2"].build(tmp_path)
    with rsr.load(path) as model:
        w = model.matrix("model.layers.0.mlp.down_proj.weight")
        assert "in a rotated basis" in repr(w)
        assert w.rotation is not None
        assert w.rotation is model.matrix("model.layers.1.mlp.down_proj.weight").rotation
        copy = w.copy(lambda n: np.empty(n, np.uint8))
        assert copy.rotation is w.rotation
        assert model.dense("model.norm.weight").rotation is None
        x = np.random.default_rng(0).standard_normal(w.shape[1]).astype(np.float32)
        Q = rotation(w.rotation.block, w.rotation.signs)
        expected = w.to_dense().astype(np.float64) @ (Q @ x)
        np.testing.assert_allclose(w @ w.rotation.apply(x), expected, 1e-4, 1e-4)
        rows = w.rotation.undo(w.rows(np.array([3, 5])))
        np.testing.assert_allclose(rows, w.to_dense()[[3, 5]] @ Q, 1e-5, 1e-6)
