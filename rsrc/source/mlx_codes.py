"""Matrices that MLX quantized to codes of 3 to 8 bits, as the floats that they stand for.

MLX often leaves more bits to embeddings, output heads and routers than to the other matrices. With
b bits, `<base>weight` [rows, columns * b / 32] holds the code of column c in bits c * b to
c * b + b - 1 of the row, the lowest bits of the first word first. `<base>scales` and `<base>biases`
[rows, groups] belong to equal groups of columns, and a weight is scale * code + bias
(mlx.core.dequantize). It is computed in float32 and rounded to the dtype of the scales.

Codes of 1 and 2 bits are left as they are, as they may be ternary or binary (layouts/mlx.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.numerics import narrow_bf16, widen_bf16
from rsr_formats.text import counted, listed

from ..common.arrays import ByteArray
from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .tensor import PIECE, ConvertedTensor, SourceTensor

_BITS = (3, 4, 5, 6, 8)  # of MLX's affine codes, besides 1 and 2
_GROUPS = (32, 64, 128)  # columns that share a scale
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SETTINGS = ("quantization", "quantization_config")  # files have one or both
_EXPERT = re.compile(r"\.experts\.[0-9]+\.")
_PANEL = PIECE // 4  # weights
_MAX_NAMED = 4  # modules that the note names


def mlx_setting(config: Mapping[str, Any], module: str, key: str) -> Any:
    """Return a setting of MLX's quantization for a module; None if config.json has none.

    Args:
        config: config.json, in which some modules may have settings of their own.
        module: the name of a tensor without ".weight".
        key: "bits", "group_size" or "mode".
    """
    for name in _SETTINGS:
        found = config.get(name)
        if isinstance(found, dict) and "group_size" in found:
            own = found.get(module, found.get(_EXPERT.sub(".switch_mlp.", module)))
            return own[key] if isinstance(own, dict) and key in own else found.get(key)
    return None


def with_floats(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint in which matrices of more than 2 bits are floats, without their scales.

    Raises:
        SourceError: config.json is not a JSON object, or scales or biases do not fit a matrix.
    """
    if not any(t.dtype == "U32" for t in checkpoint.tensors.values()):
        return checkpoint
    tensors = dict(checkpoint.tensors)
    found: dict[str, int] = {}
    for name, t in checkpoint.tensors.items():
        parts = _parts(checkpoint, t)
        if parts is not None:
            bits, scales, biases = parts
            tensors[name] = _floats(t, bits, scales, biases)
            del tensors[scales.name], tensors[biases.name]
            found[name.removesuffix(".weight")] = bits
    if not found:
        return checkpoint
    kept = {name for name, t in tensors.items() if t is checkpoint.tensors[name]}
    return replace(
        checkpoint,
        tensors=tensors,
        stacks=tuple(s for s in checkpoint.stacks if kept.issuperset(s.parts())),
        files=_files(checkpoint, found),
        notes=(*checkpoint.notes, _note(found, tensors)),
    )


def _parts(
    checkpoint: Checkpoint, tensor: SourceTensor
) -> tuple[int, SourceTensor, SourceTensor] | None:
    """Return bits, scales and biases of a matrix of codes; None for another tensor."""
    module = tensor.name.removesuffix(".weight")
    if tensor.dtype != "U32" or len(tensor.shape) != 2 or module == tensor.name:
        return None
    scales, biases = (checkpoint.tensors.get(f"{module}.{part}") for part in ("scales", "biases"))
    bits = mlx_setting(checkpoint.config, module, "bits")
    mode = mlx_setting(checkpoint.config, module, "mode") or "affine"
    if type(bits) is not int or bits not in _BITS or mode != "affine":
        return None
    return None if scales is None or biases is None else (bits, scales, biases)


