"""The small JSON files of a model, from strangers: read within limits or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import ModelError

_SHOWN = 60  # characters of a value that a message shows
MAX_JSON = 16 << 20  # bytes; the largest tokenizer_config.json seen has some 0.3 MB


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object that the file `name` holds; an empty one where there is no such file.

    Raises:
        ModelError: it is larger than 16 MiB, not JSON, or not an object.
    """
    if name not in files:
        return {}
    data = files[name]
    if len(data) > MAX_JSON:
        raise ModelError(f"{name} has {len(data):,} bytes, expected at most {MAX_JSON:,}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{name} holds a {type(value).__name__}, expected an object")
    return value


def shown(value: object) -> str:
    """Return a JSON value as a message shows it: short, however long or deeply nested it is."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):  # not repr: it may be nested as deep as the stack
        return f"a JSON {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
