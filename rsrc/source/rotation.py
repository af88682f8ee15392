"""Weights in a rotated basis, as Prism ML's Bonsai 2 declares them.

A GGUF file declares the basis in metadata keys, a model directory in hadamard.json, with the same
fields. Every field is checked: products of weights in another basis than the one understood would
be noise.

| field | accepted |
|---|---|
| `version` | 1 |
| `block_size` | a power of two from 16 to 65,536 |
| `transform` | "normalized-sylvester-walsh-hadamard" |
| `axis` | "input-last-dimension" |
| `sign_mode` | "explicit", or "identity": all signs are 1 |
| `sign_widths` | numbers of columns, multiples of `block_size`, each once |
| `sign_values` | 1 and -1: the signs of the first width, of the second, ... |
| `weight_names` | matrices whose products take rotated inputs |
| `inverse_weight_names` | the embedding, whose rows are rotated back |
| `gdn_v_grouped` | true if the output projection of a gated delta net is rotated |

With `gdn_v_grouped`, the columns of such a projection have the value heads in the order of
transformers, grouped by key head, also in GGUF files, where other tensors have them in another.

For a stored matrix W, both lists mean the same: the model's matrix is W H diag(s)
(formats/SPEC.md, section 9.1).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.records import (
    MAX_IN_FEATURES,
    MAX_RECORD,
    MAX_ROTATION_BLOCK,
    MIN_ROTATION_BLOCK,
    Rotation,
)
from rsr_formats.text import listed, shown_json

from ..common.errors import SourceError

PREFIX = "prism.hadamard."  # of the keys; hadamard.json may omit it
FILE = "hadamard.json"

# The fields that have one value.
VERSION = 1
TRANSFORM = "normalized-sylvester-walsh-hadamard"
AXIS = "input-last-dimension"
_FIELDS = frozenset(
    {
        "version", "block_size", "transform", "axis", "sign_mode", "sign_widths", "sign_values",
        "weight_names", "inverse_weight_names", "gdn_v_grouped",
    }
)  # fmt: skip
# A rotation is a record of the header; its keys, block and lengths take up to 23 bytes.
MAX_COLUMNS = 8 * (MAX_RECORD - 23)
EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight")  # ends of their names
_DELTA_OUTPUTS = ("linear_attn.out_proj.weight", "ssm_out.weight")


@dataclass(frozen=True)
class RotatedBasis:
    """The basis that some matrices of a checkpoint are stored in.

    Attributes:
        names: of these matrices.
        block: columns of a block.
        signs: by the columns of a matrix, as `Rotation.signs`; None: all signs are 1.
    """

    names: frozenset[str]
    block: int
    signs: Mapping[int, bytes] | None

    def of(self, name: str, shape: tuple[int, ...]) -> Rotation | None:
        """Return the rotation of a matrix, None if it is stored in the model's basis.

        Args:
            name: of the tensor.
            shape: (out_features, in_features).

        Raises:
            SourceError: the declaration names the tensor, but does not fit its shape.
        """
        if name not in self.names:
            return None
        where = f"{name} is in a rotated basis and has shape {list(shape)}"
        if len(shape) != 2:
            raise SourceError(f"{where}, expected a matrix")
        columns = shape[1]
        if columns > MAX_COLUMNS:
            raise SourceError(f"{where}, expected at most {MAX_COLUMNS} columns")
        if self.signs is None and columns and columns % self.block == 0:
            return Rotation(self.block, bytes(columns // 8))
        if self.signs is None:
            raise SourceError(f"{where}, expected a multiple of {self.block} columns")
        if columns not in self.signs:
            widths = listed([f"{width}" for width in self.signs])
            raise SourceError(f"{where}, but the declaration has signs for {widths} columns only")
        return Rotation(self.block, self.signs[columns])

    def renamed(self, new: Mapping[str, str]) -> RotatedBasis:
        """Return the basis with other names of the matrices, by their names now.

        Raises:
            SourceError: a matrix has no other name.
        """
        if missing := sorted(self.names - new.keys()):
            raise SourceError(
                f"the declaration of a rotated basis names {listed(missing)}, expected matrices "
                "of the model"
            )
        return replace(self, names=frozenset(new[name] for name in self.names))


def read_basis(found: Mapping[str, Any], where: str, tensors: Container[str]) -> RotatedBasis:
    """Return the basis that a declaration describes.

    Args:
        found: the fields, with or without `PREFIX`; arrays may be lists or NumPy arrays.
        where: what holds them, for messages.
        tensors: the names of all tensors, as the declaration spells them.

    Raises:
        SourceError: a field is unknown, missing, or not one of those that are understood.
    """
    try:
        return _Declaration({k.removeprefix(PREFIX): v for k, v in found.items()}).read(tensors)
    except SourceError as error:
        raise SourceError(
            f"{where}: its weights are in a rotated basis that is not understood: {error}"
        ) from None


@dataclass(frozen=True)
class _Declaration:
    """The fields by their short names."""

    fields: Mapping[str, Any]

    def read(self, tensors: Container[str]) -> RotatedBasis:
        for name in self.fields:
            if name not in _FIELDS:
                raise SourceError(f"unknown field {name[:64]!r}")
        self._expect("version", VERSION)
        self._expect("transform", TRANSFORM)
        self._expect("axis", AXIS)
        block = self._field("block_size")
        is_power = _is_whole(block) and block > 0 and block & (block - 1) == 0
        if not is_power or not MIN_ROTATION_BLOCK <= block <= MAX_ROTATION_BLOCK:
            raise self._wrong(
                "block_size", f"a power of two from {MIN_ROTATION_BLOCK} to {MAX_ROTATION_BLOCK}"
            )
        weights, inverses = self._names("weight_names"), self._names("inverse_weight_names")
        names = frozenset((*weights, *inverses))
        if not names:
            raise SourceError("weight_names and inverse_weight_names are empty")
        missing = [name for name in (*weights, *inverses) if name not in tensors]
        if missing:
            raise SourceError(f"there is no tensor {listed(missing)}, which it names")
        others = [name for name in inverses if not name.endswith(EMBEDDINGS)]
        if others:
            raise SourceError(
                f"inverse_weight_names has {listed(others)}, expected nothing but an embedding"
            )
        self._value_heads(weights)
        return RotatedBasis(names, block, self._signs(block))

    def _value_heads(self, weights: Iterable[str]) -> None:
        grouped = self.fields.get("gdn_v_grouped", False)
        if type(grouped) is not bool and type(grouped) is not np.bool_:
            raise self._wrong("gdn_v_grouped", "true or false")
        outputs = [name for name in weights if name.endswith(_DELTA_OUTPUTS)]
        if outputs and not grouped:
            raise SourceError(
                f"gdn_v_grouped is not true, but {listed(outputs[:3])} is rotated: its columns "
                "have the value heads in an order that is not that of transformers"
            )

    def _signs(self, block: int) -> dict[int, bytes] | None:
        mode = self._field("sign_mode")
        if not isinstance(mode, str):  # an array has no truth value
            raise self._wrong("sign_mode", "'explicit' or 'identity'")
        widths = self._array("sign_widths")
        values = self._array("sign_values")
        if mode == "identity":
            if len(widths) or len(values):
                raise SourceError("sign_mode is 'identity', but there are sign_widths or values")
            return None
        if mode != "explicit":
            raise self._wrong("sign_mode", "'explicit' or 'identity'")
        if not len(widths):
            raise SourceError("sign_widths is empty")
        if not (np.abs(values) == 1).all():
            raise SourceError("sign_values has values other than 1 and -1")
        result: dict[int, bytes] = {}
        first = 0
        for width in widths.tolist():
            if not 0 < width <= MAX_IN_FEATURES or width % block:
                raise SourceError(
                    f"sign_widths has {width}, expected positive multiples of block_size, {block}"
                )
            columns = int(width)
            if columns > MAX_COLUMNS:
                raise SourceError(
                    f"sign_widths has {columns}, expected at most {MAX_COLUMNS}: a rotation is one "
                    "record of a .rsr file"
                )
            if columns in result:
                raise SourceError(f"sign_widths has {columns} twice")
            negative = values[first : first + columns] < 0
            result[columns] = np.packbits(negative, bitorder="little").tobytes()
            first += columns
        if first != len(values):
            raise SourceError(f"sign_values has {len(values)} values, but sign_widths {first}")
        return result

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            raise SourceError(f"{name} is missing")
        return self.fields[name]

    def _expect(self, name: str, expected: object) -> None:
        value = self._field(name)
        if type(value) is not type(expected) or value != expected:
            raise self._wrong(name, repr(expected))

    def _wrong(self, name: str, expected: str) -> SourceError:
        value = self.fields[name]
        found = shown_json(value) if isinstance(value, bool | int | float | str) else "an array"
        return SourceError(f"{name} is {found}, expected {expected}")

    def _names(self, name: str) -> list[str]:
        found = self._items(name)
        if not all(isinstance(n, str) for n in found):
            raise SourceError(f"{name} has entries that are not names")
        if len(set(found)) != len(found):
            raise SourceError(f"{name} has a name twice")
        return found

    def _array(self, name: str) -> npt.NDArray[np.float64]:
        found = self._items(name)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in found):
            raise SourceError(f"{name} has entries that are not numbers")
        try:
            return np.array(found, np.float64)
        except OverflowError:  # an integer of JSON
            raise SourceError(f"{name} has a number that is too large") from None

    def _items(self, name: str) -> list[Any]:
        """Return a list, empty if it is absent."""
        found = self.fields.get(name, ())
        if isinstance(found, str) or not isinstance(found, Sequence | np.ndarray):
            raise self._wrong(name, "a list")
        return list(found.tolist() if isinstance(found, np.ndarray) else found)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
