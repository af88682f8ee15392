"""Compare a `.rsr` file with its source, for `rsrc verify --against`."""

from __future__ import annotations

import os

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DTYPE_BITS, DenseTensor, IndexedTensor
from rsr_formats.text import listed

from ..common.errors import MismatchError
from ..common.progress import ByteCounter, ProgressFunction
from ..compiler import head
from ..compiler.recognize import recognize_one
from ..export.decompile import is_quantized
from ..export.source import Restorable, restorable
from ..export.tensors import decode, read_scales
from ..layouts import BY_NAME, TernaryTensor
from ..source.checkpoint import Checkpoint
from ..source.open import open_checkpoint
from ..source.tensor import SourceTensor

_MAX_LISTED = 10  # tensors that a message names


def compare(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    progress: ProgressFunction | None = None,
) -> int:
    """Check that a `.rsr` file holds exactly the tensors of `source`.

    Tensors that compiling quantized, including an added int8 head, are quantized again as the file
    records it, and the results are compared.

    Args:
        path: the .rsr file.
        source: anything that `compile` takes.
        progress: called as progress(tensor name, bytes done, total bytes).

    Returns:
        The number of source tensors compared.

    Raises:
        MismatchError: names up to ten tensors that differ, are missing or were added.
        FormatError: the .rsr file is damaged.
        SourceError: the source cannot be read.
        OSError: reading failed.
    """
    file = RsrFile(path)
    checkpoint = open_checkpoint(source)
    tensors = restorable(file)
    wrong = [f"{name}: not in the source" for name in tensors if name not in checkpoint.tensors]
    counter = ByteCounter(progress, checkpoint.nbytes)
    for name, tensor in checkpoint.tensors.items():
        found = tensors.get(name)
        if found is None:
            wrong.append(f"{name}: not in the .rsr file")
        elif difference := _difference(file, checkpoint, tensor, found):
            wrong.append(f"{name}: {difference}")
        counter.advance(name, tensor.nbytes)
    for t in file.header.tensors:
        if isinstance(t, DenseTensor) and t.quantized is not None and t.is_added:
            embedding = checkpoint.tensors.get(t.quantized.of)
            if embedding is None:
                continue  # reported above
            if difference := head.difference(file, t, embedding):
                wrong.append(f"{t.name}: {difference}")
    if wrong:
        text = listed(wrong, _MAX_LISTED, separator="; ")
        raise MismatchError(f"{path} does not match {source}: {text}")
    return len(checkpoint.tensors)


def _difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, found: Restorable
) -> str | None:
    """Describe how a source tensor differs from the one in the file; None if they are the same."""
    t = found.record
    if isinstance(t, IndexedTensor) and tensor.dtype not in DTYPE_BITS:
        return _block_difference(file, checkpoint, tensor, t)
    tensor = tensor.dense
    if isinstance(t, DenseTensor) and t.quantized is not None:
        return head.difference(file, t, tensor)
    if (tensor.dtype, tensor.shape) != (found.dtype, found.shape):
        return (
            f"{tensor.dtype} {list(tensor.shape)} in the source, "
            f"{found.dtype} {list(found.shape)} in the .rsr file"
        )
    if isinstance(t, IndexedTensor) and is_quantized(t):
        again = BY_NAME[t.source.layout].requantize(checkpoint, tensor, t)
        if not isinstance(again, TernaryTensor):
            return f"cannot be quantized: {again}"
        return _index_difference(file, again, t, "quantizes to")
    difference = _bytes_difference(tensor, found)
    if difference is not None or not isinstance(t, IndexedTensor):
        return difference
    if any(a.data for a in t.source.auxiliary):
        # Same bytes, but config.json says whether weight_scale multiplies or divides.
        recognized = recognize_one(checkpoint, tensor)
        if not isinstance(recognized, TernaryTensor):
            return f"not recognized as ternary: {recognized.reason}"
        return _scale_difference(file, recognized, t, "means")
    return None


def _block_difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, t: IndexedTensor
) -> str | None:
    """Compare digits and scales with blocks of GGUF, whose bytes a `.rsr` file does not hold."""
    again = recognize_one(checkpoint, tensor)
    if not isinstance(again, TernaryTensor):
        return f"{again.reason} in the source, indexed in the .rsr file"
    if (again.source_dtype, again.shape, again.digits) != (t.source.dtype, t.shape, t.digits):
        return (
            f"{again.source_dtype} {list(again.shape)} of {list(again.digits)} in the source, "
            f"{t.source.dtype} {list(t.shape)} of {list(t.digits)} in the .rsr file"
        )
    return _index_difference(file, again, t, "decodes to")


def _bytes_difference(tensor: SourceTensor, found: Restorable) -> str | None:
    data, position = found.data(), 0
    for piece in tensor.pieces():
        same = np.frombuffer(piece, np.uint8) == data[position : position + len(piece)]
        if not same.all():
            return f"first differs at byte {position + int(np.argmin(same))} of {tensor.nbytes}"
        position += len(piece)
    return None


def _index_difference(
    file: RsrFile, again: TernaryTensor, t: IndexedTensor, verb: str
) -> str | None:
    whole = slice(0, t.shape[0]), slice(0, t.shape[1])
    digits = again.layout.digits(again.tensor.read(), again, *whole)
    if (digits != decode(file, t).digits).any():
        return f"{verb} other digits"
    return _scale_difference(file, again, t, verb)


def _scale_difference(
    file: RsrFile, again: TernaryTensor, t: IndexedTensor, verb: str
) -> str | None:
    expected, found = again.scale, read_scales(file, t)
    if expected is None or found is None:
        same = expected is found
    else:
        same = (expected.rows, expected.columns) == (found.rows, found.columns)
        # Without rows, a file has no scale where a source has one: equal by broadcasting.
        same = same and bool((expected.values == found.values).all())
    return None if same else f"{verb} another scale"
