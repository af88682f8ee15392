"""How much longer a tokenizer.json can make a text.

The steps of a tokenizer may replace a character by a text of any length, one after another, and
the `tokenizers` library ends the whole process when memory runs out. Steps of real tokenizers make
one character, or one token, of one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    import tokenizers

MAX_GROWTH = 64  # characters that may become of one; tokens, of one text of one token
_MAX_CHARACTER = 1024  # bytes that Unicode's own tables may write for a character: 33 are most


def check_growth(tokenizer: tokenizers.Tokenizer) -> None:
    """Check that no part of a tokenizer makes much of little.

    Raises:
        ModelError: one does.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for step in steps_of(getattr(tokenizer, part)):
            growth *= max(1, *map(len, _inserted(step)))
            if growth > MAX_GROWTH or _longest_written(step) > _MAX_CHARACTER:
                raise ModelError(
                    f"tokenizer.json: the {part} can make one character a text of more than "
                    f"{MAX_GROWTH} characters, which no real one does; is the file damaged?"
                )
    added = 1
    for step in steps_of(tokenizer.post_processor):
        added *= max(1, _pieces(step))
        if added > MAX_GROWTH:
            raise ModelError(
                f"tokenizer.json: the post_processor adds more than {MAX_GROWTH} tokens to a text, "
                "which no real one does; is the file damaged?"
            )


def steps_of(part: Any) -> list[dict[str, Any]]:
    """Return the settings of each step of a tokenizer's part, sequences laid flat; [] for None."""
    return [] if part is None else list(_flat(json.loads(part.__getstate__())))


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if step.get("type") == "Sequence":
        # The key is the part's own: normalizers, pretokenizers, decoders, processors.
        for inner in (
            inner for value in step.values() if isinstance(value, list) for inner in value
        ):
            yield from _flat(inner)
    else:
        yield step


def _inserted(step: dict[str, Any]) -> list[str]:
    """Return the texts that a step can write where there was a character or nothing."""
    names = ("content", "prepend", "replacement", "prefix", "suffix")
    return ["", *(step[name] for name in names if isinstance(step.get(name), str))]


def _longest_written(step: dict[str, Any]) -> int:
    """Return the longest text, in bytes, that SentencePiece's table has for a character.

    The table is the length of an index in four bytes, the index, and texts that end with a zero.
    """
    table = step.get("precompiled_charsmap")
    if not isinstance(table, str):
        return 0
    data = base64.b64decode(table)
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _pieces(step: dict[str, Any]) -> int:
    """Return how many parts, or tokens of special ones, a template puts together for one text."""
    single = step.get("single")
    if not isinstance(single, list):
        return 1
    special = step.get("special_tokens") or {}
    longest = max((len(token["ids"]) for token in special.values()), default=1)
    return len(single) * max(1, longest)
