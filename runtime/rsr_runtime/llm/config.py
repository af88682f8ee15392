"""A model's settings: config.json and generation_config.json, as transformers reads them.

Both are a stranger's files: any value may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsr_formats.architectures import ARCHITECTURES, PROJECTIONS, Architecture, of_config
from rsr_formats.model_files import MAX_JSON, parse_object
from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from .errors import ModelError
from .rope import Rope

_LARGEST = 1 << 31  # no dimension is as large
MAX_HEAD_DIM = 4096  # rotations take as much for each position; the largest seen is 256
ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu2": "relu2"}  # names: those of the kernels


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in a model's file, {} if there is no such file.

    Raises:
        ModelError: the file is larger than 16 MiB, is not valid JSON, or is not an object.
    """
    return parse_object(files[name], name, MAX_JSON, ModelError) if name in files else {}


@dataclass(frozen=True)
class Config:
    """What the decoder needs to know; sizes are numbers of features."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    activation: str  # of the gate: "silu" or "relu2"
    max_positions: int
    rope: Rope
    tie_word_embeddings: bool  # the embedding is the output head
    int8_activations: bool  # linear layers take int8 activations (`modules_to_not_convert` do not)
    self_quantizing: bool  # so are float weights quantized, by the model itself
    modules_to_not_convert: ModulesToNotConvert
    scales_biases: bool  # a bias is multiplied by weight_scale too: autobitlinear, offline
    layer_norm_eps: float  # of a norm inside a linear layer (use_rms_norm)
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    generation: Mapping[str, Any]  # generation_config.json

    def has_int8_activations(self, layer: str) -> bool:
        """Return whether the linear layer of that name takes int8 activations."""
        return self.int8_activations and layer not in self.modules_to_not_convert

    def is_self_quantizing(self, layer: str) -> bool:
        """Return whether the linear layer of that name quantizes float weights itself."""
        return self.self_quantizing and self.has_int8_activations(layer)

    def shape_of(self, module: str) -> tuple[int, int]:
        """Return (out_features, in_features) of a projection, by its name within a layer."""
        widths = {
            "hidden": self.hidden_size,
            "intermediate": self.intermediate_size,
            "queries": self.heads * self.head_dim,
            "keys": self.kv_heads * self.head_dim,
        }
        out_features, in_features = (widths[width] for width in PROJECTIONS[module])
        return out_features, in_features


def read_config(files: Mapping[str, bytes]) -> Config:
    """Return the settings in a model's files.

    Raises:
        ModelError: there is no config.json, or it does not describe a model that can be run.
    """
    if "config.json" not in files:
        raise ModelError(
            "the file holds no config.json, so it is no whole model: compile the model's "
            "directory (or GGUF file), not the .safetensors alone"
        )
    found = _Json("config.json", read_json(files, "config.json"))
    architecture = _architecture(found.values)
    generation = read_json(files, "generation_config.json")
    hidden, heads = found.size("hidden_size"), found.size("num_attention_heads")
    head_dim = found.size("head_dim", architecture.head_dim or hidden // heads)
    kv_heads = found.size("num_key_value_heads", architecture.num_key_value_heads or heads)
    if heads % kv_heads:
        raise ModelError(
            f"config.json: {heads} heads cannot share {kv_heads} key and value heads evenly"
        )
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise ModelError(
            f"config.json: head_dim is {head_dim}, expected an even number up to {MAX_HEAD_DIM}"
        )
    if found.values.get("use_sliding_window") is True:
        raise ModelError("config.json: use_sliding_window is true, which is not supported")
    activation = found.text("hidden_act", architecture.hidden_act)
    if activation not in ACTIVATIONS:
        raise ModelError(
            f"config.json: hidden_act {shown(activation)} is not supported; "
            f"known are {', '.join(ACTIVATIONS)}"
        )
    max_positions = found.size("max_position_embeddings", architecture.max_position_embeddings)
    quantization = _Json("config.json: quantization_config", found.table("quantization_config"))
    is_bitnet = quantization.values.get("quant_method") == "bitnet"
    modules_to_not_convert = quantization.values.get("modules_to_not_convert")
    is_scaled = quantization.values.get("linear_class") == "autobitlinear"
    is_online = quantization.values.get("quantization_mode") == "online"
    return Config(
        architecture=architecture,
        vocab_size=found.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=found.size("intermediate_size"),
        layers=found.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=found.number("rms_norm_eps", architecture.rms_norm_eps),
        activation=ACTIVATIONS[activation],
        max_positions=max_positions,
        rope=Rope.from_config(found.values, head_dim, max_positions, architecture.rope_theta),
        tie_word_embeddings=found.values.get("tie_word_embeddings") is True,
        int8_activations=architecture.int8_activations or is_bitnet,
        self_quantizing=architecture.self_quantizing or is_bitnet,
        modules_to_not_convert=_modules(modules_to_not_convert if is_bitnet else None),
        scales_biases=is_bitnet and is_scaled and not is_online,
        layer_norm_eps=quantization.number("rms_norm_eps", 1e-6),
        bos_token_id=next(iter(_token_ids(found.values.get("bos_token_id"))), None),
        eos_token_ids=_token_ids(generation.get("eos_token_id"))
        or _token_ids(found.values.get("eos_token_id")),
        generation=generation,
    )


@dataclass(frozen=True)
class _Json:
    """An object of a JSON file; absent and null are the same, as they are to transformers."""

    where: str
    values: Mapping[str, Any]

    def size(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None:
            value = default
        if type(value) is not int or not 0 < value < _LARGEST:
            raise self._error(key, value, "a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 <= value <= _LARGEST:
            raise self._error(key, value, f"a number from 0 to {_LARGEST:,}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._error(key, value, "a string")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error(key, value, "an object")
        return value

    def _error(self, key: str, value: object, expected: str) -> ModelError:
        return ModelError(f"{self.where}: found {shown(value)} under {key}, expected {expected}")


def _architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a config.json.

    Raises:
        ModelError: it is unknown, or the decoder does not compute it.
    """
    found = of_config(config)
    if found is not None and found.is_runnable:
        return found
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else config.get("model_type")
    known = ", ".join(a.name for a in ARCHITECTURES if a.is_runnable)
    raise ModelError(
        f"config.json: architecture {shown(named)} cannot be run; known are {known}. "
        "Its matrices can be multiplied with: rsr_runtime.load"
    )


def _modules(entries: object) -> ModulesToNotConvert:
    try:
        return ModulesToNotConvert(entries if isinstance(entries, list) else ())
    except ValueError as error:
        raise ModelError(f"config.json: {error}") from None


def _token_ids(value: object) -> tuple[int, ...]:
    """Return the ids of one token or a list of them; what is none is left out."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if type(i) is int and 0 <= i < _LARGEST)
