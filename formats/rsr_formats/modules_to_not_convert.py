"""Match `modules_to_not_convert` of a quantization_config as transformers does.

An entry covers the module of that name, its submodules, and modules whose names end with it.
transformers treats entries as regular expressions. Only "." and ".*" are supported here: published
files use nothing else, and matching an untrusted regular expression can take exponential time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_REGULAR_EXPRESSION = frozenset("+?[](){}|^$\\")
# Every pattern is matched against every tensor name, which takes 0.1 us per letter of the pattern.
# Published files have a few patterns of 20 to 30 letters.
_MAX_PATTERNS = 64
_MAX_LETTERS = 1 << 12  # in all patterns together

_Pattern = tuple[str, ...]  # the parts between ".*"; "." in a part matches any letter


class ModulesToNotConvert:
    """A set of module names.

    Args:
        entries: the list in config.json; entries that are not strings are ignored, as in
            transformers.

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
                    "supported; expected module names, which may contain '.*'"
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
                f"modules_to_not_convert has entries with '.*' that have {letters} letters in "
                f"total, expected at most {_MAX_LETTERS}"
            )
        self._names = names
        self._lengths = frozenset(map(len, names))
        self._patterns = tuple(sorted(patterns))

    def __contains__(self, module: str) -> bool:
        """Return whether an entry covers a module, named without ".weight"."""
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
    """Positions in a module name. A set of positions is an integer with one bit for each."""

    before: dict[str, int]  # positions before each letter; under ".", before any letter
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
        """Return whether the pattern matches a prefix of the name that ends at a boundary.

        All partial matches advance together, so the time does not depend on the number of ".*".
        """
        reached = 1  # positions where a match of the pattern so far may end
        for i, part in enumerate(pattern):
            if i:  # ".*" reaches all positions from the first of these
                reached = -(reached & -reached) & self.all
            for letter in part:
                reached = (reached & self.before.get(letter, 0)) << 1
                if not reached:
                    return False
        return reached & self.boundaries != 0
