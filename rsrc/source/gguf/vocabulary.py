"""What both ways between the tokenizers of GGUF and of Hugging Face share."""

from __future__ import annotations

from collections.abc import Callable

Note = Callable[[str], None]

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE = "\u2581"  # how SentencePiece spells a space
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}

# tokenizer_config.json: key of the metadata.
SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


class UnfitError(Exception):
    """Why there is no tokenizer, in words; it does not leave the package."""


def ignore(text: str) -> None:
    """Do nothing with a note."""
