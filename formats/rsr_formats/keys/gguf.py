"""Keys of GGUF metadata. `ARCHITECTURE` has those after `general.architecture` and a dot.

The names are those of llama.cpp (gguf-py's `constants.Keys`). Keys of other kinds of models are
left out, so that a file that has one is not understood.
"""

from __future__ import annotations

from .key import HARMLESS, UNSUPPORTED, USED, Key, Keys

_ORIGIN = Key(HARMLESS, "says where the model comes from")
_SUGGESTION = Key(HARMLESS, "a sampler setting that llama.cpp suggests; it is not applied")
_OTHER_TASK = Key(HARMLESS, "a token for other tasks than continuing a text")
_OFF = (0, 0.0, False)
_DELTA = "layers without attention, where the class has no gated delta nets"


def _unsupported(note: str, *neutral: object) -> Key:
    return Key(UNSUPPORTED, note, neutral)


# Whole keys, or prefixes that end with a dot.
GENERAL: Keys = {
    "general.architecture": Key(USED, "the architecture, and the prefix of its keys"),
    "general.type": Key(USED, "adapters are refused"),
    "general.alignment": Key(USED, "where tensors begin in the file"),
    "general.quantization_version": Key(HARMLESS, "a version of block types; tensors state theirs"),
    "general.file_type": Key(HARMLESS, "a summary of the tensors' types; tensors state theirs"),
    "general.name": _ORIGIN,
    "general.author": _ORIGIN,
    "general.version": _ORIGIN,
    "general.organization": _ORIGIN,
    "general.finetune": _ORIGIN,
    "general.basename": _ORIGIN,
    "general.description": _ORIGIN,
    "general.quantized_by": _ORIGIN,
    "general.size_label": _ORIGIN,
    "general.license": _ORIGIN,
    "general.license.": _ORIGIN,
    "general.url": _ORIGIN,
    "general.doi": _ORIGIN,
    "general.uuid": _ORIGIN,
    "general.repo_url": _ORIGIN,
    "general.source.": _ORIGIN,
    "general.base_model.": _ORIGIN,
    "general.dataset.": _ORIGIN,
    "general.tags": _ORIGIN,
    "general.languages": _ORIGIN,
    "general.datasets": _ORIGIN,
    "prism.hadamard.": Key(USED, "the rotated basis of weights"),
    "general.sampling.temp": Key(USED, "temperature of generation_config.json"),
    "general.sampling.top_k": Key(USED, "top_k of generation_config.json"),
    "general.sampling.top_p": Key(USED, "top_p of generation_config.json"),
    "general.sampling.min_p": Key(USED, "min_p of generation_config.json"),
    "general.sampling.sequence": _SUGGESTION,
    "general.sampling.xtc_probability": _SUGGESTION,
    "general.sampling.xtc_threshold": _SUGGESTION,
    "general.sampling.penalty_last_n": _SUGGESTION,
    "general.sampling.penalty_repeat": _SUGGESTION,
    "general.sampling.mirostat": _SUGGESTION,
    "general.sampling.mirostat_tau": _SUGGESTION,
    "general.sampling.mirostat_eta": _SUGGESTION,
    "split.no": Key(USED, "the number of a part of a split model"),
    "split.count": Key(USED, "the number of parts of a split model"),
    "split.tensors.count": Key(HARMLESS, "the number of tensors of all parts; all are read"),
    "rsr.has_head": Key(USED, "whether the class has an output head"),
    "rsr.int8_activations": Key(USED, "whether linear layers take int8 activations"),
    "rsr.modules_to_not_convert": Key(USED, "linear layers that take float activations anyway"),
    "rsr.scaled_tensors": Key(USED, "matrices whose scales rsr.scales has"),
    "rsr.scales": Key(USED, "scales in float32, which the blocks hold rounded"),
    "quantize.imatrix.": Key(HARMLESS, "says how the tensors were quantized"),
}

