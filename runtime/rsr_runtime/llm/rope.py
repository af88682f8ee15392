"""Rotary position embeddings (arXiv 2104.09864): the angles by which halves of a head turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError

FloatArray = npt.NDArray[np.float32]

_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """Frequencies of the `head_dim` / 2 pairs of features, and how they were stretched.

    The rules are those of transformers' `modeling_rope_utils`, in float32 as there: a model was
    trained with what they give.
    """

    head_dim: int
    theta: float
    kind: str = "default"
    parameters: Mapping[str, float] = field(default_factory=dict)
    max_positions: int = 2048

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], head_dim: int, max_positions: int, theta: float
    ) -> Rope:
        """Read `rope_parameters`, or `rope_theta` and `rope_scaling` as older files have it.

        Raises:
            ModelError: the type of scaling is unknown, or a number it needs is missing.
        """
        scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            raise ModelError("config.json: rope_scaling is no object")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in _TYPES:
            raise ModelError(
                f"config.json: rope scaling {str(kind)[:40]!r} is not supported; "
                f"known are {', '.join(_TYPES)}"
            )
        if kind == "yarn" and ("mscale" in scaling or scaling.get("truncate") is False):
            raise ModelError("config.json: yarn with mscale or without truncate is not supported")
        numbers = {
            key: float(value)
            for key, value in {"rope_theta": config.get("rope_theta"), **scaling}.items()
            if type(value) in (int, float) and math.isfinite(value)
        }
        if numbers.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1) != 1:
            raise ModelError("config.json: partial_rotary_factor is not 1, which is not supported")
        return cls(head_dim, numbers.get("rope_theta", theta), kind, numbers, max_positions)

    def tables(self, positions: int) -> tuple[FloatArray, FloatArray]:
        """Return cosines and sines, float32 (positions, head_dim / 2) each."""
        frequencies, scale = self._frequencies()
        angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
        return np.cos(angles) * scale, np.sin(angles) * scale

    def _frequencies(self) -> tuple[FloatArray, np.float32]:
        """Return the angle of one position for each pair, and what cosines are multiplied by."""
        d = self.head_dim
        exponents = np.arange(0, d, 2, dtype=np.float32) / np.float32(d)
        base = np.float32(1) / np.float32(self.theta) ** exponents
        if self.kind == "linear":
            return base / np.float32(self._number("factor")), np.float32(1)
        if self.kind == "llama3":
            return self._llama3(base), np.float32(1)
        if self.kind == "yarn":
            return self._yarn(base)
        return base, np.float32(1)

    def _llama3(self, base: FloatArray) -> FloatArray:
        """Llama 3.1: long waves are stretched by `factor`, short ones kept, between them blended."""
        factor = self._number("factor")
        low, high = self._number("low_freq_factor"), self._number("high_freq_factor")
        original = self._number("original_max_position_embeddings")
        waves = 2 * np.pi / base.astype(np.float64)
        kept = np.clip((original / waves - low) / (high - low), 0, 1)
        return ((1 - kept) * base / factor + kept * base).astype(np.float32)

    def _yarn(self, base: FloatArray) -> tuple[FloatArray, np.float32]:
        """YaRN (arXiv 2309.00071): as llama3 by turns within the original context."""
        factor = self._number("factor")
        original = self.parameters.get("original_max_position_embeddings", self.max_positions)
        fast = self.parameters.get("beta_fast", 32)
        slow = self.parameters.get("beta_slow", 1)

        def pair_of(turns: float) -> float:
            return (
                self.head_dim
                * math.log(original / (turns * 2 * math.pi))
                / (2 * math.log(self.theta))
            )

        first = max(math.floor(pair_of(fast)), 0)
        last = min(math.ceil(pair_of(slow)), self.head_dim - 1)
        ramp = (np.arange(len(base)) - first) / max(last - first, 0.001)
        stretched = np.clip(ramp, 0, 1)
        frequencies = (stretched * base / factor + (1 - stretched) * base).astype(np.float32)
        default = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
        return frequencies, np.float32(self.parameters.get("attention_factor", default))

    def _number(self, key: str) -> float:
        value = self.parameters.get(key, 0.0)
        if value <= 0:
            raise ModelError(
                f"config.json: rope scaling {self.kind!r} needs a positive number under {key}"
            )
        return value
