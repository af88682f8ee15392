"""Open a checkpoint: a .safetensors or .gguf file, an index or a directory. Reads no tensor."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats.model_files import MAX_CONFIG, MAX_FILE, MODEL_FILES, check_size, parse_object
from rsr_formats.records import MAX_METADATA
from rsr_formats.text import listed, quoted

from ..common.errors import SourceError
from .json_walker import JsonError, JsonWalker
from .quantization import Quantization
from .refuse import refuse_unsupported
from .safetensors_header import MAX_NAME, MAX_TENSORS, read_header
from .shapes import is_linear, missing_weights

Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 20

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# Limits on what strangers send, far above every checkpoint's; with those of safetensors_header.py
# they keep what opening takes below 64 MiB beyond the size of the files.
MAX_INDEX = 16 << 20  # bytes of a .safetensors.index.json: 95 of one tensor are usual
MAX_SHARD_NAME = 255  # bytes, as file systems have it

_NOTE = 10  # bytes of the header of a .rsr file for the lengths of a key and its value
_MAX_NOTE = 1 << 16  # bytes of what an index says beside its weight_map
_MAX_SHARD = 6 * MAX_SHARD_NAME + 2  # bytes of a shard's name where all is escaped


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint: where its bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def dense(self) -> SourceTensor:
        """The tensor in the form in which it is kept where it stays dense."""
        return self

    @property
    def origin(self) -> str | None:
        """How the source stores it, where `dtype` is what that is decoded to."""
        return None

    @property
    def stored_nbytes(self) -> int:
        """Bytes in the source; `nbytes` where they are not decoded."""
        return self.nbytes

    def read(self, buffer: Bytes | None = None) -> Bytes:
        """Return all bytes, read (not mapped, so that they do not pile up in memory).

        Args:
            buffer: where to put them, of `nbytes` or more; None takes new memory.

        Raises:
            SourceError: the file got shorter since it was opened.
        """
        data = np.empty(self.nbytes, np.uint8) if buffer is None else buffer[: self.nbytes]
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            self._fill(data, file)
        return data

    def pieces(self, size: int = PIECE) -> Iterator[memoryview]:
        """Read the bytes in pieces of `size`, the last one shorter.

        Each is valid until the next one is asked for: they share their memory.

        Raises:
            SourceError: the file got shorter since it was opened.
        """
        data = np.empty(min(size, self.nbytes), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.nbytes, size):
                piece = data[: self.nbytes - start]
                self._fill(piece, file)
                yield piece.data

    def _fill(self, data: Bytes, file: FileIO) -> None:
        """Read until `data` is full: one call may give less."""
        left = data.data
        while left:
            count = file.readinto(left)
            if not count:
                raise SourceError(f"{self.path}: ended while tensor {self.name!r} was read")
            left = left[count:]


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: its tensors by name, in the order of shards and offsets."""

    path: Path
    tensors: dict[str, SourceTensor]
    config_path: Path | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path | bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what could not be made of the source, in words

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json beside the tensors or made from them, {} if there is none.

        It is read when it is first asked for.

        Raises:
            SourceError: it is not a JSON object, or too large.
        """
        made = self.files.get("config.json")
        if isinstance(made, bytes):
            return parse_object(made, f"{self.path}: config.json", MAX_CONFIG, SourceError)
        if self.config_path is None:
            return {}
        data = _read_limited(self.config_path, MAX_CONFIG)
        return parse_object(data, str(self.config_path), MAX_CONFIG, SourceError)

    @cached_property
    def quantization(self) -> Quantization:
        """What the config says of quantization.

        Raises:
            SourceError: the config is not a JSON object.
        """
        return Quantization(self.config)

    @cached_property
    def unscaled(self) -> dict[str, SourceTensor]:
        """Packed weights of BitNet layers, by config.json, that have no `weight_scale`."""
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
        """The folder in which its files lie."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are read."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all tensors in the source's files."""
        return sum(t.stored_nbytes for t in self.tensors.values())

    @property
    def shards(self) -> set[Path]:
        """The files that tensors come from."""
        return {t.path for t in self.tensors.values()}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that is known about the tensors without reading them."""
        known = (self.tensors, self.config, self.metadata)
        return hashlib.sha256(repr(known).encode(errors="backslashreplace")).digest()

    def reference(self) -> CheckpointReference:
        """Return what another process needs to open the same checkpoint."""
        return CheckpointReference(self.path, self.digest)


@dataclass(frozen=True)
class CheckpointReference:
    """A checkpoint as another process is told of it: its headers may be large, its path is not."""

    path: Path
    digest: bytes

    def open(self) -> Checkpoint:
        """Open it, or return what was opened before.

        Raises:
            SourceError: it cannot be opened, or has other tensors here than where it came from.
        """
        return _open_again(self)


@lru_cache(maxsize=2)
def _open_again(reference: CheckpointReference) -> Checkpoint:
    checkpoint = open_checkpoint(reference.path)
    if checkpoint.digest != reference.digest:
        raise SourceError(
            f"{reference.path}: a worker finds other tensors or another config.json there: workers "
            "read the source themselves, from the same paths"
        )
    return checkpoint


def is_source(path: Path) -> bool:
    """Whether a path is, by its name, a source for `open_checkpoint` and no .rsr file."""
    return path.is_dir() or path.suffix in (".safetensors", ".gguf", ".json", *PICKLES)


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint and check that it is whole and of a kind that is read.

    Args:
        source: a .safetensors file, a .safetensors.index.json, a .gguf file or a model directory.

    Raises:
        SourceError: it does not exist, is damaged or incomplete, or is of another kind.
    """
    checkpoint = _open(Path(source))
    refuse_unsupported(checkpoint)
    # A file that is named itself may be a part of a model.
    missing = None if checkpoint.path.suffix == ".safetensors" else _missing(checkpoint)
    if missing is not None:
        raise SourceError(f"{checkpoint.path}: {missing}")
    return checkpoint


