"""The small JSON files of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsr_formats.model_files import MAX_JSON, parse_object

from .errors import ModelError


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in the file `name`, {} if there is no such file.

    Raises:
        ModelError: the file is larger than 16 MiB, is not valid JSON, or is not an object.
    """
    return parse_object(files[name], name, MAX_JSON, ModelError) if name in files else {}
