"""One commit of a repository on the Hugging Face Hub, read by the library huggingface_hub.

The library decides where the Hub and its cache are, which token it sends and whether it may use the
network: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from rsr_formats.atomic import foreign_temporaries
from rsr_formats.model_files import MAX_FILE, check_size
from rsr_formats.text import shown

from ...common.console import size
from ...common.errors import SourceError
from ...common.progress import ProgressFunction
from .bars import bars_of
from .explained import explained
from .name import HubName

_HASH = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Repository:
    """One commit of a repository.

    Attributes:
        name: as the user wrote it.
        commit: the hash that the revision stands for.
        files: the sizes in bytes of all files, by path.
        hashes: the names of their contents in the cache.
    """

    name: HubName
    commit: str
    files: dict[str, int]
    hashes: dict[str, str]

    @classmethod
    def find(cls, name: HubName) -> Repository:
        """Ask the Hub what the revision stands for, and which files it has.

        Raises:
            SourceError: there is no such model or revision, or it may not be read.
            UnreachableError: the Hub does not answer.
            MissingPackageError: huggingface_hub is not installed.
        """
        with explained(name):
            from huggingface_hub import HfApi, constants

            found = HfApi().model_info(
                name.id,
                revision=name.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
        files = found.siblings
        if found.sha is None or files is None:
            raise SourceError(f"{name}: the Hub names no commit and no files of it")
        hashes = {f.rfilename: f.lfs.sha256 if f.lfs else f.blob_id or "" for f in files}
        sizes = {f.rfilename: f.size or 0 for f in files}
        # Names of files in the cache are made of hashes.
        for what in (found.sha, *filter(None, hashes.values())):
            if not (isinstance(what, str) and _HASH.fullmatch(what)):
                raise _invalid(name, what, "a hash of hexadecimal digits")
        for file, nbytes in sizes.items():
            if ".." in file.split("/") or file.startswith("/"):
                raise _invalid(name, file, "a path within the repository")
            if type(nbytes) is not int or nbytes < 0:
                raise _invalid(name, nbytes, "a number of bytes")
        return cls(name, found.sha, sizes, hashes)

    @property
    def pinned(self) -> HubName:
        """The name with the hash of the commit instead of the revision."""
        return self.name.pinned(self.commit)

    def fetch_small(self, files: Sequence[str], folder: Path | None = None) -> Path:
        """Download small files, several at a time.

        Args:
            files: their paths.
            folder: where to put them; None for the cache, which then knows what the revision
                stands for.

        Returns:
            The folder of the whole repository.

        Raises:
            SourceError: one is larger than any that is read, or they cannot be downloaded.
        """
        if folder is not None and not files:
            return folder
        for file in files:
            check_size(self.files[file], f"{self.name}: {file}", MAX_FILE, SourceError)
        shown_as, most = f"small files of {self.name}", MAX_FILE * max(1, len(files))
        with explained(self.name):
            from huggingface_hub import snapshot_download

            return Path(
                snapshot_download(
                    self.name.id,
                    revision=self.name.revision if folder is None else self.commit,
                    local_dir=folder,
                    # Every repository has a .gitattributes.
                    allow_patterns=[escape(file) for file in files or [".gitattributes"]],
                    tqdm_class=bars_of(None, shown_as, most),
                )
            )

    def fetch(
        self, file: str, progress: ProgressFunction | None, folder: Path | None = None
    ) -> Path:
        """Download a file, unless it is in the cache; return its path.

        The library continues a download that breaks off.

        Args:
            file: its path.
            progress: called as progress(file, bytes done, bytes in total).
            folder: where to put it; None for the cache.

        Raises:
            SourceError: it cannot be downloaded.
        """
        # The library removes its unfinished file after an error, but a signal ends the process.
        blobs = cache_folder() / f"models--{self.name.id.replace('/', '--')}" / "blobs"
        unfinished = foreign_temporaries(blobs, f"{escape(self.hashes[file])}.*.incomplete")
        with explained(self.name), unfinished:
            from huggingface_hub import hf_hub_download

            return Path(
                hf_hub_download(
                    self.name.id,
                    file,
                    revision=self.commit,
                    local_dir=folder,
                    tqdm_class=bars_of(progress, file, self.files[file]),
                )
            )

    def cached(self, file: str) -> bool:
        """Return whether the cache has a file."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.name.id, file, revision=self.commit), str)

    @contextmanager
    def stream(self, file: str, start: int, stop: int) -> Iterator[Any]:
        """Request the bytes `start` to `stop` - 1 of a file; yield the response of httpx.

        Raises:
            SourceError: the Hub does not send them.
        """
        with explained(self.name):
            from huggingface_hub import constants, get_session, hf_hub_url
            from huggingface_hub.utils import (  # type: ignore[attr-defined]
                build_hf_headers,
                hf_raise_for_status,
            )

            url = hf_hub_url(self.name.id, file, revision=self.commit)
            headers = {
                **build_hf_headers(),
                "Range": f"bytes={start}-{stop - 1}",
                "Accept-Encoding": "identity",
            }
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
                hf_raise_for_status(response)
                yield response


def _invalid(name: HubName, found: object, expected: str) -> SourceError:
    return SourceError(
        f"{name}: the Hub describes its files with {shown(found)}, expected {expected}: check "
        "HF_ENDPOINT"
    )


def cache_folder() -> Path:
    """Return the folder of the Hub's cache, which need not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_room(name: HubName, needed: int, folder: Path, advice: str) -> None:
    """Check that a disk has room.

    Args:
        name: what is to be downloaded.
        needed: bytes.
        folder: on the disk; it need not exist.
        advice: what to do if there is too little room.

    Raises:
        SourceError: there is too little room.
    """
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SourceError(
            f"{name}: {size(needed)} are to be downloaded to {folder}, which has room for "
            f"{size(free)}: {advice}"
        )