# Whole keys, or prefixes that end with a dot.
TOKENIZER: Keys = {
    "tokenizer.ggml.model": Key(USED, "the kind of tokenizer: gpt2 or llama"),
    "tokenizer.ggml.pre": Key(USED, "the pre-tokenizer"),
    "tokenizer.ggml.tokens": Key(USED, "the vocabulary"),
    "tokenizer.ggml.token_type": Key(USED, "which tokens are special"),
    "tokenizer.ggml.scores": Key(USED, "the order of merges of a SentencePiece model"),
    "tokenizer.ggml.merges": Key(USED, "the merges of byte-level BPE"),
    "tokenizer.ggml.bos_token_id": Key(USED, "bos_token_id"),
    "tokenizer.ggml.eos_token_id": Key(USED, "ends the text"),
    "tokenizer.ggml.eot_token_id": Key(USED, "ends a turn, and so the text"),
    "tokenizer.ggml.eom_token_id": Key(USED, "ends a message, and so the text"),
    "tokenizer.ggml.unknown_token_id": Key(USED, "unk_token"),
    "tokenizer.ggml.padding_token_id": Key(USED, "pad_token"),
    "tokenizer.ggml.add_bos_token": Key(USED, "whether a text begins with BOS"),
    "tokenizer.ggml.add_eos_token": Key(USED, "whether a text ends with EOS"),
    "tokenizer.ggml.add_space_prefix": Key(USED, "whether a text begins with a space"),
    "tokenizer.chat_template": Key(USED, "the chat template"),
    "tokenizer.chat_template.": Key(HARMLESS, "a template for another use, chosen by name"),
    "tokenizer.chat_templates": Key(HARMLESS, "the names of other templates"),
    "tokenizer.huggingface.json": Key(HARMLESS, "a copy of what the other keys say"),
    "tokenizer.ggml.token_type_count": Key(HARMLESS, "segments of BERT's texts"),
    "tokenizer.ggml.add_sep_token": Key(HARMLESS, "separates BERT's segments"),
    "tokenizer.ggml.seperator_token_id": _OTHER_TASK,
    "tokenizer.ggml.cls_token_id": _OTHER_TASK,
    "tokenizer.ggml.mask_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_pre_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_suf_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_mid_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_pad_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_rep_token_id": _OTHER_TASK,
    "tokenizer.ggml.fim_sep_token_id": _OTHER_TASK,
    "tokenizer.ggml.prefix_token_id": _OTHER_TASK,
    "tokenizer.ggml.suffix_token_id": _OTHER_TASK,
    "tokenizer.ggml.middle_token_id": _OTHER_TASK,
    "tokenizer.ggml.remove_extra_whitespaces": _unsupported("drops spaces of a text", False),
    "tokenizer.ggml.precompiled_charsmap": _unsupported("rewrites the characters of a text"),
    "tokenizer.rwkv.world": _unsupported("another kind of tokenizer"),
}

_EXPERTS = "routes tokens to experts"
_OWN_EXPERTS = "routes tokens to experts, which an architecture must have"
_WINDOW = "sets layers with a sliding window apart (Gemma 3's become settings)"
_ADAPTIVE = "low-rank factors of another attention"
_EXTRA = "settings of other kinds of layers"

