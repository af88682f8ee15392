"""An opened source: its tensors, its config.json and its model files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from rsr_formats.model_files import MAX_CONFIG, parse_object
from rsr_formats.records import Rotation, Stack
from rsr_formats.text_config import text_settings

from ..common.errors import SourceError
from .files import read_limited
from .quantization import Quantization
from .rotation import RotatedBasis
from .tensor import SourceTensor


@dataclass(frozen=True)
class Checkpoint:
    """An opened source. Only headers and small files have been read.

    Attributes:
        path: the file or folder that was opened.
        tensors: by name, in the order of shards and offsets.
        config_path: the config.json beside the tensors, if there is one.
        metadata: of the safetensors header, or the `general.*` strings of GGUF.
        files: the model files that a `.rsr` file keeps, by name: a path, or contents made from GGUF
            metadata.
        notes: sentences for the user about what could not be converted.
        stacks: the three-dimensional tensors that some of `tensors` are parts of in the file.
        basis: the rotated basis that some matrices are stored in, None if there is none.
        left_out: tensors of the source that do not belong to its decoder, by name.
        origin: where it was downloaded from, `hf://org/name@commit`; None if it was not.
        fetched: returns a context in which a file of tensors is on this machine; None if all are.
    """

    path: Path
    tensors: dict[str, SourceTensor]
    config_path: Path | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path | bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stacks: tuple[Stack, ...] = ()
    basis: RotatedBasis | None = None
    left_out: dict[str, SourceTensor] = field(default_factory=dict)
    origin: str | None = None
    fetched: Callable[[Path], AbstractContextManager[object]] | None = None

    def in_turn(self) -> Generator[list[SourceTensor], None, None]:
        """Yield all tensors in order, those of a file that is fetched together.

        The file is on this machine until the next list is requested or the iterator is closed.

        Raises:
            SourceError: a file cannot be fetched.
        """
        if self.fetched is None:
            yield [*self.tensors.values()]
            return
        for path, tensors in groupby(self.tensors.values(), key=lambda t: t.path):
            with self.fetched(path):
                yield [*tensors]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of the decoder: config.json, or its `text_config` if the model has one.

        Raises:
            SourceError: as `whole_config`.
        """
        return text_settings(self.whole_config)

    @cached_property
    def whole_config(self) -> dict[str, Any]:
        """The config.json beside the tensors or made from GGUF metadata; {} if there is none.

        Raises:
            SourceError: it is not a JSON object, or too large.
        """
        made = self.files.get("config.json")
        if isinstance(made, bytes):
            return parse_object(made, f"{self.path}: config.json", MAX_CONFIG, SourceError)
        if self.config_path is None:
            return {}
        data = read_limited(self.config_path, MAX_CONFIG)
        return parse_object(data, str(self.config_path), MAX_CONFIG, SourceError)

    def rotation_of(self, name: str, shape: tuple[int, ...]) -> Rotation | None:
        """Return the rotation of a matrix, None if it is in the model's basis.

        Raises:
            SourceError: as `RotatedBasis.of`.
        """
        return None if self.basis is None else self.basis.of(name, shape)

    @cached_property
    def quantization(self) -> Quantization:
        """The `quantization_config` of config.json.

        Raises:
            SourceError: config.json is not a JSON object.
        """
        return Quantization(self.config)

    @cached_property
    def unscaled(self) -> dict[str, SourceTensor]:
        """Packed weights of BitNet layers, according to config.json, without a `weight_scale`."""
        if not self.quantization.is_bitnet:
            return {}
        return {
            name: t
            for name, t in self.tensors.items()
            if (t.dtype == "U8" and len(t.shape) == 2 and name.endswith(".weight"))
            and f"{name}_scale" not in self.tensors
            and self.quantization.converts(name)
        }

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as `SourceTensor.read` returns them."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all tensors in the source's files."""
        return sum(t.stored_nbytes for t in self.tensors.values())

    @property
    def shards(self) -> set[Path]:
        """The files that hold the tensors."""
        return {t.path for t in (*self.tensors.values(), *self.left_out.values())}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of names, dtypes, shapes, offsets, config and metadata, without tensor data."""
        known = (self.tensors, self.config, self.metadata)
        return hashlib.sha256(repr(known).encode(errors="backslashreplace")).digest()

    def reference(self) -> CheckpointReference:
        """Return what another process needs to open the same checkpoint."""
        return CheckpointReference(self.path, self.digest)


@dataclass(frozen=True)
class CheckpointReference:
    """Sent to another process instead of a checkpoint, whose headers may be large.

    `rsrc.source.open.reopen` opens the checkpoint there.
    """

    path: Path
    digest: bytes
