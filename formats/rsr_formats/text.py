"""Format names and values from untrusted files for messages."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_MAX_COMPARED = 4096  # names in which a misspelled one is looked for
_MAX_SHOWN = 60  # characters of a value in a message


def printable(text: str) -> str:
    """Return `text` with control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """Return "1 token", "2 tokens"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Sequence[str], limit: int = 20, *, separator: str = ", ", count: int = 0) -> str:
    """Join the first `limit` items and count the rest: "a, b and 3 more".

    Args:
        items: the items, or at least the first `limit` of them.
        limit: number of items to name.
        separator: text between items.
        count: number of all items, if `items` lacks some.
    """
    more = max(count, len(items)) - limit
    text = separator.join(items[:limit])
    if more <= 0:
        return text
    return f"{text}{'' if separator == ', ' else separator.rstrip()} and {more} more"


def quoted(names: Sequence[str], limit: int = 10) -> str:
    """Quote and shorten names from a file, and join them as `listed` does."""
    return listed([repr(name[:120]) for name in names[:limit]], limit, count=len(names))


def similar(name: str, names: Sequence[str], limit: int = 3) -> str:
    """Quote the names that resemble `name`: those that contain it come first. "" if there are none.

    Args:
        name: a name that is not in `names`.
        names: the existing names.
        limit: number of names to quote.
    """
    found = [n for n in names if name and name in n][:limit]
    compared = {n[:120]: n for n in names[:_MAX_COMPARED]}
    close = get_close_matches(name[:120], compared, limit)
    return quoted(list(dict.fromkeys([*found, *(compared[n] for n in close)]))[:limit])


def shown(value: object) -> str:
    """Return a short description of a JSON value of any size and depth."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):  # repr could exhaust the stack
        return f"a JSON {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
