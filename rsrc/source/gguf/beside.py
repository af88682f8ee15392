"""Compare a config.json beside a GGUF file, which applies, with what the file's metadata say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsr_formats.architectures import first_class
from rsr_formats.text import listed

from .values import number_of

# Names of one token where the other file may have a list, and what tensors decide.
_OTHER = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
_MAX_NAME = 120  # characters of a key


def contradiction(made: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Return a sentence on settings of the metadata that do not apply, None if there are none.

    Args:
        made: the config.json made from the metadata.
        given: the config.json beside the file.
    """
    rope = given.get("rope_scaling") or given.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    theta = rope.get("rope_theta")
    given = {**given, "rope_theta": given.get("rope_theta") if theta is None else theta}
    names = [
        key
        for key, value in made.items()
        if isinstance(value, bool | int | float | str)
        and key not in _OTHER
        and given.get(key) is not None
        and not _equal(given[key], value)
    ]
    if first_class(given) not in (None, first_class(made)):
        names.insert(0, "architectures")
    if "rope_scaling" in made and rope.get("rope_type", rope.get("type")) in (None, "default"):
        names.append("rope_scaling")
    rotated = "partial_rotary_factor"
    if rotated in made and given.get(rotated) is None and rope.get(rotated) is None:
        names.append(rotated)
    names += [key[:_MAX_NAME] for key in made.get("gguf_metadata", {})]
    if not names:
        return None
    return f"config.json applies, and the GGUF metadata differ from it in {listed(names)}"


def _equal(a: Any, b: Any) -> bool:
    number = number_of(b)  # the metadata have float32
    return bool(a == b) if number is None else number_of(a) == number
