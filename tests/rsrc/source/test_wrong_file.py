"""Files that a download left in place of those of a model: one sentence, with the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats.model_files import MODEL_FILES, path_in_model
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsrc.source.open import is_source, open_checkpoint

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 123456\n" % (b"a" * 64)
PULL = (
    "a Git LFS pointer to 123,456 bytes and not the file itself: run `git lfs pull` where it was "
    "cloned, or download it again"
)
PAGE = b"\n<!DOCTYPE html><html><head>"


def refused(source: Path) -> str:
    """Return the sentence with which a source is refused, as it is and by `rsrc.compile`."""
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(source)
    with pytest.raises(rsrc.SourceError) as again:
        rsrc.compile(source, source.parent / "never.rsr")
    assert str(again.value) == str(caught.value)
    return str(caught.value)


@pytest.fixture
def model(kit: Kit, tmp_path: Path) -> Path:
    """Return a model directory of two shards and an index."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    kit.save_sharded(folder, {names[0]: {"a": T}, names[1]: {"b": T}})
    (folder / "config.json").write_text("{}")
    return folder


INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00002.safetensors"


class TestPointers:
    @pytest.mark.parametrize("name", [*MODEL_FILES, INDEX, SECOND])
    @pytest.mark.parametrize("pointer", [POINTER, POINTER.replace(b"\n", b"\r\n")])
    def test_any_file_of_a_model(self, model: Path, name: str, pointer: bytes) -> None:
        path = model / path_in_model(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pointer)
        assert refused(model) == f"{path}: {PULL}"

    @pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "sha256-ab12", "x"])
    def test_as_the_source(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(POINTER)
        assert refused(tmp_path / name) == f"{tmp_path / name}: {PULL}"

    def test_of_gguf(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        (tmp_path / "m.gguf").write_bytes(POINTER)
        assert refused(tmp_path) == f"{tmp_path / 'm.gguf'}: {PULL}"
        split = {"split.no": gguf_kit.value(0), "split.count": gguf_kit.value(2)}
        first = gguf_kit.save(tmp_path / "p-00001-of-00002.gguf", split, {})
        second = tmp_path / "p-00002-of-00002.gguf"
        second.write_bytes(POINTER)
        for source in (first, second):
            assert refused(source) == f"{second}: {PULL}"

    def test_of_pickles(self, tmp_path: Path) -> None:
        """Pulling alone would not help, so the sentence names both steps."""
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(POINTER)
        for source in (tmp_path, path):
            message = refused(source)
            assert "pickled weights ('pytorch_model.bin') are not read" in message
            assert message.endswith(f". Before that, see to {path}: {PULL}")


class TestOtherContents:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer.model", SECOND])
    def test_web_pages(self, model: Path, name: str) -> None:
        (model / name).write_bytes(PAGE)
        assert refused(model).startswith(
            f"{model / name}: a web page and not the file itself: down"
        )

    def test_the_answer_of_a_server(self, model: Path) -> None:
        (model / SECOND).write_bytes(b"Entry not found")
        assert "a server's answer ('Entry not found') and not the file" in refused(model)
        (model / SECOND).write_bytes((model / SECOND.replace("2-", "1-", 1)).read_bytes())
        (model / "config.json").write_text('{"error": "Repository not found"}')
        assert "config.json: a server's answer" in refused(model)

    @pytest.mark.parametrize("name", ["config.json", "merges.txt", "tokenizer.json", SECOND, INDEX])
    def test_empty(self, model: Path, name: str) -> None:
        (model / name).write_bytes(b"")
        assert refused(model) == f"{model / name}: empty: download it again"

    def test_a_shard_that_is_another_kind_of_file(self, model: Path) -> None:
        (model / SECOND).write_bytes(b"GGUF" + bytes(40))
        assert refused(model) == f"{model / SECOND}: a GGUF file, expected a safetensors file"
        (model / SECOND).write_bytes(b"PK\x03\x04" + bytes(26) + b"archive/data.pkl")
        assert "a pickle, as torch.save writes it, expected a safetensors file" in refused(model)

    def test_a_pickle_by_its_contents(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(26) + b"x/data.pkl")
        assert "pickled weights ('model.safetensors') are not read" in refused(
            tmp_path / "model.safetensors"
        )

    def test_a_compiled_file(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "a.safetensors", {"a": T})
        rsrc.compile(source, tmp_path / "compiled")
        for name in ("compiled", "b.gguf", "b.rsr"):
            path = (tmp_path / "compiled").rename(tmp_path / name)
            assert not is_source(path)
            assert refused(path) == (
                f"{path}: a .rsr file, which is compiled already: run it with `rsrc run {path}`, "
                "or compile the checkpoint that it was made from"
            )
            path.rename(tmp_path / "compiled")
        source.unlink()
        assert refused(tmp_path).endswith("file in this directory; compiled is compiled already")

    def test_contents_say_more_than_names(
        self, kit: Kit, gguf_kit: GgufKit, tmp_path: Path
    ) -> None:
        blob = kit.save(tmp_path / "a.safetensors", {"a": T}).rename(tmp_path / "5eb1")
        assert list(open_checkpoint(blob).tensors) == ["a"]
        for name in ("M.GGUF", "sha256-ab12", "m.bin.gguf"):
            path = gguf_kit.save(tmp_path / name, {}, {"w": ((1, 256), 35, bytes(66))})
            assert list(open_checkpoint(path).tensors) == ["w"]
            assert is_source(path)
            path.unlink()
        assert refused(tmp_path).endswith(f"in this directory: give {blob} as the source")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "m.pt", "m.pth", "m.ckpt"])
    def test_no_pickle_but_its_name(
        self, kit: Kit, gguf_kit: GgufKit, tmp_path: Path, name: str
    ) -> None:
        path = tmp_path / name
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / "training_args.bin").write_bytes(b"PK\x03\x04" + bytes(26) + b"x/data.pkl")
        kit.save(path, {"a": T})
        for source in (path, tmp_path):
            assert is_source(source)
            assert list(open_checkpoint(source).tensors) == ["a"]
        assert open_checkpoint(tmp_path).config["model_type"] == "llama"
        gguf_kit.save(path, {}, {"w": ((1, 256), 35, bytes(66))})
        for source in (path, tmp_path):
            assert list(open_checkpoint(source).tensors) == ["w"]
        path.unlink()
        rsrc.compile(kit.save(tmp_path / "a.safetensors", {"a": T}), path)
        assert refused(path).startswith(f"{path}: a .rsr file, which is compiled already")

    def test_a_directory_may_have_upper_case(self, gguf_kit: GgufKit, tmp_path: Path) -> None:
        gguf_kit.save(tmp_path / "M.GGUF", {}, {"w": ((1, 256), 35, bytes(66))})
        assert list(open_checkpoint(tmp_path).tensors) == ["w"]

    def test_hidden_files_are_no_weights(self, kit: Kit, tmp_path: Path) -> None:
        """macOS keeps attributes beside a file on other file systems."""
        kit.save(tmp_path / "a.safetensors", {"a": T})
        (tmp_path / "._a.safetensors").write_bytes(b"\0\5\x16\7Mac OS X")
        assert list(open_checkpoint(tmp_path).tensors) == ["a"]

    def test_a_file_beside_the_weights(self, model: Path) -> None:
        assert refused(model / "config.json").endswith(
            f"has no tensors: give its directory, {model}, as the source"
        )


