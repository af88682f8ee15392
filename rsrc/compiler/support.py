"""Say whether `rsrc run` and `rsrc chat` will work, by the checks of the runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rsr_formats import RsrFile
from rsr_formats.architectures import of_config, takes_int8_activations
from rsr_formats.errors import FormatError
from rsr_formats.model_files import EMBEDDING_FILES, MAX_FILE, MAX_JSON, check_size

from ..common.errors import SourceError
from ..layouts import TernaryTensor
from ..source.checkpoint import Checkpoint
from ..source.files import read_limited
from ..source.quantization import ONLINE_CONFIG
from .recognize import Recognized

if TYPE_CHECKING:
    from rsr_runtime.llm import EmbeddingConfig, Support


def activation_notes(
    checkpoint: Checkpoint, quantize: str | None, per: str | None = None
) -> tuple[str, ...]:
    """Return a sentence if layers that may have learned int8 activations will take floats.

    As in transformers, `quantization_config` decides. Without one, neither BitNetForCausalLM nor
    the quantization of weights after training changes what the layers take. BitNet's own rule is
    absmean per tensor: another one suits other weights.

    Args:
        checkpoint: the opened source.
        quantize: the rule by which weights are quantized after training, or None.
        per: what shares a scale by that rule; None: the tensor.

    Raises:
        SourceError: config.json is not a JSON object, or too large.
    """
    if "config.json" not in checkpoint.files:  # not a whole model
        return ()
    config = checkpoint.config
    known = of_config(config)
    if known is None or not known.is_runnable or takes_int8_activations(config):
        return ()
    is_bitnets_rule = quantize == "absmean" and per in (None, "tensor")
    if known.model_type != "bitnet" and not is_bitnets_rule:
        return ()
    advice = (
        "if the weights are masters of a BitNet, which learned int8 activations, add "
        f"{ONLINE_CONFIG} to config.json and compile without --quantize"
        if quantize is not None
        else "if the model learned int8 activations, add the quantization_config of its origin"
    )
    return (
        "config.json has no quantization_config of BitNet, so linear layers take float "
        f"activations, as in transformers; {advice}",
    )


def check_source(checkpoint: Checkpoint, tensors: Mapping[str, Recognized]) -> Support:
    """Judge a source by what compiling makes of its tensors.

    Args:
        checkpoint: the opened source.
        tensors: how each is recognized, by name, without those that another absorbs.

    Raises:
        SourceError, OSError: one of its small files cannot be read.
    """
    from rsr_runtime.llm import TensorFacts, check

    facts = {}
    for name, t in tensors.items():
        is_rotated = checkpoint.basis is not None and name in checkpoint.basis.names
        if isinstance(t, TernaryTensor):
            facts[name] = TensorFacts(
                t.shape,
                None,
                t.group_columns is not None,
                t.layout.name,
                is_rotated=is_rotated,
            )
        else:
            facts[name] = TensorFacts(t.tensor.shape, t.tensor.dtype, is_rotated=is_rotated)
    return check(_SourceFiles(checkpoint.files), facts, checkpoint.metadata)


def check_file(file: RsrFile) -> Support:
    """Judge a `.rsr` file by its header and its small files."""
    from rsr_runtime.llm import Support, TensorFacts, check

    header = file.header
    try:
        files = {f.name: file.section(f.section).tobytes() for f in header.files}
    except FormatError as error:  # damage is a reason, and must not keep the file from being listed
        return Support((str(error),), (str(error),), embed_reasons=(str(error),))
    facts = {t.name: TensorFacts.of_record(t) for t in header.tensors}
    return check(files, facts, header.metadata)


def embedding_config(file: RsrFile, hidden_size: int) -> EmbeddingConfig | None:
    """Return how the model of a `.rsr` file embeds texts, None if it has no modules.json.

    Args:
        file: the file.
        hidden_size: features of a state.

    Raises:
        ModelError: one of its small files is damaged, or asks for what is not supported.
        SourceError: one is above the size limit.
    """
    from rsr_runtime.llm import read_embedding_config

    files = {}
    for entry in file.header.files:
        if entry.name in EMBEDDING_FILES:
            size = file.header.sections[entry.section].size  # decompressed
            check_size(size, f"{file.path}: {entry.name}", MAX_JSON, SourceError)
            files[entry.name] = file.section(entry.section).tobytes()
    return read_embedding_config(files, hidden_size)


class _SourceFiles(Mapping[str, bytes]):
    """The small files of a source, read when they are asked for."""

    def __init__(self, files: Mapping[str, Path | bytes]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> bytes:
        found = self._files[name]
        return found if isinstance(found, bytes) else read_limited(found, MAX_FILE)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
