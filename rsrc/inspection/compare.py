"""Compare a `.rsr` file with a source, as `rsrc verify --against` does; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DTYPE_BITS, DenseTensor, IndexedTensor
from rsr_formats.text import listed

from ..common.errors import MismatchError
from ..compiler import head
from ..compiler.recognize import recognize_one
from ..export.decompile import is_quantized
from ..export.source import Restorable, restorable
from ..export.tensors import decode
from ..layouts import BY_NAME, TernaryTensor
from ..source.checkpoint import Checkpoint, SourceTensor, open_checkpoint

Progress = Callable[[str, int, int], None]

_MAX_LISTED = 10  # tensors that a message names


def compare(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    progress: Progress | None = None,
) -> int:
    """Check that a `.rsr` file holds exactly the tensors of `source`.

    Tensors that compiling quantized, an added int8 head included, are quantized again by the rule
    and with the number of scales that the file records, and compared as such.

    Returns:
        The number of source tensors compared.

    Raises:
        MismatchError: names up to ten tensors that differ, are missing or were added.
        FormatError, SourceError, OSError: one of the two cannot be read.
    """
    file = RsrFile(path)
    checkpoint = open_checkpoint(source)
    tensors = restorable(file)
    wrong = [f"{name}: not in the source" for name in tensors if name not in checkpoint.tensors]
    done = 0
    for name, tensor in checkpoint.tensors.items():
        found = tensors.get(name)
        if found is None:
            wrong.append(f"{name}: not in the .rsr file")
        elif difference := _difference(file, checkpoint, tensor, found):
            wrong.append(f"{name}: {difference}")
        done += tensor.nbytes
        if progress is not None:
            progress(name, done, checkpoint.nbytes)
    for t in file.header.tensors:
        if isinstance(t, DenseTensor) and t.quantized is not None and t.is_added:
            of = checkpoint.tensors.get(t.quantized.of)  # None is reported above
            difference = None if of is None else head.difference(file, t, of)
            if difference:
                wrong.append(f"{t.name}: {difference}")
    if wrong:
        text = listed(wrong, _MAX_LISTED, separator="; ")
        raise MismatchError(f"{path} does not match {source}: {text}")
    return len(checkpoint.tensors)


def _difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, found: Restorable
) -> str | None:
    """Say how a source tensor differs from what the file holds of it, None if it does not."""
    t = found.indexed
    if t is not None and tensor.dtype not in DTYPE_BITS:
        # A block type of GGUF: the file holds its digits and scales, not its bytes.
        again = recognize_one(checkpoint, tensor)
        if not isinstance(again, TernaryTensor):
            return f"{again.reason} in the source, indexed in the .rsr file"
        if (again.source_dtype, again.shape, again.digits) != (t.source.dtype, t.shape, t.digits):
            return (
                f"{again.source_dtype} {list(again.shape)} of {list(again.digits)} in the source, "
                f"{t.source.dtype} {list(t.shape)} of {list(t.digits)} in the .rsr file"
            )
        return _index_difference(file, again, t, "decodes to")
    tensor = tensor.dense
    if found.quantized is not None:
        return head.difference(file, found.quantized, tensor)
    if (tensor.dtype, tensor.shape) != (found.dtype, found.shape):
        return (
            f"{tensor.dtype} {list(tensor.shape)} in the source, "
            f"{found.dtype} {list(found.shape)} in the .rsr file"
        )
    if t is None:
        return _bytes_difference(tensor, found)
    if is_quantized(t):
        quantized = BY_NAME[t.source.layout].requantize(checkpoint, tensor, t)
        if not isinstance(quantized, TernaryTensor):
            return f"cannot be quantized: {quantized}"
        return _index_difference(file, quantized, t, "quantizes to")
    difference = _bytes_difference(tensor, found)
    if difference is None and any(a.data for a in t.source.auxiliary):
        # The scales are not the tensor's own bytes: config.json says what they mean.
        again = recognize_one(checkpoint, tensor)
        if not isinstance(again, TernaryTensor):
            return f"kept dense now: {again.reason}"
        return _scale_difference(file, again, t, "means")
    return difference


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
    if again.scale is None and t.scale is None:
        return None
    if again.scale is not None and t.scale is not None:
        scales = file.index_arrays(t)["scale"].reshape(t.groups if t.is_grouped else 1, -1).T
        same = (again.scale.rows, again.scale.columns) == (t.scale.rows, t.scale.columns)
        if same and (scales == again.scale.values).all():
            return None
    return f"{verb} another scale"
