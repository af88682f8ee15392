"""The rotated basis of matrices: from the declaration of the source to the records of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rsr_formats.records import FLOAT_DTYPES, DenseTensor, Rotation, Tensor
from rsr_formats.text import listed

from ..common.errors import SourceError
from ..layouts import TernaryTensor
from ..source.checkpoint import Checkpoint
from .recognize import Recognized


def rotations_of(checkpoint: Checkpoint, found: Sequence[Recognized]) -> dict[str, Rotation]:
    """Return the rotation of each matrix that the source stores in a rotated basis, by its name.

    Raises:
        SourceError: the declaration does not fit a tensor, or names one that is not compiled,
            other than those of parts that are left out.
    """
    result: dict[str, Rotation] = {}
    if checkpoint.basis is None:
        return result
    for t in found:
        name = t.tensor.name
        shape = t.shape if isinstance(t, TernaryTensor) else t.tensor.shape
        is_matrix = isinstance(t, TernaryTensor) or t.tensor.dtype in FLOAT_DTYPES
        if name in checkpoint.basis.names and not is_matrix:
            raise SourceError(
                f"{name} is in a rotated basis and {t.tensor.dtype} that is not ternary, expected "
                "floats or ternary weights"
            )
        rotation = checkpoint.basis.of(name, shape)
        if rotation is not None:
            result[name] = rotation
    if lost := sorted(checkpoint.basis.names - result.keys() - checkpoint.left_out.keys()):
        raise SourceError(
            f"{checkpoint.path}: its declaration of a rotated basis names {listed(lost)}, expected "
            "matrices of the model"
        )
    return result


def rotated(
    tensors: Sequence[Tensor], by_name: Mapping[str, Rotation]
) -> tuple[list[Tensor], list[Rotation]]:
    """Return records with the numbers of their rotations, and the rotations by number."""
    numbers: dict[Rotation, int] = {}
    result: list[Tensor] = []
    for t in tensors:
        name = t.quantized.of if isinstance(t, DenseTensor) and t.quantized else t.name
        rotation = by_name.get(name)
        if rotation is None:
            result.append(t)
        else:
            result.append(replace(t, rotation=numbers.setdefault(rotation, len(numbers))))
    return result, [*numbers]