def _missing(checkpoint: Checkpoint) -> str | None:
    """Say which weights others or config.json show to be missing; None if none is."""
    names = checkpoint.tensors
    if any(map(is_linear, names)):
        missing = missing_weights(checkpoint.config, names)
        if missing is not None:
            return missing
    weights = [name.removesuffix("_scale") for name in names if name.endswith(".weight_scale")]
    absent = [repr(name[:120]) for name in weights if name not in names]
    if absent and checkpoint.quantization.is_bitnet:
        return f"weights are missing whose scales are there: {listed(absent)}"
    return None


def _open(path: Path) -> Checkpoint:
    if not path.exists():
        raise SourceError(f"{path}: no such file or directory")
    if path.is_dir():
        return _open_directory(path)
    if path.name.endswith(".index.json"):
        return _open_sharded(path, _model_files(path.parent))
    if path.suffix == ".safetensors":
        return _open_shards(path, [path], {})
    if path.suffix == ".gguf":
        from .gguf.open import open_gguf  # here: it builds on this module

        return open_gguf(path)
    if path.suffix in PICKLES:
        raise SourceError(f"{path}: {_pickled(path.name)}")
    raise SourceError(
        f"{path}: expected a .safetensors file, a .safetensors.index.json, a .gguf file or a model "
        "directory"
    )


def _open_directory(folder: Path) -> Checkpoint:
    # The order in which transformers looks: a single file wins over an index.
    single = folder / "model.safetensors"
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    others = sorted(folder.glob("*.safetensors"))
    if single.is_file() or (not indexes and len(others) == 1):
        shard = single if single.is_file() else others[0]
        return _open_shards(folder, [shard], _model_files(folder))
    if len(indexes) == 1:
        return _open_sharded(indexes[0], _model_files(folder))
    if others or indexes:
        names = listed([p.name for p in indexes or others])
        raise SourceError(f"{folder}: which of {names}? Name one of them as the source")
    _refuse_by_config(folder)
    if ggufs := sorted(folder.glob("*.gguf")):
        return _open_gguf_directory(folder, ggufs)
    text = f"{folder}: no .safetensors or .gguf file in this directory"
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    raise SourceError(f"{text}: {_pickled(*pickles)}" if pickles else text)


def _open_gguf_directory(folder: Path, ggufs: list[Path]) -> Checkpoint:
    """Open the one GGUF model in a folder; files beside it win over what its metadata give."""
    from .gguf.open import first_parts, open_gguf

    models = first_parts(ggufs)
    if len(models) != 1:
        names = listed([p.name for p in models or ggufs])
        raise SourceError(f"{folder}: which of {names}? Name one of them as the source")
    found, beside = open_gguf(models[0]), _model_files(folder)
    config = folder / "config.json"
    return replace(
        found,
        path=folder,
        config_path=config if config.name in beside else None,
        files={**found.files, **beside},
    )


def _refuse_by_config(source: Path) -> None:
    """Refuse what needs no tensors to be known, before advice on converting them misleads."""
    folder = source if source.is_dir() else source.parent
    refuse_unsupported(Checkpoint(source, {}, _config_in(folder)))


def _config_in(folder: Path) -> Path | None:
    path = folder / "config.json"
    return path if _is_there(path) else None


