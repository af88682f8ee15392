"""The known decoder architectures: one table for the compiler, the GGUF reader and the runtime.

All are Llama-like decoders: RMS norms before attention and before a gated MLP, RoPE that pairs the
two halves of a head, grouped-query attention. Names and defaults are those of the classes in
transformers, except that BitnetForCausalLM is 1bitLLM's class and MiniCPMForCausalLM OpenBMB's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A class that config.json may name under `architectures`.

    Attributes:
        name: class name.
        model_type: `model_type` in config.json.
        gguf_names: values of `general.architecture`; an export writes the first.
        is_runnable: whether `rsr_runtime.llm` can run it.
        attn_sub_norm: name of the norm before o_proj within a layer, or None.
        ffn_sub_norm: name of the norm before down_proj within a layer, or None.
        has_qk_norms: whether queries and keys are normalized per head before RoPE.
        permutes_qk: whether GGUF files store the rows of q_proj and k_proj in llama.cpp's order,
            which makes RoPE pair neighboring features instead of the halves of a head.
        int8_activations: linear layers take int8 activations whatever config.json says; see
            `takes_int8_activations` for the others.
        self_quantizing: linear layers quantize float weights in every forward pass.
        hidden_act: activation of the gate. This and the following are defaults for absent keys.
        num_key_value_heads: None means `num_attention_heads`.
        head_dim: None means `hidden_size / num_attention_heads`.
        gguf_config: settings of config.json for which GGUF has no metadata keys.
        gguf_layer: names of tensors within a layer that only GGUF files of this class have, without
            ".weight" and ".bias" where both names end alike.
        zero_centered_norms: RMS norms multiply by 1 + weight, which GGUF files store as the weight;
            except that of `plain_norm`.
        plain_norm: end of the name of a norm that multiplies by its weight all the same, or None.
    """

    name: str
    model_type: str
    gguf_names: tuple[str, ...] = ()
    is_runnable: bool = True
    attn_sub_norm: str | None = None
    ffn_sub_norm: str | None = None
    has_qk_norms: bool = False
    permutes_qk: bool = False
    int8_activations: bool = False
    self_quantizing: bool = False
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    gguf_config: Mapping[str, Any] = field(default_factory=dict)
    gguf_layer: Mapping[str, str] = field(default_factory=dict)
    zero_centered_norms: bool = False
    plain_norm: str | None = None


_QWEN3 = Architecture(  # Ternary-Bonsai
    "Qwen3ForCausalLM",
    "qwen3",
    ("qwen3",),
    has_qk_norms=True,
    max_position_embeddings=32768,
    num_key_value_heads=32,
    head_dim=128,
)

# If config.json names no class, its model_type decides, and the first entry with it applies. This
# never misreads 1bitLLM's models, which also have model_type "llama": they always name their class.
ARCHITECTURES = (
    # HF1BitLLM, Falcon3 and Falcon-E 1.58bit, TriLM
    Architecture("LlamaForCausalLM", "llama", ("llama",), permutes_qk=True),
    # microsoft/bitnet-b1.58-2B-4T; bitnet.cpp first called it bitnet-25
    Architecture(
        "BitNetForCausalLM",
        "bitnet",
        ("bitnet-b1.58", "bitnet-25"),
        attn_sub_norm="self_attn.attn_sub_norm",
        ffn_sub_norm="mlp.ffn_sub_norm",
        hidden_act="relu2",
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        num_key_value_heads=5,
        gguf_config={"input_bits": 8},
    ),
    # 1bitLLM/bitnet_b1_58-*
    Architecture(
        "BitnetForCausalLM",
        "llama",
        ("bitnet",),
        attn_sub_norm="self_attn.inner_attn_ln",
        ffn_sub_norm="mlp.ffn_layernorm",
        int8_activations=True,
        self_quantizing=True,
        gguf_config={"weight_bits": 1, "input_bits": 8},
    ),
    _QWEN3,
    # Embedding models: Qwen3 without an output head
    replace(_QWEN3, name="Qwen3Model", gguf_names=(), is_runnable=False),
    # Llama with biases in q_proj, k_proj and v_proj
    Architecture(
        "Qwen2ForCausalLM",
        "qwen2",
        ("qwen2",),
        max_position_embeddings=32768,
        num_key_value_heads=32,
    ),
    # Ternary-Bonsai 27B, Ternary-Bonsai-2 27B: three of four layers have a gated delta net
    Architecture(
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        ("qwen35",),
        is_runnable=False,
        zero_centered_norms=True,
        plain_norm="linear_attn.norm.weight",
        max_position_embeddings=32768,
        num_key_value_heads=4,
        head_dim=256,
        gguf_layer={
            "post_attention_norm": "post_attention_layernorm",
            "attn_qkv": "linear_attn.in_proj_qkv",
            "attn_gate": "linear_attn.in_proj_z",
            "ssm_alpha": "linear_attn.in_proj_a",
            "ssm_beta": "linear_attn.in_proj_b",
            "ssm_conv1d": "linear_attn.conv1d",
            "ssm_norm": "linear_attn.norm",
            "ssm_out": "linear_attn.out_proj",
            "ssm_dt.bias": "linear_attn.dt_bias",
            "ssm_a": "linear_attn.A_log",
        },
    ),
    Architecture(
        "MiniCPMForCausalLM", "minicpm", ("minicpm",), is_runnable=False, permutes_qk=True
    ),
)

