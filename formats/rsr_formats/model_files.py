"""The small files of a model directory: names, size limits, and parsing of untrusted JSON."""

from __future__ import annotations

import json
from typing import Any

from .errors import RsrError
from .text import shown_json

# What sentence-transformers adds to a model that embeds texts.
EMBEDDING_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling.config.json",
)
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
    *EMBEDDING_FILES,
)
_IN_FOLDERS = {"1_Pooling.config.json": "1_Pooling/config.json"}
LISTS = ("modules.json",)  # JSON files with a list; the others hold an object

# Limits in bytes, far above every published file. Parsing JSON takes about 30 times its size in
# memory, and up to 50 times for nested brackets.
MAX_CONFIG = 1 << 20  # config.json
MAX_JSON = 16 << 20  # other JSON files; the largest tokenizer_config.json has 0.3 MB
MAX_TOKENIZER = 64 << 20  # tokenizer.json; the largest known has 40 MB
MAX_FILE = 256 << 20  # files that are copied, not parsed


def path_in_model(name: str) -> str:
    """Return the path in a model directory of one of `MODEL_FILES`.

    File names in a `.rsr` file have no "/", so a "." follows the name of a folder there.
    """
    return _IN_FOLDERS.get(name, name)


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
    value = _parse(data, where, limit, error)
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, found {shown_json(value)}")
    return value


def parse_list(data: bytes, where: str, limit: int, error: type[RsrError]) -> list[Any]:
    """Parse an untrusted JSON list; arguments and errors as for `parse_object`."""
    value = _parse(data, where, limit, error)
    if not isinstance(value, list):
        raise error(f"{where}: expected a JSON list, found {shown_json(value)}")
    return value


def _parse(data: bytes, where: str, limit: int, error: type[RsrError]) -> object:
    check_size(len(data), where, limit, error)
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as invalid:
        raise error(f"{where}: not valid JSON: {invalid}") from None
    return value


def check_size(size: int, where: str, limit: int, error: type[RsrError]) -> None:
    """Raise `error` if a file of `size` bytes exceeds `limit`; call it before reading the file."""
    if size > limit:
        raise error(f"{where}: {size:,} bytes, the limit is {limit:,}")
