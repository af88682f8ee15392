"""The value heads of gated delta nets, which GGUF files have in another order than Hugging Face.

Several value heads share a key head. transformers groups them by key head; llama.cpp's converter
tiles them, so that value head h uses key head h modulo the number of key heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rsr_formats.architectures import DeltaNet
from rsr_formats.text import shown

from ...common.errors import SourceError
from .tensor import Order
from .values import whole_of

_LAYER = re.compile(r"blk\.(?:0|[1-9][0-9]*)\.(.+)")

# Tensors whose rows are value heads, by their names within a layer.
_ROWS_OF_HEADS = ("attn_gate.weight",)  # value_dim rows of each head
_ROWS_AFTER_KEYS = ("attn_qkv.weight", "ssm_conv1d.weight")  # after queries and keys
_ROW_OF_HEAD = ("ssm_alpha.weight", "ssm_beta.weight", "ssm_dt.bias", "ssm_a")  # one of each
_COLUMNS = "ssm_out.weight"  # value_dim columns of each head

_MAX_VALUES = 1 << 16  # value heads; published models have 64


@dataclass(frozen=True)
class ValueHeads:
    """The heads of a gated delta net.

    Attributes:
        keys: number of key heads.
        values: number of value heads, a multiple of `keys`.
        key_dim: features of a key head.
        value_dim: features of a value head.
        kernel: taps of the short convolution.
    """

    keys: int
    values: int
    key_dim: int
    value_dim: int
    kernel: int

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any], prefix: str) -> ValueHeads | None:
        """Return the heads that metadata describe, None if they describe no gated delta net.

        Args:
            metadata: of the file.
            prefix: of the architecture's keys, with its dot.

        Raises:
            SourceError: a key is missing, or a number contradicts the others.
        """
        keys = ("group_count", "time_step_rank", "state_size", "inner_size", "conv_kernel")
        found = {key: whole_of(metadata.get(f"{prefix}ssm.{key}")) for key in keys}
        if all(f"{prefix}ssm.{key}" not in metadata for key in keys):
            return None
        for key, value in found.items():
            if not value:
                raise SourceError(f"{prefix}ssm.{key} is missing or not a positive integer")
        count, values, key_dim, inner, kernel = (found[key] or 1 for key in keys)
        if values > _MAX_VALUES:
            raise SourceError(
                f"{prefix}ssm.time_step_rank is {values}, expected at most {_MAX_VALUES}"
            )
        if values % count or inner % values:
            raise SourceError(
                f"{prefix}ssm: {count} key heads, {values} value heads and {inner} features of all "
                "value heads, expected multiples"
            )
        return cls(count, values, key_dim, inner // values, kernel)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], known: DeltaNet) -> ValueHeads:
        """Return the heads that a config.json describes.

        Args:
            config: config.json.
            known: the sizes of its class.

        Raises:
            SourceError: a size is not a positive integer, value heads are not a multiple of key
                heads, or their features are others, which llama.cpp does not have.
        """
        sizes = {k: config.get(k, default) for k, default in vars(known).items()}
        for key, value in sizes.items():
            if whole_of(value) is None or not 0 < value <= _MAX_VALUES:
                raise SourceError(
                    f"config.json: {key} is {shown(value)}, expected a number above 0"
                )
        keys, values, key_dim, value_dim, kernel = sizes.values()
        if values % keys:
            raise SourceError(
                f"config.json: linear_num_value_heads is {values}, expected a multiple of "
                f"linear_num_key_heads, {keys}"
            )
        if key_dim != value_dim:
            raise SourceError(
                f"config.json: linear_key_head_dim is {key_dim} and linear_value_head_dim "
                f"{value_dim}, and in llama.cpp they are equal"
            )
        return cls(keys, values, key_dim, value_dim, kernel)

    @property
    def metadata(self) -> dict[str, int]:
        """The keys of metadata, after the architecture and a dot."""
        return {
            "ssm.group_count": self.keys,
            "ssm.time_step_rank": self.values,
            "ssm.state_size": self.key_dim,
            "ssm.inner_size": self.values * self.value_dim,
            "ssm.conv_kernel": self.kernel,
        }

    @property
    def settings(self) -> dict[str, int]:
        """The settings of config.json."""
        return {
            "linear_num_key_heads": self.keys,
            "linear_num_value_heads": self.values,
            "linear_key_head_dim": self.key_dim,
            "linear_value_head_dim": self.value_dim,
            "linear_conv_kernel_dim": self.kernel,
        }

    def rows(self, name: str) -> Order | None:
        """Return the order of the rows of a tensor, by its GGUF name; None if it is the file's."""
        match = _LAYER.fullmatch(name)
        own = match[1] if match else ""
        if own in _ROWS_OF_HEADS:
            return self._order(0, self.value_dim)
        if own in _ROWS_AFTER_KEYS:
            return self._order(2 * self.keys * self.key_dim, self.value_dim)
        return self._order(0, 1) if own in _ROW_OF_HEAD else None

    def columns(self, name: str) -> Order | None:
        """Return the order of the columns of a tensor, by its GGUF name; None as for rows."""
        match = _LAYER.fullmatch(name)
        return self._order(0, self.value_dim) if match and match[1] == _COLUMNS else None

    def _order(self, start: int, size: int) -> Order | None:
        return None if self.keys == self.values else Order(start, size, self._units)

    @cached_property
    def _units(self) -> tuple[int, ...]:
        each = self.values // self.keys
        return tuple(i * self.keys + k for k in range(self.keys) for i in range(each))
