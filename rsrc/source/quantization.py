"""What config.json says of quantization: `quantization_config`, as transformers reads it.

The file is a stranger's: every value may be of any type. The keys are those of transformers'
`BitNetQuantConfig` (utils/quantization_config.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from ..common.errors import SourceError

# The output layer by its usual names. transformers leaves it alone where config.json has no
# `modules_to_not_convert`; where there is such a list, the list is all that counts.
HEADS = ("lm_head", "embed_out", "output", "score", "classifier")

_REGULAR_EXPRESSION = frozenset("+?[](){}|^$\\")
# Each pattern is tried on every name of a checkpoint, and each of its letters takes a step, of a
# tenth of a microsecond. Published files have a few patterns of twenty or thirty letters.
_MOST_PATTERNS = 64
_MOST_LETTERS = 1 << 12  # of all patterns together

_Pattern = tuple[str, ...]  # what is between its ".*"; a "." in it is any letter


class _Skipped(NamedTuple):
    """`modules_to_not_convert`: names, their lengths, and the entries with ".*" in them."""

    names: frozenset[str]
    lengths: frozenset[int]
    patterns: tuple[_Pattern, ...]


class _Places(NamedTuple):
    """A module's name as sets of places; a set is an integer, with a bit for each place."""

    before: dict[str, int]  # the places before a letter; those before any letter for "."
    boundaries: int  # the places before and behind a dot, and the end
    all: int

    @classmethod
    def of(cls, name: str) -> _Places:
        before: dict[str, int] = {}
        for i, letter in enumerate(name):
            before[letter] = before.get(letter, 0) | 1 << i
        dots, end = before.get(".", 0), 1 << len(name)
        before["."] = end - 1
        return cls(before, dots | dots << 1 | end, end | (end - 1))

    def match(self, pattern: _Pattern) -> bool:
        """Return whether the pattern is the name up to a boundary.

        All ways to match are followed at once, so that ".*" in any number take no longer.
        """
        reached = 1  # the places up to which what was seen of the pattern is the name
        for i, part in enumerate(pattern):
            if i:  # ".*": from the first of these on, all of them
                reached = -(reached & -reached) & self.all
            for letter in part:
                reached = (reached & self.before.get(letter, 0)) << 1
                if not reached:
                    return False
        return reached & self.boundaries != 0


class Quantization:
    """The `quantization_config` of a config.json, {} where there is none."""

    def __init__(self, config: dict[str, Any]) -> None:
        found = config.get("quantization_config")
        self._found: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def is_given(self) -> bool:
        """Whether there is one that says anything."""
        return bool(self._found)

    @property
    def method(self) -> str | None:
        """The `quant_method`, cut if it is long; None if absent, its type if it is no string."""
        found = self._found.get("quant_method")
        return None if found is None else _shown(found)

    @property
    def is_bitnet(self) -> bool:
        """Whether it says that linear layers are BitNet's."""
        return self.method == "bitnet"

    @property
    def linear_class(self) -> str:
        """Either "bitlinear", which divides by weight_scale, or "autobitlinear": it multiplies.

        Raises:
            SourceError: it is neither.
        """
        return self._one_of(
            "linear_class",
            {"bitlinear": "divide by weight_scale", "autobitlinear": "multiply"},
        )

    @property
    def mode(self) -> str:
        """Either "offline", where the file holds ternary weights, or "online": their masters.

        Raises:
            SourceError: it is neither.
        """
        return self._one_of(
            "quantization_mode", {"offline": "ternary weights", "online": "master weights"}
        )

    def _one_of(self, key: str, meanings: dict[str, str]) -> str:
        """Return the value of `key`, one of `meanings`; the first is the default."""
        found = self._found.get(key, next(iter(meanings)))
        if not isinstance(found, str) or found not in meanings:
            expected = " or ".join(f"{value!r} ({words})" for value, words in meanings.items())
            raise SourceError(f"config.json: {key} is {_shown(found)!r}, expected {expected}")
        return found

    def converts(self, name: str) -> bool:
        """Return whether the weight `name` is one of a linear layer that is BitNet's.

        Embeddings are none, nor is the output head unless `modules_to_not_convert` is a list
        without it. An entry of that list covers the module of that name, those inside it, and those
        whose names end with it. To transformers entries are regular expressions; of these ".*" is
        followed, as published files have no others and a stranger's could take for ever.

        Raises:
            SourceError: the list has a regular expression that is not followed.
        """
        module = name.removesuffix(".weight")
        last = module.rpartition(".")[2].lower()
        if "embed" in last or last in ("wte", "wpe"):  # they look values up
            return False
        if not isinstance(self._found.get("modules_to_not_convert"), list):
            return last not in HEADS
        for n in self._skipped.lengths:
            if n > len(module):
                continue
            if module[-n:] in self._skipped.names:
                return False
            ends = n == len(module) or "." in module[max(n - 1, 0) : n + 1]
            if ends and module[:n] in self._skipped.names:
                return False
        if not self._skipped.patterns:
            return True
        places = _Places.of(module)
        return not any(places.match(pattern) for pattern in self._skipped.patterns)

    @cached_property
    def _skipped(self) -> _Skipped:
        names: set[str] = set()
        patterns: set[_Pattern] = set()
        for entry in self._found["modules_to_not_convert"]:
            if not isinstance(entry, str) or not entry.strip("."):
                continue
            key = entry.removesuffix(".weight")
            if _REGULAR_EXPRESSION.intersection(key) or key.count("*") > key.count(".*"):
                raise SourceError(
                    f"config.json: modules_to_not_convert has {entry[:64]!r}, a regular expression "
                    "that is not followed; expected module names, or '.*' in them"
                )
            if "*" in key or key.endswith("."):  # a last "." is any letter there
                patterns.add(tuple(key.split(".*")))
            else:
                names.add(key)
        if len(patterns) > _MOST_PATTERNS:
            raise SourceError(
                f"config.json: modules_to_not_convert has {len(patterns)} entries with '.*', "
                f"expected at most {_MOST_PATTERNS}"
            )
        letters = sum(len(part) for pattern in patterns for part in pattern)
        if letters > _MOST_LETTERS:
            raise SourceError(
                f"config.json: modules_to_not_convert has entries with '.*' of {letters} letters "
                f"together, expected at most {_MOST_LETTERS}"
            )
        return _Skipped(frozenset(names), frozenset(map(len, names)), tuple(sorted(patterns)))


def _shown(value: object) -> str:
    # Not str(value): it may be nested as deep as the stack.
    return value[:64] if isinstance(value, str) else f"a JSON {type(value).__name__}"
