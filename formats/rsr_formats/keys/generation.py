"""Keys of generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .key import HARMLESS, UNSUPPORTED, USED, Key, Keys

_USED = {
    "do_sample": "tokens are drawn, else the most likely one is taken",
    "eos_token_id": "the tokens that end a text",
    # Which token is taken or drawn.
    "temperature": "divisor of the logits; only used if do_sample is true",
    "top_k": "number of most likely tokens to draw from; only used if do_sample is true",
    "top_p": "probability of the most likely tokens to draw from; only used if do_sample is true",
    "min_p": "least probability, as a share of the largest; only used if do_sample is true",
    "typical_p": "probability of the most typical tokens to draw from; only used if do_sample is "
    "true",
    "top_h": "share of the entropy of the tokens to draw from; only used if do_sample is true",
    "epsilon_cutoff": "least probability of a token; only used if do_sample is true",
    "eta_cutoff": "least probability of a token, by the entropy; only used if do_sample is true",
    "repetition_penalty": "makes tokens of prompt and text less likely",
    "encoder_repetition_penalty": "makes tokens of the prompt more likely",
    "no_repeat_ngram_size": "length of the n-grams that occur only once",
    "encoder_no_repeat_ngram_size": "length of the n-grams of the prompt that do not occur in "
    "the text",
    "sequence_bias": "what is added to the logits of sequences of tokens",
    "bad_words_ids": "sequences of tokens that must not occur",
    "suppress_tokens": "tokens that must not occur",
    "begin_suppress_tokens": "tokens that must not begin a text",
    "forced_bos_token_id": "the token after a prompt of one token",
    "forced_eos_token_id": "the last token of a text that reaches its maximum length",
    "exponential_decay_length_penalty": "makes an end more likely the longer the text is",
    "remove_invalid_values": "takes NaN as 0 and infinity as the largest number",
    "renormalize_logits": "turns logits into logarithms of probabilities",
    # When a text ends.
    "max_new_tokens": "maximum tokens of a text, if the caller sets none",
    "max_length": "maximum tokens of prompt and text, if the caller sets none for the text",
    "min_new_tokens": "minimum tokens of a text",
    "min_length": "minimum tokens of prompt and text",
    "max_time": "seconds after which a text ends",
    "stop_strings": "strings that end a text, if the caller sets none",
}

_BEAMS = "only beam search reads it"
_ASSISTED = "speculative decoding changes the speed, not the text"
_OUTPUTS = "chooses what transformers returns besides the text"
_RECORD = "records where the file comes from"
_SPEED = "changes speed or memory, not the text"
_QWEN = "only the code of Qwen 1 reads it"

_HARMLESS = {
    "early_stopping": _BEAMS,
    "length_penalty": _BEAMS,
    "low_memory": _SPEED,
    "use_cache": _SPEED,
    "cache_config": _SPEED,
    "max_cache_len": _SPEED,
    "prefill_chunk_size": _SPEED,
    "compile_config": _SPEED,
    "disable_compile": _SPEED,
    "continuous_batching_config": _SPEED,
    "use_mtp": _ASSISTED,
    "num_assistant_tokens": _ASSISTED,
    "num_assistant_tokens_schedule": _ASSISTED,
    "assistant_confidence_threshold": _ASSISTED,
    "assistant_early_exit": _ASSISTED,
    "assistant_lookbehind": _ASSISTED,
    "assistant_ensemble_weight": "only used with another model that assists",
    "target_lookbehind": _ASSISTED,
    "prompt_lookup_num_tokens": _ASSISTED,
    "max_matching_ngram_size": _ASSISTED,
    "speculation_type": _ASSISTED,
    "output_attentions": _OUTPUTS,
    "output_hidden_states": _OUTPUTS,
    "output_scores": _OUTPUTS,
    "output_logits": _OUTPUTS,
    "return_dict_in_generate": _OUTPUTS,
    "bos_token_id": "begins a text without a prompt, and every text has one here",
    "pad_token_id": "fills the shorter prompts of a batch, which are not padded here",
    "decoder_start_token_id": "only models with an encoder read it",
    "is_encoder_decoder": "the architecture decides",
    "presence_penalty": "transformers does not read it; an option of the same name applies it",
    "frequency_penalty": "transformers does not read it; an option of the same name applies it",
    "logit_bias": "transformers does not read it; a setting of the same name applies it",
    "chat_format": _QWEN,
    "max_window_size": _QWEN,
    "stop_words_ids": _QWEN,
    "user_token_id": "only the code of Baichuan reads it",
    "assistant_token_id": "only the code of Baichuan reads it",
    "trust_remote_code": "no code from a model's directory is ever run",
    "auto_map": "no code from a model's directory is ever run",
    "_from_model_config": _RECORD,
    "_commit_hash": _RECORD,
    "_name_or_path": _RECORD,
    "_original_object_hash": _RECORD,
    "transformers_version": _RECORD,
    "torch_dtype": "the tensors have their own dtypes",
    "dtype": "the tensors have their own dtypes",
    "model_type": "config.json has it",
    "architectures": "config.json has it",
}

# What each would do, and the values with which it does nothing.
_UNSUPPORTED: dict[str, tuple[str, tuple[object, ...]]] = {
    "num_beams": ("beam search", (1,)),
    "num_beam_groups": ("group beam search", (1,)),
    "diversity_penalty": ("group beam search", (0.0, 0)),
    "constraints": ("constrained beam search", ()),
    "force_words_ids": ("constrained beam search", ()),
    "penalty_alpha": ("contrastive search", (0.0, 0)),
    "dola_layers": ("DoLa, which compares the logits of layers", ()),
    "guidance_scale": ("classifier-free guidance", (1.0, 1)),
    "watermarking_config": ("a watermark in the text", ()),
    "token_healing": ("another tokenization of the end of the prompt", (False,)),
    "num_return_sequences": ("several texts for a prompt", (1,)),
    "is_assistant": ("a text that ends where the model is unsure", (False,)),
    "cache_implementation": (
        "a KV cache of fewer bits",
        (
            "dynamic", "dynamic_full", "static", "offloaded", "offloaded_static", "sliding_window",
            "hybrid", "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked", "paged",
        ),
    ),
    "force_bos_token_to_be_generated": ("a first token that is always BOS", (False,)),
    "custom_generate": ("generation by code from the model's directory", ()),
    "forced_decoder_ids": ("forced tokens, which transformers removed", ([],)),
}  # fmt: skip

GENERATION: Keys = (
    {key: Key(USED, note) for key, note in _USED.items()}
    | {key: Key(HARMLESS, note) for key, note in _HARMLESS.items()}
    | {key: Key(UNSUPPORTED, note, neutral) for key, (note, neutral) in _UNSUPPORTED.items()}
)


def of_model(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Return the settings of a model's generation, as ``transformers`` 5 chooses them.

    Args:
        config: the object in config.json. Old models have the settings there.
        generation_config: the object in generation_config.json; None: there is no such file.
    """
    if generation_config is not None:
        return generation_config
    return {key: value for key, value in config.items() if key in GENERATION}


def not_applied(config: Mapping[str, Any]) -> list[str]:
    """Return the keys of a generation_config.json whose effect on the text is not implemented."""
    return [
        key
        for key, value in config.items()
        if key in GENERATION and GENERATION[key].has_effect(value)
    ]
