"""Format names and values from untrusted files for messages."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_MAX_COMPARED = 512  # names in which a misspelled one is looked for: a comparison takes up to 4 ms
_MAX_QUOTED = 120  # characters of a name in a list
_MAX_SIMILAR = 3  # names that resemble a misspelled one
_MAX_SHOWN = 60  # characters of a value in a message


def printable(text: str) -> str:
    """Return `text` with control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """Return "1 token", "2 tokens"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Format a number of bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


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
    return listed([repr(name[:_MAX_QUOTED]) for name in names[:limit]], limit, count=len(names))


def alternatives(name: str, names: Sequence[str]) -> str:
    """Return "similar names: 'a', 'b'" or, if no name resembles `name`, "it has 'x', 'y', ..."."""
    found = similar(name, names)
    return f"similar names: {quoted(found)}" if found else f"it has {quoted(names, 5) or 'none'}"


def similar(name: str, names: Sequence[str], likeness: float = 0.6) -> list[str]:
    """Return the few names that resemble `name`.

    Names that contain `name` come first, then those with few other letters.

    Args:
        name: a name that is not among them.
        names: the known names.
        likeness: the smallest share of letters in common, as difflib counts them.
    """
    found = [n for n in names if len(name) > 2 and name in n][:_MAX_SIMILAR]
    compared = {n[:_MAX_QUOTED]: n for n in names[:_MAX_COMPARED]}
    close = get_close_matches(name[:_MAX_QUOTED], compared, _MAX_SIMILAR, likeness)
    return list(dict.fromkeys([*found, *(compared[n] for n in close)]))[:_MAX_SIMILAR]


def shown_json(value: object) -> str:
    """Return a short description of a value from JSON, with its constants as JSON spells them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(shown(value))


def shown(value: object) -> str:
    """Return a short description of a value, such as one from JSON, of any size and depth."""
    if value is None:
        return "nothing"
    if isinstance(value, list):  # repr of nested ones could exhaust the stack
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and value.bit_length() > 128:  # repr refuses thousands of digits
        return "an integer of 39 digits or more"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
