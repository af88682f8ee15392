"""A model's settings: config.json and generation_config.json, as transformers reads them.

Neither file is trusted: any value may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rsr_formats.architectures import (
    ARCHITECTURES,
    PROJECTIONS,
    Architecture,
    canonical,
    first_class,
    of_config,
    takes_int8_activations,
)
from rsr_formats.keys import review
from rsr_formats.keys.generation import of_model
from rsr_formats.model_files import MAX_JSON, parse_object
from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from .errors import ModelError
from .rope import Rope

T = TypeVar("T")

_LARGEST = 1 << 31  # above any real dimension
MAX_HEAD_DIM = 4096  # bounds the RoPE tables; the largest known model has 256
_ADVICE = "Its matrices can still be multiplied one by one"
ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu2": "relu2"}  # hidden_act to kernel


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in a model's file, {} if there is no such file.

    Raises:
        ModelError: the file is larger than 16 MiB, is not valid JSON, or is not an object.
    """
    return parse_object(files[name], name, MAX_JSON, ModelError) if name in files else {}


def read_generation_config(files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return the object in generation_config.json, None if there is no such file.

    Raises:
        ModelError: as for `read_json`.
    """
    name = "generation_config.json"
    return read_json(files, name) if name in files else None


@dataclass(frozen=True)
class Config:
    """Settings of a decoder, by their names in config.json where it has them.

    Attributes:
        architecture: the entry of the table of architectures.
        hidden_act: activation of the gate: "silu" or "relu2".
        int8_activations: linear layers take int8 activations, except `modules_to_not_convert`.
        self_quantizing: those layers quantize float weights in every forward pass.
        normalizes_inputs: those layers have an RMS norm of their inputs (use_rms_norm).
        scales_biases: weight_scale multiplies the bias too (linear_class autobitlinear, offline).
        linear_norm_eps: epsilon of an RMS norm inside a linear layer (use_rms_norm).
        generation_config: the object in generation_config.json; without that file, the settings
            of generation in config.json.
        settings: the object in config.json.
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
    normalizes_inputs: bool
    modules_to_not_convert: ModulesToNotConvert
    scales_biases: bool
    linear_norm_eps: float
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    generation_config: Mapping[str, Any]
    settings: Mapping[str, Any]

    def has_int8_activations(self, layer: str) -> bool:
        """Return whether a linear layer, given its full name, takes int8 activations."""
        return self.int8_activations and not any(
            name in self.modules_to_not_convert for name in {layer, canonical(layer)}
        )

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


def read_config(files: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> Config:
    """Return the settings in a model's files.

    Args:
        files: the model's small files.
        metadata: of the `.rsr` file; names the architecture of a GGUF file without config.json.

    Raises:
        ModelError: config.json is missing, or does not describe a model that can be run. The
            message gives all reasons.
    """
    config, reasons = examine_config(files, metadata)
    if config is None:
        raise ModelError("; ".join(reasons))
    return config


def examine_config(
    files: Mapping[str, bytes], metadata: Mapping[str, str] | None = None
) -> tuple[Config | None, list[str]]:
    """Return the settings in a model's files, or None and all reasons why it cannot be run.

    Args:
        files: see `read_config`.
        metadata: see `read_config`.
    """
    reasons = _Reasons()
    metadata = metadata or {}
    found = reasons.attempt(_read, files, metadata)
    if found is None:
        return None, reasons.all
    values, architecture, generation = found
    reasons.all += review(values, generation).refused
    config = _Json("config.json", values)
    sizes = reasons.attempt(_sizes, config, architecture)
    activation = reasons.attempt(_activation, config, architecture)
    quantization = reasons.attempt(_quantization, config)
    eps = reasons.attempt(config.number, "rms_norm_eps", architecture.rms_norm_eps)
    bos = reasons.attempt(config.token_ids, "bos_token_id")
    eos = reasons.attempt(_end_tokens, config, generation)
    rope = None
    if sizes is not None:
        rope = reasons.attempt(
            Rope.from_config,
            values,
            sizes["head_dim"],
            sizes["max_position_embeddings"],
            architecture.rope_theta,
        )
    if reasons.all:
        return None, reasons.all
    assert sizes is not None
    assert activation is not None
    assert quantization is not None
    assert rope is not None
    assert eps is not None
    assert bos is not None
    assert eos is not None
    is_bitnet = quantization.values.get("quant_method") == "bitnet"
    is_scaled = quantization.values.get("linear_class") == "autobitlinear"
    is_online = quantization.values.get("quantization_mode") == "online"
    modules = quantization.values.get("modules_to_not_convert")
    return Config(
        architecture=architecture,
        **sizes,
        rms_norm_eps=eps,
        hidden_act=activation,
        rope=rope,
        tie_word_embeddings=values.get("tie_word_embeddings") is True,
        int8_activations=takes_int8_activations(values),
        self_quantizing=architecture.self_quantizing or is_bitnet,
        normalizes_inputs=is_bitnet and quantization.values.get("use_rms_norm") is True,
        modules_to_not_convert=_modules(modules if is_bitnet else None),
        scales_biases=is_bitnet and is_scaled and not is_online,
        linear_norm_eps=quantization.number("rms_norm_eps", 1e-6),
        bos_token_id=next(iter(bos), None),
        eos_token_ids=eos,
        generation_config=of_model(values, generation),
        settings=values,
    ), []


class _Reasons:
    """Collects the messages of errors, so that all are reported at once."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def attempt(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return the result of a function, or None if it raises ModelError."""
        try:
            return function(*arguments)
        except ModelError as error:
            self.all.append(str(error))
            return None


def _read(
    files: Mapping[str, bytes], metadata: Mapping[str, str]
) -> tuple[dict[str, Any], Architecture, dict[str, Any] | None]:
    """Return config.json, its architecture and generation_config.json."""
    if "config.json" not in files:
        name = metadata.get("general.architecture")
        if name is None:
            raise ModelError(
                "the file has no config.json, so it is not a whole model: compile the model's "
                "directory (or GGUF file), not the .safetensors alone"
            )
        known = ", ".join(a.gguf_names[0] for a in ARCHITECTURES if a.is_runnable and a.gguf_names)
        raise ModelError(
            f"the GGUF file has architecture {shown(name)}, which is not supported; known are "
            f"{known}. {_ADVICE}"
        )
    values = read_json(files, "config.json")
    return values, _architecture(values), read_generation_config(files)


def _sizes(found: _Json, architecture: Architecture) -> dict[str, int]:
    """Return the numbers of `Config` that are sizes, by name."""
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
    positions = found.size("max_position_embeddings", architecture.max_position_embeddings)
    return {
        "vocab_size": found.size("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": found.size("intermediate_size"),
        "num_hidden_layers": found.size("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": positions,
    }


def _activation(found: _Json, architecture: Architecture) -> str:
    name = found.text("hidden_act", architecture.hidden_act)
    if name not in ACTIVATIONS:
        raise ModelError(
            f"config.json: hidden_act {shown(name)} is not supported; "
            f"known are {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _quantization(config: _Json) -> _Json:
    """Return quantization_config, checked."""
    found = _Json("config.json: quantization_config", config.table("quantization_config"))
    found.number("rms_norm_eps", 1e-6)
    if found.values.get("quant_method") == "bitnet":
        _modules(found.values.get("modules_to_not_convert"))
    return found


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

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Return the ids under a key, an id or a list of ids; -1 stands for no token."""

        def fits(value: Any) -> bool:
            ids = value if isinstance(value, list) else [value]
            return all(type(i) is int and -1 <= i < _LARGEST for i in ids)

        value = self._get(key, [], (int, list), "a token id or a list of token ids", fits)
        return tuple(i for i in (value if isinstance(value, list) else [value]) if i >= 0)

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
        f"config.json: architecture {shown(named)} is not supported; known are {known}. {_ADVICE}"
    )


def _modules(entries: object) -> ModulesToNotConvert:
    if not isinstance(entries, list | None):
        raise ModelError(
            f"config.json: modules_to_not_convert is {shown(entries)}, expected a list of names"
        )
    try:
        return ModulesToNotConvert(entries or ())
    except ValueError as error:
        raise ModelError(f"config.json: {error}") from None


def _end_tokens(config: _Json, generation: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the tokens that end a text; generation_config.json takes precedence."""
    found = _Json("generation_config.json", generation or {})
    return found.token_ids("eos_token_id") or config.token_ids("eos_token_id")
