"""The settings of generation that a request asks for."""

from __future__ import annotations

from typing import Any

from ..llm.model import LanguageModel
from ..llm.sampling import Sampling
from .errors import refused
from .schema import Generate

_NUMBERS = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed",
)  # fmt: skip


def sampling_of(model: LanguageModel, request: Generate, max_tokens: int | None) -> Sampling:
    """Return the settings of a request; those that it leaves out are the model's.

    Raises:
        ApiError: `logit_bias` has a name that is not a token of the model.
        OptionError, ModelError: as for `Sampling.from_generation_config`.
    """
    given: dict[str, Any] = {
        name: getattr(request, name) for name in _NUMBERS if getattr(request, name) is not None
    }
    if request.logit_bias:
        given["logit_bias"] = _biases(request.logit_bias, model.config.vocab_size)
    if request.stop_strings:
        given["stop_strings"] = ()  # those of the job replace them
    if max_tokens is not None:
        given["max_new_tokens"] = max_tokens or None
    return Sampling.asked(model.config.generation_config, **given)


def _biases(named: dict[str, float], vocab_size: int) -> dict[int, float]:
    """Return the biases by token."""
    biases = {}
    for name, bias in named.items():
        if not name.isascii() or not name.isdigit() or len(name) > 10:
            raise refused("logit_bias", f"found {name!r:.40}, expected the number of a token")
        if int(name) >= vocab_size:
            raise refused("logit_bias", f"found token {name}, expected 0 to {vocab_size - 1}")
        biases[int(name)] = bias
    return biases
