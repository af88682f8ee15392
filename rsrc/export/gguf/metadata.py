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
    if find_file(file, "tokenizer.json") is None:
        return {}
    config = _read(file, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # of old transformers
        config |= _read(file, "special_tokens_map.json")
    template = find_file(file, "chat_template.jinja")  # takes precedence, as in transformers
    if template is not None:
        text = file.section(template.section).tobytes().decode(errors="replace")
        config["chat_template"] = text
    elif config.get("chat_template") is None:
        config["chat_template"] = _read(file, "chat_template.json").get("chat_template")
    rows = next((t.shape[0] for t in tensors if t.name == "token_embd.weight" and t.shape), None)
    document = _read(file, "tokenizer.json")
    _add_tokens(document, _further_tokens(file, config), 1 << 24 if rows is None else rows)
    return tokenizer_metadata(document, config, rows, note)


def _read(file: RsrFile, name: str) -> Config:
    """Return a model file that is a JSON object, {} if there is none."""
    entry = find_file(file, name)
    return {} if entry is None else read_json(file, entry)


def _further_tokens(file: RsrFile, config: Config) -> list[Config]:
    """Return the added tokens that other files list, as tokenizer.json would."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        return [
            {**token, "id": int(i)}
            for i, token in decoder.items()
            if i.isascii() and i.isdecimal() and len(i) < 10 and isinstance(token, dict)
        ]
    special: list[object] = [value for name, value in config.items() if name.endswith("_token")]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        listed = config.get(key)
        special += listed if isinstance(listed, list) else []
    found = [t.get("content") if isinstance(t, dict) else t for t in special]
    texts = {text for text in found if isinstance(text, str)}
    return [
        {"content": text, "id": i, "special": text in texts}
        for text, i in _read(file, "added_tokens.json").items()
    ]


def _add_tokens(document: Config, tokens: Sequence[Config], rows: int) -> None:
    """Add tokens to those of tokenizer.json, except where it has their text or their id.

    Args:
        document: tokenizer.json, which is changed.
        tokens: each with "content", "id" and "special".
        rows: number of rows of the embedding; tokens beyond it are left out.
    """
    found = document.get("added_tokens")
    document["added_tokens"] = added = [*found] if isinstance(found, list) else []
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    known = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    for token in added:
        if isinstance(token, dict):
            known[str(token.get("content"))] = token.get("id")
    taken = {i for i in known.values() if type(i) is int}
    for token in tokens:
        text, i = token.get("content"), token["id"]
        is_new = isinstance(text, str) and text not in known
        if is_new and type(i) is int and 0 <= i < rows and i not in taken:
            known[text] = i
            taken.add(i)
            added.append(token)


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
