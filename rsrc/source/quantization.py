"""What config.json says of quantization: `quantization_config`, as transformers reads it.

The file is a stranger's: every value may be of any type. The keys are those of transformers'
`BitNetQuantConfig` (utils/quantization_config.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from ..common.errors import SourceError

# The output layer by its usual names. transformers leaves it alone where config.json has no
# `modules_to_not_convert`; where there is such a list, the list is all that counts.
HEADS = ("lm_head", "embed_out", "output", "score", "classifier")


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
        """The `quant_method`, fit for a message; None if absent."""
        found = self._found.get("quant_method")
        if isinstance(found, str):
            return found[:64]
        return None if found is None else shown(found)

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
            raise SourceError(f"config.json: {key} is {shown(found)}, expected {expected}")
        return found

    def converts(self, name: str) -> bool:
        """Return whether the weight `name` is one of a linear layer that is BitNet's.

        Embeddings are not, nor is the output head unless `modules_to_not_convert` is a list
        without it.

        Raises:
            SourceError: the list has a regular expression that is not supported.
        """
        module = name.removesuffix(".weight")
        last = module.rpartition(".")[2].lower()
        if "embed" in last or last in ("wte", "wpe"):  # they look values up
            return False
        if not isinstance(self._found.get("modules_to_not_convert"), list):
            return last not in HEADS
        return module not in self._not_converted

    @cached_property
    def _not_converted(self) -> ModulesToNotConvert:
        try:
            return ModulesToNotConvert(self._found["modules_to_not_convert"])
        except ValueError as error:
            raise SourceError(f"config.json: {error}") from None
