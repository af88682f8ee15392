"""A model's settings: config.json and generation_config.json, as transformers reads them.

Neither file is trusted: any value may be missing or of any type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from rsr_formats.architectures import (
    ARCHITECTURES,
    MISSING,
    Architecture,
    DeltaNet,
    Factor,
    canonical,
    first_class,
    is_tied,
    nearest,
    of_config,
    takes_int8_activations,
)
from rsr_formats.experts import Experts, experts_of
from rsr_formats.keys import review
from rsr_formats.keys.generation import of_model
from rsr_formats.model_files import MAX_JSON, parse_object
from rsr_formats.modules_to_not_convert import ModulesToNotConvert
from rsr_formats.text import shown

from .errors import ModelError
from .json_object import JsonObject
from .layer_settings import FULL, SLIDING, LayerSettings, read_layers
from .rope import Rope

T = TypeVar("T")

MAX_HEAD_DIM = 4096  # bounds the RoPE tables; the largest known model has 256
MAX_TAPS = 16  # of a short convolution, as in the native module
_ADVICE = (
    "docs/llm.md lists what runs; the matrices of other models can still be multiplied one by one"
)
LOCAL_THETA = "rope_local_base_freq"
ACTIVATIONS = {  # hidden_act to kernel
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
    "gelu_pytorch_tanh": "gelu_tanh",
}


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
        hidden_act: activation of the gate: "silu", "relu2" or "gelu_tanh".
        rope: of the layers that attend to all positions.
        layers: settings of the layers, a pattern that repeats.
        delta_net: the sizes of gated delta nets; None if the class has none.
        layer_runs: how often a pass runs each layer before the next one.
        embedding_factor: of the embeddings.
        residual_factor: of the output of each sublayer.
        logits_factor: of the logits.
        attention_factor: of queries times keys.
        experts: the mixture of experts, if layers have one.
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
    layers: tuple[LayerSettings, ...]
    delta_net: DeltaNet | None
    layer_runs: int
    embedding_factor: float
    residual_factor: float
    logits_factor: float
    attention_factor: float
    experts: Experts | None
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

    def layer(self, number: int) -> LayerSettings:
        """Return the settings of layer `number`, which is the number in the names of tensors."""
        return self.layers[number % len(self.layers)]

    @property
    def layers_of_a_pass(self) -> Iterator[int]:
        """The numbers of the layers in the order in which a pass runs them."""
        return (n for n in range(self.num_hidden_layers) for _ in range(self.layer_runs))

    @property
    def queries_width(self) -> int:
        """Features of the queries of a token."""
        return self.num_attention_heads * self.head_dim

    @property
    def keys_width(self) -> int:
        """Features of the keys of a token, and of its values."""
        return self.num_key_value_heads * self.head_dim

    def shape_of(self, module: str) -> tuple[int, int]:
        """Return (out_features, in_features) of a projection, named as in `PROJECTIONS`."""
        widths = {
            "hidden": self.hidden_size,
            "intermediate": self.intermediate_size,
            "gate_up": 2 * self.intermediate_size,
            "queries": self.queries_width,
            "gated_queries": 2 * self.queries_width,
            "keys": self.keys_width,
            "qkv": self.queries_width + 2 * self.keys_width,
        }
        if (delta := self.delta_net) is not None:
            widths["delta_channels"] = delta.channels
            widths["delta_values"] = delta.values_width
            widths["delta_heads"] = delta.linear_num_value_heads
        out_features, in_features = (widths[w] for w in self.architecture.widths(module))
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
    config = JsonObject("config.json", values)
    sizes = reasons.attempt(_sizes, config, architecture)
    activation = reasons.attempt(_activation, config, architecture)
    quantization = reasons.attempt(_quantization, config)
    eps = reasons.attempt(config.number, "rms_norm_eps", architecture.rms_norm_eps)
    bos = reasons.attempt(config.token_ids, "bos_token_id")
    eos = reasons.attempt(_end_tokens, config, generation)
    ropes = None if sizes is None else reasons.attempt(_ropes, config, sizes, architecture)
    rope, local_rope = ropes or (None, None)
    experts = reasons.attempt(_experts, config)
    layers = reasons.attempt(read_layers, config, architecture, rope, local_rope, experts)
    factors = reasons.attempt(_factors, config, architecture, sizes)
    delta_net = reasons.attempt(_delta_net, config, architecture)
    if reasons.all:
        return None, reasons.all
    assert sizes is not None
    assert layers is not None
    assert factors is not None
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
        **factors,
        rms_norm_eps=eps,
        hidden_act=activation,
        rope=rope,
        layers=layers,
        delta_net=delta_net,
        layer_runs=architecture.layer_runs if values.get("layer_sharing") is True else 1,
        experts=experts,
        tie_word_embeddings=is_tied(values),
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
        names = (n for a in ARCHITECTURES if a.is_runnable for n in a.gguf_names)
        raise ModelError(
            f"the GGUF file has architecture {shown(name)}, which is not supported"
            f"{_missing(name) or nearest(name, names)}. {_ADVICE}"
        )
    values = read_json(files, "config.json")
    return values, _architecture(values), read_generation_config(files)


def _sizes(found: JsonObject, architecture: Architecture) -> dict[str, int]:
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


def _factors(
    found: JsonObject, architecture: Architecture, sizes: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return the factors of `Config`, by name."""
    a = architecture
    attention = 1.0 if sizes is None else sizes["head_dim"] ** -0.5
    return {
        "embedding_factor": _factor(found, a.embedding_factor, 1.0),
        "residual_factor": _factor(found, a.residual_factor, 1.0),
        "logits_factor": _factor(found, a.logits_factor, 1.0),
        "attention_factor": _factor(found, a.attention_factor, attention),
    }


