"""Write the model in a `.rsr` file as its source was, or in another form."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rsr_formats import RsrFile
from rsr_formats.architectures import takes_int8_activations
from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.records import DenseTensor, Tensor
from rsr_formats.text import quoted

from ..common.errors import ExportError, OptionError, SourceError
from ..common.progress import ProgressFunction
from ..layouts import BY_NAME
from ..source.files import check_not_source
from ..source.rotation import FILE as HADAMARD
from . import FORMS, GGUF, GGUF_TYPES, NAMES
from .activations import activation_notes
from .dtypes import with_one_dtype
from .folder import atomic_folder, check_folder
from .gguf import require_gguf, write_gguf
from .model_files import Config, read_config, write_model_files
from .names import with_usual_names
from .rotation import declaration, refuse_rotated
from .safetensors import write_safetensors
from .self_quantizing import requantization_notes
from .tensors import Export, source_tensors

_SUFFIX = ".safetensors"
_MODEL = "model.safetensors"
_LOADED = ("bitnet", "float")  # forms that transformers loads


@dataclass(frozen=True)
class Decompiled:
    """How the output of `decompile` differs from the source."""

    quantized: list[str]  # names of the tensors that compiling quantized
    notes: list[str]  # sentences: rounded scales, matrices written as floats, changed settings, ...


def decompile(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str = "source",
    type: str | None = None,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> Decompiled:
    """Write the model in a `.rsr` file as its source was, or in a form that other software reads.

    Args:
        path: the .rsr file.
        output: a .safetensors file; a new model directory, which also gets the config.json and the
            tokenizer files in the .rsr file; or, for "gguf", a file. It appears only once complete.
        to: "source" restores the source byte for byte, except that quantized tensors hold the
            quantized values in the source's dtype; "bitnet" is the packed layout of Hugging Face;
            "int8" writes -1, 0, 1 and scales; "float" writes digit * scale; "gguf" writes a GGUF
            file. Every form is exact but GGUF, which may round scales to float16.
        type: GGUF type of ternary matrices, "TQ1_0", "TQ2_0", "Q2_0" or "PQ2_0". By default, each
            matrix gets TQ2_0, or Q2_0 where its scales or rows do not fit blocks of 256 weights.
        force: replace an existing output file. A directory with files is never replaced.
        progress: called as progress(tensor name, bytes done, total bytes).

    Raises:
        FormatError: the .rsr file is damaged.
        OptionError: an option is unknown, or the output is the .rsr file.
        ExportError: the form cannot represent what the file holds.
        SourceError: the form needs config.json, and the file's is not a JSON object.
        MissingPackageError: "gguf" needs the package gguf.
        OutputExistsError: the output exists and `force` is not set, or is a directory with files.
        OSError: reading or writing failed; no partial output is left behind.
    """
    output = Path(output)
    _check_options(to, type, output)
    is_folder = to != GGUF and output.suffix != _SUFFIX
    # All checks of the output come before the file is read: that may take minutes.
    check_not_source(output, [Path(path)])
    if is_folder:
        check_folder(output)
    else:
        check_output(output, force)
    if to == GGUF:
        require_gguf()
    file = RsrFile(path)
    file.verify()  # a damaged index may still decode to digits
    if to != "source":
        _refuse_mlx_codes(file)
    if to != "source" or not is_folder:
        refuse_rotated(file)
    new_config: Config | None = None  # unless it is the .rsr file's
    if to == GGUF:
        notes = write_gguf(file, output, type, force, progress)
    else:
        config = None if to == "source" else read_config(file)
        export = FORMS[to](file, config)
        if is_folder and to in _LOADED:
            export = with_usual_names(with_one_dtype(export, config))
        new_config = None if export.config is config else export.config
        _write(file, replace(export, config=new_config), output, to, force, progress)
        notes = [*export.notes]
        if is_folder and export.config is not None:
            notes += activation_notes(config, takes_int8_activations(export.config))
    if to != "int8":
        notes += [
            f"not written: {name} in int8, which the source does not have"
            for name in added_tensors(file)
        ]
    if to in ("source", "float"):
        with suppress(SourceError):  # the note needs a readable config.json
            is_new = is_folder and new_config is not None
            config = new_config if is_new else read_config(file)
            notes += requantization_notes(file, config, to, is_folder)
    return Decompiled(quantized_tensors(file), notes)


def _check_options(to: str, type: str | None, output: Path) -> None:
    if to not in NAMES:
        raise OptionError(f"to: found {to!r}, expected {', '.join(NAMES)}")
    if type is not None and to != GGUF:
        raise OptionError(f"type: found {type!r}, which only form {GGUF!r} has")
    if to != GGUF and output.suffix == ".gguf":
        raise OptionError(
            f"{output}: only form gguf writes a .gguf file: choose it (--to gguf), or another name"
        )
    if type not in (None, *GGUF_TYPES):
        raise OptionError(f"type: found {type!r}, expected {', '.join(GGUF_TYPES)}")


def _refuse_mlx_codes(file: RsrFile) -> None:
    """Refuse packed MLX codes kept dense: only MLX's own settings give them a meaning."""
    names = {t.name for t in file.header.tensors}
    packed = [
        t.name
        for t in file.header.tensors
        if isinstance(t, DenseTensor) and t.dtype == "U32"
        if f"{t.name.removesuffix('weight')}scales" in names
    ]
    if packed:
        raise ExportError(
            "packed MLX codes (U32) that are not ternary exist in form source only: "
            f"{quoted(packed)}"
        )


def _write(
    file: RsrFile,
    export: Export,
    output: Path,
    to: str,
    force: bool,
    progress: ProgressFunction | None,
) -> None:
    # transformers loads only safetensors files whose metadata name the framework.
    metadata = file.header.metadata if to == "source" else {**file.header.metadata, "format": "pt"}
    if output.suffix == _SUFFIX:
        if to == "bitnet" and export.config is not None:
            raise ExportError(
                f"{output}: config.json must say whether weight_scale divides or multiplies, and "
                f"that of {file.path} does not: write a directory, which gets a config.json"
            )
        with atomic_file(output, force) as out:
            write_safetensors(out, export.tensors, metadata, progress)
        return
    with atomic_folder(output) as folder:
        write_model_files(file, folder, export.config)
        if (declared := declaration(file)) is not None:
            with atomic_file(folder / HADAMARD) as out:
                out.write(declared)
        with atomic_file(folder / _MODEL) as out:
            write_safetensors(out, export.tensors, metadata, progress)


def quantized_tensors(file: RsrFile) -> list[str]:
    """Return the names of the source tensors that compiling quantized."""
    return [t.name for t in source_tensors(file) if is_quantized(t)]


def added_tensors(file: RsrFile) -> list[str]:
    """Return the names of quantized tensors that the source does not have: int8 tied heads."""
    return [t.name for t in file.header.tensors if isinstance(t, DenseTensor) and t.is_added]


def is_quantized(t: Tensor) -> bool:
    """Return whether compiling changed the tensor's values."""
    if isinstance(t, DenseTensor):
        return t.quantized is not None
    return not BY_NAME[t.source.layout].lossless
