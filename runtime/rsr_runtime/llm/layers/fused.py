"""Products of a matrix that holds several projections, cut into those of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import _native
from ..linear import Workspace
from .sublayer import REST, FloatArray


def split(
    program: _native.Program, workspace: Workspace, y: FloatArray, widths: Sequence[int]
) -> list[FloatArray]:
    """Cut columns into arrays without gaps between their rows: views of one row, copies of more.

    Args:
        program: gets the copies as steps.
        workspace: provides buffers.
        y: (rows, columns).
        widths: columns of each array.

    Returns:
        An array for each width, (rows, width).
    """
    found, first = [], 0
    for i, width in enumerate(widths):
        part = y[:, first : first + width]
        first += width
        if len(y) > 1:
            copy = workspace.take(f"part {i}", len(y), width)
            program.call(REST, np.copyto, copy, part)
            part = copy
        found.append(part)
    return found


def split_heads(
    program: _native.Program, workspace: Workspace, y: FloatArray, head_dim: int
) -> tuple[FloatArray, FloatArray]:
    """Cut each head's features into two arrays, copies.

    Args:
        program: gets the copies as steps.
        workspace: provides buffers.
        y: (rows, heads * 2 * head_dim).
        head_dim: features that an array gets of each head.

    Returns:
        Two arrays, (rows, heads * head_dim).
    """
    heads = y.reshape(len(y), -1, 2, head_dim)
    copies = []
    for i in range(2):
        copy = workspace.take(f"half {i}", len(y), heads.shape[1] * head_dim)
        program.call(REST, np.copyto, copy.reshape(len(y), -1, head_dim), heads[:, :, i])
        copies.append(copy)
    return copies[0], copies[1]
