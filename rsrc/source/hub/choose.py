"""Choose the files of a repository that a model needs, before any large file is downloaded.

The choice is that of `rsrc.source.open` for a directory: model.safetensors, else an index and its
shards, else numbered shards, else a GGUF file and its parts. Files of another kind (pickles, ONNX,
`original/`, ...) are not downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from rsr_formats.model_files import MODEL_FILES, path_in_model
from rsr_formats.text import alternatives, listed

from ...common.console import size
from ...common.errors import SourceError
from ..refuse import PICKLES
from ..rotation import FILE as ROTATION
from ..safetensors import index_shards
from .name import HubName

_SINGLE = "model.safetensors"
_INDEX = ".safetensors.index.json"
_SMALL = (*map(path_in_model, MODEL_FILES), ROTATION, "adapter_config.json")
_WEIGHTS = (".safetensors", _INDEX, ".gguf")
_NUMBERED = re.compile(r"(.*?)([0-9]{1,5})-of-([0-9]{1,5})(.*)", re.DOTALL)


@dataclass(frozen=True)
class Weights:
    """The files with the tensors of a model.

    Attributes:
        files: their paths in the repository, in the order in which they are read.
        index: the path of the index that names them, if there is one.
    """

    files: list[str]
    index: str | None = None

    @property
    def are_gguf(self) -> bool:
        """Whether they are a GGUF file and its parts."""
        return self.files[0].lower().endswith(".gguf")


@dataclass(frozen=True)
class Choice:
    """The files of a repository that a name stands for.

    Attributes:
        name: of a model, a folder of it or a file.
        files: the sizes in bytes of all files of the repository, by path.

    Raises:
        SourceError: the repository has no file and no folder of that name.
    """

    name: HubName
    files: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.name.file and not self.is_file and not self._beside:
            weights = [path for path in self.files if path.endswith(_WEIGHTS)]
            raise SourceError(
                f"{self.name}: no file {self.name.file!r} in this repository; "
                + alternatives(self.name.file, weights)
            )

    @property
    def is_file(self) -> bool:
        """Whether the name is that of a file."""
        return bool(self.name.file) and self.name.file in self.files

    @cached_property
    def folder(self) -> PurePosixPath:
        """The folder of the files in the repository."""
        path = PurePosixPath(self.name.file)
        return path.parent if self.is_file else path

    @cached_property
    def small(self) -> list[str]:
        """The model files and indexes, which are read before the weights."""
        if self.is_file and self.name.file.lower().endswith(".gguf"):
            return []  # it describes itself
        paths = [str(self.folder / name) for name in (*_SMALL, *self._indexes)]
        return [path for path in paths if path in self.files]

    def weights(self, root: Path) -> Weights:
        """Return the files with tensors.

        Args:
            root: where the `small` files are.

        Raises:
            SourceError: the repository has no model, several of them or only pickles; or one of
                its shards is missing.
        """
        index = self._index(root)
        names = self._without_index() if index is None else _shards(root / self.folder / index)
        missing = [name for name in names if name not in self._beside]
        if missing:
            raise SourceError(
                f"{self.name}: {len(missing)} of {len(names)} shards are not in this repository: "
                + listed(missing)
            )
        paths = [str(self.folder / name) for name in names]
        return Weights(paths, None if index is None else str(self.folder / index))

    @cached_property
    def _beside(self) -> list[str]:
        """The names of the files in the folder."""
        paths = [PurePosixPath(path) for path in self.files]
        return sorted(
            p.name for p in paths if p.parent == self.folder and not p.name.startswith(".")
        )

    @property
    def _indexes(self) -> list[str]:
        return [name for name in self._beside if name.endswith(_INDEX)]

    def _index(self, root: Path) -> str | None:
        """Return the name of the index that names the shards of the model, if one does."""
        name = PurePosixPath(self.name.file).name
        if name in self._indexes:
            return name
        if self.is_file:
            found = [i for i in self._indexes if name in _shards(root / self.folder / i)]
            return found[0] if found and name != _SINGLE else None
        if _SINGLE in self._beside or not self._indexes:
            return None
        return self._only(
            [n for n in self._indexes if n == f"{_SINGLE}.index.json"] or self._indexes
        )

    def _without_index(self) -> list[str]:
        """Return the names of the files with tensors if no index names them."""
        if self.is_file:
            if not self.name.file.lower().endswith((".safetensors", ".gguf")):
                raise SourceError(f"{self.name}: expected a .safetensors or .gguf file")
            return self._set(PurePosixPath(self.name.file).name)
        if _SINGLE in self._beside:
            return [_SINGLE]
        for suffix in (".safetensors", ".gguf"):
            if found := [name for name in self._beside if name.lower().endswith(suffix)]:
                return self._set(self._only(_firsts(found)))
        raise SourceError(f"{self.name}: {self._nothing()}")

    def _set(self, name: str) -> list[str]:
        """Return the numbered set that a file belongs to, or its name alone.

        Raises:
            SourceError: a number is missing.
        """
        of = _NUMBERED.fullmatch(name)
        if of is None:
            return [name]
        found = [n for n in self._beside if _key(n) == _key(name)]
        if len(found) != int(of[3]):
            raise SourceError(
                f"{self.name}: {len(found)} of the {int(of[3])} files of {name} are in this "
                "repository"
            )
        return found

    def _only(self, names: Sequence[str]) -> str:
        if len(names) > 1:
            raise SourceError(f"{self.name}: which of its {len(names)} models? {self._list(names)}")
        return names[0]

    def _list(self, names: Sequence[str], folder: PurePosixPath | None = None) -> str:
        """Say how each of several models is named."""
        paths = [str((folder or self.folder) / name) for name in names]
        found = [
            f"{HubName(self.name.id, self.name.revision, path)} ({size(self.files[path])})"
            for path in paths
        ]
        return f"Name one: {listed(found)}"

    def _nothing(self) -> str:
        inner = [p for p in self.files if p.lower().endswith((".gguf", ".safetensors"))]
        if inner:
            firsts = _firsts(inner)
            return f"no model at its top: {self._list(firsts, PurePosixPath())}"
        pickles = [name for name in self._beside if name.endswith(PICKLES)]
        if pickles:
            return (
                f"only pickled weights ({listed(pickles, 3)}), which are not read, as opening them "
                "can run code. If you trust them, download them with "
                f"`hf download {self.name.id} --local-dir {self.name.short}`; "
                f"`rsrc compile {self.name.short} -o {self.name.short}.rsr` then says how to "
                "convert them"
            )
        return "no .safetensors or .gguf file in this repository"


def _shards(index: Path) -> list[str]:
    return [path.name for path in index_shards(index)]


def _key(name: str) -> tuple[str, ...] | str:
    """Return what the files of one numbered set have in common."""
    of = _NUMBERED.fullmatch(name)
    return name if of is None else (of[1], of[3], of[4])


def _firsts(names: Sequence[str]) -> list[str]:
    """Return the first file of each numbered set."""
    return list({_key(name): name for name in sorted(names, reverse=True)}.values())[::-1]
