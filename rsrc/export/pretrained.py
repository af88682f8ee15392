"""A model directory that transformers loads with `rsr_runtime.transformers`.

model.rsr holds the linear layers, model.safetensors all other tensors, and config.json says how the
two belong together (`RsrConfig` of `rsr_runtime.transformers`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsr_formats import RsrFile
from rsr_formats.architectures import (
    PROJECTIONS,
    Architecture,
    DecoderNames,
    first_class,
    is_tied,
    of_config,
    takes_int8_activations,
)
from rsr_formats.atomic import atomic_file, link_or_copy
from rsr_formats.errors import OutputExistsError
from rsr_formats.experts import EXPERTS
from rsr_formats.pretrained import (
    DENSE_FILE,
    IMPORT_FIRST,
    QUANT_METHOD,
    RSR_FILE,
    WEIGHTS_KEY,
)
from rsr_formats.records import DenseTensor, IndexedTensor, Tensor
from rsr_formats.text import listed, quoted, shown_json

from ..common.errors import ExportError
from ..common.progress import ProgressFunction
from ..source.files import check_not_source
from .biases import scaled_biases
from .dtypes import with_one_dtype
from .floats import as_floats, without_quantization
from .folder import atomic_folder, check_folder
from .model_files import (
    CONFIG,
    Config,
    bitnet_rules,
    bitnet_settings,
    read_config,
    write_model_files,
)
from .names import with_usual_names
from .safetensors import write_safetensors
from .tensors import Export, convert_matrices

_RMS_NORM_EPS = 1e-6  # of transformers' BitNetQuantConfig
_ROPE_FACTORS = "rope_freqs.weight"  # in files compiled from GGUF


def export_pretrained(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: ProgressFunction | None = None,
) -> list[str]:
    """Write a directory that `from_pretrained` of transformers loads.

    It needs `import rsr_runtime.transformers` first, and fails without. model.rsr is a hard link
    to the `.rsr` file where the file system allows one, else a copy.

    Args:
        path: the .rsr file of a language model.
        output: the directory; it appears only once complete.
        force: replace a directory that this function wrote, or `save_pretrained`. A directory with
            other files is never replaced.
        progress: called as progress(tensor name, bytes done, total bytes).

    Returns:
        Sentences for the user: what differs from the source.

    Raises:
        FormatError: the .rsr file is damaged.
        OptionError: the output is the .rsr file.
        ExportError: the file is not a model that transformers can run on `RsrLinear`; all reasons.
        SourceError: config.json is not a JSON object, or has unknown settings.
        OutputExistsError: the output exists and may not be replaced.
        OSError: reading or writing failed; no partial output is left behind.
    """
    path, output = Path(path), Path(output)
    check_not_source(output, [path])
    if _is_ours(output) and not force:
        raise OutputExistsError(f"{output} already exists: use --force to replace it")
    check_folder(output, _is_ours)
    file = RsrFile(path)
    config = read_config(file)
    layers = _Layers(file, config)
    if reasons := [*layers.reasons()]:
        raise ExportError(
            f"transformers cannot run {path} on RsrLinear: {listed(reasons, separator='; ')}"
        )
    file.verify()  # a damaged index may still decode to digits
    export = _export(file, layers)
    with atomic_folder(output, _is_ours) as folder:
        write_model_files(file, folder, export.config)
        with atomic_file(folder / DENSE_FILE) as out:
            metadata = {**file.header.metadata, "format": "pt"}
            write_safetensors(out, export.tensors, metadata, progress)
        link_or_copy(path, folder / RSR_FILE)
        if RsrFile(folder / RSR_FILE).digest != file.digest:
            raise ExportError(f"{path} was replaced while it was exported: export it again")
    return [*export.notes]


def _is_ours(folder: Path) -> bool:
    """Return whether a directory is a model whose linear layers are in a .rsr file."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