def _floats(
    words: SourceTensor, bits: int, scales: SourceTensor, biases: SourceTensor
) -> _MlxFloats:
    """Return a matrix as floats.

    Raises:
        SourceError: scales or biases have other dtypes or shapes than its codes need.
    """
    rows, row_bits = words.shape[0], 32 * words.shape[1]
    columns = row_bits // bits
    expected = [[rows, columns // n] for n in _GROUPS if row_bits % (n * bits) == 0]
    for t in (scales, biases):
        if t.dtype not in FLOATS or list(t.shape) not in expected or t.shape != scales.shape:
            raise SourceError(
                f"{words.name}: {bits} bits per weight according to config.json, but {t.name} is "
                f"{t.dtype} {list(t.shape)}, expected a float of shape "
                f"{' or '.join(map(str, expected)) or 'that divides its rows'}"
            )
    nbytes = rows * columns * np.dtype(FLOATS[scales.dtype]).itemsize
    return _MlxFloats(
        words.name, scales.dtype, (rows, columns), words.path, words.offset, nbytes,
        bits, words, scales, biases,
    )  # fmt: skip


@dataclass(frozen=True)
class _MlxFloats(ConvertedTensor):
    """A matrix of floats, stored as codes with scales and biases."""

    bits: int
    words: SourceTensor
    scales: SourceTensor
    biases: SourceTensor

    @property
    def origin(self) -> str:
        """The form in the file."""
        return f"MLX {self.bits}-bit"

    @property
    def stored_nbytes(self) -> int:
        """Bytes in the file, those of scales and biases included."""
        return self.words.nbytes + self.scales.nbytes + self.biases.nbytes

    def panels(self) -> Iterator[ByteArray]:
        """Read the values, some rows at a time; see ConvertedTensor.

        Raises:
            SourceError: a scale or a bias is not finite, or the file became shorter.
        """
        rows, columns = self.shape
        if not self.nbytes:
            return
        step = max(1, _PANEL // columns)
        parts = (self.words, self.scales, self.biases)
        for pieces in zip(*(t.pieces(step * (t.nbytes // rows)) for t in parts), strict=True):
            words, *others = (np.frombuffer(piece, np.uint8) for piece in pieces)
            codes = _codes(words.reshape(-1, self.words.nbytes // rows), self.bits)
            scales, biases = (
                widened(data, t.dtype).reshape(len(codes), -1, 1)
                for data, t in zip(others, parts[1:], strict=True)
            )
            if not (np.isfinite(scales).all() and np.isfinite(biases).all()):
                raise SourceError(
                    f"{self.name}: {self.scales.name} or {self.biases.name} has NaN or infinity, "
                    "expected finite numbers"
                )
            with np.errstate(over="ignore"):  # beyond the range of the dtype
                values = codes.reshape(*scales.shape[:2], -1) * scales + biases
                yield _rounded(values, self.dtype).reshape(-1).view(np.uint8)


def _codes(data: ByteArray, bits: int) -> npt.NDArray[np.float32]:
    """Return the codes in rows of bytes, (rows, columns). Eight codes are in `bits` bytes."""
    eights = np.zeros((len(data), data.shape[1] // bits, 8), np.uint8)
    eights[..., :bits] = data.reshape(len(data), -1, bits)
    packed = eights.view("<u8")[..., 0]
    codes = np.empty(eights.shape, np.float32)
    for i in range(8):
        codes[..., i] = packed >> np.uint64(bits * i) & np.uint64((1 << bits) - 1)
    return codes.reshape(len(data), -1)


def widened(data: ByteArray, dtype: str) -> npt.NDArray[np.float32]:
    """Return the bytes of floats of a dtype among `FLOATS` as float32, (n,)."""
    values = data.view(FLOATS[dtype])
    return widen_bf16(values) if dtype == "BF16" else values.astype(np.float32)


def _rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    return narrow_bf16(values) if dtype == "BF16" else values.astype(FLOATS[dtype])


def _files(checkpoint: Checkpoint, found: Mapping[str, int]) -> dict[str, Any]:
    """Return the model files, with a config.json that calls the matrices unquantized."""
    files, config = dict(checkpoint.files), dict(checkpoint.config)
    if "config.json" not in files:
        return files
    for name in _SETTINGS:
        if isinstance(settings := config.get(name), dict):
            own = {m: False for m in found if isinstance(settings.get(m), dict)}
            config[name] = settings | own
    return {**files, "config.json": (json.dumps(config, indent=2) + "\n").encode()}


def _note(found: Mapping[str, int], tensors: Mapping[str, SourceTensor]) -> str:
    bits = " and ".join(map(str, sorted(set(found.values()))))
    dtypes = " and ".join(sorted({tensors[f"{module}.weight"].dtype for module in found}))
    return (
        f"MLX's codes of {bits} bits become {dtypes}: {counted(len(found), 'tensor')} "
        f"({listed(list(found), _MAX_NAMED)})"
    )
