"""Which modules `modules_to_not_convert` of a quantization_config names, as transformers reads it.

An entry covers the module of that name, the modules inside it, and those whose names end with it.
transformers takes entries as regular expressions. Of these only ".*" is matched here: published
files have no others, and matching an untrusted regular expression can take exponential time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_REGULAR_EXPRESSION = frozenset("+?[](){}|^$\\")
# Each pattern is tried on every name of a checkpoint, at a tenth of a microsecond per letter.
# Published files have a few patterns of twenty or thirty letters.
_MAX_PATTERNS = 64
_MAX_LETTERS = 1 << 12  # of all patterns together

_Pattern = tuple[str, ...]  # the parts between ".*"; "." in a part matches any letter


class ModulesToNotConvert:
    """A set of modules.

    Args:
        entries: the list in config.json; what is not a string is ignored, as transformers does.

    Raises:
        ValueError: an entry is a regular expression that is not supported.
    """

    def __init__(self, entries: Iterable[object]) -> None:
        names: set[str] = set()
        patterns: set[_Pattern] = set()
        for entry in entries:
            if not isinstance(entry, str) or not entry.strip("."):
                continue
            key = entry.removesuffix(".weight")
            if _REGULAR_EXPRESSION.intersection(key) or key.count("*") > key.count(".*"):
                raise ValueError(
                    f"modules_to_not_convert has {entry[:64]!r}, a regular expression that is not "
                    "supported; expected module names, or '.*' in them"
                )
            if "*" in key or key.endswith("."):  # a last "." matches any letter
                patterns.add(tuple(key.split(".*")))
            else:
                names.add(key)
        if len(patterns) > _MAX_PATTERNS:
            raise ValueError(
                f"modules_to_not_convert has {len(patterns)} entries with '.*', expected at most "
                f"{_MAX_PATTERNS}"
            )
        letters = sum(len(part) for pattern in patterns for part in pattern)
        if letters > _MAX_LETTERS:
            raise ValueError(
                f"modules_to_not_convert has entries with '.*' of {letters} letters together, "
                f"expected at most {_MAX_LETTERS}"
            )
        self._names = names
        self._lengths = frozenset(map(len, names))
        self._patterns = tuple(sorted(patterns))

    def __contains__(self, module: str) -> bool:
        """Return whether an entry covers the module of that name (without ".weight")."""
        for n in self._lengths:
            if n > len(module):
                continue
            if module[-n:] in self._names:
                return True
            ends = n == len(module) or "." in module[max(n - 1, 0) : n + 1]
            if ends and module[:n] in self._names:
                return True
        if not self._patterns:
            return False
        positions = _Positions.of(module)
        return any(positions.match(pattern) for pattern in self._patterns)


class _Positions(NamedTuple):
    """A module's name as sets of positions; a set is an integer with one bit per position."""

    before: dict[str, int]  # positions before each letter; "." holds those before any letter
    boundaries: int  # positions before and after a dot, and the end
    all: int

    @classmethod
    def of(cls, name: str) -> _Positions:
        before: dict[str, int] = {}
        for i, letter in enumerate(name):
            before[letter] = before.get(letter, 0) | 1 << i
        dots, end = before.get(".", 0), 1 << len(name)
        before["."] = end - 1
        return cls(before, dots | dots << 1 | end, end | (end - 1))

    def match(self, pattern: _Pattern) -> bool:
        """Return whether the pattern matches the name up to a boundary.

        All ways to match are followed at once, so the time does not depend on the number of ".*".
        """
        reached = 1  # positions up to which the pattern so far matches
        for i, part in enumerate(pattern):
            if i:  # ".*": every position from the first of these on
                reached = -(reached & -reached) & self.all
            for letter in part:
                reached = (reached & self.before.get(letter, 0)) << 1
                if not reached:
                    return False
        return reached & self.boundaries != 0
