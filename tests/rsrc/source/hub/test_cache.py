"""The directories of the cache of the Hugging Face Hub, given as paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.source.open import open_checkpoint

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)


def refused(source: str | Path) -> str:
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(source)
    return str(caught.value)


@pytest.fixture
def cache(kit: Kit, tmp_path: Path) -> Path:
    """Return the directory of a model in a cache, with one snapshot, as hf download lays it out."""
    folder = tmp_path / "hub" / "models--a--b"
    snapshot = folder / "snapshots" / "5eb1"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "blobs").mkdir()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate(names):
        kit.save(folder / "blobs" / f"blob{i}", {f"w{i}": T})
        (snapshot / name).symlink_to(f"../../blobs/blob{i}")
    return folder


def test_the_only_snapshot(cache: Path) -> None:
    snapshot = cache / "snapshots" / "5eb1"
    for source in (cache, cache / "snapshots"):
        checkpoint = open_checkpoint(source)
        assert list(checkpoint.tensors) == ["w0", "w1"]
        assert checkpoint.path == snapshot
        assert checkpoint.notes[0] == f"read from {snapshot}"


def test_the_main_one_of_several(cache: Path) -> None:
    (cache / "snapshots" / "0ld").mkdir()
    assert refused(cache) == (
        f"{cache}: a directory of the Hugging Face cache with several snapshots: name one of "
        "snapshots/0ld, snapshots/5eb1"
    )
    (cache / "refs" / "main").write_text("5eb1")
    assert open_checkpoint(cache).path == cache / "snapshots" / "5eb1"
    for other in ("gone", "", "../..", "\0", "x" * 9999):
        (cache / "refs" / "main").write_text(other)
        assert "several snapshots" in refused(cache)


def test_none(cache: Path, tmp_path: Path) -> None:
    (cache / "snapshots" / "5eb1").rename(tmp_path / "elsewhere")
    assert refused(cache).endswith("no model in this directory of the cache: download it again")


def test_a_blob_stands_for_the_file_that_links_to_it(cache: Path) -> None:
    checkpoint = open_checkpoint(cache / "blobs" / "blob1")
    assert list(checkpoint.tensors) == ["w0", "w1"]


def test_a_blob_that_is_gone(cache: Path) -> None:
    (cache / "blobs" / "blob1").unlink()
    assert refused(cache).endswith(
        "1 of 2 shards missing: model-00002-of-00002.safetensors (a link to a missing file); "
        "download them"
    )
    (cache / "blobs" / "blob1.incomplete").write_bytes(b"")
    assert refused(cache).endswith("a download is not finished (blob1.incomplete): run it again")


def test_the_whole_cache(cache: Path) -> None:
    assert refused(cache.parent).endswith(
        "in this directory: give one of models--a--b as the source"
    )


def test_a_model_in_a_subdirectory(kit: Kit, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    kit.save(inner / "model.safetensors", {"a": T})
    assert refused(tmp_path).endswith(f"in this directory: give {inner} as the source")
