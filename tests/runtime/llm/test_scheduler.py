"""The scheduler, driven by arrivals, lengths and cancels at random."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_runtime.llm.scheduler import AGING, Scheduler

SLOTS, ROWS = 3, 100

# What happens before a pass: a text of so many rows and further tokens comes, or one is canceled.
EVENTS = st.one_of(
    st.tuples(st.integers(1, 600), st.integers(1, 5)),
    st.integers(0, 50).map(lambda which: ("cancel", which)),
    st.none(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.integers(1, ROWS))
def test_no_slot_is_lost_and_nobody_starves(events: list[object], prompt_rows: int) -> None:
    scheduler: Scheduler[int] = Scheduler(SLOTS)
    lacking: dict[int, int] = {}  # rows until the next token, of texts that did not end
    tokens: dict[int, int] = {}  # that a text goes on for
    running: list[int] = []
    came: list[int] = []
    unserved: dict[int, int] = {}  # passes without a row, in a slot
    passes = 0
    while events or lacking:
        event = events.pop(0) if events else None
        if isinstance(event, tuple) and event[0] == "cancel":
            if lacking:
                key = sorted(lacking)[event[1] % len(lacking)]
                scheduler.remove(key)
                del lacking[key]
                running = [one for one in running if one != key]
        elif isinstance(event, tuple):
            came.append(len(came))
            lacking[came[-1]], tokens[came[-1]] = event
            scheduler.add(came[-1])
        admitted = scheduler.admit()
        assert admitted == sorted(admitted)  # in the order in which they came
        running += admitted
        waiting = sorted(set(lacking) - set(running))
        assert all(one < other for one in admitted for other in waiting)
        assert len(running) == scheduler.running <= SLOTS
        assert scheduler.waiting == len(waiting)
        assert not waiting or len(running) == SLOTS  # no slot is lost
        if not running:
            continue
        rows = scheduler.next_pass({key: lacking[key] for key in running}, prompt_rows)
        passes += 1
        assert rows
        assert all(0 < count <= lacking[key] for key, count in rows.items())
        of_prompts = {key: count for key, count in rows.items() if lacking[key] > 1}
        assert sum(of_prompts.values()) <= prompt_rows
        wanted = sum(lacking[key] for key in running if lacking[key] > 1)
        assert sum(of_prompts.values()) == min(prompt_rows, wanted)  # no row is wasted
        for key in running:
            if lacking[key] == 1:
                assert rows[key] == 1  # prompts hold up no text
            unserved[key] = 0 if key in rows else unserved.get(key, 0) + 1
            assert unserved[key] <= 600 / AGING + SLOTS * 600 / prompt_rows + SLOTS
        for key, count in rows.items():
            lacking[key] -= count
            if lacking[key] == 0:
                tokens[key] -= 1
                lacking[key] = 1
                if tokens[key] == 0:
                    scheduler.remove(key)
                    del lacking[key]
                    running.remove(key)
    assert scheduler.running == scheduler.waiting == 0


def test_the_shortest_prompt_comes_first() -> None:
    scheduler: Scheduler[str] = Scheduler(4)
    for key in ("long", "short", "text"):
        scheduler.add(key)
    scheduler.admit()
    assert scheduler.next_pass({"long": 2000, "short": 30, "text": 1}, 100) == {
        "text": 1, "short": 30, "long": 70,
    }  # fmt: skip


def test_a_long_prompt_is_not_held_off_forever() -> None:
    """Although a new short one comes before each pass."""
    scheduler: Scheduler[int] = Scheduler(2)
    scheduler.add(0)
    scheduler.admit()
    served = []
    for key in range(1, 40):
        scheduler.add(key)
        scheduler.admit()
        rows = scheduler.next_pass({0: 1000, key: 100}, 100)
        served.append(0 in rows)
        scheduler.remove(key)
    assert served.index(True) == -(-900 // AGING)
    assert sum(served) == 2
