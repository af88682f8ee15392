"""From a `.rsr` file back to the source tensors, byte for byte; and comparison with a source."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.decode import decode_digits, row_scales
from rsr_formats.errors import HeaderFieldError
from rsr_formats.layout import DenseTensor, IndexedTensor, InlineTensor, Tensor
from rsr_formats.validate import check_negative_zeros, check_ranks

from .checkpoint import PIECE, Checkpoint, SourceTensor, open_checkpoint
from .errors import MismatchError
from .layouts import BY_NAME, Restored, TernaryTensor
from .pipeline import check_not_source

Bytes = npt.NDArray[np.uint8]

_METADATA = "__metadata__"


@dataclass(frozen=True)
class _Restorable:
    """A tensor of the source, as the .rsr file describes it; `data` decodes it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[], Bytes]
    indexed: IndexedTensor | None = None


def decompile(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Write the source tensors of a `.rsr` file to a .safetensors file, byte for byte.

    Quantised tensors (layout absmean) come back as what was kept of them, in the source's dtype.

    Args:
        path: the .rsr file.
        output: the .safetensors file; it appears only when it is whole.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, bytes in all).

    Returns:
        The names of the tensors that compiling changed (quantised ones).

    Raises:
        FormatError: the .rsr file is damaged.
        OptionError: the output is the .rsr file.
        OutputExistsError: the output exists and `force` is not set.
        OSError: reading or writing failed; no output is left behind.
    """
    check_not_source(Path(output), [Path(path)])
    check_output(output, force)  # now, not after reading everything
    file = RsrFile(path)
    file.verify()  # a damaged index can still hold digits: it must not come out as weights
    tensors = _restorable(file)
    header: dict[str, object] = {}
    if file.header.metadata:
        header[_METADATA] = file.header.metadata
    end = 0
    for name, t in tensors.items():
        header[name] = {
            "dtype": t.dtype,
            "shape": t.shape,
            "data_offsets": [end, end + t.nbytes],
        }
        end += t.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with atomic_file(output, force) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, t in tensors.items():
            _write(out, t.data())
            done += t.nbytes
            if progress is not None:
                progress(name, done, end)
    return quantised_tensors(file)


def quantised_tensors(file: RsrFile) -> list[str]:
    """Return the names of the tensors that compiling changed."""
    return [t.name for t in file.header.tensors if _is_quantised(t)]


def _is_quantised(t: Tensor) -> bool:
    return isinstance(t, IndexedTensor) and not BY_NAME[t.source.layout].lossless


def compare(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Check that a `.rsr` file holds exactly the tensors of `source`, without writing them.

    Quantised tensors are quantised again and compared as such.

    Returns:
        The number of source tensors compared.

    Raises:
        MismatchError: names the tensors (ten of them) that differ, are missing or were added.
        FormatError, SourceError, OSError: one of the two cannot be read.
    """
    file = RsrFile(path)
    checkpoint = open_checkpoint(source)
    tensors = _restorable(file)
    wrong = [f"{name}: not in the source" for name in tensors if name not in checkpoint.tensors]
    done = 0
    for name, tensor in checkpoint.tensors.items():
        found = tensors.get(name)
        if found is None:
            wrong.append(f"{name}: not in the .rsr file")
        else:
            difference = _difference(file, checkpoint, tensor, found)
            if difference:
                wrong.append(f"{name}: {difference}")
        done += tensor.nbytes
        if progress is not None:
            progress(name, done, checkpoint.nbytes)
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise MismatchError(f"{path} does not match {source}: {'; '.join(wrong[:10])}{more}")
    return len(checkpoint.tensors)


def _restorable(file: RsrFile) -> dict[str, _Restorable]:
    """List every source tensor by name, companions behind what absorbed them."""
    tensors: dict[str, _Restorable] = {}

    def add(name: str, tensor: _Restorable) -> None:
        if name == _METADATA:
            raise HeaderFieldError(f"a tensor is named {name!r}, which safetensors reserves")
        tensors[name] = tensor

    for t in file.header.tensors:
        add(t.name, _restorable_one(file, t))
    for t in file.header.tensors:
        if isinstance(t, IndexedTensor):
            for c in t.source.companions:
                add(
                    c.name, _Restorable(c.dtype, c.shape, c.nbytes, partial(_companion, file, t, c))
                )
    return tensors


def _restorable_one(file: RsrFile, t: Tensor) -> _Restorable:
    if isinstance(t, DenseTensor):
        return _Restorable(t.dtype, t.shape, t.nbytes, lambda: file.section(t.section))
    source = DenseTensor(t.name, t.source.dtype, t.source.shape, 0)
    return _Restorable(source.dtype, source.shape, source.nbytes, lambda: _restore(file, t), t)


def _restore(file: RsrFile, t: IndexedTensor) -> Bytes:
    return _as_bytes(BY_NAME[t.source.layout].restore(_decoded(file, t)))


def _companion(file: RsrFile, t: IndexedTensor, c: InlineTensor) -> Bytes:
    if c.data is not None:
        return np.frombuffer(c.data, np.uint8)
    return _as_bytes(BY_NAME[t.source.layout].restore_companion(_decoded(file, t), c))


def _as_bytes(array: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _decoded(file: RsrFile, t: IndexedTensor) -> Restored:
    arrays = file.index_arrays(t)
    if t.encoding == "ranked":
        check_ranks(t, arrays["ranks"])
    zeros = None
    if t.source.negative_zeros is not None:
        zeros = file.section(t.source.negative_zeros)
        check_negative_zeros(t, arrays, zeros)
    # Without columns nothing is scaled, and a few bytes can claim two thousand million rows.
    scale = None if t.scale is None or not t.shape[1] else row_scales(t, arrays["scale"])
    return Restored(t, decode_digits(t, arrays), scale, zeros)


def _difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, found: _Restorable
) -> str | None:
    if (tensor.dtype, tensor.shape) != (found.dtype, found.shape):
        return (
            f"{tensor.dtype} {list(tensor.shape)} in the source, "
            f"{found.dtype} {list(found.shape)} in the .rsr file"
        )
    if found.indexed is not None and _is_quantised(found.indexed):
        return _quantised_difference(file, checkpoint, tensor, found.indexed)
    data, position = found.data(), 0
    for piece in tensor.pieces():
        other = data[position : position + len(piece)]
        same = np.frombuffer(piece, np.uint8) == other
        if not same.all():
            return f"first differs at byte {position + int(np.argmin(same))} of {tensor.nbytes}"
        position += len(piece)
    return None


def _quantised_difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, t: IndexedTensor
) -> str | None:
    again = BY_NAME[t.source.layout].recognise(checkpoint, tensor)
    if not isinstance(again, TernaryTensor):
        return f"cannot be quantised: {again}"
    decoded = _decoded(file, t)
    whole = slice(0, t.shape[0]), slice(0, t.shape[1])
    if (again.layout.digits(tensor.read(), again, *whole) != decoded.digits).any():
        return "quantises to other digits"
    if again.scale is None or t.scale is None:
        same = again.scale is None and t.scale is None
        return None if same else "quantises to another scale"
    scales = file.index_arrays(t)["scale"].reshape(t.groups if t.is_grouped else 1, -1).T
    same = (again.scale.rows, again.scale.columns) == (t.scale.rows, t.scale.columns)
    return None if same and (scales == again.scale.values).all() else "quantises to another scale"


def _write(out: BinaryIO, data: Bytes) -> None:
    for start in range(0, len(data), PIECE):
        out.write(data[start : start + PIECE].data)
