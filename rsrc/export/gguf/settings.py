"""The settings of a model as GGUF metadata and tensors.

Every key of config.json is either written, changes nothing (`rsr_formats.keys`), or is reported: a
file that means another model to its readers is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsr_formats.architectures import Architecture, of_config
from rsr_formats.experts import KEYS as EXPERT_KEYS
from rsr_formats.keys import USED, review
from rsr_formats.keys.generation import GENERATION
from rsr_formats.text import listed, shown

from ...common.errors import ExportError, SourceError
from ...source.gguf.config import gguf_metadata
from ...source.gguf.tokenizer_common import Note
from ..model_files import Config, bitnet_settings
from .rope import Factors, gguf_rope

# How GGUF says what each key means that the runtime reads. A test compares this with the tables of
# `rsr_formats.keys`.
WRITTEN: Mapping[str, str] = {
    "architectures": "general.architecture",
    "model_type": "general.architecture",
    "auto_map": "general.architecture",
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length and attention.value_length",
    "hidden_act": "the architecture implies it; another is refused",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id, eot_token_id and eom_token_id",
    "tie_word_embeddings": "no tensor output.weight",
    "share_embedding": "no tensor output.weight",
    "rope_parameters": "rope.*",
    "rope_scaling": "rope.*",
    "rope_theta": "rope.freq_base",
    "partial_rotary_factor": "rope.dimension_count",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "attention_bias": "tensors attn_*.bias",
    "mlp_bias": "tensors ffn_*.bias",
    "max_window_layers": "windows are refused",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_key_head_dim": "ssm.state_size",
    "linear_value_head_dim": "ssm.inner_size",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "quantization_config": "the tensors' types; a note says what becomes of activations",
    "quantization": "the tensors' types",
    "gguf_metadata": "what changes the model is refused",
}
# What to do instead, for the end of a refusal.
ELSEWHERE = (
    "Write it with --to int8, or with --to float for transformers and for llama.cpp's own converter"
)
# Architectures whose layers llama.cpp has always multiplied by a tensor `.scale`. It now does so in
# others, too, but transformers would load those without the scale.
_SCALED = ("bitnet-b1.58", "bitnet")
# llama.cpp ends a text at the tokens that these stand for.
_ENDS = ("eos", "eot", "eom")
# Architectures for which llama.cpp reads tensors that scale RoPE.
_ROPE_TENSORS = ("llama", "minicpm", "phi3")
# Keys of generation_config.json, and their names after "general.sampling.".
_SAMPLING = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_WRITTEN_GENERATION = (*_SAMPLING, "do_sample", "eos_token_id")
# Numbers that turn a setting off, other than 0; no id of a token does.
_OFF: Mapping[str, int | None] = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "typical_p": 1,
    "top_h": 1,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}
_SAME_ACTIVATIONS = {"swish": "silu"}


@dataclass(frozen=True)
class GgufSettings:
    """The metadata, by whole keys, and the tensors that are settings. Both may be empty."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Factors] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`, or ""."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def has_scale_tensors(self) -> bool:
        """Whether a layer can have a float32 tensor `.scale` that multiplies its matrix."""
        return self.architecture in _SCALED

    @property
    def scales_rope(self) -> bool:
        """Whether RoPE has a scaling."""
        return bool(self.tensors) or f"{self.architecture}.rope.scaling.type" in self.metadata


def model_settings(config: Config | None, generation: Config, note: Note) -> GgufSettings:
    """Return what GGUF says of config.json; nothing if there is none.

    Args:
        config: config.json, None if there is none.
        generation: generation_config.json, {} if there is none.
        note: takes each sentence for the user.

    Raises:
        ExportError: GGUF or llama.cpp has no name for the architecture, or cannot say what a
            setting means.
    """
    if config is None:
        note(
            "tensors keep their names, and llama.cpp cannot run the file: the .rsr file has no "
            "config.json"
        )
        return GgufSettings()
    try:
        return _settings(config, generation, note)
    except SourceError as error:
        raise refusal([str(error)]) from None


def refusal(reasons: list[str]) -> ExportError:
    """Return the error for a model that GGUF cannot say."""
    return ExportError(
        f"GGUF cannot say what this model computes: {listed(reasons, separator='; ')}. {ELSEWHERE}"
    )


def _settings(config: Config, generation: Config, note: Note) -> GgufSettings:
    known = of_config(config)
    filled = config if known is None else _filled(config, known)
    metadata: dict[str, Any] = dict(gguf_metadata(filled))  # refuses unknown architectures
    assert known is not None
    _check(config, known, note)
    prefix = f"{metadata['general.architecture']}."
    metadata = {k: v for k, v in metadata.items() if not k.startswith(f"{prefix}rope.")}
    rope = gguf_rope(filled, note)
    if rope.tensors and known.gguf_names[0] not in _ROPE_TENSORS:
        reason = (
            f"llama.cpp reads {listed(sorted(rope.tensors))}, which this RoPE scaling needs, only "
            f"in the architectures {listed(_ROPE_TENSORS)}"
        )
        raise refusal([reason])
    metadata |= {prefix + key: value for key, value in rope.metadata.items()}
    metadata |= _sampling(generation, note)
    return GgufSettings(metadata, rope.tensors)


