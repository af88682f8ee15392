"""Scales in float32 beside blocks that hold them rounded to float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsrc.common.errors import SourceError
from rsrc.source.gguf.scales import NAMES, SCALES, exact_factors, scale_metadata


def test_factors_restore_every_bit() -> None:
    scales = np.random.default_rng(3).uniform(1e-4, 2, 5000).astype(np.float32)
    metadata = scale_metadata({str(i): float(s) for i, s in enumerate(scales)})
    stored = {NAMES: metadata[NAMES], SCALES: np.array(metadata[SCALES], np.float32)}
    factors = np.array(list(exact_factors(stored).values()))
    rounded = scales.astype(np.float16).astype(np.float32)
    assert (rounded != scales).mean() > 0.9
    assert np.array_equal((rounded * factors).astype(np.float32), scales)


def test_without_scales() -> None:
    assert scale_metadata({}) == {}
    assert exact_factors({}) == {}


@pytest.mark.parametrize(
    ("names", "scales", "message"),
    [
        (["a"], None, "rsr.scales is not a list"),
        (["a"], [0.5], "rsr.scales is not a list"),
        (["a"], np.ones(1, np.float64), "rsr.scales is not a list"),
        ("a", np.ones(1, np.float32), "rsr.scaled_tensors is not a list"),
        (None, np.ones(1, np.float32), "rsr.scaled_tensors is not a list"),
        (["a", "b"], np.ones(1, np.float32), "has 2 names for 1"),
        (["a"], np.zeros(1, np.float32), "0 or infinite in float16"),
        (["a"], np.array([1e9], np.float32), "0 or infinite in float16"),
        (["a"], np.array([np.nan], np.float32), "0 or infinite in float16"),
    ],
)
def test_scales_that_are_none(names: Any, scales: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        exact_factors({NAMES: names, SCALES: scales})
