"""`quantization_config` of config.json, as transformers reads it.

The file is untrusted: every value may have any type. The keys are those of transformers'
`BitNetQuantConfig` (utils/quantization_config.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from rsr_formats.architectures import canonical
from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from ..common.errors import SourceError

# Usual names of the output layer. transformers does not convert it if config.json has no list
# `modules_to_not_convert`; if there is a list, only the list decides.
HEADS = ("lm_head", "embed_out", "output", "score", "classifier")

# What config.json of a BitNet says if its weights are masters.
ONLINE_CONFIG = (
    '"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", '
    '"quantization_mode": "online"}'
)


class Quantization:
    """The `quantization_config` of a config.json; {} if there is none."""

    def __init__(self, config: dict[str, Any]) -> None:
        found = config.get("quantization_config")
        self._found: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def is_given(self) -> bool:
        """Whether config.json has a non-empty one."""
        return bool(self._found)

    @property
    def method(self) -> str | None:
        """The `quant_method`, short enough for a message; None if absent."""
        found = self._found.get("quant_method")
        if isinstance(found, str):
            return found[:64]
        return None if found is None else shown(found)

    @property
    def is_bitnet(self) -> bool:
        """Whether the linear layers are BitNet's."""
        return self.method == "bitnet"

    @property
    def linear_class(self) -> str:
        """Either "bitlinear" (divides by weight_scale) or "autobitlinear" (multiplies by it).

        Raises:
            SourceError: it has another value.
        """
        return self._one_of(
            "linear_class",
            {"bitlinear": "divide by weight_scale", "autobitlinear": "multiply"},
        )

    @property
    def mode(self) -> str:
        """Either "offline" (the file holds ternary weights) or "online" (master weights).

        Raises:
            SourceError: it has another value.
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
        """Return whether the weight `name` belongs to a linear layer that BitNet replaces.

        Embeddings do not. The output head does only if `modules_to_not_convert` is a list without
        it.

        Raises:
            SourceError: the list has an unsupported regular expression.
        """
        module = name.removesuffix(".weight")
        last = module.rpartition(".")[2].lower()
        if "embed" in last or last in ("wte", "wpe"):
            return False
        if not isinstance(self._found.get("modules_to_not_convert"), list):
            return last not in HEADS
        return not any(name in self._not_converted for name in {module, canonical(module)})

    @cached_property
    def _not_converted(self) -> ModulesToNotConvert:
        try:
            return ModulesToNotConvert(self._found["modules_to_not_convert"])
        except ValueError as error:
            raise SourceError(f"config.json: {error}") from None