ARCHITECTURE: Keys = {
    # Sizes
    "vocab_size": Key(USED, "vocab_size, unless the embedding has more rows"),
    "context_length": Key(USED, "max_position_embeddings"),
    "embedding_length": Key(USED, "hidden_size"),
    "block_count": Key(USED, "num_hidden_layers"),
    "feed_forward_length": Key(USED, "intermediate_size"),
    "attention.head_count": Key(USED, "num_attention_heads"),
    "attention.head_count_kv": Key(USED, "num_key_value_heads"),
    "attention.key_length": Key(USED, "head_dim"),
    "attention.value_length": _unsupported("values of another length than keys"),
    "attention.layer_norm_rms_epsilon": Key(USED, "rms_norm_eps"),
    "tensor_data_layout": Key(HARMLESS, "says where the tensors come from"),
    # RoPE
    "rope.freq_base": Key(USED, "rope_theta"),
    "rope.dimension_count": Key(USED, "head_dim, or partial_rotary_factor if it is smaller"),
    "rope.scaling.type": Key(USED, "rope_type: none, linear, yarn or longrope"),
    "rope.scaling.factor": Key(USED, "factor of the RoPE scaling; without a type it is linear"),
    "rope.scale_linear": Key(USED, "the older name of rope.scaling.factor"),
    "rope.scaling.attn_factor": Key(USED, "attention_factor of the RoPE scaling"),
    "rope.scaling.original_context_length": Key(USED, "original_max_position_embeddings"),
    "rope.scaling.finetuned": Key(HARMLESS, "says how the model was trained"),
    "rope.scaling.yarn_log_multiplier": Key(USED, "mscale_all_dim of yarn"),
    "rope.scaling.yarn_ext_factor": Key(USED, "the share of yarn's blend; 0 makes it linear"),
    "rope.scaling.yarn_beta_fast": Key(USED, "beta_fast of yarn"),
    "rope.scaling.yarn_beta_slow": Key(USED, "beta_slow of yarn"),
    "rope.scaling.yarn_attn_factor": _unsupported(
        "scales queries and keys, in a way that depends on the version of llama.cpp", 1.0, 1
    ),
    "rope.scaling.alpha": _unsupported("changes the base of RoPE's frequencies", *_OFF, 1.0, 1),
    "rope.dimension_sections": Key(HARMLESS, "with text, all sections hold the same position"),
    "ssm.conv_kernel": Key(USED, "linear_conv_kernel_dim"),
    "ssm.state_size": Key(USED, "linear_key_head_dim"),
    "ssm.group_count": Key(USED, "linear_num_key_heads"),
    "ssm.time_step_rank": Key(USED, "linear_num_value_heads"),
    "ssm.inner_size": Key(USED, "linear_value_head_dim, times the number of value heads"),
    "rope.dimension_count_swa": _unsupported(_WINDOW, 0),
    "rope.freq_base_swa": _unsupported(_WINDOW, 0),
    # Attention
    "attention.scale": _unsupported("factor of attention scores", 0.0, 0),
    "attention.output_scale": _unsupported("factor of attention's output", *_OFF, 1.0, 1),
    "attention.clamp_kqv": _unsupported("limits queries, keys and values", 0.0, 0),
    "attention.max_alibi_bias": _unsupported("position biases (ALiBi)", 0.0, 0),
    "attention.causal": _unsupported("attention to later tokens", True),
    "attention.sliding_window": _unsupported(
        "attention to the last tokens only (a setting of classes with windows)", 0
    ),
    "attention.sliding_window_pattern": _unsupported(_WINDOW, 0),
    "attention.key_length_swa": _unsupported(_WINDOW, 0),
    "attention.value_length_swa": _unsupported(_WINDOW, 0),
    "attention.shared_kv_layers": _unsupported("layers that share keys and values", 0),
    "attention.temperature_length": _unsupported("scores that depend on the position", 0),
    "attention.temperature_scale": _unsupported("scores that depend on the position", *_OFF),
    "attention.layer_norm_epsilon": _unsupported("layer norms instead of RMS norms"),
    "attention.group_norm_epsilon": _unsupported("group norms instead of RMS norms"),
    "attention.group_norm_groups": _unsupported("group norms instead of RMS norms", 0),
    "attention.q_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.kv_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.decay_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.iclr_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.value_residual_mix_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.gate_lora_rank": _unsupported(_ADAPTIVE, 0),
    "attention.key_length_mla": _unsupported(_ADAPTIVE, 0),
    "attention.value_length_mla": _unsupported(_ADAPTIVE, 0),
    "attention.relative_buckets_count": _unsupported("relative position biases", 0),
    "attn_logit_softcapping": _unsupported("limits attention scores", 0.0, 0),
    # Factors of the hidden states
    "logit_scale": _unsupported("factor of the logits (MiniCPM's becomes a setting)", *_OFF, 1.0),
    "residual_scale": _unsupported("factor of sublayers (MiniCPM's becomes a setting)", *_OFF, 1.0),
    "embedding_scale": _unsupported(
        "factor of the embeddings (MiniCPM's becomes a setting)", *_OFF, 1.0
    ),
    "final_logit_softcapping": _unsupported("limits the logits", 0.0, 0),
    "router_logit_softcapping": _unsupported(_EXPERTS, 0.0, 0),
    "use_parallel_residual": _unsupported("attention beside the MLP, not before it", False),
    "rescale_every_n_layers": _unsupported("halves hidden states in some layers", 0),
    "swiglu_clamp_exp": _unsupported("limits the gates of experts"),
    "swiglu_clamp_shexp": _unsupported("limits the gates of experts"),
    "activation_sparsity_scale": _unsupported("sets small activations to 0"),
    "swin_norm": _unsupported("norms at other places of a layer", False),
    # Experts and other kinds of layers
    "expert_count": _unsupported(_OWN_EXPERTS, 0),
    "expert_used_count": _unsupported(_OWN_EXPERTS, 0),
    "expert_shared_count": _unsupported(_EXPERTS, 0),
    "expert_group_count": _unsupported(_EXPERTS, 0),
    "expert_group_used_count": _unsupported(_EXPERTS, 0),
    "experts_per_group": _unsupported(_EXPERTS, 0),
    "expert_group_scale": _unsupported(_EXPERTS, *_OFF),
    "expert_weights_scale": _unsupported(_EXPERTS, *_OFF),
    "expert_weights_norm": _unsupported(_OWN_EXPERTS, False),
    "expert_gating_func": _unsupported(_EXPERTS, 0),
    "expert_feed_forward_length": _unsupported(_OWN_EXPERTS, 0),
    "expert_shared_feed_forward_length": _unsupported(_EXPERTS, 0),
    "expert_chunk_feed_forward_length": _unsupported(_EXPERTS, 0),
    "moe_every_n_layers": _unsupported(_EXPERTS, 0),
    "moe_latent_size": _unsupported(_EXPERTS, 0),
    "interleave_moe_layer_step": _unsupported(_EXPERTS, 0),
    "leading_dense_block_count": _unsupported(_EXPERTS, 0),
    "nextn_predict_layers": Key(USED, "the last layers only draft tokens, and are left out"),
    "n_deepstack_layers": _unsupported("layers that take image features", 0),
    "full_attention_interval": _unsupported(_DELTA, 0, 1),
    "attention.recurrent_layers": _unsupported(_DELTA),
    "features_length": _unsupported(_EXTRA, 0),
    "embedding_length_out": _unsupported(_EXTRA, 0),
    "embedding_length_per_layer_input": _unsupported(_EXTRA, 0),
    "decoder_start_token_id": _unsupported("an encoder before the decoder"),
    "decoder_block_count": _unsupported("an encoder before the decoder", 0),
    "token_shift_count": _unsupported(_EXTRA, 0),
    "time_mix_extra_dim": _unsupported(_EXTRA, 0),
    "time_decay_extra_dim": _unsupported(_EXTRA, 0),
    "pooling_type": Key(HARMLESS, "how an embedding model pools: mean, cls or last token"),
}


def of_key(key: str, architecture: str) -> Key | None:
    """Return what a metadata key means in a file of this `general.architecture`.

    Returns:
        None for a key outside the tables.
    """
    prefix = f"{architecture}."
    if architecture and key.startswith(prefix):
        return ARCHITECTURE.get(key.removeprefix(prefix))
    for table in (GENERAL, TOKENIZER):
        for name, known in table.items():
            if key == name or (name.endswith(".") and key.startswith(name)):
                return known
    return None
