"""Open a model of the Hub without its weights, which are downloaded one file at a time when due.

The headers of all safetensors files are read first, so every tensor is known. A file is downloaded
when its tensors are due and removed after them. A tensor that is needed while its file is not there
(a scale in another shard, or the embedding once more for a tied head) is read from the Hub by
itself. A GGUF file is downloaded whole, with its parts, and removed in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader, RawIOBase
from pathlib import Path

from rsr_formats.atomic import beside
from rsr_formats.errors import RsrError

from ...common.progress import Progress, ProgressFunction
from ...common.scratch import scratch_folder
from ..checkpoint import Checkpoint
from ..files import model_files
from ..open import checked, open_checkpoint
from ..refuse import refuse_by_config
from ..safetensors import MAX_HEADER, Header, header_of, open_index, open_shards
from ..tensor import SourceTensor
from .choose import Choice, Weights
from .name import HubName
from .ranges import RangeReader
from .repository import Repository, check_room

_ADVICE = "choose an output on another disk"


@contextmanager
def streamed(
    name: HubName, output: Path, progress: ProgressFunction | None
) -> Iterator[Checkpoint]:
    """Open a model for one pass over its tensors by `Checkpoint.in_turn`.

    Files are downloaded to a temporary folder beside `output`, which is removed with the block.

    Args:
        name: of the model, or one of its files.
        output: the file that is made of the model.
        progress: shows downloads, as `download.download`.

    Raises:
        SourceError: the model cannot be downloaded, or cannot be compiled.
        MissingPackageError: huggingface_hub is not installed.
    """
    repository = Repository.find(name)
    choice = Choice(name, repository.files)
    with scratch_folder(beside(output)) as folder:
        try:
            shards = _Shards(repository, folder, progress)
            yield replace(shards.open(choice), origin=str(repository.pinned))
        except RsrError as error:
            # The folder is gone when the message is read.
            error.args = (str(error).replace(str(folder), str(name)),)
            raise


@dataclass(frozen=True)
class _Tensor(SourceTensor):
    """A tensor of a file that may not be on this machine."""

    shards: _Shards

    def open(self) -> RawIOBase:
        """Open the file, or request the bytes of the tensor from the Hub."""
        if self.path.exists():
            return super().open()
        return self.shards.request(self.path, self.offset, self.offset + self.nbytes)


@dataclass(frozen=True)
class _Shards:
    """The files of a repository, each at its path in `folder` while it is there."""

    repository: Repository
    folder: Path
    progress: ProgressFunction | None

    def open(self, choice: Choice) -> Checkpoint:
        """Open the model whose files were chosen."""
        self.repository.fetch_small(choice.small, self.folder)
        folder = self.folder / choice.folder
        if choice.small:
            refuse_by_config(folder)
        weights = choice.weights(self.folder)
        sizes = [self.repository.files[file] for file in weights.files]
        needed = sum(sizes) if weights.are_gguf else max(sizes)
        check_room(self.repository.name, needed, self.folder.parent, _ADVICE)
        if weights.are_gguf:
            self._begin(len(sizes))
            for file in weights.files:
                self.repository.fetch(file, self.progress, self.folder)
            return open_checkpoint(self.folder / choice.name.file)
        return replace(checked(self._headers(choice, weights, folder)), fetched=self.fetched)

    def _headers(self, choice: Choice, weights: Weights, folder: Path) -> Checkpoint:
        if weights.index is not None:
            return open_index(self.folder / weights.index, self.read_header)
        paths = [self.folder / file for file in weights.files]
        alone = choice.is_file and len(paths) == 1
        files = {} if alone else model_files(folder)
        return open_shards(paths[0] if alone else folder, paths, files, self.read_header)

    def read_header(self, path: Path) -> Header:
        """Read the header of a file that is not on this machine."""
        file_bytes = self.repository.files[self._file(path)]
        with BufferedReader(self.request(path, 0, min(file_bytes, 8 + MAX_HEADER))) as file:
            tensors, metadata = header_of(path, file, file_bytes)
        return [
            _Tensor(t.name, t.dtype, t.shape, t.path, t.offset, t.nbytes, self) for t in tensors
        ], metadata

    def request(self, path: Path, start: int, stop: int) -> RangeReader:
        """Return a reader of the bytes `start` to `stop` - 1 of a file."""
        return RangeReader(self.repository, self._file(path), start, stop)

    @contextmanager
    def fetched(self, path: Path) -> Iterator[None]:
        """Download a file for the time of the block."""
        self._begin(1)
        self.repository.fetch(self._file(path), self.progress, self.folder)
        try:
            yield
        finally:
            path.unlink()

    def _file(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _begin(self, files: int) -> None:
        if isinstance(self.progress, Progress):
            self.progress.begin("downloading", files)
