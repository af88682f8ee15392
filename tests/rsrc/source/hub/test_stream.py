"""Models of the Hub, compiled without a copy of all their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.hub import Hub
from rsr_testing.models import FAMILIES
from rsrc.source.hub import ranges

T = np.random.default_rng(8).integers(-1, 2, (40, 100)).astype(np.int8)
NAMES = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
SCALE = np.array([0.5], np.float32)


@pytest.fixture(scope="module")
def bitnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BitNet in three shards: some scales precede their weights, others follow them."""
    kit, folder = Kit(), tmp_path_factory.mktemp("bitnet")
    FAMILIES["bitnet-2b"].save(folder)
    single = folder / "model.safetensors"
    tensors = kit.judge(single)
    shards: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    for i, (name, tensor) in enumerate(tensors.items()):
        number = 2 * (i % 4 == 0) if name.endswith("_scale") else 1
        shards[NAMES[0 if "embed" in name else number]][name] = tensor
    single.unlink()
    kit.save_sharded(folder, shards)
    return folder


class Watch:
    """Which shards are beside the output while a tensor is worked on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[tuple[str, ...]] = set()
        self.phases: list[str] = []

    def begin(self, phase: str, tensors: int) -> None:
        self.phases.append(phase)

    def __call__(self, name: str, done: int, total: int) -> None:
        self.seen.add(tuple(sorted(p.name for p in self.folder.rglob("*.safetensors"))))


@pytest.mark.parametrize("options", [{}, {"head": "int8", "threads": 1, "zstd": 1}])
def test_the_file_is_that_of_a_directory(
    hub: Hub, bitnet: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    commit = hub.add("a/b", bitnet)
    folder = tmp_path / "out"
    folder.mkdir()
    watch = Watch(folder)
    local = rsrc.compile(bitnet, tmp_path / "local.rsr", **options)
    report = rsrc.compile("hf://a/b", folder / "x.rsr", cache=False, progress=watch, **options)
    assert watch.seen - {()} == {(name,) for name in NAMES}
    assert watch.phases[:3] == ["downloading", "recognizing", "compiling"]
    assert [p.name for p in folder.iterdir()] == ["x.rsr"]
    assert not (tmp_path / "home" / "hub").exists()

    def edit(document: dict[str, Any]) -> None:
        assert document["metadata"].pop("rsr.source") == f"hf://a/b@{commit}"

    assert Kit.tamper(folder / "x.rsr", edit).read_bytes() == (tmp_path / "local.rsr").read_bytes()
    assert (report.notes, report.tensors) == (local.notes, local.tensors)


def test_every_byte_is_downloaded_once(
    hub: Hub, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for scales in another shard; a weight whose scale precedes it; and headers."""
    shards: dict[str, dict[str, Any]] = {
        NAMES[0]: {"a": T, "b_scale": SCALE},
        NAMES[1]: {"b": T, "a_scale": SCALE, "c": T},
        NAMES[2]: {"d": T},
    }
    (tmp_path / "m").mkdir()
    kit.save_sharded(tmp_path / "m", shards)
    hub.add("a/b", tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "hf_one")
    rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False)
    assert [t.name for t in RsrFile(tmp_path / "x.rsr").header.tensors] == ["a", "b", "c", "d"]
    asked = [r for r in hub.received("/blobs/") if r.path.endswith(".safetensors")]
    whole = [r.path[-29:] for r in asked if not r.range]
    assert whole == [n[-29:] for n in NAMES]
    parts = [r for r in asked if r.range and not r.range.startswith("bytes=0-")]
    sizes = sorted(
        int(stop) - int(start) + 1
        for start, stop in (r.range.removeprefix("bytes=").split("-") for r in parts)
    )
    assert set(sizes) == {4, T.nbytes}
    assert sizes.count(T.nbytes) == 1
    # Large files are on another host, which must not see the token.
    assert {r.token for r in hub.received("/resolve/")} == {"hf_one"}
    assert {r.token for r in asked} == {""}