class TestUnfinished:
    def test_aria2_leaves_files_of_full_size(self, model: Path) -> None:
        (model / f"{SECOND}.aria2").write_bytes(b"\0\1")
        assert refused(model) == (
            f"{model / SECOND}: an unfinished download ({SECOND}.aria2 is beside it): continue it "
            "with aria2c, or download it again"
        )

    @pytest.mark.parametrize("suffix", [".incomplete", ".part", ".crdownload"])
    def test_as_the_source(self, model: Path, suffix: str) -> None:
        path = (model / SECOND).rename(model / f"{SECOND}{suffix}")
        assert "an unfinished download: complete it" in refused(path)
        assert refused(model).endswith(
            f"1 of 2 shards missing: {SECOND}; a download is not finished ({path.name}): run it "
            "again"
        )

    def test_the_only_file_of_a_directory(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "model.safetensors.part", {"a": T})
        assert refused(tmp_path).endswith(
            "no .safetensors or .gguf file in this directory: a download is not finished "
            "(model.safetensors.part): run it again"
        )

    def test_in_the_cache_of_a_local_directory(self, tmp_path: Path) -> None:
        cache = tmp_path / ".cache" / "huggingface" / "download"
        cache.mkdir(parents=True)
        (cache / "x.5eb1.incomplete").write_bytes(b"")
        assert refused(tmp_path).endswith(
            "no .safetensors or .gguf file in this directory: a download is not finished "
            "(x.5eb1.incomplete): run it again"
        )

    def test_weights_that_were_not_downloaded(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        assert refused(tmp_path).endswith("in this directory: download the weights, too")

    def test_truncated(self, model: Path) -> None:
        data = (model / SECOND).read_bytes()
        (model / SECOND).write_bytes(data[:-1])
        assert refused(model).endswith("truncated: download it again")
        (model / SECOND).write_bytes(data[:20])
        assert refused(model).endswith("but the file has 12 more: download it again")

    def test_zeros(self, model: Path) -> None:
        (model / SECOND).write_bytes(bytes(4096))
        assert "all zeros, an unfinished download: download it again" in refused(model)


class TestLinks:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
    def test_a_blob_that_is_gone(self, model: Path, name: str) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to("../../blobs/5eb1")
        assert refused(model) == (
            f"{model / name}: a link to a file that is missing (../../blobs/5eb1): "
            "download it again"
        )

    def test_of_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.symlink_to("nowhere")
        for source in (path, tmp_path):
            assert "a link to a file that is missing (nowhere)" in refused(source)
        path.rename(tmp_path / "model-00001-of-00001.safetensors")
        assert "00001.safetensors (a link to a missing file); download them" in refused(tmp_path)


class TestJson:
    @pytest.mark.parametrize("name", [n for n in MODEL_FILES if n.endswith(".json")])
    @pytest.mark.parametrize("data", [b"no JSON", b'{"a": 1', b'{"a": "\0"}', b"[" * 9999, b"\xff"])
    def test_damaged(self, model: Path, name: str, data: bytes) -> None:
        path = model / path_in_model(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        assert refused(model).startswith(f"{path}: not valid JSON: ")
        assert refused(model).endswith(": download it again")

    def test_no_list(self, model: Path) -> None:
        (model / "modules.json").write_text("{}")
        assert refused(model).endswith("modules.json: expected a JSON list, found an object")
        (model / "modules.json").write_text("[" + " " * (1 << 20))
        assert "a list that begins with [ and ends with ] was expected" in refused(model)

    def test_no_object(self, model: Path) -> None:
        (model / "tokenizer.json").write_text("[1]")
        assert refused(model).endswith("tokenizer.json: expected a JSON object, found a list")

    def test_large_files(self, model: Path) -> None:
        whole = json.dumps({"model": {"vocab": {f"token {i}": i for i in range(60_000)}}}) + "\n"
        assert len(whole) > 1 << 20
        path = model / "tokenizer.json"
        path.write_text(whole)
        assert "tokenizer.json" in open_checkpoint(model).files
        path.write_text(whole[:-4])
        assert "not valid JSON" in refused(model)
        path.write_text(whole[:1_100_000] + "\0" * 100 + whole[1_100_100:])
        assert refused(model).endswith("not valid JSON: it contains zeros: download it again")
        path.write_text(" " * (1 << 20) + "\n")
        assert "not valid JSON" in refused(model)


def test_a_name_that_announces_thousands_of_shards(kit: Kit, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"a": T}
    path = kit.save(tmp_path / "model-00002-of-09999.safetensors", tensors)
    message = refused(path)
    assert "9998 of 9999 shards missing: model-00001-of-09999.safetensors, " in message
    assert len(message) < 1500
