"""Checks of arrays, with values at their limits."""

from __future__ import annotations

import numpy as np
import pytest

from rsr_formats import IndexedTensor
from rsr_formats.errors import IndexDataError
from rsr_formats.records import SourceRecord
from rsr_formats.validate import check_scale

TENSOR = IndexedTensor(
    name="w", shape=(3, 4), digits=(-1, 0, 1), k=3, direction="expand", encoding="ranked",
    packing="w16", sections={"ranks": 0}, scale=None, source=SourceRecord("float", "F32", (3, 4)),
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_scales_are_finite(dtype: str) -> None:
    largest = np.finfo(dtype).max
    for least in (0, -0.0, -largest):
        scale = np.array([least, 0, largest], dtype)
        check_scale(TENSOR, scale)
        for value in (np.inf, -np.inf, np.nan, -np.nan):
            scale[1] = value
            with pytest.raises(IndexDataError, match="scale of tensor 'w' is not finite"):
                check_scale(TENSOR, scale)
