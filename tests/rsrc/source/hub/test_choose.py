"""Which files of a repository are downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsrc import SourceError
from rsrc.source.hub.choose import Choice
from rsrc.source.hub.name import HubName

BOTH = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
BESIDE = ["config.json", "tokenizer.json", "1_Pooling/config.json"]


def choice(*files: str, file: str = "") -> Choice:
    return Choice(HubName("a/b", file=file), dict.fromkeys(files, 2_000_000))


@pytest.mark.parametrize(
    ("files", "file", "weights"),
    [
        (["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"], "",
         ["model.safetensors"]),
        ([*BOTH, "x.gguf", "original/x.safetensors", "onnx/model.onnx"], "", BOTH),
        ([*BOTH, "x.gguf"], "x.gguf", ["x.gguf"]),
        (["x.gguf", "model.bin"], "", ["x.gguf"]),
        (["q/x-00001-of-00002.gguf", "q/x-00002-of-00002.gguf", "y.gguf"],
         "q/x-00001-of-00002.gguf", ["q/x-00001-of-00002.gguf", "q/x-00002-of-00002.gguf"]),
        (["x.gguf", "fp16/model.safetensors"], "fp16", ["fp16/model.safetensors"]),
        ([*BOTH, "other.safetensors"], BOTH[1], BOTH),
    ],
)  # fmt: skip
def test_weights(files: list[str], file: str, weights: list[str], tmp_path: Path) -> None:
    assert choice(*files, ".gitattributes", "", file=file).weights(tmp_path).files == weights


def test_an_index_names_the_shards(tmp_path: Path) -> None:
    shards = ["one.safetensors", "two.safetensors"]
    index = "model.safetensors.index.json"
    (tmp_path / index).write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    others = ["other.safetensors", "other.safetensors.index.json"]
    for file in ("", "two.safetensors", index):
        if file == "two.safetensors":
            (tmp_path / others[1]).write_text('{"weight_map": {"c": "other.safetensors"}}')
        found = choice(*shards, *others, index, file=file)
        assert set(found.small) == {index, others[1]}
        assert found.weights(tmp_path).files == shards
        assert found.weights(tmp_path).index == index
    with pytest.raises(SourceError, match=r"hf://a/b: 1 of 2 shards are not .*: two\.safetensors"):
        choice("one.safetensors", index).weights(tmp_path)


def test_small_files() -> None:
    files = [*BESIDE, "vocab.txt", "hadamard.json", "README.md", "onnx/config.json", "train.json"]
    found = choice(*files, "fp16/config.json")
    assert set(found.small) == {*BESIDE, "vocab.txt", "hadamard.json"}
    assert choice(*files, "fp16/config.json", file="fp16").small == ["fp16/config.json"]
    assert choice(*files, "x.gguf", file="x.gguf").small == []


@pytest.mark.parametrize(
    ("files", "file", "why"),
    [
        (["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"], "",
         "which of its 2 models? Name one: hf://a/b/a.gguf (2.0 MB), "
         "hf://a/b/b-00001-of-00002.gguf (2.0 MB)"),
        (["q/a.gguf", "r/b.gguf"], "",
         "no model at its top: Name one: hf://a/b/q/a.gguf (2.0 MB), hf://a/b/r/b.gguf (2.0 MB)"),
        (BOTH[:1], "", f"1 of the 2 files of {BOTH[0]} are in this repository"),
        (["README.md"], "", "no .safetensors or .gguf file in this repository"),
        (["README.md"], "README.md", "expected a .safetensors or .gguf file"),
    ],
)  # fmt: skip
def test_refused(files: list[str], file: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        choice(*files, file=file).weights(tmp_path)
    assert str(caught.value) == f"{HubName('a/b', file=file)}: {why}"


def test_pickles_are_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"only pickled weights \(pytorch_model.bin\)") as caught:
        choice("config.json", "pytorch_model.bin").weights(tmp_path)
    assert "`hf download a/b --local-dir b`" in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SourceError) as caught:
        choice("ggml-model-i2_s.gguf", "config.json", file="ggml-model-i2s.gguf")
    assert str(caught.value) == (
        "hf://a/b/ggml-model-i2s.gguf: no file 'ggml-model-i2s.gguf' in this repository; similar "
        "names: 'ggml-model-i2_s.gguf'"
    )
