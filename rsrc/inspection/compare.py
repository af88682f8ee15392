"""Compare a `.rsr` file with its source, for `rsrc verify --against`."""

from __future__ import annotations

import os

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.records import DTYPE_BITS, DenseTensor, IndexedTensor, Tensor
from rsr_formats.text import listed

from ..common.errors import MismatchError
from ..common.progress import ByteCounter, ProgressFunction
from ..compiler import head
from ..compiler.recognize import recognize_one
from ..export.decompile import is_quantized
from ..export.source import parts
from ..export.tensors import OutputTensor, decode, read_scales
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
    checkpoint = open_checkpoint(source, progress)
    restored = {t.name: t for t in parts(file)}
    records = {t.name: t for t in file.header.tensors}
    known = checkpoint.tensors.keys() | checkpoint.left_out.keys()
    wrong = [f"{name}: not in the source" for name in restored if name not in known]
    counter = ByteCounter(progress, checkpoint.nbytes)
    for name, tensor in checkpoint.tensors.items():
        if name not in restored:
            wrong.append(f"{name}: not in the .rsr file")
        elif difference := _difference(file, checkpoint, tensor, restored[name], records.get(name)):
            wrong.append(f"{name}: {difference}")
        counter.advance(name, tensor.nbytes)
        record = records.get(name)
        if record is not None:
            rotation = checkpoint.rotation_of(name, record.shape)
            if rotation != file.header.rotation_of(record):
                wrong.append(f"{name}: in another basis than in the source")
    for t in records.values():
        if isinstance(t, DenseTensor) and t.quantized is not None and t.is_added:
            embedding = checkpoint.tensors.get(t.quantized.of)
            if embedding is None:
                continue  # reported above
            if difference := head.difference(file, t, embedding):
                wrong.append(f"{t.name}: {difference}")
    stacks = {s.name: s for s in file.header.stacks}
    for stack in checkpoint.stacks:
        if stacks.pop(stack.name, None) != stack:
            wrong.append(f"{stack.name}: not one tensor of shape {list(stack.shape)} in the file")
    wrong += [f"{name}: not one tensor in the source" for name in stacks]
    if wrong:
        text = listed(wrong, _MAX_LISTED, separator="; ")
        raise MismatchError(f"{path} does not match {source}: {text}")
    return len(checkpoint.tensors)


def _difference(
    file: RsrFile,
    checkpoint: Checkpoint,
    tensor: SourceTensor,
    restored: OutputTensor,
    t: Tensor | None,
) -> str | None:
    """Describe how a source tensor differs from the one in the file; None if they are the same.

    Args:
        file: the .rsr file.
        checkpoint: the source.
        tensor: its tensor.
        restored: the tensor of the same name that the file restores.
        t: its record; None for an auxiliary tensor, such as a scale.
    """
    if isinstance(t, DenseTensor) and t.quantized is not None:
        return head.difference(file, t, tensor.dense)
    if isinstance(t, IndexedTensor) and tensor.dtype not in DTYPE_BITS:
        # Blocks of GGUF: a .rsr file holds their digits and scales, not their bytes.
        again = recognize_one(checkpoint, tensor)
        if not isinstance(again, TernaryTensor):
            return f"{again.reason} in the source, indexed in the .rsr file"
        expected = f"{again.source_dtype} {list(again.shape)} of {list(again.digits)}"
        found = f"{t.source.dtype} {list(t.shape)} of {list(t.digits)}"
        return _other(expected, found) or _index_difference(file, again, t, "decodes to")
    tensor = tensor.dense
    expected = f"{tensor.dtype} {list(tensor.shape)}"
    if other := _other(expected, f"{restored.dtype} {list(restored.shape)}"):
        return other
    if isinstance(t, IndexedTensor) and is_quantized(t):
        quantized = BY_NAME[t.source.layout].requantize(checkpoint, tensor, t)
        if not isinstance(quantized, TernaryTensor):
            return f"cannot be quantized: {quantized}"
        return _index_difference(file, quantized, t, "quantizes to")
    if difference := _bytes_difference(tensor, restored):
        return difference
    if isinstance(t, IndexedTensor) and any(a.data for a in t.source.auxiliary):
        # config.json says whether weight_scale, whose bytes are the same, multiplies or divides.
        again = recognize_one(checkpoint, tensor)
        if not isinstance(again, TernaryTensor):
            return f"not recognized as ternary: {again.reason}"
        return _scale_difference(file, again, t, "means")
    return None


def _other(expected: str, found: str) -> str | None:
    return None if expected == found else f"{expected} in the source, {found} in the .rsr file"


def _bytes_difference(tensor: SourceTensor, restored: OutputTensor) -> str | None:
    data, position = restored.read(), 0
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
