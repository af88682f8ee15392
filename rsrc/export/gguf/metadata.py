"""How the metadata of a GGUF file are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...common.errors import ExportError

if TYPE_CHECKING:
    from gguf import GGUFWriter


def add_metadata(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Add each value with the GGUF type that fits it.

    Raises:
        ExportError: a string is not valid Unicode, or an integer does not fit 64 bits.
    """
    for key, value in metadata.items():
        _check_value(key, value)
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value) if value < 1 << 32 else writer.add_uint64(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _check_value(key: str, value: Any) -> None:
    texts = value if isinstance(value, list) else [value]
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        raise ExportError(
            f"{key}: found half of a surrogate pair, which is not valid Unicode"
        ) from None
    if isinstance(value, int) and not 0 <= value < 1 << 64:
        raise ExportError(f"{key}: {str(value)[:40]} is not an unsigned 64-bit integer")