class _Layers:
    """Which tensors of a file become modules that read its index, and how these compute."""

    def __init__(self, file: RsrFile, config: Config | None) -> None:
        """Look at the names of the tensors; nothing is read of them."""
        self.config: Config = config or {}
        self._architecture = of_config(self.config)
        self._settings = bitnet_settings(self.config)
        self._rules = bitnet_rules(self.config)
        self._int8 = takes_int8_activations(self.config)
        self._tensors = {t.name: t for t in file.header.tensors}
        self._names = DecoderNames.find(self._tensors)
        prefix, head = re.escape(self._names.prefix), re.escape(self._names.head)
        projections = "|".join(map(re.escape, PROJECTIONS))
        self._linear = re.compile(rf"(?:{prefix}layers\.[0-9]+\.(?:{projections})|{head})\.weight")

    def stays_indexed(self, t: Tensor) -> bool:
        """Return whether a module reads a tensor from the .rsr file.

        Linear layers do, and an embedding whose rows can be looked up. A class that multiplies its
        embedding by a factor has a module of its own for it.
        """
        if not isinstance(t, IndexedTensor):
            return False
        known = self._architecture
        is_plain = known is not None and known.embedding_factor is None
        is_embedding = t.name == f"{self._names.prefix}embed_tokens.weight"
        return self._is_linear(t) or (is_embedding and is_plain and t.encoding == "ranked")

    @property
    def has_head(self) -> bool:
        """Whether the file has the output head of the source."""
        head = self._tensors.get(f"{self._names.head}.weight")
        return head is not None and not (isinstance(head, DenseTensor) and head.is_added)

    def settings(self) -> Config:
        """Return how the layers take their inputs, as `RsrConfig` names it."""
        settings: Config = {"activations": "int8" if self._int8 else "float32"}
        floats = [t.name for t in self._indexed if self._int8 and not self._rules.converts(t.name)]
        if floats:
            usual = [self._names.usual(name).removesuffix(".weight") for name in floats]
            settings["float32_modules"] = usual
        if self._settings.get("use_rms_norm") is True:
            settings["use_rms_norm"] = True
            settings["rms_norm_eps"] = self._settings.get("rms_norm_eps", _RMS_NORM_EPS)
        return settings

    def reasons(self) -> Iterator[str]:
        """Yield why transformers cannot run the model on `RsrLinear`."""
        if not self.config:
            yield "it has no config.json, so it is no whole model: compile the model's directory"
            return
        if (problem := _unknown_class(self.config, self._architecture)) is not None:
            yield problem
        if not self._indexed:
            yield "it has no ternary linear layer"
        rotated = [
            t for n, t in self._tensors.items() if t.rotation is not None and not _is_expert(n)
        ]
        if dense := [t.name for t in rotated if not self.stays_indexed(t)]:
            yield f"weights in a rotated basis that are not ternary: {quoted(dense, 3)}"
        if experts := [*filter(_is_expert, self._tensors)]:
            yield f"transformers multiplies experts without linear layers: {quoted(experts, 3)}"
        if normed := [t.name for t in self._indexed if self._has_own_norm(t)]:
            yield f"norms within linear layers that transformers lacks: {quoted(normed, 3)}"
        if self._int8 and (dense := [*self._quantized_in_each_pass()]):
            yield f"weights that the model quantizes itself: compile them, too: {quoted(dense, 3)}"
        if _ROPE_FACTORS in self._tensors:
            yield f"frequencies of RoPE in a tensor, {_ROPE_FACTORS}, which config.json lacks"
        if packed := [n for n, t in self._tensors.items() if _is_packed(t)]:
            yield f"packed codes that are not ternary: {quoted(packed, 3)}"

    @property
    def _indexed(self) -> Sequence[IndexedTensor]:
        found = self._tensors.values()
        return [t for t in found if isinstance(t, IndexedTensor) and self._is_linear(t)]

    def _is_linear(self, t: Tensor) -> bool:
        return self._linear.fullmatch(t.name) is not None

    def _has_own_norm(self, t: IndexedTensor) -> bool:
        """Return whether a layer has a norm as those of BitNet embedding models."""
        return f"{t.name.removesuffix('.weight')}.norm.weight" in self._tensors

    def _quantized_in_each_pass(self) -> Iterator[str]:
        for name, t in self._tensors.items():
            if isinstance(t, DenseTensor) and self._is_linear(t) and self._rules.converts(name):
                yield name


def _unknown_class(config: Config, known: Architecture | None) -> str | None:
    if known is not None and known.in_transformers:
        return None
    named = first_class(config)
    if known is None:
        return f"config.json names the class {shown_json(named)}, which rsrc does not know"
    return f"transformers has no class {known.name}"


def _is_expert(name: str) -> bool:
    return f".{EXPERTS}." in name


def _is_packed(t: Tensor) -> bool:
    return isinstance(t, DenseTensor) and t.dtype == "U32"


def _export(file: RsrFile, layers: _Layers) -> Export:
    """Return all tensors but the matrices of linear layers, and the new config.json."""
    scaled = scaled_biases(file, layers.config)
    clips = {
        f"{t.name}_clip_val"  # ParetoQ's, from which the scales were made
        for t in file.header.tensors
        if isinstance(t, IndexedTensor)
    }
    tensors = [
        scaled.get(t.name, t)
        for t in convert_matrices(
            file, lambda t: [] if layers.stays_indexed(t) else [as_floats(file, t)]
        )
        if t.name not in clips
    ]
    config = {**(without_quantization(file, layers.config) or {})}
    if layers.has_head and is_tied(config):
        config["tie_word_embeddings"] = False  # transformers would tie what differs
    config["quantization_config"] = {
        "quant_method": QUANT_METHOD,
        "digest": file.digest.hex(),
        **layers.settings(),
    }
    config[WEIGHTS_KEY] = IMPORT_FIRST
    notes = [
        f"{t.name} is written as {t.quantized.dtype}, of its int8 values"
        for t in file.header.tensors
        if isinstance(t, DenseTensor) and t.quantized is not None and not t.is_added
    ]
    return with_usual_names(with_one_dtype(Export(tensors, config, notes), layers.config))
