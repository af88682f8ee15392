"""From a `.rsr` file back to its source or to another form; and comparison with a source."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.records import DTYPE_BITS, DenseTensor, IndexedTensor, Tensor
from rsr_formats.text import listed, quoted

from ..common.errors import ExportError, MismatchError, OptionError, SourceError
from ..compiler import head
from ..compiler.pipeline import check_not_source
from ..compiler.recognize import recognize_one
from ..layouts import BY_NAME, TernaryTensor
from ..source.checkpoint import Checkpoint
from ..source.open import open_checkpoint
from ..source.tensor import SourceTensor
from . import FORMS, GGUF, GGUF_TYPES, NAMES
from .folder import atomic_folder, check_folder, write_model_files
from .masters import warning
from .safetensors import write_safetensors
from .source import Restorable, restorable
from .tensors import Export, decode, of_source, read_config

Progress = Callable[[str, int, int], None]

_SUFFIX = ".safetensors"
_MODEL = "model.safetensors"


def decompile(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str = "source",
    type: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Write the model of a `.rsr` file as its source was, or in a form that others read.

    Args:
        path: the .rsr file.
        output: a .safetensors file; or the name of a new model directory, with the config.json and
            the tokenizer files that the .rsr file has; or, for "gguf", a file. It appears only when
            it is whole.
        to: "source", byte for byte (but quantized tensors as what was kept of them, in the source's
            dtype); "bitnet", the packed layout of Hugging Face; "int8", -1, 0, 1 beside scales;
            "float", digit * scale; or "gguf". All of them are exact, but for scales in GGUF.
        type: of ternary matrices in GGUF: "TQ1_0" or "TQ2_0", the default.
        force: replace an existing output file. A directory with files in it is never replaced.
        progress: called as progress(tensor name, bytes done, bytes in all).
        note: told in words what the form made different: scales rounded, matrices left as floats,
            an int8 head left out that the source does not have; and that a model which quantizes
            its weights itself would do so again.

    Returns:
        The names of the tensors that compiling changed (quantized ones).

    Raises:
        FormatError: the .rsr file is damaged.
        OptionError: an option is unknown, or the output is the .rsr file.
        ExportError: the form cannot hold what the file holds.
        SourceError: the file's config.json is needed and is none.
        MissingPackageError: "gguf" needs the package gguf.
        OutputExistsError: the output exists and `force` is not set, or is a directory with files.
        OSError: reading or writing failed; no output is left behind.
    """
    output = Path(output)
    _check_options(to, type, output)
    is_folder = to != GGUF and output.suffix != _SUFFIX
    check_not_source(output, [Path(path)])
    if is_folder:  # now, not after reading everything
        check_folder(output)
    else:
        check_output(output, force)
    if to == GGUF:
        from .gguf import require_gguf, write_gguf

        require_gguf()
    file = RsrFile(path)
    file.verify()  # a damaged index can still hold digits: it must not come out as weights
    if to != "source":
        _refuse_mlx_codes(file)
    if to == GGUF:
        write_gguf(file, output, type or "TQ2_0", force, progress, note)
        for text in _added_notes(file):
            note(text)
        return quantized_tensors(file)
    export = FORMS[to](file, None if to == "source" else read_config(file))
    if is_folder:
        with atomic_folder(output) as folder:
            write_model_files(file, folder, export.config)
            _write(export, folder / _MODEL, force, progress)
    else:
        if to == "bitnet" and export.config is not None:
            raise ExportError(
                f"{output}: only config.json can say how weight_scale is meant, and that of "
                f"{file.path} does not: name a directory, which gets one"
            )
        _write(export, output, force, progress)
    for text in [*export.notes, *_added_notes(file)]:
        note(text)
    if to in ("source", "float"):
        _warn_of_masters(file, export, to, is_folder, note)
    return quantized_tensors(file)


def _added_notes(file: RsrFile) -> list[str]:
    return [f"not written, as the source has none: {name} in int8" for name in added_tensors(file)]


def _warn_of_masters(
    file: RsrFile, export: Export, to: str, is_folder: bool, note: Callable[[str], None]
) -> None:
    with suppress(SourceError):  # no config.json that anyone could follow
        changed = is_folder and export.config is not None
        text = warning(file, export.config if changed else read_config(file), to, is_folder)
        if text is not None:
            note(text)


def _check_options(to: str, type: str | None, output: Path) -> None:
    if to not in NAMES:
        raise OptionError(f"to: found {to!r}, expected {', '.join(NAMES)}")
    if type is not None and to != GGUF:
        raise OptionError(f"type: found {type!r}, which is for {GGUF!r} only")
    if to != GGUF and output.suffix == ".gguf":
        raise OptionError(f"{output}: a .gguf file is what --to gguf (to='gguf') writes")
    if type not in (None, *GGUF_TYPES):
        raise OptionError(f"type: found {type!r}, expected {' or '.join(GGUF_TYPES)}")


def _refuse_mlx_codes(file: RsrFile) -> None:
    """Refuse dense tensors whose bytes mean nothing without MLX's settings, which no form has."""
    names = {t.name for t in file.header.tensors}
    packed = [
        t.name
        for t in file.header.tensors
        if isinstance(t, DenseTensor) and t.dtype == "U32"
        if f"{t.name.removesuffix('weight')}scales" in names
    ]
    if packed:
        raise ExportError(
            f"packed codes of MLX (U32) that are not ternary have no other form: {quoted(packed)}. "
            "Only --to source writes them"
        )


