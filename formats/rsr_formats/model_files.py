"""The small files of a model directory: their names, their limits, and JSON from strangers."""

from __future__ import annotations

import json
from typing import Any

from .errors import RsrError

# Files that a model needs beside its tensors.
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

# Limits in bytes, far above every published file. Parsing JSON needs about 30 times its size,
# nothing but brackets 50 times.
MAX_CONFIG = 1 << 20  # config.json
MAX_JSON = 16 << 20  # other JSON files but tokenizers; the largest tokenizer_config.json has 0.3 MB
MAX_TOKENIZER = 64 << 20  # tokenizer.json; 40 MB is the largest known
MAX_FILE = 256 << 20  # a file that is only copied


def parse_object(data: bytes, where: str, limit: int, error: type[RsrError]) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Args:
        data: the file.
        where: names it in messages.
        limit: bytes that it may have.
        error: what to raise.

    Raises:
        error: the file is larger, is not valid JSON, or is not an object.
    """
    check_size(len(data), where, limit, error)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as invalid:
        raise error(f"{where}: not valid JSON: {invalid}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def check_size(size: int, where: str, limit: int, error: type[RsrError]) -> None:
    """Check the size of a file in bytes before it is read or copied.

    Raises:
        error: it is larger than `limit`.
    """
    if size > limit:
        raise error(f"{where}: {size:,} bytes, the limit is {limit:,}")
