"""hadamard.json: the declaration of the rotated basis that a `.rsr` file keeps for its matrices."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DenseTensor, Rotation
from rsr_formats.text import quoted

from ..common.errors import ExportError
from ..source.rotation import (
    AXIS,
    EMBEDDINGS,
    PREFIX,
    TRANSFORM,
    VERSION,
)


def refuse_rotated(file: RsrFile) -> None:
    """Refuse a file with rotated matrices where their basis cannot be declared.

    Raises:
        ExportError: names some of them.
    """
    names = [t.name for t in file.header.tensors if t.rotation is not None]
    if names:
        raise ExportError(
            "weights in a rotated basis exist in form source only, in a directory with a "
            f"hadamard.json: {quoted(names, 3)}"
        )


def declaration(file: RsrFile) -> bytes | None:
    """Return the contents of hadamard.json, or None if no matrix is rotated.

    Raises:
        ExportError: matrices of one width have different bases, which cannot be declared.
    """
    by_width: dict[int, Rotation] = {}
    weights: list[str] = []
    embeddings: list[str] = []
    for t in file.header.tensors:
        rotation = file.header.rotation_of(t)
        if rotation is None or (isinstance(t, DenseTensor) and t.is_added):
            continue
        if by_width.setdefault(rotation.columns, rotation) != rotation:
            raise ExportError(
                f"{t.name!r} is in another basis than other matrices of {rotation.columns} "
                "columns, which hadamard.json cannot declare"
            )
        (embeddings if t.name.endswith(EMBEDDINGS) else weights).append(t.name)
    blocks = {rotation.block for rotation in by_width.values()}
    if len(blocks) > 1:
        raise ExportError(
            f"matrices are rotated in blocks of {sorted(blocks)} columns, which hadamard.json "
            "cannot declare"
        )
    if not blocks:
        return None
    signs = b"".join(rotation.signs for rotation in by_width.values())
    negative = np.unpackbits(np.frombuffer(signs, np.uint8), bitorder="little")
    fields: dict[str, Any] = {
        "version": VERSION,
        "block_size": blocks.pop(),
        "transform": TRANSFORM,
        "axis": AXIS,
        "sign_mode": "explicit",
        "sign_widths": [*by_width],
        "sign_values": (1 - 2 * negative.astype(np.int8)).tolist(),
        "weight_names": weights,
        "inverse_weight_names": embeddings,
        "gdn_v_grouped": True,
    }
    return json.dumps({PREFIX + key: value for key, value in fields.items()}).encode() + b"\n"
