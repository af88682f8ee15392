"""Tokens that a model's files add to tokenizer.json, as ``transformers`` adds them.

They are listed in tokenizer_config.json (added_tokens_decoder, extra_special_tokens or
additional_special_tokens, and names such as eos_token), or in files of old versions of
transformers: added_tokens.json and special_tokens_map.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..config import read_json
from ..errors import ModelError
from .library import call

if TYPE_CHECKING:
    import tokenizers

_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def add_tokens(
    inner: tokenizers.Tokenizer, files: Mapping[str, bytes], named: Iterable[str]
) -> None:
    """Add tokens that tokenizer.json lacks or has with other flags.

    Args:
        inner: the tokenizer, which is changed.
        files: the model's files.
        named: texts of the tokens that have names (eos_token, ...).

    Raises:
        ModelError: a list of tokens is damaged.
    """
    import tokenizers

    config = read_json(files, "tokenizer_config.json")
    named = list(named)
    extra = _extra(config, files)
    known = {repr(token) for token in inner.get_added_tokens_decoder().values()}
    for values in _listed(config, files, {*named, *(t["content"] for t in extra)}):
        token = _token(values)
        if repr(token) not in known:
            call("have tokens added", inner.add_tokens, [token])
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    special = [tokenizers.AddedToken(name, special=True) for name in named]
    for token in (*special, *map(_token, extra)):
        if token.content not in known:
            known.add(token.content)
            call("have tokens added", inner.add_tokens, [token])


def _token(values: Mapping[str, Any]) -> tokenizers.AddedToken:
    import tokenizers

    chosen = {key: values[key] for key in _FLAGS if key in values}
    return call(f"have {values!r:.80} added", lambda: tokenizers.AddedToken(**chosen))


def _listed(
    config: Mapping[str, Any], files: Mapping[str, bytes], special: set[str]
) -> list[dict[str, Any]]:
    """Return the tokens that a file lists with their ids, in the order of their ids."""
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        try:
            return [token for _, token in sorted((int(i), dict(t)) for i, t in listed.items())]
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"tokenizer_config.json: added_tokens_decoder does not map ids to tokens: {error}"
            ) from error
    ids = read_json(files, "added_tokens.json")
    if not all(isinstance(i, int) for i in ids.values()):
        raise ModelError("added_tokens.json: found an id that is no integer")
    texts = sorted(ids, key=lambda text: int(ids[text]))
    return [
        {"content": text, "normalized": text not in special, "special": text in special}
        for text in texts
    ]


def _extra(config: Mapping[str, Any], files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the further special tokens, which have no names."""
    found = _extra_of("tokenizer_config.json", config)
    if "added_tokens_decoder" in config:
        return found
    of_map = _extra_of("special_tokens_map.json", read_json(files, "special_tokens_map.json"))
    return found + [token for token in of_map if token not in found]


def _extra_of(name: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    key = "extra_special_tokens"
    if not config.get(key):
        key = "additional_special_tokens"
    tokens = config.get(key)
    if tokens is None or isinstance(tokens, dict):  # a dict gives names: see special_tokens.py
        return []
    if not isinstance(tokens, list):
        raise ModelError(f"{name}: {key} is {tokens!r:.80}, expected a list of tokens")
    return [_extra_token(name, key, token) for token in tokens]


def _extra_token(name: str, key: str, token: object) -> dict[str, Any]:
    if isinstance(token, str):
        return {"content": token, "special": True}
    if isinstance(token, dict) and isinstance(token.get("content"), str):
        return {"special": True, **token}
    raise ModelError(f"{name}: {key} has {token!r:.80}, expected a token")
