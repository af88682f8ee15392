"""Fields that hold one text or several, each a text or its tokens."""

from __future__ import annotations

from typing import Any

from .errors import refused


def text_list(param: str, given: Any, noun: str, most: int, advice: str = "") -> list[Any]:
    """Return the texts that a field holds.

    Args:
        param: the field.
        given: its value: a text, the tokens of one, or a list of texts and lists of tokens.
        noun: what the field's texts are called.
        most: how many there may be.
        advice: follows the message about an empty one.

    Raises:
        ApiError: there are none or too many, one is empty, or a number is beside texts.
    """
    texts: list[Any] = [given]
    if isinstance(given, list) and not (given and all(type(one) is int for one in given)):
        texts = given
    if not texts or len(texts) > most:
        raise refused(param, f"found {len(texts)} {noun}s, expected 1 to {most}")
    for number, one in enumerate(texts):
        if isinstance(one, int):
            raise refused(param, f"found the number {one} beside texts or lists of tokens")
        if not one:
            raise refused(param, f"{noun} {number} is empty{advice}")
    return texts
