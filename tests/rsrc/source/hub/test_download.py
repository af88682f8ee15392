"""Models of the Hub, downloaded to the cache."""

from __future__ import annotations

import builtins
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.hub import Hub, client_of
from rsrc.common.errors import SourceError
from rsrc.source.hub.explained import explained
from rsrc.source.hub.name import HubName
from rsrc.source.hub.repository import Repository
from rsrc.source.open import open_checkpoint

T = np.random.default_rng(8).integers(-1, 2, (40, 100)).astype(np.int8)
OTHERS = {"README.md": b"x", "original/model.safetensors": b"x", "pytorch_model.bin": b"x"}


@pytest.fixture
def model(kit: Kit, tmp_path: Path) -> Path:
    """A model in two shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    kit.save_sharded(folder, {names[0]: {"a": T}, names[1]: {"b": T.T.copy()}})
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def refused(source: str) -> str:
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(source)
    return str(caught.value)


def without_origin(path: Path, origin: str) -> bytes:
    """Return a .rsr file as if it had been compiled from a directory."""

    def edit(document: dict[str, Any]) -> None:
        assert document["metadata"].pop("rsr.source") == origin

    return Kit.tamper(path, edit).read_bytes()


class Recorder:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.last: dict[str, tuple[int, int]] = {}

    def begin(self, phase: str, tensors: int) -> None:
        self.phases.append((phase, tensors))

    def __call__(self, name: str, done: int, total: int) -> None:
        self.last[name] = done, total


def test_only_needed_files_are_downloaded_and_once(
    hub: Hub, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = hub.add("a/b", {**files_of(model), **OTHERS})
    recorder = Recorder()
    rsrc.compile(model, tmp_path / "local.rsr")
    report = rsrc.compile("hf://a/b", tmp_path / "x.rsr", progress=recorder)
    assert report.source == "hf://a/b"
    snapshot = tmp_path / "home" / "hub" / "models--a--b" / "snapshots" / commit
    assert report.notes[0] == f"hf://a/b@{commit} is in {snapshot}"
    assert {p.name for p in snapshot.iterdir()} == set(files_of(model))
    assert recorder.phases[0] == ("downloading", 2)
    for shard in model.glob("*.safetensors"):
        assert recorder.last[shard.name] == (shard.stat().st_size,) * 2
    assert (
        without_origin(tmp_path / "x.rsr", f"hf://a/b@{commit}")
        == (tmp_path / "local.rsr").read_bytes()
    )
    assert len(hub.received("/blobs/")) == 3
    with ThreadPoolExecutor(2) as executor:  # whose workers open the cache
        rsrc.compile("hf://a/b", tmp_path / "y.rsr", executor=executor)
    assert RsrFile(tmp_path / "y.rsr").header.metadata == {"rsr.source": f"hf://a/b@{commit}"}
    assert len(hub.received("/blobs/")) == 3
    assert capfd.readouterr() == ("", "")


def test_a_revision(hub: Hub, kit: Kit, tmp_path: Path) -> None:
    old = hub.add("a/b", {"model.safetensors": kit.file_bytes({"old": T})}, "v1")
    new = hub.add("a/b", {"model.safetensors": kit.file_bytes({"new": T})})
    for source, name, commit in (
        ("hf://a/b@v1", "old", old), ("hf://a/b", "new", new), (f"hf://a/b@{old}", "old", old),
    ):  # fmt: skip
        rsrc.compile(source, tmp_path / "x.rsr", force=True)
        header = RsrFile(tmp_path / "x.rsr").header
        assert [t.name for t in header.tensors] == [name]
        assert header.metadata == {"rsr.source": f"hf://a/b@{commit}"}
    assert refused("hf://a/b@v3") == (
        f"hf://a/b@v3: no revision 'v3': {hub.url}/a/b/tree/main lists the branches and tags"
    )


def test_a_revision_that_changes_in_between(
    hub: Hub, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in the cache is not taken for the one that was found."""
    new = hub.add("a/b", {"model.safetensors": kit.file_bytes({"new": T})})
    open_checkpoint("hf://a/b")
    old = hub.add("a/b", {"model.safetensors": kit.file_bytes({"old": T})})
    find = Repository.find

    def find_before_a_commit(name: HubName) -> Repository:
        found = find(name)
        hub.repositories["a/b"].refs["main"] = new
        return found

    monkeypatch.setattr(Repository, "find", find_before_a_commit)
    assert refused("hf://a/b") == (
        f"hf://a/b: the Hub named commit {old}, and then the files were those of {new}: try again"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model(hub: Hub, model: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone sees what it has; its files need an account that accepted the terms."""
    hub.add("a/b", model)
    hub.repositories["a/b"].status, hub.repositories["a/b"].error = status, "GatedRepo"
    terms = f"hf://a/b: a gated model: accept its terms at {hub.url}/a/b, "
    login = "then log in with `hf auth login`, or set HF_TOKEN"
    assert refused("hf://a/b") == terms + login
    monkeypatch.setenv("HF_TOKEN", "hf_two")
    assert refused("hf://a/b") == terms + "with the account of your token"


def test_a_private_or_missing_model(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("a/b", model)
    hub.repositories["a/b"].token = "hf_one"
    for source in ("hf://a/b", "hf://a/none"):
        assert refused(source) == (
            f"{source}: {hub.url} has no such model, or it is private: check the name; if it is "
            "private, log in with `hf auth login`, or set HF_TOKEN"
        )
    monkeypatch.setenv("HF_TOKEN", "hf_two")
    assert refused("hf://a/b").endswith("if it is private, your token must be allowed to read it")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert refused("hf://a/b") == (
        f"hf://a/b: {hub.url} refuses the token: log in with `hf auth login`, or set HF_TOKEN with "
        "one that may read it"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_one")
    assert list(open_checkpoint("hf://a/b").tensors) == ["a", "b"]
    # Large files are on another host, which must not see it.
    assert {r.token for r in hub.received("/resolve/", "HEAD")} == {"hf_one"}
    assert {r.token for r in hub.received("/blobs/")} == {""}


def test_a_token_that_is_not_ascii(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header cannot hold it, so it is never sent."""
    hub.add("a/b", model)
    monkeypatch.setenv("HF_TOKEN", "hf_\N{LATIN SMALL LETTER U WITH DIAERESIS}")
    assert refused("hf://a/b") == (
        "hf://a/b: the token (HF_TOKEN, or that of `hf auth login`) has a character that is not "
        "ASCII: copy it again"
    )
    assert not hub.received("a/b")


def test_a_password_in_the_address_of_the_hub_is_not_shown(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = hub.url.replace("://", "://someone:secret@")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", secret)
    for fails in (ConnectionError(f"no route to {secret}/a/b"), ValueError(f"{secret} is odd")):
        with pytest.raises(SourceError) as caught, explained(HubName("a/b")):
            raise fails
        assert "secret" not in str(caught.value)
        assert f"{hub.url} fails" in str(caught.value)


def test_other_answers(hub: Hub, model: Path) -> None:
    hub.add("a/b", model)
    hub.repositories["a/b"].status = 503
    assert refused("hf://a/b") == (
        f"hf://a/b: {hub.url} answers with status 503, and {cache()} lacks it: check the "
        "connection, or try again later"
    )
    assert refused("hf://a/b--c").startswith("hf://a/b--c: not the name of a model: ")


def test_a_body_that_breaks_off_is_continued(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("a/b", model)
    shard = "model-00001-of-00002.safetensors"
    hub.breaks[shard] = [1000]
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    assert np.array_equal(open_checkpoint("hf://a/b").tensors["a"].read(), T.reshape(-1).view("u1"))
    assert [r.range for r in hub.received(f"/blobs/a/b/{commit_of(hub)}/{shard}")] == [
        "", "bytes=1000-",
    ]  # fmt: skip


def test_a_body_longer_than_listed(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have no end."""
    hub.add("a/b", model)
    shard = "model-00001-of-00002.safetensors"
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    hub.listed[shard] = {"size": 300}
    assert refused("hf://a/b") == (
        f"{shard}: the Hub sends more than the 300 bytes that were expected: try again later"
    )
    assert not list(tmp_path.rglob("*.incomplete"))


def test_large_small_files(
    hub: Hub, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused by the size that is listed, or else while they arrive."""
    monkeypatch.setattr("rsrc.source.hub.repository.MAX_FILE", 5)
    hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": T}), "config.json": bytes(20)})
    assert refused("hf://a/b") == "hf://a/b: config.json: 20 bytes, the limit is 5"
    hub.listed["config.json"] = {"size": 5}
    assert refused("hf://a/b").startswith("small files of hf://a/b: the Hub sends more than the 5")
    assert not [p for p in tmp_path.rglob("*") if p.name == "config.json"]


@pytest.mark.parametrize("listed", [{"size": -1}, {"size": "9"}, {"lfs": {"sha256": "../../x"}}])
def test_a_server_that_describes_files_wrongly(
    hub: Hub, kit: Kit, tmp_path: Path, listed: dict[str, Any]
) -> None:
    """Hashes become names of files, which are removed after a signal."""
    hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": T})})
    hub.listed["model.safetensors"] = {"size": 9, **listed}
    if "lfs" in listed:
        hub.listed["model.safetensors"]["lfs"] |= {"size": 9, "pointerSize": 9}
    assert_badly_described("hf://a/b", tmp_path)


@pytest.mark.parametrize("path", ["../../z.gguf", "/z.gguf"])
def test_a_file_outside_the_repository(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.add("a/b", {path: b"x"})
    assert_badly_described(f"hf://a/b/{path}", tmp_path)


def assert_badly_described(source: str, tmp_path: Path) -> None:
    for cache in (True, False):
        with pytest.raises(rsrc.SourceError, match=r"describes its files with .* check HF_"):
            rsrc.compile(source, tmp_path / "x.rsr", cache=cache)
    assert Kit.leftovers(tmp_path) == []


def test_offline(hub: Hub, model: Path, tmp_path: Path) -> None:
    commit = hub.add("a/b", model)
    hub.add("a/c", model)
    open_checkpoint("hf://a/b")
    hub.requests.clear()
    with client_of(hub.url, tmp_path / "home", offline=True):
        found = open_checkpoint("hf://a/b")
        assert (found.origin, list(found.tensors)) == (f"hf://a/b@{commit}", ["a", "b"])
        for source in ("hf://a/c", "hf://a/b@v2", "hf://a/b/x.gguf"):
            assert refused(source) == (
                f"{source}: HF_HUB_OFFLINE is set, and {cache()} lacks it: download it first, or "
                "unset HF_HUB_OFFLINE"
            )
    assert hub.requests == []


def test_no_network(hub: Hub, model: Path, tmp_path: Path) -> None:
    """The cache does, and a note says so."""
    commit = hub.add("a/b", model)
    open_checkpoint("hf://a/b")
    nobody = "http://127.0.0.1:9"
    with client_of(nobody, tmp_path / "home"):
        found = open_checkpoint("hf://a/b")
        assert found.origin == f"hf://a/b@{commit}"
        assert found.notes[0].startswith(f"{nobody} fails (")
        assert f"so the cache is read: hf://a/b@{commit} is in" in found.notes[0]
        assert refused("hf://a/c").startswith(f"hf://a/c: {nobody} fails (")


def test_an_unfinished_download_is_no_model(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("a/b", model)
    snapshot = open_checkpoint("hf://a/b").path.parent
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    with client_of(hub.url, tmp_path / "home", offline=True):
        assert "1 of 2 shards missing: model-00002-of-00002.safetensors" in refused("hf://a/b")
    assert list(open_checkpoint("hf://a/b").tensors) == ["a", "b"]


def test_gguf(hub: Hub, gguf_kit: GgufKit) -> None:
    data = gguf_kit.file_bytes({"general.architecture": "x"}, {"w": ([2, 4], 0, bytes(32))})
    commit = hub.add("a/one", {"m.gguf": data, "config.json": b"{}"})
    assert open_checkpoint("hf://a/one").origin == f"hf://a/one@{commit}"
    commit = hub.add("a/two", {"m.gguf": data, "n.gguf": data})
    size = f"{len(data)} B"
    assert refused("hf://a/two") == (
        f"hf://a/two: which of its 2 models? Name one: hf://a/two/m.gguf ({size}), "
        f"hf://a/two/n.gguf ({size})"
    )
    found = open_checkpoint("hf://a/two/n.gguf")
    assert (found.path.name, found.origin) == ("n.gguf", f"hf://a/two@{commit}/n.gguf")
    assert not hub.received("a/two/resolve/main/m.gguf")


def test_what_cannot_be_compiled_is_refused_before_its_weights_are_downloaded(
    hub: Hub, model: Path
) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    hub.add("a/b", {**files_of(model), "config.json": json.dumps(config).encode()})
    assert "config.json says quant_method 'gptq'" in refused("hf://a/b")
    assert not [r for r in hub.requests if r.path.endswith(".safetensors")]


def test_a_full_disk(hub: Hub, model: Path) -> None:
    hub.add("a/b", model)
    needed = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    with mock.patch("shutil.disk_usage", return_value=shutil._ntuple_diskusage(999, 0, 999)):
        assert refused("hf://a/b") == (
            f"hf://a/b: {needed / 1000:.1f} kB are to be downloaded to {cache()}, which has "
            "room for 999 B: set HF_HOME to a folder with more, or use --no-cache"
        )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError
        return original(name, *arguments)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(rsrc.MissingPackageError) as caught:
        open_checkpoint("hf://a/b")
    assert str(caught.value) == (
        "hf://a/b: downloading needs huggingface_hub: pip install 'rsr-ternary[hub]'"
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def commit_of(hub: Hub) -> str:
    return hub.repositories["a/b"].refs["main"]


def cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
