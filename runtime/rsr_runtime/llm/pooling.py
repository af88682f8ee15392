"""How one vector is made of the states of a text's tokens, as sentence-transformers defines it.

A model that embeds texts says so in files beside config.json: modules.json lists the steps,
1_Pooling/config.json the rule of pooling, config_sentence_transformers.json the prompts. None of
them is trusted: any value may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.model_files import MAX_CONFIG, parse_list, path_in_model
from rsr_formats.text import listed, shown

from ..errors import OptionError
from .config import read_json
from .errors import ModelError

FloatArray = npt.NDArray[np.float32]

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_MODULES, _POOLING = "modules.json", "1_Pooling.config.json"
# Keys of older versions, in the order in which their results are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """A rule of pooling.

    Attributes:
        modes: one or more of `MODES`; the vectors of several are concatenated.
        includes_prompt: whether the tokens of a prompt before the text count.
        normalizes: whether vectors are divided by their length.
    """

    modes: tuple[str, ...]
    includes_prompt: bool = True
    normalizes: bool = False

    @property
    def needs_all(self) -> bool:
        """Whether the states of all tokens are needed, not only that of the last."""
        return self.modes != ("lasttoken",)


@dataclass(frozen=True)
class EmbeddingConfig:
    """How a model embeds texts.

    Attributes:
        pooling: the rule of pooling.
        prompts: texts that are put before a text, by name.
        default_prompt: name of the prompt of texts for which none is asked, or None.
        max_tokens: the most tokens of a prompt and a text, None: what the decoder takes.
    """

    pooling: Pooling
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None


def read_embedding_config(files: Mapping[str, bytes], hidden_size: int) -> EmbeddingConfig | None:
    """Return how a model embeds texts, None if it has no modules.json.

    Args:
        files: the model's small files.
        hidden_size: features of a state.

    Raises:
        ModelError: a file is damaged, or asks for what is not supported.
    """
    if _MODULES not in files:
        return None
    modules = [_module(entry) for entry in _modules(files)]
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{_MODULES}: the modules are {listed(kinds) or 'none'}, expected Transformer, Pooling "
            "and, if vectors are normalized, Normalize; others, such as Dense, are not supported"
        )
    (_, root), (_, folder) = modules[:2]
    if root or folder != "1_Pooling" or _POOLING not in files:
        raise ModelError(
            f"{_MODULES}: Transformer is in {shown(root)} and Pooling in {shown(folder)}, expected "
            f"'' and '1_Pooling', whose settings are {path_in_model(_POOLING)}"
        )
    limit = _settings(files, "sentence_bert_config.json")
    own = _settings(files, "config_sentence_transformers.json")
    return EmbeddingConfig(
        _pooling(read_json(files, _POOLING), hidden_size, kinds[2:] == ["Normalize"]),
        *_prompts(own),
        _max_tokens(limit) or _tokenizer_limit(read_json(files, "tokenizer_config.json")),
    )


def _modules(files: Mapping[str, bytes]) -> list[Any]:
    return parse_list(files[_MODULES], _MODULES, MAX_CONFIG, ModelError)


def _module(entry: object) -> tuple[str, str]:
    """Return the class of a module, without its packages, and its folder."""
    values = entry if isinstance(entry, dict) else {}
    kind, path = values.get("type"), values.get("path", "")
    if not isinstance(kind, str) or not isinstance(path, str):
        raise ModelError(f"{_MODULES}: found {shown(entry)}, expected a module with type and path")
    return kind.rpartition(".")[2][:80], path[:80]


def _settings(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    values = read_json(files, name)
    if values.get("do_lower_case") is True:
        raise ModelError(f"{name}: do_lower_case is true, which is not supported")
    return values


def _pooling(values: Mapping[str, Any], hidden_size: int, normalizes: bool) -> Pooling:
    where = path_in_model(_POOLING)
    modes = values.get("pooling_mode")
    if modes is None:
        unknown = [k for k in values if k.startswith("pooling_mode_") and k not in _FLAGS]
        if any(values[key] for key in unknown):
            raise ModelError(f"{where}: {listed(unknown)} is not supported; known are {_known()}")
        modes = [mode for key, mode in _FLAGS.items() if values.get(key) is True] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    if not modes or not all(isinstance(mode, str) and mode in MODES for mode in modes):
        raise ModelError(f"{where}: pooling_mode is {shown(modes)}, known are {_known()}")
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if values.get(key) not in (None, hidden_size):
            raise ModelError(
                f"{where}: {key} is {shown(values[key])}, but the model's states have "
                f"{hidden_size} features"
            )
    includes_prompt = values.get("include_prompt", True) is not False
    return Pooling(tuple(modes), includes_prompt, normalizes)


def _known() -> str:
    return ", ".join(MODES)


def _prompts(values: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    where = "config_sentence_transformers.json"
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise ModelError(f"{where}: prompts is {shown(prompts)}, expected an object")
    # null: a name without a prompt
    found = {name: "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) for text in found.values()):
        raise ModelError(f"{where}: prompts has values that are not strings")
    if default is not None and (not isinstance(default, str) or default not in found):
        raise ModelError(
            f"{where}: default_prompt_name is {shown(default)}, which prompts does not have"
        )
    return found, default


def _max_tokens(values: Mapping[str, Any]) -> int | None:
    found = values.get("max_seq_length")
    if found is None:
        return None
    if type(found) is not int or found < 1:
        raise ModelError(
            f"sentence_bert_config.json: max_seq_length is {shown(found)}, expected a positive "
            "whole number"
        )
    return found


def _tokenizer_limit(values: Mapping[str, Any]) -> int | None:
    """Return what stands for `max_seq_length` where it is absent; some files have a huge float."""
    found = values.get("model_max_length")
    return found if type(found) is int and found > 0 else None


def asked_pooling(mode: str | None, config: EmbeddingConfig | None) -> Pooling | None:
    """Return the rule that an option asks for, else the model's; None if there is neither.

    Raises:
        OptionError: `mode` is not one of `MODES`.
    """
    if mode is None:
        return None if config is None else config.pooling
    if mode not in MODES:
        raise OptionError(f"pooling: found {mode!r:.40}, expected one of {_known()}")
    if config is None:
        return Pooling((mode,))
    return Pooling((mode,), config.pooling.includes_prompt, config.pooling.normalizes)


class Pooler:
    """Pools the states of one text, which come in parts.

    Sums are float64 and add one token after the other, so the vector does not depend on the parts.
    """

    def __init__(self, pooling: Pooling, prompt_tokens: int) -> None:
        """Start without states.

        Args:
            pooling: the rule.
            prompt_tokens: tokens before the text, which count only if the rule says so.
        """
        self._modes = pooling.modes
        self._skipped = 0 if pooling.includes_prompt else prompt_tokens
        self._position = 0
        self._count = 0
        self._found: dict[str, npt.NDArray[Any]] = {}

    def add(self, states: FloatArray) -> None:
        """Take the states of the next tokens, float32 (n, hidden_size); they may change later."""
        first = max(self._position, self._skipped)
        end = self._position + len(states)
        states = states[first - self._position :]
        self._position = end
        if not len(states):
            return
        for mode in self._modes:
            self._found[mode] = self._next(mode, first, states)
        self._count += len(states)

    def _next(self, mode: str, first: int, states: FloatArray) -> npt.NDArray[Any]:
        before = self._found.get(mode)
        if mode == "lasttoken":
            return np.array(states[-1])
        if mode == "cls":
            return np.array(states[0]) if before is None else before
        if mode == "max":
            most: FloatArray = states.max(axis=0)
            return most if before is None else np.maximum(before, most)
        rows = states.astype(np.float64)
        if mode == "weightedmean":
            rows *= np.arange(first + 1, first + 1 + len(rows))[:, None]
        total = np.zeros(rows.shape[1]) if before is None else before
        for row in rows:
            total += row
        return total

    def vector(self) -> FloatArray:
        """Return the vector of the text, float32 (number of modes x hidden_size,)."""
        parts = []
        for mode in self._modes:
            part = self._found[mode]
            if mode == "mean":
                part = part / self._count
            elif mode == "mean_sqrt_len_tokens":
                part = part / np.sqrt(self._count)
            elif mode == "weightedmean":
                first = self._position - self._count + 1
                part = part / (self._count * (first + self._position) / 2)
            parts.append(part)
        vector: FloatArray = np.concatenate(parts).astype(np.float32)
        return vector


def normalized(vectors: FloatArray) -> FloatArray:
    """Return vectors, float32 (n, dimension), divided by their length."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: FloatArray = vectors / np.maximum(length, np.float32(1e-12))
    return result
