"""Rotary position embeddings (RoPE, arXiv 2104.09864) and their scaling to longer contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import llama3_kept, yarn_pair
from rsr_formats.text import shown

from ..errors import OptionError
from .errors import ModelError

FloatArray = npt.NDArray[np.float32]

_OLDER_NAMES = {"su": "longrope"}  # of the first Phi-3
_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_RESCALED = ("llama3", "yarn", "longrope")  # refer to the context length before scaling
_NUMBERS = (
    "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "mscale",
    "mscale_all_dim", "partial_rotary_factor", "alpha",
)  # fmt: skip
_DIVISORS = ("short_factor", "long_factor")
_SMALLEST, _LARGEST = 1e-9, 1e18  # beyond the settings of any model, well within float32


@dataclass(frozen=True)
class Rope:
    """Frequencies of the pairs of features that are rotated, and their scaling.

    The formulas are those of transformers' `modeling_rope_utils`, in float32 as there, because
    models were trained with its results.

    Attributes:
        head_dim: the first features of a head, which are rotated, i with i + head_dim / 2; all of
            them, unless a class leaves some as they are.
        theta: base of the frequencies.
        kind: "default", "linear", "dynamic", "llama3", "yarn" or "longrope".
        parameters: the numbers of that kind, by their keys in config.json.
        max_positions: `max_position_embeddings`.
        truncates: whether yarn rounds the pairs between which it blends.
        divisors: of longrope's frequencies, for short and for long sequences, (head_dim / 2,) each.
        is_by_limit: `max_positions` chooses longrope's divisors, not the length of a sequence.
    """

    head_dim: int
    theta: float
    kind: str = "default"
    parameters: Mapping[str, float] = field(default_factory=dict)
    max_positions: int = 2048
    truncates: bool = True
    divisors: tuple[tuple[float, ...], ...] = ()
    is_by_limit: bool = False

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        head_dim: int,
        max_positions: int,
        theta: float,
        share: float | None = None,
        is_by_limit: bool = False,
    ) -> Rope:
        """Read `rope_parameters`, or `rope_theta` and `rope_scaling` of older files.

        Args:
            config: the object in config.json.
            head_dim: features of a head.
            max_positions: `max_position_embeddings`.
            theta: `rope_theta` if the config has none.
            share: `partial_rotary_factor` if the config has none; None: all of a head is rotated.
            is_by_limit: see `Rope`.

        Raises:
            ModelError: the kind of scaling is unknown, or one of its numbers is missing or out of
                range.
        """
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if not isinstance(scaling, dict):
            raise ModelError(f"config.json: rope_scaling is {shown(scaling)}, expected an object")
        kind = scaling.get("rope_type", scaling.get("type"))
        kind = "default" if kind is None else kind
        kind = _OLDER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
        if not isinstance(kind, str) or kind not in _TYPES:
            raise ModelError(
                f"config.json: rope scaling {shown(kind)} is not supported; "
                f"known are {', '.join(_TYPES)}"
            )
        stray = [key for key in _DIVISORS if kind != "longrope" and scaling.get(key) is not None]
        if stray:
            raise ModelError(
                f"config.json: rope scaling {kind!r} has {' and '.join(stray)}, which only "
                "'longrope' has"
            )
        numbers = {"rope_theta": theta}
        for key in _NUMBERS:
            value = scaling.get(key)
            if value is None and key in ("rope_theta", "partial_rotary_factor"):
                value = config.get(key)
            elif key == "original_max_position_embeddings" and kind in _RESCALED:
                beside = config.get(key)  # takes precedence, as in transformers
                value = value if beside is None else beside
            if value is None:
                continue
            if type(value) not in (int, float) or not _SMALLEST <= value <= _LARGEST:
                raise ModelError(
                    f"config.json: {key} is {shown(value)}, "
                    f"expected a number from {_SMALLEST} to {_LARGEST}"
                )
            numbers[key] = float(value)
        if share is None and numbers.get("partial_rotary_factor", 1) != 1:
            raise ModelError(
                f"config.json: partial_rotary_factor is {numbers['partial_rotary_factor']:g} "
                "(rope.dimension_count in GGUF), but the class rotates all features of a head"
            )
        rotated = int(head_dim * numbers.get("partial_rotary_factor", share or 1))
        if rotated % 2 or not 0 < rotated <= head_dim:
            raise ModelError(
                f"config.json: partial_rotary_factor makes {rotated} of {head_dim} features of a "
                "head rotate, expected an even number up to all"
            )
        if numbers["rope_theta"] <= 1:
            raise ModelError(
                f"config.json: rope_theta is {numbers['rope_theta']}, expected more than 1"
            )
        truncates = bool(scaling.get("truncate", True))  # null is false, as in transformers
        settings = numbers["rope_theta"], kind, numbers, max_positions, truncates
        if kind == "longrope":
            divisors = tuple(_divisors(scaling, key, rotated // 2) for key in _DIVISORS)
            found = cls(rotated, *settings, divisors, is_by_limit)
            found._frequencies()  # checks the numbers
            return found
        cls(2, *settings)._frequencies()  # checks the numbers, at no cost for a huge head_dim
        found = cls(rotated, *settings)
        found._stretched_theta()
        return found

    def variant(self, length: int) -> int:
        """Return which tables a sequence of this many tokens takes: 1 where longrope is long.

        The length decides for all positions of a sequence, as in a forward pass of transformers.
        """
        length = self.max_positions if self.is_by_limit else length
        return int(self.kind == "longrope" and length > self._original)

    def tables(
        self, positions: int, factors: FloatArray | None = None, variant: int = 0
    ) -> tuple[FloatArray, FloatArray]:
        """Return cosines and sines of the angles, float32 (positions, head_dim / 2) each.

        Args:
            positions: number of positions, from 0.
            factors: divisors of the frequencies from a GGUF file, (head_dim / 2,). Scaling in
                config.json takes precedence.
            variant: what `variant` returned.

        Raises:
            OptionError: there is not enough memory.
        """
        frequencies, scale = self._frequencies(variant)
        if factors is not None and self.kind == "default":
            frequencies = frequencies / factors
        try:
            cos, sin = np.empty((2, positions, len(frequencies)), np.float32)
        except MemoryError:
            raise OptionError(
                f"there is not enough memory for the RoPE tables of {positions:,} positions: "
                "choose a smaller context"
            ) from None
        np.multiply(np.arange(positions, dtype=np.float32)[:, None], frequencies, out=cos)
        np.sin(cos, out=sin)
        np.cos(cos, out=cos)
        cos *= scale
        sin *= scale
        return cos, sin

    def _frequencies(self, variant: int = 0) -> tuple[FloatArray, np.float32]:
        """Return the angle per position, (head_dim / 2,), and the factor of cosines and sines."""
        d = self.head_dim
        exponents = np.arange(0, d, 2, dtype=np.float32) / np.float32(d)
        base = np.float32(1) / np.float32(self._stretched_theta()) ** exponents
        if self.kind == "linear":
            return base / np.float32(self._number("factor")), np.float32(1)
        if self.kind == "dynamic":
            self._number("factor")  # has no effect up to `max_positions`, which no sequence exceeds
        if self.kind == "llama3":
            return self._llama3(base), np.float32(1)
        if self.kind == "yarn":
            return self._yarn(base)
        if self.kind == "longrope":
            return self._longrope(base, variant)
        return base, np.float32(1)

    def _stretched_theta(self) -> float:
        """Return `theta`, or HunYuan's: times alpha ^ (d / (d - 2))."""
        if self.kind != "dynamic" or self.head_dim == 2:
            return self.theta
        alpha = self.parameters.get("alpha", 1.0)
        theta = float(self.theta * alpha ** (self.head_dim / (self.head_dim - 2)))
        if not 1 < theta < _LARGEST:
            raise ModelError(
                f"config.json: rope_theta {self.theta:g} with alpha {alpha:g} is a base of "
                f"{theta:g}, expected more than 1 and less than {_LARGEST:g}"
            )
        return theta

    def _llama3(self, base: FloatArray) -> FloatArray:
        """Llama 3.1: divide low frequencies by `factor`, keep high ones, and blend between."""
        factor = self._number("factor")
        low, high = self._number("low_freq_factor"), self._number("high_freq_factor")
        if not low < high:
            raise ModelError(
                f"config.json: low_freq_factor is {low}, "
                f"expected less than high_freq_factor, {high}"
            )
        waves = 2 * np.pi / base.astype(np.float64)
        kept = llama3_kept(waves, low, high, self._original)
        return ((1 - kept) * base / factor + kept * base).astype(np.float32)

    def _yarn(self, base: FloatArray) -> tuple[FloatArray, np.float32]:
        """YaRN (arXiv 2309.00071): as llama3, but blend by turns within the original context."""
        factor = self._number("factor")
        first, last = (
            yarn_pair(self.parameters.get(key, turns), self._original, self.theta, self.head_dim)
            for key, turns in (("beta_fast", 32), ("beta_slow", 1))
        )
        if self.truncates:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.head_dim - 1)
        ramp = (np.arange(len(base)) - first) / (last - first or 0.001)
        stretched = np.clip(ramp, 0, 1)
        frequencies = (stretched * base / factor + (1 - stretched) * base).astype(np.float32)
        return frequencies, np.float32(self.parameters.get("attention_factor", self._magnitude()))

    def _longrope(self, base: FloatArray, variant: int) -> tuple[FloatArray, np.float32]:
        """LongRoPE (arXiv 2402.13753): divide each frequency by its own number."""
        divisors: FloatArray = np.array(self.divisors[variant], np.float32)
        frequencies = base / divisors
        if "attention_factor" in self.parameters:
            return frequencies, np.float32(self.parameters["attention_factor"])
        factor = self.parameters.get("factor", self.max_positions / self._original)
        if factor <= 1:
            return frequencies, np.float32(1)
        if self._original <= 1:
            raise ModelError(
                "config.json: original_max_position_embeddings is "
                f"{self._original:g}, expected more than 1"
            )
        return frequencies, np.float32(math.sqrt(1 + math.log(factor) / math.log(self._original)))

    def _magnitude(self) -> float:
        """Return the factor of queries and keys that keeps attention as sharp (YaRN, mscale)."""
        factor = max(1.0, self._number("factor"))
        if "mscale" in self.parameters and "mscale_all_dim" in self.parameters:
            mscale, all_dim = self.parameters["mscale"], self.parameters["mscale_all_dim"]
            return (0.1 * mscale * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
        return 0.1 * math.log(factor) + 1

    @property
    def _original(self) -> float:
        """The context length before scaling."""
        return self.parameters.get("original_max_position_embeddings", self.max_positions)

    def _number(self, key: str) -> float:
        if key not in self.parameters:
            raise ModelError(f"config.json: rope scaling {self.kind!r} needs a number under {key}")
        return self.parameters[key]


def no_rotation(positions: int) -> tuple[FloatArray, FloatArray]:
    """Return tables as of `Rope.tables` that leave all features of a head as they are."""
    cos, sin = np.empty((2, positions, 0), np.float32)
    return cos, sin


def _divisors(scaling: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    """Return the numbers of longrope under a key, one for each pair of features."""
    found = scaling.get(key)
    if not isinstance(found, list) or len(found) != count:
        have = f"{len(found)} numbers" if isinstance(found, list) else shown(found)
        raise ModelError(
            f"config.json: rope scaling 'longrope' has {have} under {key}, "
            f"expected {count}, half of the features of a head that are rotated"
        )
    for value in found:
        if type(value) not in (int, float) or not _SMALLEST <= value <= _LARGEST:
            raise ModelError(
                f"config.json: {key} has {shown(value)}, "
                f"expected numbers from {_SMALLEST} to {_LARGEST}"
            )
    return tuple(map(float, found))
