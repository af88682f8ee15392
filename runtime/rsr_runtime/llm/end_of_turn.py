"""The tokens that end an answer in a conversation.

Published models often name only the token that ends a text as eos, and not the one that ends a
turn. So turns end at known tokens, too, found by their text, as in llama.cpp.
"""

from __future__ import annotations

from .tokenizer import Tokenizer

_TEXTS = (
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",  # Llama 3, before the result of a tool
    "<|eot|>",  # Llama 4
    "<|im_end|>",  # ChatML: Qwen, SmolLM, Falcon-E
    "<|end|>",  # Phi
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_turn|>",
    "<|endofturn|>",  # HyperCLOVA
    "[|endofturn|]",  # EXAONE
    "<end_of_turn>",  # Gemma
    "<turn|>",  # Gemma 4
    "<eos>",
    "</s>",
    "<|return|>",  # gpt-oss
    "<|call|>",  # gpt-oss
    "<EOT>",
    "_<EOT>",
    "[EOT]",  # Kimi
    "[EOS]",  # Kimi
    "<end_of_utterance>",  # SmolVLM
    "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}"
    "sentence\N{FULLWIDTH VERTICAL LINE}>",  # DeepSeek
)
_OF_A_PART = "<|end|>"  # gpt-oss ends each part of an answer with it
_OF_GPT_OSS = ("<|return|>", "<|call|>")


def end_of_turn_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokenizer's own eos token, and its added tokens that are known to end a turn."""
    found = {text: tokenizer.added_id(text) for text in _TEXTS}
    if all(found[text] is not None for text in _OF_GPT_OSS):
        del found[_OF_A_PART]
    return frozenset(id_ for id_ in (*found.values(), tokenizer.eos_id) if id_ is not None)
