"""Checks of the settings of text generation.

Values may come from a stranger's generation_config.json: each may be of any type and size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

from rsr_formats.text import shown

from ...errors import OptionError

_LARGEST = 1 << 31  # above any real token or length
_MAX_IDS = 1 << 18  # tokens in a setting; each costs memory, and time for every token of a text

Ids = tuple[int, ...]
Check = Callable[[str, Any], Any]  # takes the name and value of a setting, returns what is kept


def _wrong(name: str, value: object, expected: str) -> OptionError:
    found = "None" if value is None else shown(value)
    return OptionError(f"{name} is {found}, expected {expected}")


def _number(expected: str, fits: Callable[[Any], bool]) -> Check:
    return _numeric(Real, f"a number, {expected}", fits)


def _whole(expected: str, fits: Callable[[Any], bool]) -> Check:
    return _numeric(Integral, f"a whole number, {expected}", fits)


def _numeric(kind: type, expected: str, fits: Callable[[Any], bool]) -> Check:
    def check(name: str, value: Any) -> Any:
        right = isinstance(value, kind) and not isinstance(value, bool)
        try:  # isfinite raises OverflowError for an int beyond the floats
            right = right and math.isfinite(value) and fits(value)
        except OverflowError:
            right = False
        if not right:
            raise _wrong(name, value, expected)
        return value

    return check


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _items(name: str, value: Any, expected: str) -> list[Any]:
    """Return the items of a list, tuple, set or array, at most `_MAX_IDS`."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _wrong(name, value, expected)
    items = list(value)
    _check_count(name, len(items))
    return items


def _check_count(name: str, count: int) -> None:
    if count > _MAX_IDS:
        raise OptionError(f"{name} has {count:,} tokens, expected at most {_MAX_IDS:,}")


def _is_token(value: object) -> bool:
    return _is_whole(value) and 0 <= value < _LARGEST


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _suppressed(name: str, value: Any) -> Ids:
    """Keep the tokens that exist: Whisper's files have -1."""
    expected = "a list of tokens"
    items = _items(name, value, expected)
    if not all(map(_is_whole, items)):
        raise _wrong(name, value, expected)
    return tuple(int(i) for i in items if _is_token(i))


def _tokens(name: str, value: Any) -> Ids:
    expected = "a token or a list of tokens"
    items = [value] if _is_whole(value) else _items(name, value, expected)
    if not all(map(_is_token, items)):
        raise _wrong(name, value, f"{expected}, 0 or more")
    return tuple(map(int, items))


def _sequences(name: str, value: Any) -> tuple[Ids, ...]:
    expected = "a list of lists of tokens, none empty"
    sequences = [_items(name, item, expected) for item in _items(name, value, expected)]
    _check_count(name, sum(map(len, sequences)))
    if not all(ids and all(map(_is_token, ids)) for ids in sequences):
        raise _wrong(name, value, expected)
    return tuple(tuple(map(int, ids)) for ids in sequences)


def _pairs(name: str, value: Any, expected: str) -> list[tuple[Any, float]]:
    """Return the keys and biases of a mapping or a list of pairs; -inf is a bias."""
    pairs = [*value.items()] if isinstance(value, Mapping) else _items(name, value, expected)
    found = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise _wrong(name, value, expected)
        key, bias = pair
        is_number = isinstance(bias, Real) and not isinstance(bias, bool)
        if not is_number or not -math.inf <= bias < _LARGEST:  # not NaN
            raise OptionError(
                f"{name} has a bias of {shown(bias)}, expected a number below {_LARGEST:,}"
            )
        found.append((key, float(bias) if bias > -_LARGEST else -math.inf))
    return found


def _sequence_biases(name: str, value: Any) -> tuple[tuple[Ids, float], ...]:
    expected = "a list of pairs, each a list of tokens and a number"
    pairs = _pairs(name, value, expected)
    sequences = _sequences(name, [ids for ids, _ in pairs])
    return tuple(zip(sequences, (bias for _, bias in pairs), strict=True))


def _token_biases(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    pairs = _pairs(name, value, "a number for each token")
    tokens = [token for token, _ in pairs]
    for token in tokens:
        if not _is_token(token):
            raise OptionError(f"{name} has a bias for {shown(token)}, expected a token, 0 or more")
    return tuple(zip(map(int, tokens), (bias for _, bias in pairs), strict=True))


def _decay(name: str, value: Any) -> tuple[int, float]:
    expected = "a pair, a number of tokens and a factor"
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise _wrong(name, value, expected)
    start = _whole("the tokens before the decay", lambda v: abs(v) < _LARGEST)(name, value[0])
    factor = _number("the factor of the decay", lambda v: abs(v) < _LARGEST)(name, value[1])
    return int(start), float(factor)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    expected = "a string or a list of strings, none empty"
    strings = [value] if isinstance(value, str) else _items(name, value, expected)
    if not all(isinstance(string, str) and string for string in strings):
        raise _wrong(name, value, expected)
    return tuple(strings)


_limit = _or_none(_whole("1 or more", lambda v: v >= 1))
_count = _whole("0 (off) or more", lambda v: 0 <= v < _LARGEST)
_penalty = _number("above 0; 1 is off", lambda v: v > 0)
_cutoff = _number("from 0 (off) to 1 (off)", lambda v: 0 <= v <= 1)
_openai = _number("from -2 to 2; 0 is off", lambda v: -2 <= v <= 2)

# How the value of each setting is checked.
KEPT: dict[str, Check] = {
    "temperature": _number("0 (greedy) or more", lambda v: v >= 0),
    "top_k": _whole("0 (off) or more", lambda v: v >= 0),
    "top_p": _number("from 0 to 1 (off)", lambda v: 0 <= v <= 1),
    "min_p": _number("from 0 (off) to 1", lambda v: 0 <= v <= 1),
    "repetition_penalty": _penalty,
    "seed": _or_none(_whole("0 or more, or None", lambda v: v >= 0)),
    "typical_p": _number("above 0, to 1 (off)", lambda v: 0 < v <= 1),
    "top_h": _or_none(_number("above 0, to 1", lambda v: 0 < v <= 1)),
    "epsilon_cutoff": _cutoff,
    "eta_cutoff": _cutoff,
    "presence_penalty": _openai,
    "frequency_penalty": _openai,
    "logit_bias": _token_biases,
    "sequence_bias": _sequence_biases,
    "bad_words_ids": _sequences,
    "suppress_tokens": _suppressed,
    "begin_suppress_tokens": _suppressed,
    "no_repeat_ngram_size": _count,
    "encoder_no_repeat_ngram_size": _count,
    "encoder_repetition_penalty": _penalty,
    "min_new_tokens": _or_none(_count),
    "min_length": _count,
    "max_new_tokens": _limit,
    "max_length": _limit,
    "max_time": _or_none(_number("0 or more seconds", lambda v: v >= 0)),
    "forced_bos_token_id": _or_none(_whole("a token", lambda v: 0 <= v < _LARGEST)),
    "forced_eos_token_id": _tokens,
    "exponential_decay_length_penalty": _or_none(_decay),
    "stop_strings": _strings,
    "remove_invalid_values": _flag,
    "renormalize_logits": _flag,
}
