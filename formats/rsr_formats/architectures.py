"""The known decoder architectures: one table for the compiler, the GGUF reader and the runtime.

The defaults of `Architecture` describe a Llama: RMS norms before attention and before a gated MLP,
RoPE that pairs the two halves of a head, grouped-query attention. An entry says how its class
differs. Names and defaults are those of the classes in transformers, except that BitnetForCausalLM
is 1bitLLM's class, MiniCPMForCausalLM OpenBMB's, and MobileLLMForCausalLM Meta's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .text import quoted, similar

# `Architecture.mixers` of a class without others; "attention" is in older files.
ATTENTION_ONLY = {
    "full_attention": "attention",
    "sliding_attention": "attention",
    "attention": "attention",
}

_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
# `Architecture.biases` of most classes, and of those that know of biases in the MLP.
ATTENTION_BIASES = {"attention_bias": _ATTENTION}
_ALL_BIASES = {**ATTENTION_BIASES, "mlp_bias": _MLP}


# The mixers that a layer may have, and the beginning of the names of their tensors within it.
MIXERS = {"attention": "self_attn.", "delta_net": "linear_attn."}


@dataclass(frozen=True)
class DeltaNet:
    """The sizes of gated delta nets, by their keys in config.json; the class's are its defaults."""

    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4

    @property
    def values_width(self) -> int:
        """Features of the values of a token."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def channels(self) -> int:
        """Features of the queries, keys and values of a token, which the convolution takes."""
        return 2 * self.linear_num_key_heads * self.linear_key_head_dim + self.values_width


@dataclass(frozen=True)
class Norms:
    """Names within a layer of the RMS norms around its sublayers; None where there is none.

    A norm after a sublayer applies to its output, before that is added to the residual stream.
    """

    before_mixer: str | None = "input_layernorm"
    after_mixer: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The norms that there are."""
        every = (self.before_mixer, self.after_mixer, self.before_mlp, self.after_mlp)
        return tuple(name for name in every if name is not None)


@dataclass(frozen=True)
class QkNorms:
    """RMS norms of queries and keys.

    Attributes:
        queries: name within a layer of the norm of queries.
        keys: that of keys.
        spans_heads: a norm spans all heads of a token, else one head.
        follow_rope: they apply to rotated queries and keys, else before RoPE.
    """

    queries: str = "self_attn.q_norm"
    keys: str = "self_attn.k_norm"
    spans_heads: bool = False
    follow_rope: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """Both names."""
        return self.queries, self.keys


@dataclass(frozen=True)
class Factor:
    """A factor that follows from config.json: (its value under `key`) ** power * size.

    Attributes:
        key: of config.json; "" if only a size counts.
        default: value of an absent key.
        power: exponent of the value.
        size: another key of config.json, whose value must be a positive integer; "" for none.
        size_power: exponent of the size.
        is_rounded: it is rounded to the dtype that config.json names, if it names one.
    """

    key: str = ""
    default: float = 1.0
    power: float = 1.0
    size: str = ""
    size_power: float = 1.0
    is_rounded: bool = False