def _delta_net(found: JsonObject, architecture: Architecture) -> DeltaNet | None:
    """Return the sizes of gated delta nets."""
    if architecture.delta_net is None:
        return None
    defaults = vars(architecture.delta_net)
    sizes = DeltaNet(**{key: found.size(key, default) for key, default in defaults.items()})
    keys, values = sizes.linear_num_key_heads, sizes.linear_num_value_heads
    if values % keys:
        raise ModelError(
            f"config.json: linear_num_value_heads is {values}, expected a multiple of "
            f"linear_num_key_heads, {keys}"
        )
    if sizes.linear_conv_kernel_dim > MAX_TAPS:
        raise ModelError(
            f"config.json: linear_conv_kernel_dim is {sizes.linear_conv_kernel_dim}, expected at "
            f"most {MAX_TAPS}"
        )
    return sizes


def _factor(found: JsonObject, factor: Factor | None, otherwise: float) -> float:
    if factor is None:
        return otherwise
    value = found.number(factor.key, factor.default) if factor.key else factor.default
    if value <= 0:
        raise ModelError(f"config.json: {factor.key} is {value:g}, expected more than 0")
    size = found.size(factor.size) ** factor.size_power if factor.size else 1.0
    result = float(value**factor.power * size)
    return _rounded(result, found.values) if factor.is_rounded else result


def _rounded(value: float, config: Mapping[str, Any]) -> float:
    """Round a number to the dtype that config.json names."""
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype == "bfloat16":  # half to even
        bits = int(np.float32(value).view(np.uint32))
        return float(np.uint32(bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32))
    return float(np.float16(value)) if dtype == "float16" else value


def _experts(config: JsonObject) -> Experts | None:
    try:
        return experts_of(config.values)
    except ValueError as error:
        raise ModelError(str(error)) from None


def _ropes(
    config: JsonObject, sizes: Mapping[str, int], architecture: Architecture
) -> tuple[Rope, Rope]:
    """Return the rotation of layers that attend to all positions, and that of those with a window.

    They are the same unless the class reads `rope_local_base_freq`. Such a class has an object for
    each kind of layer under `rope_parameters`; in older files `rope_theta` and `rope_scaling` are
    of the first kind, and `rope_local_base_freq` is the base of the second.
    """
    a = architecture
    values = {**a.own_keys, **config.values}

    def read(found: Mapping[str, Any], theta: float) -> Rope:
        head_dim, positions = sizes["head_dim"], sizes["max_position_embeddings"]
        return Rope.from_config(
            found, head_dim, positions, theta, a.partial_rotary_factor, a.longrope_by_limit
        )

    if LOCAL_THETA not in a.own_keys:
        rope = read(values, a.rope_theta)
        return rope, rope
    kinds = JsonObject("config.json: rope_parameters", config.table("rope_parameters"))
    whole = {**kinds.table(FULL), **config.table("rope_scaling")}
    rope = read({**values, "rope_parameters": None, "rope_scaling": whole}, a.rope_theta)
    local = {"rope_scaling": kinds.table(SLIDING), "rope_theta": values.get(LOCAL_THETA)}
    return rope, read(local, a.own_keys[LOCAL_THETA])


def _activation(found: JsonObject, architecture: Architecture) -> str:
    key = "hidden_activation" if "hidden_activation" in architecture.own_keys else "hidden_act"
    name = found.text(key, architecture.hidden_act)
    if name not in ACTIVATIONS:
        raise ModelError(
            f"config.json: {key} {shown(name)} is not supported; known are {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _quantization(config: JsonObject) -> JsonObject:
    """Return quantization_config, checked."""
    found = JsonObject("config.json: quantization_config", config.table("quantization_config"))
    found.number("rms_norm_eps", 1e-6)
    if found.values.get("quant_method") == "bitnet":
        _modules(found.values.get("modules_to_not_convert"))
    return found


def _architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a config.json.

    Raises:
        ModelError: the architecture is unknown, or the decoder does not support it.
    """
    found = of_config(config)
    if found is not None and found.is_runnable:
        return found
    named = first_class(config) or config.get("model_type")
    why = _missing(named) or nearest(named, (a.name for a in ARCHITECTURES if a.is_runnable))
    raise ModelError(f"config.json: architecture {shown(named)} is not supported{why}. {_ADVICE}")


def _missing(named: object) -> str:
    """Say what an architecture has that is not supported; "" if it is not known."""
    return f": it has {MISSING[named]}" if isinstance(named, str) and named in MISSING else ""


def _modules(entries: object) -> ModulesToNotConvert:
    if not isinstance(entries, list | None):
        raise ModelError(
            f"config.json: modules_to_not_convert is {shown(entries)}, expected a list of names"
        )
    try:
        return ModulesToNotConvert(entries or ())
    except ValueError as error:
        raise ModelError(f"config.json: {error}") from None


def _end_tokens(config: JsonObject, generation: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the tokens that end a text; generation_config.json takes precedence."""
    found = JsonObject("generation_config.json", generation or {})
    return found.token_ids("eos_token_id") or config.token_ids("eos_token_id")
