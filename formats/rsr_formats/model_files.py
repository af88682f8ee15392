"""The small files of a model directory: names, size limits, and parsing of untrusted JSON."""

from __future__ import annotations

import json
from typing import Any

from .errors import RsrError
from .text import shown_json

# Files that a model needs in addition to its tensors.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

# Limits in bytes, far above every published file. Parsing JSON takes about 30 times its size in
# memory, and up to 50 times for nested brackets.
MAX_CONFIG = 1 << 20  # config.json
MAX_JSON = 16 << 20  # other JSON files; the largest tokenizer_config.json has 0.3 MB
MAX_TOKENIZER = 64 << 20  # tokenizer.json; the largest known has 40 MB
MAX_FILE = 256 << 20  # files that are copied, not parsed


def parse_object(data: bytes, where: str, limit: int, error: type[RsrError]) -> dict[str, Any]:
    """Parse an untrusted JSON object.

    Args:
        data: contents of the file.
        where: its name, for messages.
        limit: its maximum size in bytes.
        error: exception class to raise.

    Raises:
        error: the file exceeds the limit, is not valid JSON, or is not an object.
    """
    check_size(len(data), where, limit, error)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as invalid:
        raise error(f"{where}: not valid JSON: {invalid}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, found {shown_json(value)}")
    return value


def check_size(size: int, where: str, limit: int, error: type[RsrError]) -> None:
    """Raise `error` if a file of `size` bytes exceeds `limit`; call it before reading the file."""
    if size > limit:
        raise error(f"{where}: {size:,} bytes, the limit is {limit:,}")
