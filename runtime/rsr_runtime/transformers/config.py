"""`quantization_config` of a config.json that `rsrc export-transformers` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.quantizers import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from rsr_formats.pretrained import QUANT_METHOD
from rsr_formats.text import shown

from ..errors import OptionError


@register_quantization_config(QUANT_METHOD)
class RsrConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """How the linear layers in a model.rsr belong to a model of transformers.

    Attributes:
        digest: of the .rsr file, `Model.digest` in hexadecimal.
        activations: what the layers take, "float32" or "int8"; see `Matrix.linear`.
        float32_modules: layers that take float32 although `activations` says "int8", by the names
            of their modules in a class with a head.
    """

    def __init__(
        self,
        digest: str,
        activations: str = "float32",
        float32_modules: Sequence[str] = (),
        **others: Any,
    ) -> None:
        """Take the settings of a config.json.

        Args:
            digest: see the class.
            activations: see the class.
            float32_modules: see the class.
            others: settings of later versions, which are kept and have no effect.

        Raises:
            OptionError: a setting has a value that is not allowed.
        """
        _check("digest", digest, isinstance(digest, str), "a string")
        _check(
            "activations", activations, activations in ("float32", "int8"), "'float32' or 'int8'"
        )
        is_list = isinstance(float32_modules, (list, tuple))
        is_list = is_list and all(isinstance(name, str) for name in float32_modules)
        _check("float32_modules", float32_modules, is_list, "a list of module names")
        self.__dict__.update(others)
        self.quant_method = QUANT_METHOD
        self.digest = digest
        self.activations = activations
        self.float32_modules = [*float32_modules]

    def activations_of(self, module: str) -> str:
        """Return what a layer takes, by the name of its module in a class with a head."""
        return "float32" if module in self.float32_modules else self.activations


def _check(key: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise OptionError(f"quantization_config: {key} is {shown(value)}, expected {expected}")
