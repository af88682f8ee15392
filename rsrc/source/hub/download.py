"""Download a model of the Hugging Face Hub to its cache, or find it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...common.errors import SourceError
from ...common.progress import Progress, ProgressFunction
from ..refuse import refuse_by_config
from .choose import Choice
from .explained import UnreachableError
from .name import HubName
from .repository import Repository, cache_folder, check_room


@dataclass(frozen=True)
class Downloaded:
    """A model in the cache.

    Attributes:
        path: what to open.
        origin: its name, with the hash of the commit.
        note: a sentence for the user.
    """

    path: Path
    origin: HubName
    note: str


def download(name: HubName, progress: ProgressFunction | None = None) -> Downloaded:
    """Download the files that a model needs and the cache lacks.

    If the Hub cannot be asked, the revision that the cache holds is the model.

    Args:
        name: of the model, or one of its files.
        progress: called as progress(file, bytes done, bytes of the file); phase "downloading".

    Raises:
        SourceError: it cannot be downloaded, or is no model that can be compiled.
        MissingPackageError: huggingface_hub is not installed.
    """
    try:
        repository = Repository.find(name)
    except UnreachableError as error:
        return _cached(name, error)
    choice = Choice(name, repository.files)
    root = repository.fetch_small(choice.small)
    if root.name != repository.commit:  # a new commit; or an old one, if the connection was lost
        raise SourceError(
            f"{name}: the Hub named commit {repository.commit}, and then the files were those of "
            f"{root.name}: try again"
        )
    if choice.small:
        refuse_by_config(root / choice.folder)
    lacking = [f for f in choice.weights(root).files if not repository.cached(f)]
    needed = sum(repository.files[f] for f in lacking)
    check_room(name, needed, cache_folder(), "set HF_HOME to a folder with more, or use --no-cache")
    if lacking and isinstance(progress, Progress):
        progress.begin("downloading", len(lacking))
    for file in lacking:
        repository.fetch(file, progress)
    path = root / name.file
    return Downloaded(path, repository.pinned, f"{repository.pinned} is in {path}")


def _cached(name: HubName, error: UnreachableError) -> Downloaded:
    """Return what the cache holds of a revision.

    Raises:
        SourceError: it holds nothing.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    lacks = SourceError(f"{name}: {error.why}, and {cache_folder()} lacks it: {error.advice}")
    try:
        root = Path(
            snapshot_download(
                name.id, revision=name.revision, local_files_only=True, allow_patterns=[]
            )
        )
    except LocalEntryNotFoundError:
        raise lacks from error
    path = root / name.file
    if not path.exists():
        raise lacks from error
    note = f"{name.pinned(root.name)} is in {path}"
    if not constants.HF_HUB_OFFLINE:
        note = f"{error.why}, so the cache is read: {note}"
    return Downloaded(path, name.pinned(root.name), note)
