"""Carries events from the engine's thread to the event loop, those of all requests together.

A pass of the engine ends with an event of each text. Waking the loop for each of them, and sending
each on its own, would take more time than a pass of a small model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..llm.job import Event

SPACING = 0.02  # seconds between deliveries of events that may wait

Take = Callable[[Event], None]


class Mailbox:
    """Events that the loop has not taken yet.

    Only the engine's thread calls `put`.
    """

    def __init__(self) -> None:
        self._events: deque[tuple[Take, Event]] = deque()
        self._is_waking = False  # a delivery will come
        self._is_urgent = False  # and at once
        self._last = 0.0  # delivery, on the loop's clock

    def put(
        self, loop: asyncio.AbstractEventLoop, take: Take, event: Event, is_urgent: bool
    ) -> None:
        """Hand over an event.

        Args:
            loop: the event loop, in whose thread `take` is called.
            take: takes the event.
            event: comes after earlier ones.
            is_urgent: whether it may not wait for `SPACING` seconds since the last delivery.
        """
        self._events.append((take, event))
        if self._is_urgent or (self._is_waking and not is_urgent):
            return
        self._is_waking, self._is_urgent = True, is_urgent
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._deliver if is_urgent else self._wait, loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = self._last + SPACING - loop.time()
        if delay > 0:
            loop.call_later(delay, self._deliver, loop)
        else:
            self._deliver(loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_waking = self._is_urgent = False  # first: what comes now wakes the loop again
        self._last = loop.time()
        while self._events:
            take, event = self._events.popleft()
            take(event)
