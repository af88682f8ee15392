"""A model directory whose hadamard.json says that weights are in a rotated basis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsr_formats.model_files import MAX_JSON, parse_object
from rsr_formats.text import quoted

from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .files import read_limited
from .gguf.tensor import GgufTensor
from .rotation import FILE, RotatedBasis, read_basis
from .wrong_file import is_file, look

_SIGNS = ".signs"  # beside a module's .weight: a copy of its signs


def with_basis(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of safetensors files with the basis that hadamard.json declares.

    Tensors NAME.signs repeat the signs of a module. They are compared with the declaration, and
    dropped.

    Raises:
        SourceError: the declaration is not understood, or contradicts such a tensor.
    """
    path = checkpoint.folder / FILE
    if any(isinstance(t, GgufTensor) for t in checkpoint.tensors.values()) or not is_file(path):
        return checkpoint
    look(path)
    found = parse_object(read_limited(path, MAX_JSON), str(path), MAX_JSON, SourceError)
    basis = read_basis(found, str(path), checkpoint.tensors)
    repeated = [name for name in checkpoint.tensors if name.endswith(_SIGNS)]
    for name in repeated:
        _compare_signs(checkpoint, basis, name)
    tensors = {k: t for k, t in checkpoint.tensors.items() if k not in set(repeated)}
    return replace(checkpoint, tensors=tensors, basis=basis)


def _compare_signs(checkpoint: Checkpoint, basis: RotatedBasis, name: str) -> None:
    t = checkpoint.tensors[name]
    weight = f"{name.removesuffix(_SIGNS)}.weight"
    if t.dtype != "F32" or len(t.shape) != 1:
        raise SourceError(f"{name} is {t.dtype} {list(t.shape)}, expected F32 signs of one width")
    rotation = basis.of(weight, (1, t.shape[0]))
    if rotation is None:
        raise SourceError(
            f"{checkpoint.path}: there is a tensor {name!r}, but {FILE} does not name {weight!r}, "
            f"only {quoted(sorted(basis.names), 3)}"
        )
    negative = np.unpackbits(np.frombuffer(rotation.signs, np.uint8), bitorder="little")
    if not np.array_equal(t.read().view("<f4"), 1 - 2 * negative.astype(np.float32)):
        raise SourceError(f"{checkpoint.path}: {name!r} has other signs than {FILE}")
