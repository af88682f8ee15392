"""Write a GGUF file with one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from rsr_formats import RsrFile
from rsr_formats.architectures import of_config, of_gguf, takes_int8_activations
from rsr_formats.atomic import atomic_file
from rsr_formats.keys.generation import of_model

from ...common.errors import MissingPackageError
from ...common.progress import ByteCounter, ProgressFunction
from ...source.gguf.activations import activation_metadata
from ...source.gguf.scales import scale_metadata
from ..activations import activation_notes, kept_notes
from ..model_files import GENERATION, find_file, read_config, read_json
from .metadata import add_metadata
from .pooling import pooling_metadata
from .settings import end_tokens, model_settings
from .tensors import file_type, plan
from .tokenizer import tokenizer


def require_gguf() -> None:
    """Raise `MissingPackageError` if the package gguf is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingPackageError(
            "writing GGUF needs the package gguf: pip install 'rsr-ternary[gguf]'"
        ) from None


def write_gguf(
    file: RsrFile,
    output: Path,
    kind: str | None,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> list[str]:
    """Write the model of a `.rsr` file as GGUF.

    Names, the order of rows in q and k, metadata and the tokenizer are those of llama.cpp's
    converter.

    Args:
        file: the .rsr file.
        output: the GGUF file; it appears only once complete.
        kind: the type of ternary matrices, one of `blocks.TYPES`; None chooses TQ2_0 or Q2_0 for
            each, by what its scales span. Matrices that fit no block are written as the smallest
            floats that hold them exactly.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, total bytes).

    Returns:
        Sentences for the user: rounded scales, matrices written as floats, unknown names.

    Raises:
        ExportError: GGUF has no way to store a dtype, a shape, a scale or a setting.
        SourceError: config.json is not a JSON object, or contradicts the tensors.
    """
    import gguf

    notes: list[str] = []
    config = read_config(file)
    entry = find_file(file, GENERATION)
    generation = dict(of_model(config or {}, None if entry is None else read_json(file, entry)))
    settings = model_settings(config, generation, notes.append)
    tensors = plan(file, config, settings, kind, notes.append)
    tokens = tokenizer(file, tensors, notes.append)
    metadata = {**settings.metadata, **tokens}
    if settings.architecture and config is not None:
        ends = generation.get("eos_token_id", config.get("eos_token_id"))
        metadata |= end_tokens(tokens.get("tokenizer.ggml.eos_token_id"), ends, notes.append)
        if (model := of_config(config)) is not None:
            metadata |= pooling_metadata(file, model, config["hidden_size"], notes.append)
    architecture = str(metadata.pop("general.architecture", "unknown"))
    if (known := of_gguf(architecture)) is not None:
        made = {"architectures": [known.name], **known.gguf_config}
        is_int8 = takes_int8_activations(made)
        changes = activation_notes(config, is_int8)
        notes += [f"in llama.cpp, {note}; rsrc compile restores the source's" for note in changes]
        notes += kept_notes(file, config) if is_int8 else []
        metadata |= {} if config is None else activation_metadata(config, made)
        metadata |= scale_metadata({t.name: t.scale for t in tensors if t.scale is not None})
    counter = ByteCounter(progress, sum(t.nbytes for t in tensors))
    with atomic_file(output, force) as out:
        # GGUFWriter opens the temporary file by its name; `atomic_file` flushes and renames it.
        writer = gguf.GGUFWriter(Path(out.name), architecture)
        try:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_uint32("general.file_type", file_type(tensors))
            add_metadata(writer, metadata)
            for t in tensors:
                # The package knows neither Q2_0 nor PQ2_0. With unsigned bytes it would look up the
                # size of their blocks; with signed bytes it writes number and shape as given.
                raw = cast(gguf.GGMLQuantizationType, t.number)
                writer.add_tensor_info(t.name, t.shape, np.dtype(np.int8), t.nbytes, raw)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for t in tensors:
                writer.write_tensor_data(t.data())
                counter.advance(t.name, t.nbytes)
        finally:
            writer.close()
    return notes
