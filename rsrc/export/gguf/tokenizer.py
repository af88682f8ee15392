"""The tokenizer of a model as GGUF metadata."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from rsr_formats import RsrFile
from rsr_formats.text import quoted

from ...source.gguf.tokenizer_common import Note
from ...source.gguf.tokenizer_metadata import tokenizer_metadata
from ..model_files import Config, find_file, read_json
from .output import GgufOutput


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
    texts = dict.fromkeys(_special_texts(config))
    further = _further_tokens(file, config, texts)
    known = _add_tokens(document, further, 1 << 24 if rows is None else rows)
    if lost := [text for text in texts if text not in known]:
        note(f"not written, as they have no id within the embedding: tokens {quoted(lost)}")
    return tokenizer_metadata(document, config, rows, note)


def _read(file: RsrFile, name: str) -> Config:
    """Return a model file that is a JSON object, {} if there is none."""
    entry = find_file(file, name)
    return {} if entry is None else read_json(file, entry)


def _special_texts(config: Config) -> Iterator[str]:
    """Yield the texts of special tokens in tokenizer_config.json."""
    found: list[object] = [value for name, value in config.items() if name.endswith("_token")]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        listed = config.get(key)
        found += listed if isinstance(listed, list) else []
        found += listed.values() if isinstance(listed, dict) else []  # by their names
    for token in found:
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield text


def _further_tokens(file: RsrFile, config: Config, special: Container[str]) -> list[Config]:
    """Return the added tokens that other files list, as tokenizer.json would."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        return [
            {**token, "id": int(i)}
            for i, token in decoder.items()
            if i.isascii() and i.isdecimal() and len(i) < 10 and isinstance(token, dict)
        ]
    return [
        {"content": text, "id": i, "special": text in special}
        for text, i in _read(file, "added_tokens.json").items()
    ]


def _add_tokens(document: Config, tokens: Sequence[Config], rows: int) -> Container[str]:
    """Add tokens to those of tokenizer.json, except where it has their text or their id.

    Args:
        document: tokenizer.json, which is changed.
        tokens: each with "content", "id" and "special".
        rows: number of rows of the embedding; tokens beyond it are left out.

    Returns:
        The texts of all tokens.
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
    return known
