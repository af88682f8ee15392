"""Draws by native code are those of the plain filters, to the last bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_runtime import _native
from rsr_runtime.llm.sampling import Sampling
from rsr_runtime.llm.sampling.draws import drawn
from rsr_runtime.llm.sampling.filters import candidates, top_p, weigh

Floats = npt.NDArray[np.float32]


def plain(scores: Floats, s: Sampling, random: float) -> int:
    """Return what is drawn, by NumPy alone."""
    ids, weights = candidates(scores, int(scores.argmax()), s)
    cumulative = np.cumsum(weights)
    above = np.flatnonzero((cumulative > random * cumulative[-1]) | (cumulative == cumulative[-1]))
    return int(ids[above[0]])


SHARES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0])
SCORES = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0, 2.0, -np.inf])


@given(
    st.lists(SCORES, min_size=1, max_size=60).filter(lambda found: max(found) > -np.inf),
    st.floats(0.1, 3), SHARES, SHARES, st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_small_vocabularies(
    values: list[float], temperature: float, mass: float, fraction: float, random: float
) -> None:
    scores = np.array(values, np.float32)
    s = Sampling(temperature=temperature, top_p=mass, min_p=fraction)
    assert drawn(scores, int(scores.argmax()), s, random) == plain(scores, s, random)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("levels", [None, 40])
def test_large_vocabularies(spread: float, levels: int | None) -> None:
    """Flat and peaked ones, with few or many ties."""
    rng = np.random.default_rng(4)
    scores = rng.normal(0, spread, 40_000).astype(np.float32)
    if levels is not None:
        scores = (np.round(scores * levels / 8) * (8 / levels)).astype(np.float32)
    best = int(scores.argmax())
    native = 0
    for mass in (0.05, 0.5, 0.9, 0.95, 0.999):
        weights = weigh(scores, scores[best], 1.0)
        found = _native.nucleus(weights, mass * float(weights.sum()))
        if found is not None:
            native += 1
            kept = top_p(weights, mass)
            above = np.count_nonzero(weights > found[0])
            assert weights[kept].min() == found[0]
            assert len(kept) == above + found[1]
        for fraction in (0.0, 0.02):
            s = Sampling(temperature=1, top_p=mass, min_p=fraction)
            for random in rng.random(5):
                assert drawn(scores, best, s, random) == plain(scores, s, random)
    if spread:  # else rounding could decide
        assert native >= 4


def test_what_rounding_could_decide_is_left_to_sorting() -> None:
    weights = np.array([1.0, 0.5, 0.25, 0.25])
    assert _native.nucleus(weights, 1.5) is None
    assert _native.nucleus(weights, 1.6) == (0.25, 1)
    assert _native.nucleus(weights, 2.1) is None  # more than there is
    assert _native.nucleus(np.array([1.0, 1e-9, 1e-9]), 1 + 1.5e-9) is None  # far below
