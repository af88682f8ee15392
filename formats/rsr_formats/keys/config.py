"""Keys of config.json, of its rope_parameters and of its quantization_config."""

from __future__ import annotations

from .key import HARMLESS, UNSUPPORTED, USED, Key, Keys, Kind

_OFF = (False,)
_ONE = (1, 1.0)
_ZERO = (0, 0.0, False)


def _of(kind: Kind, keys: dict[str, str], neutral: tuple[object, ...] = ()) -> dict[str, Key]:
    return {name: Key(kind, note, neutral) for name, note in keys.items()}


_DROPOUT = "dropout is for training"
_LABELS = "labels of a classifier"
_OUTPUTS = "what the Python class returns besides logits"
_ORIGIN = "where the file comes from"
_KERNELS = "which implementation computes attention"
_TRAINING = "a setting of training"
_EXPERTS = "a mixture of experts"
_OWN_EXPERTS = "a mixture of experts, which a class must have"

CONFIG: Keys = {
    **_of(
        USED,
        {
            "architectures": "the first class decides the architecture",
            "model_type": "decides the architecture if no class is named",
            "auto_map": "shows that 1bitLLM's class quantizes its own weights",
            "vocab_size": "rows of embedding and output head",
            "hidden_size": "width of the residual stream",
            "intermediate_size": "width of the MLP",
            "num_hidden_layers": "decoder layers",
            "num_attention_heads": "query heads",
            "num_key_value_heads": "key and value heads",
            "head_dim": "features of a head",
            "hidden_act": "activation of the MLP's gate: silu or relu2",
            "max_position_embeddings": "limit of the context",
            "rms_norm_eps": "epsilon of the norms",
            "bos_token_id": "begins a text",
            "eos_token_id": "ends a text, if generation_config.json names no token",
            "tie_word_embeddings": "the embedding is the output head if the file has no head",
            "rope_parameters": "rotary position embedding, see below",
            "rope_scaling": "older name of rope_parameters; it takes precedence",
            "rope_theta": "base of the rotary frequencies, if rope_parameters has none",
            "partial_rotary_factor": "share of a head that is rotated",
            "original_max_position_embeddings": "context before scaling; precedes rope_parameters'",
            "attention_bias": "q_proj, k_proj, v_proj and o_proj have biases",
            "mlp_bias": "gate_proj, up_proj and down_proj have biases",
            "max_window_layers": "first layer with a sliding window, see use_sliding_window",
            "quantization_config": "how linear layers are stored and computed, see below",
            "quantization": "MLX's quantization, see below",
            "gguf_metadata": "keys of a GGUF file for which config.json has no name",
        },
    ),
    **_of(
        UNSUPPORTED,
        {
            "use_sliding_window": "attention sees a window of positions only",
            "add_cross_attention": "layers attend to an encoder",
            "is_encoder_decoder": "the model has an encoder",
            "tie_encoder_decoder": "the model has an encoder",
            "alibi": "positions are encoded by attention biases",
            "rope_interleaved": "rotation pairs neighboring features",
            "use_qk_norm": "queries and keys are normalized",
            "qk_norm": "queries and keys are normalized",
            "qk_layernorm": "queries and keys are normalized",
            "use_post_norm": "norms follow the sublayers",
            "parallel_attn": "attention and MLP run side by side",
            "parallel_residual": "attention and MLP run side by side",
            "use_parallel_residual": "attention and MLP run side by side",
            "attention_sink": "attention has sinks",
            "use_embedding_norm": "embeddings are normalized",
            "layer_sharing": "layers are run several times",
            "bias": "linear layers have biases under another name",
            "use_bias": "linear layers have biases under another name",
            "qkv_bias": "linear layers have biases under another name",
        },
        _OFF,
    ),
    **_of(
        UNSUPPORTED,
        {
            "attention_multiplier": "scales the attention scores",
            "embedding_multiplier": "scales the embeddings",
            "residual_multiplier": "scales the output of each sublayer",
            "logits_scaling": "divides the logits",
            "logit_scale": "scales the logits",
            "lm_head_multiplier": "scales the logits",
            "scale_emb": "scales the embeddings",
            "rope_ratio": "scales the base of the rotary frequencies",
            "rotary_pct": "share of a head that is rotated",
        },
        _ONE,
    ),
    **_of(
        UNSUPPORTED,
        {
            "num_experts": _OWN_EXPERTS,
            "num_local_experts": _OWN_EXPERTS,
            "n_routed_experts": _EXPERTS,
            "num_kv_shared_layers": "layers share keys and values",
        },
        _ZERO,
    ),
    **_of(UNSUPPORTED, {"norm_topk_prob": _OWN_EXPERTS}, _OFF),
    **_of(UNSUPPORTED, {"decoder_sparse_step": _OWN_EXPERTS}, _ONE),
    **_of(UNSUPPORTED, {"sliding_window": "attention sees a window of positions only"}, _OFF),
    **_of(
        UNSUPPORTED,
        {
            "layer_types": "layers other than full attention",
            "attn_logit_softcapping": "caps the attention scores",
            "final_logit_softcapping": "caps the logits",
            "logits_soft_cap": "caps the logits",
            "query_pre_attn_scalar": "replaces head_dim in the scale of attention",
            "clip_qkv": "clips queries, keys and values",
            "scale_depth": "scales the output of each sublayer",
            "dim_model_base": "scales the logits",
            "rotary_dim": "features of a head that are rotated",
            "rotary_emb_base": "another name of rope_theta",
            "layer_norm_eps": "epsilon of norms that are not RMS norms",
            "hidden_activation": "another name of hidden_act",
            "activation_function": "another name of hidden_act",
            "moe_intermediate_size": _OWN_EXPERTS,
            "num_experts_per_tok": _OWN_EXPERTS,
            "kv_lora_rank": "keys and values are compressed (MLA)",
            "q_lora_rank": "queries are compressed (MLA)",
            "full_attention_interval": "layers other than full attention",
            "text_config": "the settings of a text model within a multimodal one",
            "vision_config": "the model also reads images",
            "audio_config": "the model also reads audio",
        },
    ),
    **_of(
        UNSUPPORTED,
        {
            "no_rope_layers": "layers without rotation",
            "attention_chunk_size": "attention within chunks of positions",
            "pruned_heads": "heads that were removed",
            "mlp_only_layers": _OWN_EXPERTS,
            "per_layer_config": "settings that differ between layers",
        },
        ([], {}),
    ),
    "weight_bits": Key(UNSUPPORTED, "bits to which 1bitLLM's class quantizes weights", (1,)),
    "input_bits": Key(UNSUPPORTED, "bits to which BitNet layers quantize activations", (8,)),
    "w_bits": Key(
        UNSUPPORTED, "bits to which ParetoQ's class quantizes weights", (0, 0.0, 1.58, 16)
    ),
    "activation": Key(UNSUPPORTED, "another name of hidden_act", ("silu", "swiglu")),
    "position_embedding_type": Key(
        UNSUPPORTED, "how positions are encoded", ("rope", "rotary", "absolute")
    ),
    **_of(
        HARMLESS,
        {
            "dtype": "tensors have their own dtypes; sums are float32",
            "torch_dtype": "older name of dtype",
            "pad_token_id": "nothing is padded",
            "sep_token_id": "separates the texts of encoders",
            "decoder_start_token_id": "begins the text of encoder-decoder models",
            "is_decoder": "all supported classes are decoders",
            "is_bitnet_config": "quantization_config decides",
            "share_embedding": "tie_word_embeddings decides",
            "pretraining_tp": "splits products without changing them",
            "chunk_size_feed_forward": "no supported class reads it",
            "cross_attention_hidden_size": "there is no cross attention, see add_cross_attention",
            "use_cache": "a KV cache changes no result",
            "cache_implementation": "a KV cache changes no result",
            "use_mrope": "with text, all sections hold the same position",
            "num_nextn_predict_layers": "extra layers that only draft tokens; they are not run",
            "mtp_num_hidden_layers": "extra layers that only draft tokens; they are not run",
            "output_hidden_states": _OUTPUTS,
            "output_attentions": _OUTPUTS,
            "output_scores": _OUTPUTS,
            "return_dict": _OUTPUTS,
            "use_return_dict": _OUTPUTS,
            "return_dict_in_generate": _OUTPUTS,
            "tie_last_hidden_states": _OUTPUTS,
            "num_logits_to_keep": _OUTPUTS,
            "id2label": _LABELS,
            "label2id": _LABELS,
            "num_labels": _LABELS,
            "problem_type": _LABELS,
            "finetuning_task": _LABELS,
            "task_specific_params": "transformers applies it in pipelines only",
            "tokenizer_class": "tokenizer.json decides",
            "prefix": "transformers applies it in pipelines only",
            "attention_dropout": _DROPOUT,
            "attention_probs_dropout_prob": _DROPOUT,
            "attn_pdrop": _DROPOUT,
            "classifier_dropout": _DROPOUT,
            "embd_pdrop": _DROPOUT,
            "hidden_dropout": _DROPOUT,
            "hidden_dropout_prob": _DROPOUT,
            "residual_dropout": _DROPOUT,
            "resid_pdrop": _DROPOUT,
            "initializer_range": "initial weights, before training",
            "gradient_checkpointing": _TRAINING,
            "router_aux_loss_coef": _TRAINING,
            "output_router_logits": _OUTPUTS,
            "router_jitter_noise": _TRAINING,
            "loss_type": _TRAINING,
            "seq_length": _TRAINING,
            "model_max_length": "max_position_embeddings decides",
            "max_sequence_length": "max_position_embeddings decides",
            "unsloth_fixed": _ORIGIN,
            "unsloth_version": _ORIGIN,
            "transformers_version": _ORIGIN,
            "mlx_lm_version": _ORIGIN,
            "_name_or_path": _ORIGIN,
            "name_or_path": _ORIGIN,
            "_commit_hash": _ORIGIN,
            "base_model": _ORIGIN,
            "model_name": _ORIGIN,
            "transformers.js_config": "settings of another program",
            "attn_implementation": _KERNELS,
            "_attn_implementation": _KERNELS,
            "_attn_implementation_autoset": _KERNELS,
            "_attn_implementation_internal": _KERNELS,
            "_experts_implementation_internal": _KERNELS,
            "experts_implementation": _KERNELS,
            "_flash_attn_2_enabled": _KERNELS,
            "use_flash_attn": _KERNELS,
            "use_flash_attention": _KERNELS,
            "_pre_quantization_dtype": "dtype before quantization",
            "torchscript": "how PyTorch runs the model",
            "use_bfloat16": "how TensorFlow runs the model",
            "tf_legacy_loss": "how TensorFlow trains the model",
        },
    ),
}