@dataclass(frozen=True)
class Architecture:
    """A class that config.json may name under `architectures`.

    Attributes:
        name: class name.
        model_type: `model_type` in config.json.
        gguf_names: values of `general.architecture`; an export writes the first.
        family: what its models are called; "": as the class.
        is_runnable: whether `rsr_runtime.llm` can run it.
        in_transformers: whether transformers has the class itself, without code from elsewhere.
        has_head: whether it has an output head; one without gives hidden states, not text.
        base_name: name of the class that is its decoder without a head; "": "...Model".
        attn_sub_norm: name of the norm before o_proj within a layer, or None.
        ffn_sub_norm: name of the norm before down_proj within a layer, or None.
        norms: those around the sublayers of a layer.
        qk_norms: those of queries and keys, or None.
        zero_centered_norms: norms multiply by 1 + weight.
        fused: entries of `FUSED` that a layer has in place of their parts.
        mixers: the kind of mixer, of `MIXERS`, that each value under `layer_types` stands for.
        full_attention_interval: n; without `layer_types`, and unless config.json has another n,
            every nth layer has full attention and the others linear attention; None: all
            layers are alike.
        delta_net: sizes of gated delta nets for absent keys, or None.
        has_output_gate: q_proj also gives a gate of what attention returns, head by head.
        mlp: the kind of MLP; "experts": config.json says which layers have them (`experts.py`),
            and the others have "mlp".
        layer_runs: how often a pass runs each layer before the next one, if config.json says
            `layer_sharing`.
        embedding_factor: of the embeddings; this and the following are None for 1.
        residual_factor: of the output of each sublayer.
        logits_factor: of the logits.
        attention_factor: of queries times keys; None: 1 / sqrt(head_dim).
        permutes_qk: whether GGUF files store the rows of q_proj and k_proj in llama.cpp's order,
            which makes RoPE pair neighboring features instead of the halves of a head.
        int8_activations: linear layers take int8 activations whatever config.json says; see
            `takes_int8_activations` for the others.
        self_quantizing: linear layers quantize float weights in every forward pass.
        biases: linear layers that have biases if a key of config.json is true, by key; "" stands
            for always.
        own_keys: keys of config.json that this class reads and others do not, and what stands for
            an absent one. `rsr_runtime.llm.layer_settings` and `.config` say what they do.
        hidden_act: activation of the gate. This and the following are defaults for absent keys.
        partial_rotary_factor: share of a head that is rotated; None: all of it, and a config.json
            with another share is refused.
        rope_keys: keys of rope_parameters that only some classes read.
        longrope_by_limit: max_position_embeddings chooses longrope's factors, whatever the length
            of a sequence.
        tie_key: key of config.json that ties the output head to the embedding.
        is_tied: whether they are tied if the key is absent.
        num_key_value_heads: None means `num_attention_heads`.
        head_dim: None means `hidden_size / num_attention_heads`.
        gguf_config: settings of config.json for which GGUF has no metadata keys.
        gguf_layer: names of tensors within a layer that only GGUF files of this class have, without
            ".weight" and ".bias" where both names end alike.
    """

    name: str
    model_type: str
    gguf_names: tuple[str, ...] = ()
    family: str = ""
    is_runnable: bool = True
    in_transformers: bool = True
    has_head: bool = True
    base_name: str = ""
    attn_sub_norm: str | None = None
    ffn_sub_norm: str | None = None
    norms: Norms = Norms()
    qk_norms: QkNorms | None = None
    zero_centered_norms: bool = False
    fused: tuple[str, ...] = ()
    mixers: Mapping[str, str] = field(default_factory=lambda: ATTENTION_ONLY)
    full_attention_interval: int | None = None
    delta_net: DeltaNet | None = None
    has_output_gate: bool = False
    mlp: str = "mlp"
    layer_runs: int = 1
    embedding_factor: Factor | None = None
    residual_factor: Factor | None = None
    logits_factor: Factor | None = None
    attention_factor: Factor | None = None
    permutes_qk: bool = False
    int8_activations: bool = False
    self_quantizing: bool = False
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ATTENTION_BIASES)
    own_keys: Mapping[str, Any] = field(default_factory=dict)
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    partial_rotary_factor: float | None = None
    rope_keys: tuple[str, ...] = ()
    longrope_by_limit: bool = False
    tie_key: str = "tie_word_embeddings"
    is_tied: bool = False
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    gguf_config: Mapping[str, Any] = field(default_factory=dict)
    gguf_layer: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_experts(self) -> bool:
        """Whether layers may have a mixture of experts (`rsr_formats.experts`)."""
        return self.mlp == "experts"

    @property
    def title(self) -> str:
        """What its models are called."""
        return self.family or self.name.removesuffix("ForCausalLM").removesuffix("Model")

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors that are not 1."""
        every = (
            self.embedding_factor,
            self.residual_factor,
            self.logits_factor,
            self.attention_factor,
        )
        return tuple(factor for factor in every if factor is not None)

    @property
    def layer_norms(self) -> tuple[str, ...]:
        """Names within a layer of all its norms."""
        qk = () if self.qk_norms is None else self.qk_norms.names
        sub = (name for name in (self.attn_sub_norm, self.ffn_sub_norm) if name is not None)
        delta = () if self.delta_net is None else ("linear_attn.norm",)
        return (*self.norms.names, *qk, *sub, *delta)

    def is_zero_centered(self, name: str) -> bool:
        """Return whether a tensor is the weight of a zero-centered norm.

        Args:
            name: as in a class without a head: "layers.0.input_layernorm.weight", "norm.weight".
        """
        if not self.zero_centered_norms:
            return False
        qk = () if self.qk_norms is None else self.qk_norms.names
        norms = tuple(f".{norm}.weight" for norm in (*self.norms.names, *qk))
        return name == "norm.weight" or name.endswith(norms)

    @property
    def projections(self) -> tuple[str, ...]:
        """Those of `PROJECTIONS` that a layer has."""
        others = {part for whole in self.fused for part in FUSED[whole]}
        others |= FUSED.keys() - set(self.fused)
        mixers = tuple(MIXERS[kind] for kind in set(self.mixers.values()))
        return tuple(
            name
            for name in PROJECTIONS
            if name not in others and name.startswith((*mixers, "mlp."))
        )

    @property
    def other_tensors(self) -> tuple[str, ...]:
        """Names within a layer of the tensors that are neither norms nor linear layers."""
        return () if self.delta_net is None else DELTA_NET_TENSORS

    def setting(self, config: Mapping[str, Any], key: str) -> Any:
        """Return the value of one of `own_keys`, which may be null, or that of an absent key."""
        return config[key] if key in config else self.own_keys[key]

    def widths(self, module: str) -> tuple[str, str]:
        """Return the names of the widths of a projection, as `PROJECTIONS` does."""
        out_width, in_width = PROJECTIONS[module]
        is_gated = self.has_output_gate and module == "self_attn.q_proj"
        return "gated_queries" if is_gated else out_width, in_width

    def layer_types(self, config: Mapping[str, Any]) -> object:
        """Return `layer_types` of config.json, or else the pattern of kinds that repeats.

        None means that all layers are alike. The interval is untrusted, and counts if it is a
        positive whole number that a pattern can have.
        """
        found, interval = config.get("layer_types"), config.get("full_attention_interval")
        if found is not None or self.full_attention_interval is None:
            return found
        if type(interval) is not int or not 0 < interval <= _MAX_INTERVAL:
            interval = self.full_attention_interval
        return ["linear_attention"] * (interval - 1) + ["full_attention"]


# Layers from max_window_layers on have windows, unless layer_types says otherwise.
_QWEN_WINDOWS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_QWEN3 = Architecture(  # Ternary-Bonsai
    "Qwen3ForCausalLM",
    "qwen3",
    ("qwen3",),
    qk_norms=QkNorms(),
    max_position_embeddings=32768,
    own_keys=_QWEN_WINDOWS,
    num_key_value_heads=32,
    head_dim=128,
)

# If config.json names no class, its model_type decides, and the first entry with it applies. This
# never misreads 1bitLLM's models, which also have model_type "llama": they always name their class.
ARCHITECTURES = (
    # HF1BitLLM, Falcon3 and Falcon-E 1.58bit, TriLM
    Architecture("LlamaForCausalLM", "llama", ("llama",), permutes_qk=True, biases=_ALL_BIASES),
    # microsoft/bitnet-b1.58-2B-4T; bitnet.cpp first called it bitnet-25
    Architecture(
        "BitNetForCausalLM",
        "bitnet",
        ("bitnet-b1.58", "bitnet-25"),
        family="BitNet b1.58",
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
        family="1bitLLM's BitNet b1.58",
        in_transformers=False,
        attn_sub_norm="self_attn.inner_attn_ln",
        ffn_sub_norm="mlp.ffn_layernorm",
        int8_activations=True,
        self_quantizing=True,
        gguf_config={"weight_bits": 1, "input_bits": 8},
    ),
    _QWEN3,
    # deepgrove/maple-preview; Qwen3 whose MLPs are mixtures of experts
    replace(
        _QWEN3,
        name="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        gguf_names=("qwen3moe",),
        family="Qwen3Moe",
        mlp="experts",
        own_keys={
            "num_experts": 128,
            "num_local_experts": None,  # transformers 5 writes this one
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": None,
            "use_sliding_window": False,
            "sliding_window": 4096,
        },
        gguf_config={"norm_topk_prob": True},  # as llama.cpp computes whatever the file says
        num_key_value_heads=4,
        head_dim=None,
    ),
    # Ternary-Bonsai 27B and Ternary-Bonsai-2: three of four layers have a gated delta net
    Architecture(
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        ("qwen35",),
        family="Qwen3.5",
        qk_norms=QkNorms(),
        zero_centered_norms=True,
        mixers={"linear_attention": "delta_net", "full_attention": "attention"},
        full_attention_interval=4,
        delta_net=DeltaNet(),
        has_output_gate=True,
        partial_rotary_factor=0.25,
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
    # Llama with biases in q_proj, k_proj and v_proj
    Architecture(
        "Qwen2ForCausalLM",
        "qwen2",
        ("qwen2",),
        biases={"": _ATTENTION[:3]},
        own_keys=_QWEN_WINDOWS,
        max_position_embeddings=32768,
        num_key_value_heads=32,
    ),
    # All layers have windows, if any
    Architecture(
        "MistralForCausalLM",
        "mistral",
        ("llama",),
        permutes_qk=True,
        biases={},
        own_keys={"sliding_window": 4096},
        max_position_embeddings=131072,
        num_key_value_heads=8,
    ),
    # Phi-3, Phi-3.5 and Phi-4-mini
    Architecture(
        "Phi3ForCausalLM",
        "phi3",
        ("phi3",),
        family="Phi-3",
        fused=("self_attn.qkv_proj", "mlp.gate_up_proj"),
        biases={},
        own_keys={"sliding_window": None, "original_max_position_embeddings": 4096},
        rms_norm_eps=1e-5,
        max_position_embeddings=4096,
        partial_rotary_factor=1.0,
    ),
    # Every fourth layer does not rotate
    Architecture(
        "SmolLM3ForCausalLM",
        "smollm3",
        ("smollm3",),
        permutes_qk=True,
        biases=_ALL_BIASES,
        own_keys={
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "sliding_window": None,
        },
        rope_theta=2000000.0,
        max_position_embeddings=32768,
        is_tied=True,
        num_key_value_heads=4,
        gguf_config={"no_rope_layer_interval": 4},
    ),
    # OLMo 2: norms follow the sublayers
    Architecture(
        "Olmo2ForCausalLM",
        "olmo2",
        ("olmo2",),
        family="OLMo 2",
        norms=Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
        qk_norms=QkNorms(spans_heads=True),
        rms_norm_eps=1e-5,
    ),
    # Four norms in a layer; five of six layers have a window, and their own frequencies
    Architecture(
        "Gemma3ForCausalLM",
        "gemma3_text",
        ("gemma3",),
        base_name="Gemma3TextModel",
        norms=Norms(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        qk_norms=QkNorms(),
        zero_centered_norms=True,
        embedding_factor=Factor(size="hidden_size", size_power=0.5, is_rounded=True),
        attention_factor=Factor("query_pre_attn_scalar", 256, -0.5),
        own_keys={
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "rope_local_base_freq": 10000.0,
        },
        hidden_act="gelu_pytorch_tanh",
        rope_theta=1000000.0,
        max_position_embeddings=131072,
        is_tied=True,
        num_key_value_heads=4,
        head_dim=256,
    ),
    # MiniCPM, MiniCPM4 and BitCPM4
    Architecture(
        "MiniCPMForCausalLM",
        "minicpm",
        ("minicpm",),
        in_transformers=False,
        permutes_qk=True,
        embedding_factor=Factor("scale_emb"),
        residual_factor=Factor("scale_depth", size="num_hidden_layers", size_power=-0.5),
        logits_factor=Factor("dim_model_base", size="hidden_size", size_power=-1.0),
        longrope_by_limit=True,
        is_tied=True,
    ),
    # Hunyuan and Hy-MT
    Architecture(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        ("hunyuan-dense",),
        family="HunYuan dense",
        qk_norms=QkNorms("self_attn.query_layernorm", "self_attn.key_layernorm", follow_rope=True),
        rope_keys=("alpha",),
        rms_norm_eps=1e-5,
    ),
    # MobileLLM and MobileLLM-ParetoQ, Meta's class
    Architecture(
        "MobileLLMForCausalLM",
        "mobilellm",
        in_transformers=False,
        layer_runs=2,
        rms_norm_eps=1e-5,
        tie_key="share_embedding",
        is_tied=True,
        num_key_value_heads=3,
    ),
)

# What other classes, and architectures of GGUF, have that no field of `Architecture` describes.
_LAYER_NORMS = "layer norms, and an MLP without a gate"
_STATE_SPACES = "state-space layers"
_LATENT = "compressed keys and values (MLA)"
MISSING = {
    "gemma-embedding": "attention in both directions, and Dense modules after pooling",
    "Gemma2ForCausalLM": "capped scores and logits",
    "Gemma3nForCausalLM": "embeddings and residual streams of their own for each layer",
    "GptOssForCausalLM": "attention sinks, and experts with biases",
    "Llama4ForCausalLM": "attention within chunks, and routed experts with a shared one",
    "DeepseekV2ForCausalLM": _LATENT,
    "DeepseekV3ForCausalLM": _LATENT,
    "MiniCPM3ForCausalLM": _LATENT,
    "Qwen3NextForCausalLM": "gated delta nets with interleaved projections, and a shared expert",
    "MambaForCausalLM": _STATE_SPACES,
    "Mamba2ForCausalLM": _STATE_SPACES,
    "FalconMambaForCausalLM": _STATE_SPACES,
    "FalconH1ForCausalLM": _STATE_SPACES,
    "GPT2LMHeadModel": _LAYER_NORMS,
    "GPTNeoXForCausalLM": _LAYER_NORMS,
    "OPTForCausalLM": _LAYER_NORMS,
    "BloomForCausalLM": _LAYER_NORMS,
    "FalconForCausalLM": _LAYER_NORMS,
    "PhiForCausalLM": _LAYER_NORMS,
    "Starcoder2ForCausalLM": _LAYER_NORMS,
    "OlmoForCausalLM": "layer norms without weights",
    "StableLmForCausalLM": "layer norms",
    "CohereForCausalLM": "layer norms, with attention and MLP side by side",
}

# The matrices of a decoder layer by their names within it, and (out_features, in_features) of each:
# "hidden" is hidden_size, "intermediate" is intermediate_size, "queries" is num_attention_heads *
# head_dim, "keys" is num_key_value_heads * head_dim, "qkv" and "gate_up" are sums of these. Those
# of a gated delta net follow from its sizes. `Architecture.widths` has exceptions.
PROJECTIONS = {
    "self_attn.q_proj": ("queries", "hidden"),
    "self_attn.k_proj": ("keys", "hidden"),
    "self_attn.v_proj": ("keys", "hidden"),
    "self_attn.o_proj": ("hidden", "queries"),
    "mlp.gate_proj": ("intermediate", "hidden"),
    "mlp.up_proj": ("intermediate", "hidden"),
    "mlp.down_proj": ("hidden", "intermediate"),
    "self_attn.qkv_proj": ("qkv", "hidden"),
    "mlp.gate_up_proj": ("gate_up", "hidden"),
    "linear_attn.in_proj_qkv": ("delta_channels", "hidden"),
    "linear_attn.in_proj_z": ("delta_values", "hidden"),
    "linear_attn.in_proj_b": ("delta_heads", "hidden"),
    "linear_attn.in_proj_a": ("delta_heads", "hidden"),
    "linear_attn.out_proj": ("hidden", "delta_values"),
}
DELTA_NET_TENSORS = ("linear_attn.conv1d.weight", "linear_attn.dt_bias", "linear_attn.A_log")
# Matrices that hold the rows of others, one after the other.
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
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
_ANYWHERE = re.compile(r"(.*?)layers\.0\.(?:self_attn|linear_attn|mlp)\..*", re.DOTALL)
_LIKENESS = 0.7  # of names of architectures, most of which are short
_MAX_NAME = 1000  # characters that are searched
_MAX_INTERVAL = 1000  # layers from one with full attention to the next
_DRAFT_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


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

    def usual(self, name: str) -> str:
        """Return the name that a tensor or module of these names has in a class with a head."""
        return self.renamed(name, DecoderNames())

    def renamed(self, name: str, to: DecoderNames) -> str:
        """Return the name that a tensor or module of these names has among those of `to`."""
        if name == self.head or name.startswith(f"{self.head}."):
            return to.head + name.removeprefix(self.head)
        if name.startswith(self.prefix):
            return to.prefix + name.removeprefix(self.prefix)
        return name


def has_decoder(tensors: Iterable[str]) -> bool:
    """Return whether a tensor has the name of one in a decoder."""
    return any(_IN_DECODER.match(name) is not None for name in tensors)


def draft_layers(config: Mapping[str, Any]) -> int:
    """Return how many layers after the last only draft tokens, according to config.json."""
    return sum(max(0, n) for key in _DRAFT_LAYERS if type(n := config.get(key)) is int)


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

    The first class under `architectures` decides, or `model_type` if none is named. A class
    "...Model" is the decoder of "...ForCausalLM" without its output head.
    """
    named = first_class(config)
    if named is not None:
        found = next((a for a in ARCHITECTURES if named in (a.name, _base_name(a))), None)
        return found if found is None or found.name == named else without_head(found)
    return next((a for a in ARCHITECTURES if a.model_type == config.get("model_type")), None)


