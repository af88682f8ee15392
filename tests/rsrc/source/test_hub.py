"""The Hugging Face Hub: ids and addresses given as paths, and the directories of its cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.source.open import is_source, open_checkpoint

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)


def refused(source: str | Path) -> str:
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(source)
    return str(caught.value)


class TestIds:
    def test_an_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert is_source(Path("microsoft/bitnet-b1.58-2B-4T"))
        assert refused("microsoft/bitnet-b1.58-2B-4T") == (
            "microsoft/bitnet-b1.58-2B-4T: no such file or directory; for the model of this name "
            "on the Hugging Face Hub, run `hf download microsoft/bitnet-b1.58-2B-4T --local-dir "
            "bitnet-b1.58-2B-4T`, then `rsrc compile bitnet-b1.58-2B-4T -o bitnet-b1.58-2B-4T.rsr`"
        )

    def test_paths_are_no_ids(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        for path in (
            "models/none", "a/b/c", "none", "/a/b", "./none", "../a", "a/b.safetensors", "a/m.gguf",
        ):  # fmt: skip
            assert refused(path) == f"{Path(path)}: no such file or directory"

    @pytest.mark.parametrize(
        ("source", "command", "compile"),
        [
            ("hf://a/b", "a/b --local-dir b", "b"),
            ("hf://a/b@v1", "a/b --local-dir b --revision v1", "b"),
            ("a/b@refs/pr/1", "a/b --local-dir b --revision refs/pr/1", "b"),
            ("https://huggingface.co/a/b", "a/b --local-dir b", "b"),
            ("https://huggingface.co/a/b/tree/main", "a/b --local-dir b", "b"),
            ("hf.co/a/b.c", "a/b.c --local-dir b.c", "b.c"),
            ("https://hf.co/a/b/blob/main/m.gguf", "a/b m.gguf --local-dir b", "b/m.gguf"),
            (
                "https://huggingface.co/a/b/resolve/v2/x/m.gguf?download=true",
                "a/b x/m.gguf --local-dir b --revision v2",
                "b/x/m.gguf",
            ),
        ],
    )
    def test_addresses(self, source: str, command: str, compile: str) -> None:
        message = refused(source)
        assert message.startswith(f"{source}: ")
        name = compile.partition("/")[0]
        assert (
            f"run `hf download {command}`, then `rsrc compile {compile} -o {name}.rsr`" in message
        )

    def test_other_addresses(self) -> None:
        address = "https://example.org/m.gguf"
        assert refused(address) == f"{address}: an address: download the file, then name it here"


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


class TestCache:
    def test_the_only_snapshot(self, cache: Path) -> None:
        snapshot = cache / "snapshots" / "5eb1"
        for source in (cache, cache / "snapshots"):
            checkpoint = open_checkpoint(source)
            assert list(checkpoint.tensors) == ["w0", "w1"]
            assert checkpoint.path == snapshot
            assert checkpoint.notes[0] == f"read from {snapshot}"

    def test_the_main_one_of_several(self, cache: Path) -> None:
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

    def test_none(self, cache: Path, tmp_path: Path) -> None:
        (cache / "snapshots" / "5eb1").rename(tmp_path / "elsewhere")
        assert refused(cache).endswith("no model in this directory of the cache: download it again")

    def test_a_blob_stands_for_the_file_that_links_to_it(self, cache: Path) -> None:
        checkpoint = open_checkpoint(cache / "blobs" / "blob1")
        assert list(checkpoint.tensors) == ["w0", "w1"]

    def test_a_blob_that_is_gone(self, cache: Path) -> None:
        (cache / "blobs" / "blob1").unlink()
        assert refused(cache).endswith(
            "1 of 2 shards missing: model-00002-of-00002.safetensors (a link to a missing file); "
            "download them"
        )
        (cache / "blobs" / "blob1.incomplete").write_bytes(b"")
        assert refused(cache).endswith(
            "a download is not finished (blob1.incomplete): run it again"
        )

    def test_the_whole_cache(self, cache: Path) -> None:
        assert refused(cache.parent).endswith(
            "in this directory: give one of models--a--b as the source"
        )

    def test_a_model_in_a_subdirectory(self, kit: Kit, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        kit.save(inner / "model.safetensors", {"a": T})
        assert refused(tmp_path).endswith(f"in this directory: give {inner} as the source")
