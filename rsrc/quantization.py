"""What config.json says of quantisation: `quantization_config`, as transformers reads it.

The file is a stranger's: every value may be of any type. The keys are those of transformers'
`BitNetQuantConfig` (utils/quantization_config.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from .errors import SourceError


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
        """Return whether the weight `name` is one of a module that is BitNet's.

        Embeddings are none, nor is the output head unless `modules_to_not_convert` is a list
        without it. An entry of that list covers the module of that name, those inside it, and those
        whose names end with it. transformers also tries entries as regular expressions; here they
        are names, as in every published file: a stranger's expression could take for ever.
        """
        module = name.removesuffix(".weight")
        if "embed" in module.rpartition(".")[2] or module in self._skipped:
            return False
        if any(module[-n:] in self._skipped for n in self._lengths if n <= len(module)):
            return False
        dots = (i for i, letter in enumerate(module) if letter == ".")
        return not any(module[:i] in self._skipped for i in dots)

    @cached_property
    def _skipped(self) -> frozenset[str]:
        found = self._found.get("modules_to_not_convert")
        if not isinstance(found, list):
            return frozenset({"lm_head"})
        names = (n.removesuffix(".weight").rstrip(".") for n in found if isinstance(n, str))
        return frozenset(n for n in names if n)

    @cached_property
    def _lengths(self) -> frozenset[int]:
        return frozenset(map(len, self._skipped))


def _shown(value: object) -> str:
    # Not str(value): it may be nested as deep as the stack.
    return value[:64] if isinstance(value, str) else f"a JSON {type(value).__name__}"
