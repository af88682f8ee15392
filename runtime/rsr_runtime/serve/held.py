"""Text that waits, as it may be the beginning of a marker."""

from __future__ import annotations

from collections.abc import Sequence


def held_marker(text: str, markers: Sequence[str]) -> int:
    """Return where the end of a text begins that has to wait for more.

    That is white space, as it is dropped before a marker, and the beginning of a marker.
    """
    longest = max(
        (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n])),
        default=0,
    )
    return len(text[: len(text) - longest].rstrip())