def _write(export: Export, path: Path, force: bool, progress: Progress | None) -> None:
    with atomic_file(path, force) as out:
        write_safetensors(out, export.tensors, export.metadata, progress)


def quantized_tensors(file: RsrFile) -> list[str]:
    """Return the names of the source tensors that compiling changed."""
    return [t.name for t in of_source(file) if _is_quantized(t)]


def added_tensors(file: RsrFile) -> list[str]:
    """Return the names of quantized tensors that the source does not have: a tied int8 head."""
    return [t.name for t in file.header.tensors if isinstance(t, DenseTensor) and t.is_added]


def _is_quantized(t: Tensor) -> bool:
    if isinstance(t, DenseTensor):
        return t.quantized is not None
    return not BY_NAME[t.source.layout].lossless


def compare(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    progress: Progress | None = None,
) -> int:
    """Check that a `.rsr` file holds exactly the tensors of `source`, without writing them.

    Quantized tensors, and an int8 head that was added, are quantized again, by the rule and with as
    many scales as then, and compared as such.

    Returns:
        The number of source tensors compared.

    Raises:
        MismatchError: names the tensors (ten of them) that differ, are missing or were added.
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
        else:
            difference = _difference(file, checkpoint, tensor, found)
            if difference:
                wrong.append(f"{name}: {difference}")
        done += tensor.nbytes
        if progress is not None:
            progress(name, done, checkpoint.nbytes)
    for t in file.header.tensors:
        if isinstance(t, DenseTensor) and t.quantized is not None and t.is_added:
            of = checkpoint.tensors.get(t.quantized.of)
            difference = None if of is None else head.difference(file, t, of)  # said above if None
            if difference:
                wrong.append(f"{t.name}: {difference}")
    if wrong:
        text = listed(wrong, 10, separator="; ")
        raise MismatchError(f"{path} does not match {source}: {text}")
    return len(checkpoint.tensors)


def _difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, found: Restorable
) -> str | None:
    if found.indexed is not None and tensor.dtype not in DTYPE_BITS:
        return _digits_difference(file, checkpoint, tensor, found.indexed)
    tensor = tensor.dense
    if found.quantized is not None:
        return head.difference(file, found.quantized, tensor)
    if (tensor.dtype, tensor.shape) != (found.dtype, found.shape):
        return (
            f"{tensor.dtype} {list(tensor.shape)} in the source, "
            f"{found.dtype} {list(found.shape)} in the .rsr file"
        )
    if found.indexed is not None and _is_quantized(found.indexed):
        return _quantized_difference(file, checkpoint, tensor, found.indexed)
    data, position = found.data(), 0
    for piece in tensor.pieces():
        other = data[position : position + len(piece)]
        same = np.frombuffer(piece, np.uint8) == other
        if not same.all():
            return f"first differs at byte {position + int(np.argmin(same))} of {tensor.nbytes}"
        position += len(piece)
    if found.indexed is not None and any(c.data for c in found.indexed.source.auxiliary):
        return _meaning_difference(file, checkpoint, tensor, found.indexed)
    return None


def _meaning_difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, t: IndexedTensor
) -> str | None:
    """Compare scales that are not the tensor's own bytes: config.json says how they are meant."""
    again = recognize_one(checkpoint, tensor)
    if not isinstance(again, TernaryTensor):
        return f"kept dense now: {again.reason}"
    return _scale_difference(file, again, t, "means")


def _quantized_difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, t: IndexedTensor
) -> str | None:
    again = BY_NAME[t.source.layout].again(checkpoint, tensor, t)
    if not isinstance(again, TernaryTensor):
        return f"cannot be quantized: {again}"
    return _again_difference(file, again, t, "quantizes to")


def _digits_difference(
    file: RsrFile, checkpoint: Checkpoint, tensor: SourceTensor, t: IndexedTensor
) -> str | None:
    """Compare with a tensor whose own bytes no .rsr file holds: GGUF's block types."""
    again = recognize_one(checkpoint, tensor)
    if not isinstance(again, TernaryTensor):
        return f"{again.reason} in the source, indexed in the .rsr file"
    form = (again.source_dtype, again.shape, again.digits)
    if form != (t.source.dtype, t.shape, t.digits):
        return (
            f"{form[0]} {list(form[1])} of {list(form[2])} in the source, {t.source.dtype} "
            f"{list(t.shape)} of {list(t.digits)} in the .rsr file"
        )
    return _again_difference(file, again, t, "decodes to")


def _again_difference(
    file: RsrFile, again: TernaryTensor, t: IndexedTensor, verb: str
) -> str | None:
    decoded = decode(file, t)
    whole = slice(0, t.shape[0]), slice(0, t.shape[1])
    if (again.layout.digits(again.tensor.read(), again, *whole) != decoded.digits).any():
        return f"{verb} other digits"
    return _scale_difference(file, again, t, verb)


def _scale_difference(
    file: RsrFile, again: TernaryTensor, t: IndexedTensor, verb: str
) -> str | None:
    if again.scale is None or t.scale is None:
        same = again.scale is None and t.scale is None
        return None if same else f"{verb} another scale"
    scales = file.index_arrays(t)["scale"].reshape(t.groups if t.is_grouped else 1, -1).T
    same = (again.scale.rows, again.scale.columns) == (t.scale.rows, t.scale.columns)
    return None if same and (scales == again.scale.values).all() else f"{verb} another scale"
