"""A model's settings: config.json and generation_config.json, as transformers reads them.

Neither file is trusted: any value may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rsr_formats.architectures import (
    ARCHITECTURES,
    PROJECTIONS,
    Architecture,
    first_class,
    of_config,
)
from rsr_formats.model_files import MAX_JSON, parse_object
from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from .errors import ModelError
from .rope import Rope

_LARGEST = 1 << 31  # above any real dimension
MAX_HEAD_DIM = 4096  # bounds the RoPE tables; the largest known model has 256
ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu2": "relu2"}  # hidden_act to kernel


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in a model's file, {} if there is no such file.

    Raises:
        ModelError: the file is larger than 16 MiB, is not valid JSON, or is not an object.
    """
    return parse_object(files[name], name, MAX_JSON, ModelError) if name in files else {}


@dataclass(frozen=True)
class Config:
    """Settings of a decoder, by their names in config.json where it has them.

    Attributes:
        architecture: the entry of the table of architectures.
        hidden_act: activation of the gate: "silu" or "relu2".
        int8_activations: linear layers take int8 activations, except `modules_to_not_convert`.
        self_quantizing: those layers quantize float weights in every forward pass.
        scales_biases: weight_scale multiplies the bias too (linear_class autobitlinear, offline).
        linear_norm_eps: epsilon of an RMS norm inside a linear layer (use_rms_norm).
        generation_config: the object in generation_config.json.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    hidden_act: str
    max_position_embeddings: int
    rope: Rope
    tie_word_embeddings: bool
    int8_activations: bool
    self_quantizing: bool
    modules_to_not_convert: ModulesToNotConvert
    scales_biases: bool
    linear_norm_eps: float
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    generation_config: Mapping[str, Any]

    def has_int8_activations(self, layer: str) -> bool:
        """Return whether a linear layer, given its full name, takes int8 activations."""
        return self.int8_activations and layer not in self.modules_to_not_convert

    def is_self_quantizing(self, layer: str) -> bool:
        """Return whether a linear layer, given its full name, quantizes float weights."""
        return self.self_quantizing and self.has_int8_activations(layer)

    def shape_of(self, module: str) -> tuple[int, int]:
        """Return (out_features, in_features) of a projection, named as in `PROJECTIONS`."""
        widths = {
            "hidden": self.hidden_size,
            "intermediate": self.intermediate_size,
            "queries": self.num_attention_heads * self.head_dim,
            "keys": self.num_key_value_heads * self.head_dim,
        }
        out_features, in_features = (widths[width] for width in PROJECTIONS[module])
        return out_features, in_features


def read_config(files: Mapping[str, bytes]) -> Config:
    """Return the settings in a model's files.

    Raises:
        ModelError: config.json is missing, or does not describe a model that can be run.
    """
    if "config.json" not in files:
        raise ModelError(
            "the file has no config.json, so it is not a whole model: compile the model's "
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
            f"config.json: num_attention_heads is {heads}, expected a multiple of "
            f"num_key_value_heads, {kv_heads}"
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
        num_hidden_layers=found.size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=found.number("rms_norm_eps", architecture.rms_norm_eps),
        hidden_act=ACTIVATIONS[activation],
        max_position_embeddings=max_positions,
        rope=Rope.from_config(found.values, head_dim, max_positions, architecture.rope_theta),
        tie_word_embeddings=found.values.get("tie_word_embeddings") is True,
        int8_activations=architecture.int8_activations or is_bitnet,
        self_quantizing=architecture.self_quantizing or is_bitnet,
        modules_to_not_convert=_modules(modules_to_not_convert if is_bitnet else None),
        scales_biases=is_bitnet and is_scaled and not is_online,
        linear_norm_eps=quantization.number("rms_norm_eps", 1e-6),
        bos_token_id=next(iter(_token_ids(found.values.get("bos_token_id"))), None),
        eos_token_ids=_token_ids(generation.get("eos_token_id"))
        or _token_ids(found.values.get("eos_token_id")),
        generation_config=generation,
    )


@dataclass(frozen=True)
class _Json:
    """An object of a JSON file. As in transformers, null is the same as absent."""

    where: str
    values: Mapping[str, Any]

    def size(self, key: str, default: int | None = None) -> int:
        expected = "a positive whole number"
        value: int = self._get(key, default, (int,), expected, lambda v: 0 < v < _LARGEST)
        return value

    def number(self, key: str, default: float) -> float:
        expected = f"a number from 0 to {_LARGEST:,}"
        return float(self._get(key, default, (int, float), expected, lambda v: 0 <= v <= _LARGEST))

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default, (str,), "a string"))

    def table(self, key: str) -> Mapping[str, Any]:
        return dict(self._get(key, {}, (dict,), "an object"))

    def _get(
        self,
        key: str,
        default: object,
        types: tuple[type, ...],
        expected: str,
        fits: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if type(value) not in types or not fits(value):  # not isinstance: True is an int
            raise ModelError(f"{self.where}: found {shown(value)} under {key}, expected {expected}")
        return value


def _architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a config.json.

    Raises:
        ModelError: the architecture is unknown, or the decoder does not support it.
    """
    found = of_config(config)
    if found is not None and found.is_runnable:
        return found
    named = first_class(config) or config.get("model_type")
    known = ", ".join(a.name for a in ARCHITECTURES if a.is_runnable)
    raise ModelError(
        f"config.json: architecture {shown(named)} is not supported; known are {known}. "
        "Its matrices can still be multiplied one by one"
    )


def _modules(entries: object) -> ModulesToNotConvert:
    try:
        return ModulesToNotConvert(entries if isinstance(entries, list) else ())
    except ValueError as error:
        raise ModelError(f"config.json: {error}") from None


def _token_ids(value: object) -> tuple[int, ...]:
    """Return the ids in a value, an id or a list of ids; anything else is ignored."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if type(i) is int and 0 <= i < _LARGEST)