def without_head(architecture: Architecture) -> Architecture:
    """Return the architecture of a class's decoder, which embedding models consist of."""
    return replace(architecture, name=_base_name(architecture), has_head=False)


def _base_name(architecture: Architecture) -> str:
    return architecture.base_name or f"{architecture.name.removesuffix('ForCausalLM')}Model"


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


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether config.json ties the output head to the embedding."""
    known = of_config(config)
    if known is None:
        return config.get("tie_word_embeddings") is True
    found = config.get(known.tie_key)
    return known.is_tied if found is None else found is True


def first_class(config: Mapping[str, Any]) -> object:
    """Return the first entry under `architectures`, of any type; None if there is none."""
    classes = config.get("architectures")
    return classes[0] if isinstance(classes, list) and classes else None


def nearest(name: object, names: Iterable[str]) -> str:
    """Return "; similar: 'X', 'Y'", for a sentence on an unknown architecture; "" if none is.

    Args:
        name: the unknown name, of any type.
        names: the known ones, of classes or of GGUF architectures.
    """
    known = {_stem(n): n for n in names}
    found = similar(_stem(name), list(known), _LIKENESS) if isinstance(name, str) else []
    return f"; similar: {quoted([known[stem] for stem in found])}" if found else ""


def _stem(name: str) -> str:
    """Return the name of a class without what it is for, which most names share."""
    return name.partition("For")[0]


def of_gguf(name: object) -> Architecture | None:
    """Return the architecture with this `general.architecture`, or None if it is unknown."""
    if not isinstance(name, str):  # GGUF values may be arrays, which cannot be compared as a whole
        return None
    return next((a for a in ARCHITECTURES if name in a.gguf_names), None)
