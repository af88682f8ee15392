"""How a task wants texts generated: its `generation_kwargs`."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from rsr_formats.keys.generation import GENERATION
from rsr_formats.keys.key import USED
from rsr_formats.text import listed, shown

from ..errors import OptionError
from ..llm import Sampling
from .errors import TaskError

# Those of generation_config.json that a task may replace; `until` and `max_gen_toks` end texts.
_SETTINGS = {"do_sample", *(field.name for field in fields(Sampling))}
_SETTINGS -= {"stop_strings", "max_length", "max_new_tokens"}


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of a request.

    Attributes:
        max_tokens: the most tokens of a text.
        until: strings that end it.
        others: further settings, by their names in generation_config.json, as JSON.
    """

    max_tokens: int
    until: tuple[str, ...]
    others: str

    @classmethod
    def of(cls, arguments: Mapping[str, Any], max_tokens: int) -> GenerationSettings:
        """Return the settings that a task's arguments ask for.

        Args:
            arguments: as lm-eval passes them.
            max_tokens: the most tokens of a text if they do not say.

        Raises:
            TaskError: one is not supported.
        """
        others = dict(normalize_gen_kwargs(dict(arguments), max_tokens))
        count, until = others.pop("max_gen_toks"), others.pop("until")
        others = {name: value for name, value in others.items() if value is not None}
        if refused := [name for name in others if not _is_known(name, others[name])]:
            names = listed([f"{name} = {shown(others[name])}" for name in refused])
            raise TaskError(f"generation_kwargs of a task: not supported: {names}")
        kept = {name: others[name] for name in others.keys() & _SETTINGS}
        strings = tuple(text for text in until if text)
        return cls(count, strings, json.dumps(kept, sort_keys=True))

    def sampling(self, config: Mapping[str, Any], texts: int) -> list[Sampling]:
        """Return the sampling of each of several texts.

        Args:
            config: the model's generation_config.json, which the settings replace.
            texts: their number. Draws have different seeds by the generator of `random`, which
                lm-eval seeds.

        Raises:
            TaskError: a setting has an invalid value.
        """
        given = json.loads(self.others)
        config = {**config, "do_sample": given.pop("do_sample")}
        try:
            sampling = Sampling.from_generation_config(config, **given)
        except OptionError as error:
            raise TaskError(f"generation_kwargs of a task: {error}") from error
        if not sampling.temperature:
            return [sampling] * texts
        return [replace(sampling, seed=random.getrandbits(32)) for _ in range(texts)]


def _is_known(name: str, value: object) -> bool:
    """Return whether a setting is applied, or changes no text."""
    if name in _SETTINGS:
        return True
    key = GENERATION.get(name)
    return key is not None and key.kind != USED and not key.has_effect(value)