def _filled(config: Config, known: Architecture) -> Config:
    """Return config.json with the defaults of the class, which GGUF's readers do not know."""
    heads = _size(config, "num_attention_heads")
    hidden = _size(config, "hidden_size")
    defaults: Config = {
        "max_position_embeddings": known.max_position_embeddings,
        "rms_norm_eps": known.rms_norm_eps,
        "rope_theta": known.rope_theta,
        "num_key_value_heads": known.num_key_value_heads or heads,
        "head_dim": known.head_dim or hidden // heads,
    }
    filled = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    for key in ("max_position_embeddings", "num_key_value_heads", "head_dim"):
        _size(filled, key)
    return filled


def _size(config: Config, key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise SourceError(
            f"config.json: {key} is {shown(value)}, expected a positive whole number below 2^31"
        )
    return value


def _check(config: Config, known: Architecture, note: Note) -> None:
    """Refuse what GGUF cannot say, and name what is not understood.

    Raises:
        ExportError: the file would mean another model.
    """
    written = EXPERT_KEYS if known.has_experts else ()
    asked = {key: v for key, v in _to_say(config, known).items() if key not in written}
    found = review(asked, {}, own_keys=False)
    refused = [*found.refused]
    activation = config.get("hidden_act")
    if activation is not None:
        name = _SAME_ACTIVATIONS.get(activation) if isinstance(activation, str) else None
        if (name or activation) != known.hidden_act:
            refused.append(
                f"config.json: hidden_act is {shown(activation)}, and llama.cpp computes "
                f"{known.hidden_act} in this architecture"
            )
    if bitnet_settings(config).get("use_rms_norm"):
        refused.append("config.json: use_rms_norm puts norms into the linear layers")
    if refused:
        raise refusal(refused)
    if found.not_understood:
        note(f"not written, because their meaning is not known: {listed(found.not_understood)}")


def _to_say(config: Config, known: Architecture) -> Config:
    """Return the settings, with defaults of the class, that no reader of its GGUF files assumes."""
    every = {**known.own_keys, **{key: value for key, value in config.items() if value is not None}}
    found = {
        k: v for k, v in every.items() if k not in known.gguf_config or v != known.gguf_config[k]
    }
    interval, layers = known.gguf_config.get("no_rope_layer_interval"), config["num_hidden_layers"]
    given = found.get("no_rope_layers")
    if interval is None or not isinstance(given, list) or len(given) != layers:
        return found
    if given == [int((i + 1) % interval != 0) for i in range(layers)]:
        del found["no_rope_layers"]
    return found


def end_tokens(first: object, others: object, note: Note) -> dict[str, int]:
    """Return the tokens that end a text; llama.cpp has three keys for them.

    Args:
        first: the id of the tokenizer's EOS, None if it has none.
        others: an id or a list of ids under eos_token_id in a JSON file, of any type.
        note: takes each sentence for the user.
    """
    ids = [first, *(others if isinstance(others, list) else [others])]
    ids = list(dict.fromkeys(i for i in ids if type(i) is int and i >= 0))
    if len(ids) > len(_ENDS):
        note(
            f"{len(ids)} tokens end a text, and GGUF has names for {len(_ENDS)}: not written are "
            + listed([str(i) for i in ids[len(_ENDS) :]])
        )
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in zip(_ENDS, ids, strict=False)}


def _sampling(generation: Config, note: Note) -> dict[str, float | int]:
    """Return how tokens are drawn, if they are; other settings that have an effect are named."""
    lost = [
        key
        for key, value in generation.items()
        if (known := GENERATION.get(key)) is not None and known.kind == USED
        if key not in _WRITTEN_GENERATION and not _is_off(key, value)
    ]
    if lost:
        note(f"settings of generation_config.json that are not written: {listed(lost)}")
    if generation.get("do_sample") is not True:
        return {}
    found = {"temperature": 1.0, **{k: v for k, v in generation.items() if k in _SAMPLING}}
    return {
        f"general.sampling.{_SAMPLING[key]}": value if key == "top_k" else float(value)
        for key, value in found.items()
        if type(value) in ((int,) if key == "top_k" else (int, float)) and 0 <= value < 1 << 20
    }


def _is_off(key: str, value: object) -> bool:
    """Return whether a setting of generation_config.json does nothing with this value."""
    if type(value) in (int, float):
        return value == _OFF.get(key, 0)
    return not value  # null, false, nothing in a list