def test_a_part_that_breaks_off_is_continued(hub: Hub, kit: Kit, tmp_path: Path) -> None:
    data = kit.file_bytes({"w": T})
    hub.add("a/b", {"model.safetensors": data})
    hub.breaks["model.safetensors"] = [5]
    rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False)
    asked = [r.range for r in hub.received("/blobs/")]
    assert asked == [f"bytes=0-{len(data) - 1}", f"bytes=5-{len(data) - 1}", ""]


@pytest.mark.parametrize("breaks_off", [True, False])
def test_a_server_that_stays_silent(hub: Hub, kit: Kit, tmp_path: Path, breaks_off: bool) -> None:
    hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": T})})
    if breaks_off:
        hub.breaks["model.safetensors"] = [0] * 99
    hub.sends_nothing = not breaks_off
    with pytest.raises(rsrc.SourceError, match="try again later"):
        rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False)
    assert len(hub.received("/blobs/")) == ranges.TRIES
    assert kit.leftovers(tmp_path) == []


def test_a_server_without_ranges(hub: Hub, kit: Kit, tmp_path: Path) -> None:
    hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": T})})
    hub.ignores_ranges = True
    with pytest.raises(rsrc.SourceError) as caught:
        rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False)
    assert str(caught.value) == (
        "hf://a/b: the Hub sends all of model.safetensors where a part was requested: compile "
        "without --no-cache"
    )


def test_a_failure_in_a_later_shard_leaves_nothing(hub: Hub, kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    kit.save_sharded(
        tmp_path / "m", {NAMES[0]: {"a": T}, NAMES[1]: {"b": T.view(np.uint8)}, NAMES[2]: {"c": T}}
    )
    hub.add("a/b", tmp_path / "m")
    folder = tmp_path / "out"
    folder.mkdir()

    def stop(name: str, done: int, total: int) -> None:
        if name == "c":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rsrc.compile("hf://a/b", folder / "x.rsr", cache=False, progress=stop)
    assert list(folder.iterdir()) == []


def test_messages_name_the_model(hub: Hub, kit: Kit, tmp_path: Path) -> None:
    """And not the temporary folder."""
    hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": np.ones((3, 4))})})
    with pytest.raises(rsrc.NothingToCompileError, match=r"^hf://a/b: none of its 1 tensors is"):
        rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False)
    hub.add("a/c", {"model.safetensors": b"\xff" * 100})
    with pytest.raises(rsrc.SourceError, match=r"^hf://a/c/model.safetensors: not a valid"):
        rsrc.compile("hf://a/c", tmp_path / "x.rsr", cache=False)
    assert kit.leftovers(tmp_path) == []


def test_gguf(hub: Hub, gguf_kit: GgufKit, tmp_path: Path) -> None:
    data = gguf_kit.file_bytes(
        {"general.architecture": "x"}, {"w": ([8, 32], 0, T[:8, :32].astype("<f4").tobytes())}
    )
    commit = hub.add("a/b", {"m.gguf": data})
    rsrc.compile("hf://a/b/m.gguf", tmp_path / "x.rsr", cache=False)
    header = RsrFile(tmp_path / "x.rsr").header
    assert header.metadata["rsr.source"] == f"hf://a/b@{commit}/m.gguf"
    assert Kit.leftovers(tmp_path) == []


def test_only_models_of_the_hub(kit: Kit, hub: Hub, tmp_path: Path) -> None:
    source = kit.save(tmp_path / "m.safetensors", {"w": T})
    with pytest.raises(rsrc.OptionError, match="is not downloaded: expected hf://ORG/NAME"):
        rsrc.compile(source, tmp_path / "x.rsr", cache=False)
    with pytest.raises(rsrc.OptionError, match="compile without executor"):
        rsrc.compile("hf://a/b", tmp_path / "x.rsr", cache=False, executor="dask://h:1")
