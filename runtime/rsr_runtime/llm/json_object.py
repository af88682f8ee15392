"""Values of an untrusted JSON object, each checked when it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rsr_formats.text import shown

from .errors import ModelError

_LARGEST = 1 << 31  # above any real dimension


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file. As in transformers, null is the same as absent."""

    where: str
    values: Mapping[str, Any]
    # Each method raises ModelError for a value of another type or out of range.

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number; `default` None: the key must be there."""
        expected = "a positive whole number"
        value: int = self._get(key, default, (int,), expected, lambda v: 0 < v < _LARGEST)
        return value

    def count(self, key: str, default: int) -> int:
        """Return a whole number that is not negative."""
        expected = "a whole number from 0"
        value: int = self._get(key, default, (int,), expected, lambda v: 0 <= v < _LARGEST)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._get(key, default, (bool,), "true or false"))

    def number(self, key: str, default: float) -> float:
        """Return a number that is not negative."""
        expected = f"a number from 0 to {_LARGEST:,}"
        return float(self._get(key, default, (int, float), expected, lambda v: 0 <= v <= _LARGEST))

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        return str(self._get(key, default, (str,), "a string"))

    def table(self, key: str) -> Mapping[str, Any]:
        """Return an object, empty if there is none."""
        return dict(self._get(key, {}, (dict,), "an object"))

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Return the ids under a key, an id or a list of ids; -1 stands for no token."""

        def fits(value: Any) -> bool:
            ids = value if isinstance(value, list) else [value]
            return all(type(i) is int and -1 <= i < _LARGEST for i in ids)

        value = self._get(key, [], (int, list), "a token id or a list of token ids", fits)
        return tuple(i for i in (value if isinstance(value, list) else [value]) if i >= 0)

    def _get(
        self,
        key: str,
        default: object,
        types: tuple[type, ...],
        expected: str,
        fits: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if type(value) not in types or not fits(value):  # not isinstance: True is an int
            raise ModelError(f"{self.where}: found {shown(value)} under {key}, expected {expected}")
        return value
