"""The callback that reports progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being worked on, amount done, amount in all)
