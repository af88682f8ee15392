"""Events on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rsr_runtime.llm.job import Event, Finished, TokenAdded
from rsr_runtime.serve.mailbox import Mailbox


def test_events_that_may_wait_are_delivered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after a delivery wait for the next one; an urgent one takes all with it at once."""
    monkeypatch.setattr("rsr_runtime.serve.mailbox.SPACING", 0.3)
    taken: list[tuple[Event, float]] = []

    async def run() -> None:
        loop, mailbox = asyncio.get_running_loop(), Mailbox()

        async def put(event: Event, is_urgent: bool = False) -> None:
            def take(event: Event) -> None:
                taken.append((event, loop.time()))

            sender = threading.Thread(target=mailbox.put, args=(loop, take, event, is_urgent))
            sender.start()
            sender.join()
            await asyncio.sleep(0.02)

        start = loop.time()
        await put(TokenAdded(0, 0, "a", None))
        assert len(taken) == 1  # the first delivery is due
        for token in (1, 2):
            await put(TokenAdded(0, token, "a", None))
        assert len(taken) == 1
        await asyncio.sleep(0.5)
        assert len(taken) == 3
        assert taken[2][1] - start >= 0.3
        await put(TokenAdded(0, 3, "a", None))
        await put(Finished(), is_urgent=True)
        assert [type(event) for event, _ in taken[3:]] == [TokenAdded, Finished]
        await put(TokenAdded(0, 4, "a", None))  # nothing is stuck after that
        await asyncio.sleep(0.5)
        assert len(taken) == 6

    asyncio.run(run())
    tokens = [event.token for event, _ in taken if isinstance(event, TokenAdded)]
    assert tokens == sorted(tokens)
