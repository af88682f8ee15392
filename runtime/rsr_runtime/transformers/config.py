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
        use_rms_norm: layers that take int8 normalize their inputs first.
        rms_norm_eps: of these norms.
    """

    def __init__(
        self,
        digest: str,
        activations: str = "float32",
        float32_modules: Sequence[str] = (),
        use_rms_norm: bool = False,
        rms_norm_eps: float = 1e-6,
        **others: Any,
    ) -> None:
        """Take the settings of a config.json.

        Args:
            digest: see the class.
            activations: see the class.
            float32_modules: see the class.
            use_rms_norm: see the class.
            rms_norm_eps: see the class.
            others: settings of later versions, which are kept and have no effect; those with the
                name of a method are not kept.

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
        _check("use_rms_norm", use_rms_norm, isinstance(use_rms_norm, bool), "true or false")
        is_number = isinstance(rms_norm_eps, (int, float)) and rms_norm_eps > 0
        _check("rms_norm_eps", rms_norm_eps, is_number, "a positive number")
        self.__dict__.update({k: v for k, v in others.items() if not hasattr(type(self), k)})
        self.quant_method = QUANT_METHOD
        self.digest = digest
        self.activations = activations
        self.float32_modules = [*float32_modules]
        self.use_rms_norm = use_rms_norm
        self.rms_norm_eps = rms_norm_eps

    def activations_of(self, module: str) -> str:
        """Return what a layer takes, by the name of its module in a class with a head."""
        return "float32" if module in self.float32_modules else self.activations


def _check(key: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise OptionError(f"quantization_config: {key} is {shown(value)}, expected {expected}")
