"""A language model moves into huge pages between two tokens, and none of its bits change."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from rsr_runtime import _native, huge_pages
from rsr_testing.loader import Loader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages")
TOKENS = [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("name", ["bitnet-2b", "bitnet-2b-permuted", "bonsai"])
def test_recorded_programs_stay_valid(
    name: str, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "huge_page_size", lambda: mmap.PAGESIZE)
    monkeypatch.setattr(huge_pages, "_LEAST", 1)
    monkeypatch.setattr(huge_pages, "_RATE", 1.0)  # a short text does not pay
    truth, model = loaded(name, memory="map"), loaded(name)
    moved: list[int] = []
    copy = _native.copy_into_huge_pages

    def watched(piece: np.ndarray[tuple[int], np.dtype[np.uint8]], page: int) -> bool:
        moved.append(piece.nbytes)
        return copy(piece, page)

    monkeypatch.setattr(_native, "copy_into_huge_pages", watched)
    for end in range(1, len(TOKENS) + 1):
        if end == 4:
            assert not moved
            model.use_huge_pages()
            assert sum(moved) > 0
        np.testing.assert_array_equal(
            model.next_logits(TOKENS[:end]), truth.next_logits(TOKENS[:end])
        )


def test_the_time_of_products_decides(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    timer = model._decoder.phase_timer
    model.next_logits(TOKENS)
    seconds = model.phase_seconds()
    assert timer.product_seconds() == seconds["products"] + seconds["head"] > 0
