"""Timing: every product is checked, and the measurements add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_runtime import Matrix
from rsrc import bench

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("quick")


def test_settings_are_put_back() -> None:
    before = rsr.cpu_info()
    bench.bench_shape(33, 20, seconds=0.0)
    assert rsr.cpu_info() == before


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize("level", ["first", "later"])
def test_a_wrong_product_is_noticed(
    monkeypatch: pytest.MonkeyPatch, dtype: type[Any], level: str
) -> None:
    right: Callable[..., Array] = Matrix.matvec
    calls = 0

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        nonlocal calls
        y = right(self, x, *args, **options)
        calls += x.dtype == dtype
        if x.dtype == dtype and (level == "first" or calls > 20):
            y[3] += 1
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError, match=f"dtype {np.dtype(dtype)}"):
        bench.bench_shape(65, 100, seconds=0.0)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_a_wrong_batch_is_noticed(monkeypatch: pytest.MonkeyPatch, dtype: type[Any]) -> None:
    right = rsr.kernels.multiply_rows

    def wrong(matrices: Any, x: Array, outputs: Any) -> None:
        right(matrices, x, outputs)
        if x.dtype == dtype:
            outputs[0][3, 5] += 1

    monkeypatch.setattr(rsr.kernels, "multiply_rows", wrong)
    with pytest.raises(bench.WrongResultError, match=f"y\\[{3 * 65 + 5}\\].*vectors 4"):
        bench.bench_shape(65, 100, seconds=0.0)


def test_nan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Array] = Matrix.matvec

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        y = right(self, x, *args, **options)
        if x.dtype == np.float32:
            y[:] = np.nan
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError):
        bench.bench_shape(33, 20, seconds=0.0)


def test_a_baseline_that_becomes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = np.matmul, 0

    def wrong(W: Array, x: Array, out: Array) -> Array:
        nonlocal calls
        calls += 1
        return right(W, x, out=out) + np.float32(calls > 2)

    monkeypatch.setattr(np, "matmul", wrong)
    with pytest.raises(bench.WrongResultError, match="engine numpy"):
        bench.bench_shape(33, 20, seconds=0.0)


def test_a_pass_is_checked(matrices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Array] = Matrix.matvec

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        y = right(self, x, *args, **options)
        y[0] += self.name == "b" and args != ()  # only where it is timed, in the pass
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError, match="'b'"):
        bench.bench_file(matrices, seconds=0.0)
