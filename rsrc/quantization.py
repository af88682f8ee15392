"""What config.json says of quantisation: `quantization_config`, as transformers reads it.

The file is a stranger's: every value may be of any type. The keys are those of transformers'
`BitNetQuantConfig` (utils/quantization_config.py).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

from rsr_formats.layout import MAX_NAME_BYTES

from .errors import SourceError

# The output layer by its usual names. transformers leaves it alone where config.json has no
# `modules_to_not_convert`; where there is such a list, the list is all that counts.
HEADS = ("lm_head", "embed_out", "output", "score", "classifier")

_REGULAR_EXPRESSION = frozenset("+?[](){}|^$\\")
_MOST_PATTERNS = 64  # each is tried on every name


class _Skipped(NamedTuple):
    """`modules_to_not_convert`: names, their lengths, and entries with ".*" as glob patterns."""

    names: frozenset[str]
    lengths: frozenset[int]
    patterns: tuple[str, ...]


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
        dots = [i for i, letter in enumerate(module[:MAX_NAME_BYTES]) if letter == "."]
        starts = {module, *(module[:i] for i in dots), *(module[: i + 1] for i in dots)}
        if not starts.isdisjoint(self._skipped.names):
            return False
        if any(module[-n:] in self._skipped.names for n in self._skipped.lengths):
            return False
        patterns = self._skipped.patterns
        return not any(fnmatchcase(start, pattern) for pattern in patterns for start in starts)

    @cached_property
    def _skipped(self) -> _Skipped:
        names, patterns = set(), set()
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
                patterns.add("*".join(part.replace(".", "?") for part in key.split(".*")))
            else:
                names.add(key)
        if len(patterns) > _MOST_PATTERNS:
            raise SourceError(
                f"config.json: modules_to_not_convert has {len(patterns)} entries with '.*', "
                f"expected at most {_MOST_PATTERNS}"
            )
        return _Skipped(frozenset(names), frozenset(map(len, names)), tuple(sorted(patterns)))


def _shown(value: object) -> str:
    # Not str(value): it may be nested as deep as the stack.
    return value[:64] if isinstance(value, str) else f"a JSON {type(value).__name__}"
