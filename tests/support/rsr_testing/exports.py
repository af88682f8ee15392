"""Matrices of every kind, compiled for tests of what `decompile` writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime
import rsrc
from rsr_testing.checkpoints import Kit, Raw

Array = npt.NDArray[Any]

RNG = np.random.default_rng(31)
T = RNG.integers(-1, 2, (8, 96)).astype(np.int8)
SIGNS = np.where(T[:, :10] > 0, 1, -1).astype(np.int8)
BITS = np.abs(T[:, :7])
GROUPS = np.repeat(2.0 ** RNG.integers(-3, 4, (8, 3)), 32, axis=1)
ROWS = 2.0 ** RNG.integers(-3, 4, (8, 1))
NOT_BF16 = np.float32(1 / 3)  # nor F16
MASTERS = (T * 0.5 + RNG.integers(-1, 2, T.shape) / 64).astype(np.float32)

# Name: a matrix, and the dtype that stores it.
MATRICES: dict[str, tuple[Array, str]] = {
    "ternary": (T, "I8"),
    "signs": (SIGNS, "I8"),
    "bits": (BITS, "I8"),
    "tensor": (T * 0.5, "BF16"),
    "tensor16": (T * np.float16(0.1), "F16"),
    "tensor32": (T * NOT_BF16, "F32"),
    "signs32": (SIGNS * NOT_BF16, "F32"),
    "bits16": (BITS * np.float16(0.3), "F16"),
    "row": (T * ROWS, "F16"),
    "group": (T * GROUPS, "F16"),
    "negative_zeros": (np.where(T == 0, -0.0, T * 0.25), "BF16"),
    "odd": (T[:5, :7] * 0.5, "F32"),
    "one": (T[:1], "I8"),
    "zeros": (np.zeros((4, 6)), "F32"),
    "no_rows": (np.zeros((0, 6)), "F32"),
    "no_columns": (np.zeros((4, 0)), "F32"),
}
PER_TENSOR = [name for name in MATRICES if name not in ("row", "group")]


def tensors(kit: Kit, names: Iterable[str] = MATRICES) -> dict[str, Array | Raw]:
    """Return some of the matrices, and a norm, as a checkpoint stores them."""
    found: dict[str, Array | Raw] = {}
    for name in names:
        values, dtype = MATRICES[name]
        found[name] = values if dtype == "I8" else kit.cast(values, dtype)
    found["norm"] = kit.bf16([1.0, -2.0, 0.5])
    return found


def compile_matrices(
    kit: Kit, folder: Path, names: Iterable[str], config: Any = None, **more: Any
) -> Path:
    """Compile some of the matrices, and `more` tensors, from a new directory folder / "source"."""
    source = folder / "source"
    source.mkdir()
    kit.save(source / "model.safetensors", {**tensors(kit, names), **more}, {"by": "test"})
    if config is not None:
        (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text('{"a tokenizer": 1}')
    rsrc.compile(source, folder / "m.rsr")
    return folder / "m.rsr"


def dense(tensor: Raw) -> npt.NDArray[np.float64]:
    """Return the exact values of a tensor, without code of the compiler."""
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        values = wide.view(np.float32)
    else:
        values = np.frombuffer(tensor.data, {"F16": "<f2", "F32": "<f4", "I8": "i1"}[tensor.dtype])
    return values.astype(np.float64).reshape(tensor.shape)


def to_dense(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the values of every tensor in a .rsr file, as the runtime has them."""
    with rsr_runtime.load(path, verify=True) as model:
        return {
            name: found.to_dense() if isinstance(found, rsr_runtime.Matrix) else np.array(found)
            for name, found in model.items()
        }


_SMALL = np.array([[1, 0, -1], [0, 0, 1], [-1, 1, 0], [1, 1, 1], [0, -1, 1]], np.int8)

# Tensors of several layouts: an absorbed scale, negative zeros, binary and dense ones.
SMALL_TENSORS: dict[str, Any] = {
    "int8": _SMALL,
    "float": np.where(_SMALL == 0, np.float32(-0.0), _SMALL * np.float32(0.5)).astype(np.float32),
    "bits": np.where(_SMALL == 0, np.float16(-0.0), np.float16(2)),
    "packed": np.array([[0xA1, 0x18], [0x90, 0x0A]], np.uint8),
    "packed_scale": np.full(1, 3, np.float16),
    "dense": np.arange(7, dtype=np.int64),
}