ROPE: Keys = {
    **_of(
        USED,
        {
            "rope_type": "kind of scaling",
            "type": "older name of rope_type",
            "rope_theta": "base of the frequencies",
            "factor": "factor by which positions are stretched",
            "low_freq_factor": "llama3: bound of the pairs that are stretched",
            "high_freq_factor": "llama3: bound of the pairs that are kept",
            "original_max_position_embeddings": "context before scaling",
            "attention_factor": "yarn, longrope: scale of queries and keys",
            "beta_fast": "yarn: bound of the pairs that are kept",
            "beta_slow": "yarn: bound of the pairs that are stretched",
            "mscale": "yarn: scale of queries and keys",
            "mscale_all_dim": "yarn: scale of queries and keys",
            "truncate": "yarn: whether bounds are rounded",
            "short_factor": "longrope: divisors up to the original context",
            "long_factor": "longrope: divisors beyond the original context",
            "partial_rotary_factor": "share of a head that is rotated",
        },
    ),
    **_of(
        UNSUPPORTED,
        {
            "attn_factor": "another program's scale of queries and keys",
            "extrapolation_factor": "another program's strength of yarn",
            "short_mscale": "another program's scale of queries and keys",
            "long_mscale": "another program's scale of queries and keys",
        },
        _ONE,
    ),
    **_of(
        HARMLESS,
        {
            "finetuned": "says that the model was trained with the scaling",
            "mrope_section": "with text, all sections hold the same position",
            "mrope_interleaved": "with text, all sections hold the same position",
        },
    ),
}

QUANTIZATION: Keys = {
    **_of(
        USED,
        {
            "modules_to_not_convert": "layers that are not quantized",
            "use_rms_norm": "linear layers normalize their input",
            "rms_norm_eps": "epsilon of that norm",
            "group_size": "MLX: columns that share a scale",
            "bits": "MLX: bits of a weight",
        },
    ),
    "quant_method": Key(UNSUPPORTED, "another quantization method", ("bitnet",)),
    "linear_class": Key(
        UNSUPPORTED,
        "how weight_scale is applied",
        ("bitlinear", "autobitlinear"),
    ),
    "quantization_mode": Key(UNSUPPORTED, "when weights are quantized", ("offline", "online")),
    "mode": Key(UNSUPPORTED, "MLX: how groups are quantized", ("affine",)),
    **_of(
        HARMLESS,
        {
            "_load_in_4bit": "settings of other methods",
            "_load_in_8bit": "settings of other methods",
        },
    ),
}