def _pickled(*names: str) -> str:
    """Say why files of these names are not read, and how to convert them (tests/parity does it)."""
    options = "map_location='cpu', weights_only=True"
    load = f"torch.load({names[0]!r}, {options})"
    if len(names) > 1:  # shards, beside whatever else their trainer pickled
        shards = any(name.startswith("pytorch_model") for name in names)
        files = "pytorch_model*.bin" if shards else f"*{Path(names[0]).suffix}"
        each = f"torch.load(f, {options}).items()"
        load = f"{{n: t for f in sorted(glob.glob({files!r})) for n, t in {each}}}"
    return (
        f"pickled weights ({quoted(names, 20)}) are not read, as they can run "
        "code when they are opened. If you trust them, convert them, in Python with torch and "
        f"safetensors: `w = {load}`, then `safetensors.torch.save_file("
        "{n: t.contiguous().clone() for n, t in w.items()}, 'model.safetensors')`"
    )


def _model_files(folder: Path) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {}
    for name in MODEL_FILES:
        path = folder / name
        if _is_there(path):
            limit = MAX_CONFIG if name == "config.json" else MAX_FILE
            check_size(path.stat().st_size, str(path), limit, SourceError)
            files[name] = path
    return files


def _open_sharded(index: Path, files: dict[str, Path | bytes]) -> Checkpoint:
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    for name in names:
        if not _is_plain(name):
            raise SourceError(
                f"{index}: {name[:80]!r} is no plain file name; shards lie beside their index"
            )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        _refuse_by_config(index)
        raise SourceError(f"{index}: {_pickled(*pickles)}")
    # Links are followed: the Hugging Face cache is made of them. The index cannot name what lies
    # elsewhere; what a link points to is the choice of whoever made it on this machine.
    shards = [index.parent / name for name in names]
    missing = [_absent(p) for p in shards if not p.is_file()]
    if missing:
        raise SourceError(
            f"{index}: {len(missing)} of {len(shards)} shards missing: {listed(missing)}"
        )
    checkpoint = _open_shards(index, shards, files)
    wrong = [
        f"{name[:80]} (in {shard[:80]})"
        for name, shard in weight_map.items()
        if name not in checkpoint.tensors or checkpoint.tensors[name].path.name != shard
    ]
    if wrong:
        raise SourceError(f"{index}: tensors are not in the shard named: {listed(wrong)}")
    extra = [name for name in checkpoint.tensors if name not in weight_map]
    for name in extra:  # readers go by the index; what it does not name is not part of the model
        del checkpoint.tensors[name]
    return checkpoint


def _weight_map(index: Path) -> dict[str, str]:
    """Read which tensor is in which shard; memory goes to nothing else the index may hold."""
    _is_there(index)
    walker = JsonWalker(_read_limited(index, MAX_INDEX))
    weight_map: dict[str, str] = {}
    try:
        for key in walker.members(MAX_NAME):
            if key != "weight_map":
                walker.value(_MAX_NOTE)
                continue
            for name in walker.members(MAX_NAME):
                if len(weight_map) == MAX_TENSORS:
                    raise JsonError(f"more than {MAX_TENSORS} tensors")
                weight_map[name] = sys.intern(walker.string(_MAX_SHARD))
        walker.end()
    except JsonError as error:
        raise SourceError(f"{index}: not an index of shards: {error}") from None
    if not weight_map:
        raise SourceError(f"{index}: expected a non-empty map under 'weight_map'")
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether `name` names a file of the folder on every system."""
    if not 1 <= len(name.encode()) <= MAX_SHARD_NAME or name in (".", ".."):
        return False
    return not any(c in "/\\:" or c < " " for c in name)


def _absent(path: Path) -> str:
    return path.name[:80] + (" (not a regular file)" if path.exists() else "")


def _open_shards(source: Path, shards: list[Path], files: dict[str, Path | bytes]) -> Checkpoint:
    tensors: dict[str, SourceTensor] = {}
    metadata: dict[str, str] = {}
    noted = 3  # bytes of them in the header of a .rsr file
    for shard in shards:
        entries, notes = read_header(shard)
        if len(tensors) + len(entries) > MAX_TENSORS:
            raise SourceError(f"{source}: more than {MAX_TENSORS} tensors")
        for e in entries:
            if e.name in tensors:
                raise SourceError(
                    f"tensor {e.name!r} is in both {tensors[e.name].path.name} and {shard.name}"
                )
            tensors[e.name] = SourceTensor(e.name, e.dtype, e.shape, shard, e.offset, e.nbytes)
        for key, value in notes.items():
            if key not in metadata:
                metadata[key] = value
                noted += _NOTE + len((key + value).encode())
        if noted > MAX_METADATA:
            raise SourceError(f"{source}: more than {MAX_METADATA} bytes of metadata")
    return Checkpoint(source, tensors, _config_in(shards[0].parent), metadata, files)


def _is_there(path: Path) -> bool:
    """Whether there is such a file; refuse what would let us wait for ever, as a FIFO does."""
    if path.exists() and not path.is_file():
        raise SourceError(f"{path}: not a regular file")
    return path.is_file()


def _read_limited(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
        size = max(len(data), os.fstat(file.fileno()).st_size)
        check_size(size, str(path), limit, SourceError)
    return data
