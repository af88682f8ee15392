"""Serving by one call."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from rsr_runtime import _native, huge_pages
from rsr_runtime.serve import serve
from rsr_testing.loader import Loader


class Ready(Exception):  # noqa: N818 (no error)
    """Ends the server as soon as it is ready."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages")
@pytest.mark.parametrize("memory", ["auto", "map"])
def test_a_model_lies_in_huge_pages_before_the_server_is_ready(
    memory: str, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "huge_page_size", lambda: mmap.PAGESIZE)
    monkeypatch.setattr(huge_pages, "_LEAST", 1)
    monkeypatch.setattr(huge_pages, "_RATE", 1.0)  # the mover would wait
    moved: list[int] = []
    copy = _native.copy_into_huge_pages

    def watched(piece: np.ndarray[tuple[int], np.dtype[np.uint8]], page: int) -> bool:
        moved.append(piece.nbytes)
        return copy(piece, page)

    def ready(url: str) -> None:
        raise Ready

    monkeypatch.setattr(_native, "copy_into_huge_pages", watched)
    model = loaded("bitnet-2b", memory=memory)
    with pytest.raises(Ready):
        serve(model, "tiny", port=0, ready=ready)
    assert (sum(moved) > 0) == (memory == "auto")
