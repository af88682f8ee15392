"""Tokens that a model's files add to tokenizer.json, as ``transformers`` adds them.

They are listed in tokenizer_config.json (added_tokens_decoder, extra_special_tokens or
additional_special_tokens, and names such as eos_token), or in files of old versions of
transformers: added_tokens.json and special_tokens_map.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rsr_formats.text import shown

from ..config import read_json
from ..errors import ModelError
from .library import call

if TYPE_CHECKING:
    import tokenizers

_Values = dict[str, Any]  # text and flags of a token, as an object in JSON

_EXTRA = "extra_special_tokens"
_ADDITIONAL = "additional_special_tokens"  # its name before transformers 5
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
    config = read_json(files, "tokenizer_config.json")
    named = list(named)
    if "added_tokens_decoder" in config:
        extra = _extra_of("tokenizer_config.json", config)
        listed = _listed(config)
    else:
        extra, listed = _of_old_files(config, files, named, inner)
    known = {repr(token) for token in inner.get_added_tokens_decoder().values()}
    # All at once: the library prepares its search for tokens anew in each call.
    new = [token for token in map(_token, listed) if repr(token) not in known]
    call("have tokens added", inner.add_tokens, new)
    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    special = [_token({"content": name, "special": True}) for name in named]
    unknown: dict[str, tokenizers.AddedToken] = {}
    for token in (*special, *map(_token, extra)):
        if token.content not in known:
            unknown.setdefault(token.content, token)
    call("have tokens added", inner.add_tokens, list(unknown.values()))


def _token(values: Mapping[str, Any]) -> tokenizers.AddedToken:
    import tokenizers

    chosen = {key: values[key] for key in _FLAGS if key in values}
    return call(f"have {values!r:.80} added", lambda: tokenizers.AddedToken(**chosen))


def _listed(config: Mapping[str, Any]) -> list[_Values]:
    """Return the tokens of added_tokens_decoder, in the order of their ids."""
    listed = config["added_tokens_decoder"]
    try:
        return [token for _, token in sorted((int(i), dict(t)) for i, t in listed.items())]
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"tokenizer_config.json: added_tokens_decoder does not map ids to tokens: {error}"
        ) from error


def _of_old_files(
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    named: Iterable[str],
    inner: tokenizers.Tokenizer,
) -> tuple[list[_Values], list[_Values]]:
    """Return the further special tokens, and the tokens of added_tokens.json.

    An id that tokenizer.json has an added token for is that token, whatever added_tokens.json says.
    """
    extra = _extra_of("tokenizer_config.json", config)
    map_name = "special_tokens_map.json"
    special_map = read_json(files, map_name)
    extra += [{**t, "special": True} for t in _tokens(map_name, special_map, _EXTRA)]
    special = {*named, *(values["content"] for values in extra)}
    if not extra:
        extra = [{**t, "special": True} for t in _tokens(map_name, special_map, _ADDITIONAL)]
    ids = read_json(files, "added_tokens.json")
    if not all(isinstance(id_, int) for id_ in ids.values()):
        raise ModelError("added_tokens.json: found an id that is no integer")
    taken = inner.get_added_tokens_decoder()
    texts = sorted(
        (text for text in ids if ids[text] not in taken), key=lambda text: int(ids[text])
    )
    listed = [
        {"content": text, "normalized": text not in special, "special": text in special}
        for text in texts
    ]
    return extra, listed


def _extra_of(name: str, config: Mapping[str, Any]) -> list[_Values]:
    """Return the special tokens of a file that have no names."""
    return _tokens(name, config, _EXTRA if config.get(_EXTRA) else _ADDITIONAL)


def _tokens(name: str, config: Mapping[str, Any], key: str) -> list[_Values]:
    """Return a list of tokens in a file; [] if there is none."""
    tokens = config.get(key)
    if tokens is None or isinstance(tokens, dict):  # a dict gives names: see special_tokens.py
        return []
    if not isinstance(tokens, list):
        raise ModelError(f"{name}: {key} is {shown(tokens)}, expected a list of tokens")
    for token in tokens:
        is_object = isinstance(token, dict) and isinstance(token.get("content"), str)
        if not is_object and not isinstance(token, str):
            raise ModelError(f"{name}: {key} has {shown(token)}, expected a token")
    return [{"content": t, "special": True} if isinstance(t, str) else dict(t) for t in tokens]
