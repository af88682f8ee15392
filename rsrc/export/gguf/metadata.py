"""The tokenizer in the metadata of a GGUF file, and how metadata are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsr_formats import RsrFile

from ...common.errors import ExportError
from ...source.gguf.tokenizer_common import Note
from ...source.gguf.tokenizer_metadata import tokenizer_metadata
from ..model_files import Config, find_file, read_json
from .tensors import GgufOutput

if TYPE_CHECKING:
    from gguf import GGUFWriter


def tokenizer(file: RsrFile, tensors: Sequence[GgufOutput], note: Note) -> dict[str, Any]:
    """Return the tokenizer in a `.rsr` file as GGUF metadata, or {} if it has no tokenizer.json.

    Raises:
        SourceError: a file of the tokenizer is not a JSON object, or above the size limit.
    """
    entry = find_file(file, "tokenizer.json")
    if entry is None:
        return {}
    config: Config = {}
    if (settings := find_file(file, "tokenizer_config.json")) is not None:
        config = dict(read_json(file, settings))
    template = find_file(file, "chat_template.jinja")  # takes precedence, as in transformers
    if template is not None:
        text = file.section(template.section).tobytes().decode(errors="replace")
        config["chat_template"] = text
    rows = next((t.shape[0] for t in tensors if t.name == "token_embd.weight" and t.shape), None)
    return tokenizer_metadata(read_json(file, entry), config, rows, note)


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
