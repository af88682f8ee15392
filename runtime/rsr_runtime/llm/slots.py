"""Sessions of the texts of a batch, found by what they share with a prompt."""

from __future__ import annotations

from collections.abc import Callable

from .decoder import Adapters
from .errors import CacheMemoryError
from .session import Session


class Slots:
    """Sessions in use and idle ones, which keep keys and values for texts that begin alike.

    Only an exact prefix of tokens is ever shared, so no text sees anything of another one.

    Args:
        create: makes a session.
        most: number of sessions, at least as many as are in use at a time.
    """

    def __init__(self, create: Callable[[], Session], most: int) -> None:
        self._create = create
        self._most = most
        self._used: list[Session] = []
        self._idle: list[Session] = []  # the last was used most recently
        self._prompts: dict[Session, int] = {}  # tokens of the prompt that each had last

    @property
    def sessions(self) -> list[Session]:
        """All sessions."""
        return self._used + self._idle

    def take(self, tokens: list[int], adapters: Adapters) -> Session:
        """Return a session for a sequence that begins with `tokens`, a prompt.

        It holds as many of them as any session with the same adapters does, but the last one.

        Raises:
            CacheMemoryError: there is not enough memory for a new session, and none is idle.
        """
        session = self._continued(tokens, adapters) or self._free()
        session.use(adapters)
        session.adopt(self.sessions, tokens)
        self._used.append(session)
        self._prompts[session] = len(tokens)
        return session

    def _continued(self, tokens: list[int], adapters: Adapters) -> Session | None:
        """Return the idle session whose prompt is the beginning of this one.

        This is the next turn of a conversation, or the same one again. A prompt that branches off
        earlier gets a copy instead, because the session's own conversation may go on.
        """
        shared = {one: one.common(tokens) for one in self._idle if one.adapters == adapters}
        best = max(shared, key=lambda one: shared[one], default=None)
        if best is None or not shared[best]:
            return None
        if shared[best] < min(self._prompts[best], len(tokens)) - 1:
            return None
        self._idle.remove(best)
        return best

    def _free(self) -> Session:
        """Return a new session, or the one that was not used for longest."""
        if len(self.sessions) < self._most:
            try:
                return self._create()
            except CacheMemoryError:
                if not self._idle:
                    raise
        return self._idle.pop(0)

    def drop_idle(self) -> Session | None:
        """Forget the idle session that was not used for longest; return it, None if none is idle.

        What it held is computed again for a text that begins alike.
        """
        if not self._idle:
            return None
        session = self._idle.pop(0)
        self._prompts.pop(session, None)
        return session

    def give_back(self, session: Session) -> None:
        """Keep the keys and values of a session that was taken, as long as nothing needs it."""
        self._used.remove(session)
        self._idle.append(session)
