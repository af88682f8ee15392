"""Limits on how much a tokenizer.json may expand its input.

The steps of a tokenizer may each replace a character by a text of any length, and the `tokenizers`
library aborts the process when it runs out of memory. The steps of real tokenizers write about one
character, or one token, for each character.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    import tokenizers

MAX_GROWTH = 64  # characters written for a character; tokens added to a text
_MAX_CHARACTER = 1024  # bytes that a charsmap writes for a character; Unicode's own needs 33


def check_growth(tokenizer: tokenizers.Tokenizer) -> None:
    """Check that no part of a tokenizer exceeds `MAX_GROWTH`.

    Raises:
        ModelError: a part does.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for step in steps_of(getattr(tokenizer, part)):
            growth *= max(1, *map(len, _inserted(step)))
            if growth > MAX_GROWTH or _longest_written(step) > _MAX_CHARACTER:
                raise ModelError(
                    f"tokenizer.json: the {part} can make one character more than {MAX_GROWTH} "
                    "characters, which no real tokenizer does: is the file damaged?"
                )
    added = 1
    for step in steps_of(tokenizer.post_processor):
        added *= max(1, _pieces(step))
        if added > MAX_GROWTH:
            raise ModelError(
                f"tokenizer.json: the post_processor adds more than {MAX_GROWTH} tokens to a text, "
                "which no real tokenizer does: is the file damaged?"
            )


def steps_of(part: Any) -> list[dict[str, Any]]:
    """Return the settings of each step of a part, with sequences flattened; [] for None."""
    return [] if part is None else list(_flat(json.loads(part.__getstate__())))


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if step.get("type") != "Sequence":
        yield step
        return
    # The key of the list is normalizers, pretokenizers, decoders or processors.
    for value in step.values():
        if isinstance(value, list):
            for inner in value:
                yield from _flat(inner)


def _inserted(step: dict[str, Any]) -> list[str]:
    """Return the texts that a step can insert or write for a character."""
    names = ("content", "prepend", "replacement", "prefix", "suffix")
    return ["", *(step[name] for name in names if isinstance(step.get(name), str))]


def _longest_written(step: dict[str, Any]) -> int:
    """Return the longest text, in bytes, that SentencePiece's table has for a character.

    The table is the length of a trie in four bytes, the trie, and zero-terminated texts.
    """
    table = step.get("precompiled_charsmap")
    if not isinstance(table, str):
        return 0
    data = base64.b64decode(table)
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _pieces(step: dict[str, Any]) -> int:
    """Return an upper bound on the pieces or tokens that a template makes of one text."""
    single = step.get("single")
    if not isinstance(single, list):
        return 1
    special = step.get("special_tokens") or {}
    longest = max((len(token["ids"]) for token in special.values()), default=1)
    return len(single) * max(1, longest)