# The matrices of a decoder layer by their names within it, and (out_features, in_features) of each:
# "hidden" is hidden_size, "intermediate" is intermediate_size, "queries" is num_attention_heads *
# head_dim, "keys" is num_key_value_heads * head_dim.
PROJECTIONS = {
    "self_attn.q_proj": ("queries", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("keys", "hidden"),
    "self_attn.o_proj": ("hidden", "queries"),
    "mlp.gate_proj": ("intermediate", "hidden"),
    "mlp.up_proj": ("intermediate", "hidden"),
    "mlp.down_proj": ("hidden", "intermediate"),
}


# Where checkpoints put a decoder: in a class with a head, by itself, or in a multimodal class.
PREFIXES = (
    "model.",
    "",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
)
ANY_PREFIX = "|".join(sorted(map(re.escape, PREFIXES), key=len, reverse=True))  # for patterns
_IN_DECODER = re.compile(rf"({ANY_PREFIX})(?:layers\.[0-9]|embed_tokens\.weight)")
_ANYWHERE = re.compile(r"(.*?)layers\.0\.(?:self_attn|mlp)\..*", re.DOTALL)
_MAX_NAME = 1000  # characters that are searched


@dataclass(frozen=True)
class DecoderNames:
    """How the tensors of a decoder are named.

    Attributes:
        prefix: one of `PREFIXES`, before "layers.0.", "embed_tokens.weight" and "norm.weight".
        head: module name of the output head.
    """

    prefix: str = "model."
    head: str = "lm_head"

    @classmethod
    def find(cls, tensors: Iterable[str]) -> DecoderNames:
        """Return the names that most tensors of a decoder follow, the usual ones if there are none.

        Args:
            tensors: names of all tensors, in any order; read once.
        """
        counts: Counter[str] = Counter()
        heads = set()
        for name in tensors:
            if name.endswith("lm_head.weight"):
                heads.add(name.removesuffix(".weight"))
            elif (match := _IN_DECODER.match(name)) is not None:
                counts[match[1]] += 1
        if not counts:
            return cls()
        prefix = min(PREFIXES, key=lambda p: (-counts[p], PREFIXES.index(p)))
        own = [f"{prefix}lm_head", *(["language_model.lm_head"] if "language" in prefix else [])]
        return cls(prefix, next((head for head in ("lm_head", *own) if head in heads), "lm_head"))


def other_prefix(tensors: Iterable[str]) -> str | None:
    """Return the prefix of a decoder that has none of `PREFIXES`; None if one has, or if none is.

    Args:
        tensors: names of all tensors; read once.
    """
    found = None
    for name in tensors:
        if _IN_DECODER.match(name) is not None:
            return None
        if found is None and (match := _ANYWHERE.fullmatch(name[:_MAX_NAME])) is not None:
            found = match[1]
    return found


def canonical(module: str) -> str:
    """Return the name that a module of a decoder has in a class with a head ("model.layers.0")."""
    match = _IN_DECODER.match(module)
    return module if match is None else f"model.{module[len(match[1]) :]}"


def of_config(config: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture of a config.json, or None if it is unknown.

    The first class under `architectures` decides, or `model_type` if none is named.
    """
    named = first_class(config)
    if named is not None:
        return next((a for a in ARCHITECTURES if a.name == named), None)
    return next((a for a in ARCHITECTURES if a.model_type == config.get("model_type")), None)


def takes_int8_activations(config: Mapping[str, Any]) -> bool:
    """Return whether the linear layers of a model take int8 activations.

    They do if `quantization_config` has the method "bitnet", and in 1bitLLM's class. transformers'
    BitNetForCausalLM alone takes floats. GGUF files of it are made for int8 activations, which the
    config.json made from them says by `input_bits`.
    """
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") == "bitnet":
        return True
    known = of_config(config)
    if known is None:
        return False
    return known.int8_activations or (
        "input_bits" in known.gguf_config and config.get("input_bits") == 8
    )


def first_class(config: Mapping[str, Any]) -> object:
    """Return the first entry under `architectures`, of any type; None if there is none."""
    classes = config.get("architectures")
    return classes[0] if isinstance(classes, list) and classes else None


def of_gguf(name: object) -> Architecture | None:
    """Return the architecture with this `general.architecture`, or None if it is unknown."""
    if not isinstance(name, str):  # GGUF values may be arrays, which cannot be compared as a whole
        return None
    return next((a for a in ARCHITECTURES if name in a.gguf_names), None)
