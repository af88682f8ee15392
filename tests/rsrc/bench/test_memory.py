"""How much memory the copies of a matrix take."""

from __future__ import annotations

import pytest

from rsr_formats.pages import AvailableMemory
from rsrc.bench import memory


def test_copies_take_at_most_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: AvailableMemory(2 << 30))
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 8 << 20)
    plan = memory.plan_memory(2, 4)
    assert 2 * plan.ranked + 4 * plan.other <= (2 << 30) / 4
    assert plan.copies(1 << 20, plan.ranked) * (1 << 20) >= 4 * (8 << 20)
    assert plan.copies(1000, plan.ranked) == 0  # the caches hold as many copies as are allowed
    assert plan.copies(64 << 30, plan.other) == 1  # needs no second copy


def test_with_little_memory_the_first_rotations_exceed_the_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A virtual machine sees all 300 MiB of a shared cache, and has little memory."""
    monkeypatch.setattr(memory, "available_memory", lambda: AvailableMemory(16 << 30))
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 300 << 20)
    plan = memory.plan_memory(3, 5)
    assert plan.rotations == 3
    assert plan.rotations * plan.ranked <= (16 << 30) / 4
    assert plan.copies(1 << 20, plan.ranked) * (1 << 20) >= 4 * (300 << 20)
