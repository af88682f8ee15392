"""How many rows a pass takes, by times that a simulated machine measures."""

from __future__ import annotations

import pytest

from rsr_runtime.llm.pace import Pace


@pytest.mark.parametrize(
    ("start", "row", "expected"),
    [(0.02, 0.01, 16), (0.02, 0.002, 64), (0.02, 0.0005, 256), (0.02, 0.0001, 512), (1, 1, 16)],
)
def test_rows_of_a_fast_and_a_slow_machine(start: float, row: float, expected: int) -> None:
    pace = Pace()
    for _ in range(30):
        rows = pace.rows(0.2)
        pace.add(rows, start + row * rows)
    found = [pace.rows(0.2) for _ in range(3)]
    assert found == [expected] * 3


def test_a_machine_that_was_busy_for_a_while() -> None:
    pace = Pace()
    for factor, passes in ((1, 30), (8, 20), (1, 150)):
        for _ in range(passes):
            rows = pace.rows(0.2)
            pace.add(rows, factor * (0.02 + 0.0005 * rows))
    assert pace.rows(0.2) == 256
