"""Changes are stored near their entropy, and read back exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_formats import IndexedTensor, SourceRecord
from rsrc.delta.changes import apply_changes, find_changes, pack_changes, read_changes
from rsrc.delta.entries import Chunk, entries_of
from rsrc.delta.streams import Contents, Cursor, Surroundings

TENSOR = IndexedTensor(
    "w", (128, 9 * 1024), (-1, 0, 1), 3, "expand", "ranked", "w16", {"ranks": 0},
    SourceRecord("int8", "I8", (128, 9 * 1024)),
)  # fmt: skip
ENTRIES = entries_of(TENSOR)
(CHUNK,) = ENTRIES.chunks()
SLOTS = CHUNK.entries * ENTRIES.slots


def roundtrip(old: np.ndarray, new: np.ndarray, chunk: Chunk = CHUNK) -> bytes:
    """Store what differs between digits, (entries, 9); check that it comes back."""
    before, after = ENTRIES.values(old), ENTRIES.values(new)
    slots = old.size
    data = pack_changes(find_changes(ENTRIES, before, after), 3, slots)
    body = Cursor(memoryview(data + b"next"))
    stored = read_changes(body, 3, slots, "w")
    assert bytes(body.left) == b"next"
    if stored is not None:
        parts = [before.astype("<u2").view(np.uint8)]
        (made,) = apply_changes(ENTRIES, chunk, parts, stored)
        assert (made.view("<u2") == after).all()
    return data


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5])
def test_size(share: float) -> None:
    """Uniform changes of 1.2 million weights take at most 7 % more than their entropy."""
    rng = np.random.default_rng(0)
    old = rng.integers(0, 3, (CHUNK.entries, 9), np.uint8)
    at = rng.random(old.shape) < share
    new = np.where(at, (old + rng.integers(1, 3, old.shape, np.uint8)) % 3, old).astype(np.uint8)
    p = at.mean()
    entropy = SLOTS / 8 * (-p * math.log2(p) - (1 - p) * math.log2(1 - p) + p)
    assert len(roundtrip(old, new)) < 1.07 * entropy


def test_digits_that_follow_from_the_old_ones_take_nothing() -> None:
    """As in training, a weight moves by one: -1 and 1 can become 0 only."""
    rng = np.random.default_rng(0)
    old = rng.integers(0, 3, (CHUNK.entries, 9), np.uint8)
    at = (rng.random(old.shape) < 0.01) & (old != 1)
    data = roundtrip(old, np.where(at, 1, old).astype(np.uint8))
    p = at.mean()
    assert len(data) < 1.04 * SLOTS / 8 * (-p * math.log2(p) - (1 - p) * math.log2(1 - p)) + 50


@given(st.data())
def test_any_changes(data: st.DataObject) -> None:
    """Gaps of any lengths, with escapes; the first and the last slot."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    entries = data.draw(st.sampled_from([1, 2, 50, 3000]))
    old = rng.integers(0, 3, (entries, 9), np.uint8)
    new = old.copy().reshape(-1)
    for at in data.draw(st.lists(st.integers(0, 9 * entries - 1), max_size=9)):
        new[at] = (new[at] + 1) % 3
    if data.draw(st.booleans()):
        new[0], new[-1] = 2 - new[0], 2 - new[-1]
    size = 2 * entries
    roundtrip(old, new.reshape(-1, 9), Chunk((size,), (entries,), entries))


@given(st.lists(st.binary(max_size=9)), st.lists(st.integers(0, 20)))
def test_contents_are_cut_anew(pieces: list[bytes], sizes: list[int]) -> None:
    contents = Contents(map(memoryview, pieces))
    taken = b"".join(bytes(contents.take(size)) for size in sizes)
    assert taken == b"".join(pieces)[: sum(sizes)]


def test_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsrc.delta.streams.MARGIN", 3)
    base = bytes(range(40))
    near = Surroundings([memoryview(base[i : i + 7]) for i in range(0, 40, 7)])
    for start, size in ((0, 10), (10, 10), (20, 10), (30, 15), (45, 5)):
        assert near.near(start, size) == base[max(0, start - 3) : start + size + 3]
