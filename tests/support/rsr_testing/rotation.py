"""Rotated bases by their definition, with dense matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PREFIX = "prism.hadamard."


def hadamard(n: int) -> Floats:
    """Return the normalized Walsh-Hadamard matrix, (-1)^popcount(r & c) / sqrt(n)."""
    is_odd = np.array([number.bit_count() % 2 for number in range(n)])
    result: Floats = np.where(is_odd[np.arange(n)[:, None] & np.arange(n)], -1.0, 1.0) / np.sqrt(n)
    return result


def rotation(block: int, signs: Sequence[float] | npt.NDArray[Any]) -> Floats:
    """Return Q = H diag(s): the matrix of the model is that of the file times Q."""
    result: Floats = np.kron(np.eye(len(signs) // block), hadamard(block)) * np.asarray(signs)
    return result


def declaration(
    weights: Iterable[str], embeddings: Iterable[str], widths: Sequence[int], block: int, seed: int
) -> dict[str, Any]:
    """Return a declaration with random signs, as hadamard.json and GGUF metadata have it."""
    bits = np.random.PCG64(seed).random_raw(sum(widths)) >> np.uint64(63)
    fields = {
        "version": 1,
        "block_size": block,
        "transform": "normalized-sylvester-walsh-hadamard",
        "axis": "input-last-dimension",
        "sign_mode": "explicit",
        "sign_widths": list(widths),
        "sign_values": (1 - 2 * bits.astype(np.int64)).tolist(),
        "weight_names": list(weights),
        "inverse_weight_names": list(embeddings),
        "gdn_v_grouped": True,
    }
    return {PREFIX + key: value for key, value in fields.items()}


def unrotated(
    tensors: Mapping[str, npt.NDArray[Any]], declared: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors in the model's basis: W Q in float32 for each W that is rotated."""
    widths, values = declared[PREFIX + "sign_widths"], declared[PREFIX + "sign_values"]
    block, ends = declared[PREFIX + "block_size"], np.cumsum(widths)
    bases = {
        width: rotation(block, values[end - width : end])
        for width, end in zip(widths, ends.tolist(), strict=True)
    }
    result = dict(tensors)
    for name in (*declared[PREFIX + "weight_names"], *declared[PREFIX + "inverse_weight_names"]):
        W = tensors[name].astype(np.float64)
        result[name] = (W @ bases[W.shape[1]]).astype(np.float32)
    return result
