"""Names and values from untrusted files, made fit for messages."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_SHOWN = 60  # characters of a value in a message


def printable(text: str) -> str:
    """Return `text` with control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """Return "1 token", "2 tokens"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Sequence[str], limit: int = 20, *, separator: str = ", ", count: int = 0) -> str:
    """Join items for a message; those beyond `limit` are only counted.

    Args:
        items: at least the first `limit` of them.
        limit: how many are named.
        separator: stands between them.
        count: how many there are, if more than `items` has.
    """
    more = max(count, len(items)) - limit
    text = separator.join(items[:limit])
    if more <= 0:
        return text
    return f"{text}{'' if separator == ', ' else separator.rstrip()} and {more} more"


def quoted(names: Sequence[str], limit: int = 10) -> str:
    """List names from a file, quoted and shortened, as `listed` does."""
    return listed([repr(name[:120]) for name in names[:limit]], limit, count=len(names))


def shown(value: object) -> str:
    """Return a JSON value for a message: short, however long or deeply nested it is."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):  # repr could exhaust the stack
        return f"a JSON {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
