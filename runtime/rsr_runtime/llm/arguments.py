"""Checks of the arguments that `LanguageModel` takes, with messages that say what to pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from ..errors import OptionError
from ..inputs import kind_of
from .errors import PromptError
from .sampling import Sampling


def whole_number(
    name: str, value: object, low: int, high: int | None = None, what: str = ""
) -> int:
    """Return an option that is a whole number.

    Args:
        name: of the option.
        value: what was given.
        low: smallest value.
        high: largest value, or None.
        what: what the largest value is.

    Raises:
        OptionError: it is not a whole number from low to high.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if is_whole else low - 1  # type: ignore[call-overload]
    if low <= number and (high is None or number <= high):
        return number
    expected = f"an integer, {low} or more" if high is None else f"{low} to {high}, {what}"
    of_kind = "" if is_whole else f" ({kind_of(value)} is no integer)"
    raise OptionError(f"{name}: found {_shown(value)}, expected {expected}{of_kind}")


def stop_strings(stop: object) -> tuple[str, ...]:
    """Return the strings that end a text, given as one or several; their reader checks each.

    Raises:
        OptionError: `stop` is neither.
    """
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Iterable) or isinstance(stop, (bytes, Mapping)):
        raise OptionError(
            f'stop is {kind_of(stop)}, expected strings: stop=["one", "two"], or nothing'
        )
    return tuple(stop)


def checked_sampling(given: object) -> Sampling:
    """Return the sampling that was given.

    Raises:
        OptionError: it is something else.
    """
    if isinstance(given, Sampling):
        return given
    fix = "Sampling(**...)" if isinstance(given, Mapping) else "Sampling(temperature=..., seed=...)"
    raise OptionError(f"sampling is {kind_of(given)}, expected Sampling: {fix}")


def is_speculating(speculate: object) -> bool:
    """Return whether an option asks for speculation.

    Raises:
        OptionError: it is neither "ngram" nor "off".
    """
    if not isinstance(speculate, str) or speculate not in ("ngram", "off"):
        raise OptionError(f"speculate: found {_shown(speculate)}, expected 'ngram' or 'off'")
    return speculate == "ngram"


def prompt_list(prompts: object, advice: str = "use generate") -> list[Any]:
    """Return the prompts of a batch; `token_ids` checks each that is not a string.

    Args:
        prompts: what was given.
        advice: what to do with a single prompt.

    Raises:
        PromptError: it is a single prompt, or no prompt at all.
    """
    if isinstance(prompts, Mapping):
        raise PromptError(
            f"found {kind_of(prompts)}, expected a list of prompts{_of_keys(prompts)}"
        )
    if not isinstance(prompts, Iterable) or isinstance(prompts, (str, bytes, bytearray)):
        raise PromptError(f"found a single prompt, expected a list: {advice}")
    found = list(prompts)
    if any(isinstance(one, Integral) or getattr(one, "shape", None) == () for one in found):
        raise PromptError(f"found the tokens of a single prompt, expected a list: {advice}")
    return found


def token_ids(tokens: object) -> list[int]:
    """Return tokens, given as a sequence or array of integers of any library.

    Raises:
        PromptError: they are something else.
    """
    of_array = getattr(tokens, "shape", None)
    shape = tuple(of_array) if isinstance(of_array, Iterable) else (None,)
    if len(shape) != 1:
        fix = "take one of its rows, or use generate_all" if len(shape) == 2 else "flatten it"
        raise PromptError(f"found tokens of shape {shape}, expected one dimension: {fix}")
    kind, fix = type(tokens).__name__, ""
    if isinstance(tokens, Mapping):
        fix = _of_keys(tokens)
    elif isinstance(tokens, Iterable) and not isinstance(tokens, (str, bytes, bytearray)):
        found = list(tokens)
        if set(map(type, found)) <= {int}:  # usual, and quickly found
            return found
        others = {_type_of(token) for token in found if not _is_integer(token)}
        if not others:
            return [operator.index(token) for token in found]
        kind += f" with {' and '.join(sorted(others))} in it"
        fix = ": generate_all takes several prompts" if "str" in others else ""
    raise PromptError(f"found a prompt of type {kind}, expected a string or integer tokens{fix}")


def check_vocabulary(tokens: Sequence[int], vocab_size: int) -> None:
    """Check tokens, at least one, against the model's vocabulary.

    Raises:
        PromptError: a token is outside.
    """
    for token in (min(tokens), max(tokens)):
        if not 0 <= token < vocab_size:
            raise PromptError(
                f"found token {token}, expected a token below the model's vocab_size, "
                f"{vocab_size}: is the tokenizer another model's?"
            )


def _is_integer(token: object) -> bool:
    try:
        operator.index(token)  # type: ignore[arg-type]
    except TypeError:
        return False
    return _type_of(token).rpartition(".")[2] != "bool"


def _type_of(token: object) -> str:
    """Return "float", or the dtype of an item of an array: "torch.float32"."""
    return str(getattr(token, "dtype", type(token).__name__))


def _of_keys(mapping: Mapping[object, object]) -> str:
    return ': its ["input_ids"]' if "input_ids" in mapping else ""


def _shown(value: object) -> str:
    # Python refuses to write integers of thousands of digits.
    is_huge = isinstance(value, int) and value.bit_length() > 128
    return (
        "an integer of 39 digits or more"
        if is_huge
        else f"{value!r:.40}"
        if isinstance(value, str)
        else f"{value!s:.40}"
    )
