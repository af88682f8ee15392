"""adapter_config.json: which settings are supported, and the rank and scale of each module."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rsr_formats.model_files import parse_object
from rsr_formats.text import quoted, shown_json

from .errors import AdapterError

CONFIG = "adapter_config.json"

T = TypeVar("T")

MAX_CONFIG = 1 << 20  # bytes
_MAX_RANK = 1 << 20
_MAX_PATTERNS = 1024
_REPETITIONS = re.compile(r"(?<!\\)(?:\\\\)*[*+?{]")
_SLOW = re.compile(r"\)[*+?{]|\(\?")  # a repeated group, and flags, with which it looks different
_GROUP = re.compile(r"\(\?(?::|=|!|<[=!])")
_MAX_REPETITIONS, _MAX_ALL_REPETITIONS = 2, 32

# They tell how an adapter was trained or loaded, and change nothing of what it computes.
_IGNORED = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "fan_in_fan_out", "megatron_config", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "qalora_group_size", "ensure_weight_tying", "layers_pattern",
}  # fmt: skip
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
    "init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform",
}  # fmt: skip
_ADVICE = {
    "use_dora": "DoRA scales the rows of the sum of both weights, and a ternary index has no such "
    "sum: train with use_dora=False",
    "modules_to_save": "the file holds whole modules, which replace those of the model: compile a "
    "checkpoint that has them, or train without modules_to_save",
    "trainable_token_indices": "it changes rows of the embedding: train without "
    "trainable_token_indices",
    "lora_bias": "train with lora_bias=False",
    "target_parameters": "it changes parameters that are no linear layers, such as fused experts: "
    "train with target_modules alone",
    "layer_replication": "it adds layers to the model: train without layer_replication",
}
# Of init_lora_weights: they change the weights of the model, too.
_CHANGES_WEIGHTS = ("pissa", "corda", "olora", "loftq", "lora_ga")


@dataclass(frozen=True)
class LoraSettings:
    """What adapter_config.json says.

    Attributes:
        rank: of modules that no pattern matches.
        alpha: the same.
        is_rank_stabilized: the scale is alpha / sqrt(rank), else alpha / rank.
        targets: names of modules, or their ends; None if the file's tensors say which.
        excluded: of modules that are none of the targets.
        layers: numbers of the layers whose modules are targets; None: all.
        ranks: ranks by patterns of names.
        alphas: the same of alpha.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: tuple[str, ...] | None
    excluded: tuple[str, ...] = ()
    layers: frozenset[int] | None = None
    ranks: Mapping[re.Pattern[str], int] = field(default_factory=dict)
    alphas: Mapping[re.Pattern[str], float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, by its name in the model that was trained."""
        return _first_match(self.ranks, module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """Return the factor of a module's product."""
        alpha = _first_match(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def is_target(self, module: str) -> bool:
        """Return whether the settings name a module; `targets` is not None."""
        assert self.targets is not None
        if _ends_with_one(module, self.excluded) or not _ends_with_one(module, self.targets):
            return False
        return self.layers is None or _layer(module) in self.layers


def read_settings(where: str, data: bytes) -> LoraSettings:
    """Return the settings in the bytes of adapter_config.json.

    Args:
        where: the path of the file, for messages.
        data: its bytes.

    Raises:
        AdapterError: it is not JSON, has a value that it cannot have, or asks for what is not
            supported.
    """
    found = parse_object(data, where, MAX_CONFIG, AdapterError)
    kind = found.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{where}: found an adapter of kind {shown_json(kind)}, expected LORA")
    _check_supported(where, found)
    targets = found.get("target_modules")
    excluded = found.get("exclude_modules")
    # PEFT matches a string, which is a pattern, with the modules of the model; so did training, and
    # the file has tensors of what it found.
    is_listed = not isinstance(targets, str) and not isinstance(excluded, str)
    is_rank_stabilized = found.get("use_rslora")
    if is_rank_stabilized is not None and not isinstance(is_rank_stabilized, bool):
        raise AdapterError(
            f"{where}: use_rslora: found {shown_json(is_rank_stabilized)}, expected true or false"
        )
    budget = [_MAX_ALL_REPETITIONS]
    return LoraSettings(
        _rank(where, "r", found.get("r", 8)),
        _number(where, "lora_alpha", found.get("lora_alpha", 8)),
        is_rank_stabilized is True,
        _names(where, "target_modules", targets) if is_listed else None,
        _names(where, "exclude_modules", excluded or []) if is_listed else (),
        _layers(where, found.get("layers_to_transform")),
        {
            pattern: _rank(where, "rank_pattern", value)
            for pattern, value in _patterns(where, "rank_pattern", found, budget).items()
        },
        {
            pattern: _number(where, "alpha_pattern", value)
            for pattern, value in _patterns(where, "alpha_pattern", found, budget).items()
        },
    )


def _check_supported(where: str, found: Mapping[str, Any]) -> None:
    if found.get("bias", "none") != "none":
        raise AdapterError(
            f"{where}: found bias = {shown_json(found['bias'])}, expected 'none': trained biases "
            "are not supported; train with bias='none'"
        )
    start = found.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_WEIGHTS):
        raise AdapterError(
            f"{where}: init_lora_weights is {shown_json(start)}, which changed the weights of the "
            "model, too: convert the adapter with save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...) of PEFT"
        )
    for key, value in found.items():
        if key not in _IGNORED | _READ and value not in (None, False, [], {}, ""):
            advice = _ADVICE.get(key, "expected a LoRA adapter without it")
            raise AdapterError(
                f"{where}: {quoted([key])}: {shown_json(value)} is not supported: {advice}"
            )


def _rank(where: str, key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_RANK:
        return value
    raise AdapterError(f"{where}: {key}: found {shown_json(value)}, expected a rank of at least 1")


def _number(where: str, key: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise AdapterError(f"{where}: {key}: found {shown_json(value)}, expected a number")


def _names(where: str, key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise AdapterError(f"{where}: {key}: found {shown_json(value)}, expected names of modules")


def _layers(where: str, value: object) -> frozenset[int] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        return frozenset(numbers)
    raise AdapterError(
        f"{where}: layers_to_transform: found {shown_json(value)}, expected numbers of layers"
    )


def _patterns(
    where: str, key: str, found: Mapping[str, Any], budget: list[int]
) -> dict[re.Pattern[str], object]:
    """Return the values of a map by patterns, none of which takes long to match.

    Args:
        where: the path of the file.
        key: of the map.
        found: the settings.
        budget: how many repetitions further patterns may have, which is lowered.
    """
    value = found.get(key) or {}
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise AdapterError(
            f"{where}: {key}: expected a map of up to {_MAX_PATTERNS} patterns of names"
        )
    patterns = {}
    for text, of in value.items():
        plain = _GROUP.sub("(", text)
        repetitions = len(_REPETITIONS.findall(plain))
        budget[0] -= repetitions
        if repetitions > _MAX_REPETITIONS or budget[0] < 0 or _SLOW.search(plain):
            raise AdapterError(
                f"{where}: {key}: the pattern {quoted([text])} may take too long to match, "
                f"expected at most {_MAX_REPETITIONS} repetitions, none of a group, and at most "
                f"{_MAX_ALL_REPETITIONS} in all patterns: write names"
            )
        try:
            patterns[re.compile(text)] = of
        except (re.error, RecursionError, OverflowError) as error:
            raise AdapterError(
                f"{where}: {key}: {quoted([text])} is not a regular expression: {error}"
            ) from None
    return patterns


def _first_match(values: Mapping[re.Pattern[str], T], module: str, default: T) -> T:
    """Return the value of the first pattern that is the module's name, or its end after a dot."""
    starts = [0, *(match.end() for match in re.finditer(r"\.", module))]
    for pattern, value in values.items():
        if any(pattern.fullmatch(module, start) for start in starts):
            return value
    return default


def _ends_with_one(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer(module: str) -> int | None:
    """Return the number of a module's layer: the first part of its name that is a number."""
    return next(
        (int(part) for part in module.split(".") if part.isascii() and part.isdigit()), None
    )
