"""I8 matrices of values -2 to 2, alone and with a scale beside them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.bench import Bench


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([-1, 0, 1], "ternary"),
        ([-1, 1], "binary"),
        ([0, 1], "binary"),
        ([-1, 0], "ternary"),
        ([0], "ternary"),
        ([1], "ternary"),
        ([-1], "ternary"),
        ([-1, 0, 1, 2], "quaternary"),
        ([-2, 0, 1], "quaternary"),
        ([2], "quaternary"),
        ([-2, -1, 1, 2], "quaternary"),
        ([-2, -1, 0, 1, 2], "quinary"),
        ([-2, 2, 0, -1, -1], "quaternary"),
    ],
)
def test_alphabets(bench: Bench, values: list[int], kind: str) -> None:
    w = np.resize(np.array(values, np.int8), (37, 13))
    found = bench.one(w)
    assert (found.kind, found.layout, found.scale) == (kind, "int8", "none")
    assert found.k == {"binary": 5, "ternary": 3}.get(kind, 2)
    assert bench.digits() == w.tolist()
    assert bench.matrix().scale == 1


@pytest.mark.parametrize("value", [3, -3, 127, -128])
def test_other_values(bench: Bench, value: int) -> None:
    found = bench.one(np.array([[0, 1, value]], np.int8))
    low, high = min(0, value), max(1, value)
    assert found.reason == f"I8 with values from {low} to {high}, not -2 to 2"


@pytest.mark.parametrize("shape", [(), (3,), (1, 3, 1)])
def test_other_dimensions(bench: Bench, shape: tuple[int, ...]) -> None:
    assert bench.one(np.zeros(shape, np.int8)).reason == f"{len(shape)}-dimensional"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("shape", "words"),
    [((), "per tensor"), ((1,), "per tensor"), ((4,), "per row"), ((4, 1), "per row"),
     ((4, 2), "per row and 64 columns"), ((4, 5), "per row and 20 columns")],
)  # fmt: skip
def test_scales(bench: Bench, dtype: str, shape: tuple[int, ...], words: str) -> None:
    w = np.resize(np.array([-1, 0, 1, 1, 0, -1, 1], np.int8), (4, 100))
    scale = np.resize(np.array([0.5, 3, 0.25, 2, 0.125]), shape)
    tensors: dict[str, Any] = {"w": w, "w_scale": bench.kit.cast(scale, dtype)}
    assert bench.compile(tensors)["w"].scale == f"{words}, multiply by w_scale"
    each = np.broadcast_to(scale.reshape(-1, 1), (4, 1)) if scale.ndim < 2 else scale
    wide = np.repeat(each, {1: 100, 2: 64, 5: 20}[each.shape[1]], axis=1)[:, :100]
    assert bench.matrix().to_dense().tolist() == (w * wide).tolist()


@pytest.mark.parametrize("shape", [(3,), (1, 1), (4, 6), (100,), (4, 2, 1), (2, 2), (4, 0)])
def test_scales_of_other_shapes_are_refused(bench: Bench, shape: tuple[int, ...]) -> None:
    """Without its scale it would be a different matrix."""
    w = np.resize(np.array([-1, 0, 1, 1], np.int8), (4, 100))
    tensors: dict[str, Any] = {"w": w, "w_scale": np.ones(shape, np.float32)}
    message = re.escape(f"w_scale is F32 {list(shape)}; as the scale of an I8 [4, 100]")
    with pytest.raises(rsrc.SourceError, match=message):
        bench.compile(tensors)
    assert bench.compile(tensors, exclude=["w"])["w"].kind == "dense"


def test_scales_of_other_values_are_refused(bench: Bench) -> None:
    w = np.array([[1, 0, -1]] * 2, np.int8)
    with pytest.raises(rsrc.SourceError, match=r"w_scale is I32 \[1\]"):
        bench.compile({"w": w, "w_scale": np.ones(1, np.int32)})
    with pytest.raises(rsrc.SourceError, match=r"w_scale: nan at \[1\]"):
        bench.compile({"w": w, "w_scale": np.array([1, np.nan], np.float32)})


def test_other_integers(bench: Bench) -> None:
    assert bench.one(np.ones((2, 2), np.int16)).reason == "I16"


def test_more_columns_than_int32_sums_take(bench: Bench) -> None:
    w = np.zeros((1, 1 << 23), np.int8)
    w[0, 5] = 2
    message = r"w: shape \[1, 8388608\] exceeds .* 8388607\] for digits \[-1, 0, 1, 2\]"
    with pytest.raises(rsrc.SourceError, match=message):
        bench.one(w)
