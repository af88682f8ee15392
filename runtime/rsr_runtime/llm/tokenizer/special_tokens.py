"""The special tokens that a model's files name: bos_token, eos_token, ..."""

from __future__ import annotations

from collections.abc import Mapping

from rsr_formats.text import shown

from ..config import read_json
from ..errors import ModelError

_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def special_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return a model's special tokens by name: {"bos_token": "<s>", ...}.

    As in ``transformers``, a name is one of the usual seven or any other key that ends with
    "_token".

    Raises:
        ModelError: a file is damaged, or the value of a name is not a token.
    """
    config = read_json(files, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # tokenizer_config.json of old transformers
        config = config | read_json(files, "special_tokens_map.json")
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        config = extra | config
    others = [
        name
        for name, value in config.items()
        if name.endswith("_token") and name not in _NAMES and isinstance(value, (str, dict))
    ]
    names = [*_NAMES, *others]
    return {name: _content(name, config[name]) for name in names if config.get(name) is not None}


def _content(name: str, value: object) -> str:
    """Return the text of a token, given as a string or as an object with flags."""
    if isinstance(value, dict):
        value = value.get("content")
    if not isinstance(value, str):
        raise ModelError(f"tokenizer_config.json: {name} is {shown(value)}, expected a token")
    return value
