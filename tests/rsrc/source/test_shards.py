"""Shards without an index, one shard as the source, several indexes: never half a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.inspection.compare import compare
from rsrc.source.open import open_checkpoint, reopen
from rsrc.source.shards import numbered_set

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)


def save(kit: Kit, folder: Path, *names: str) -> list[Path]:
    """Write files, each with one tensor that has the file's name without suffix."""
    return [kit.save(folder / n, {n.removesuffix(".safetensors"): T}) for n in names]


def names(source: Path) -> list[str]:
    return sorted(open_checkpoint(source).tensors)


SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
STEMS = [n.removesuffix(".safetensors") for n in SHARDS]


def test_a_whole_set_is_read_without_its_index(kit: Kit, tmp_path: Path) -> None:
    shards = save(kit, tmp_path, *SHARDS)
    (tmp_path / "config.json").write_text("{}")
    for source in (tmp_path, *shards):
        checkpoint = open_checkpoint(source)
        assert sorted(checkpoint.tensors) == STEMS
        assert set(checkpoint.files) == {"config.json"}
        assert checkpoint.notes == (
            "no model.safetensors.index.json: all 3 shards are read, by their numbers",
        )
        assert reopen(checkpoint.reference()).tensors == checkpoint.tensors
    rsrc.compile(shards[1], tmp_path / "x.rsr")
    assert compare(tmp_path / "x.rsr", tmp_path) == 3
    with pytest.raises(rsrc.OptionError, match="part of the source"):
        rsrc.compile(shards[1], shards[2], force=True)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_set_with_a_hole(kit: Kit, tmp_path: Path, missing: int) -> None:
    shards = save(kit, tmp_path, *SHARDS)
    shards.pop(missing).unlink()
    for source in (tmp_path, *shards):
        with pytest.raises(rsrc.SourceError) as caught:
            open_checkpoint(source)
        assert str(caught.value) == (
            f"{source}: 1 of 3 shards missing: {SHARDS[missing]}; download them"
        )


def test_one_lone_shard(kit: Kit, tmp_path: Path) -> None:
    (shard,) = save(kit, tmp_path, SHARDS[1])
    for source in (tmp_path, shard):
        with pytest.raises(
            rsrc.SourceError, match=f"2 of 3 shards missing: {SHARDS[0]}, {SHARDS[2]}"
        ):
            open_checkpoint(source)


def test_a_set_of_one(kit: Kit, tmp_path: Path) -> None:
    (shard,) = save(kit, tmp_path, "model-00001-of-00001.safetensors")
    assert names(tmp_path) == names(shard) == ["model-00001-of-00001"]
    assert open_checkpoint(tmp_path).notes == ()


def test_a_shard_that_an_index_names_stands_for_the_index(kit: Kit, tmp_path: Path) -> None:
    one, two, other = save(kit, tmp_path, "1.safetensors", "2.safetensors", "3.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"1": one.name, "2": two.name}}))
    assert names(one) == names(two) == names(index) == ["1", "2"]
    assert names(other) == ["3"]
    index.write_text("{")
    with pytest.raises(rsrc.SourceError, match=r"index\.json: not an index of shards"):
        open_checkpoint(one)  # nobody knows whether it is whole


def test_of_two_indexes_the_one_of_transformers(kit: Kit, tmp_path: Path) -> None:
    save(kit, tmp_path, "a.safetensors", "b.safetensors", "consolidated.safetensors")
    for index, file in (("model", "a"), ("consolidated", "consolidated"), ("model.fp16", "b")):
        path = tmp_path / f"{index}.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {file: f"{file}.safetensors"}}))
    assert names(tmp_path) == ["a"]
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(rsrc.SourceError, match=r"which of consolidated\.\S+, model\.fp16\.\S+\? N"):
        open_checkpoint(tmp_path)


def test_a_single_file_beside_shards(kit: Kit, tmp_path: Path) -> None:
    """As transformers: the single file is the model. The report says so."""
    save(kit, tmp_path, *SHARDS, "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["model"]
    assert checkpoint.notes == (
        "model.safetensors is the model, as in transformers: the shards beside it are not read",
    )


def test_several_sets(kit: Kit, tmp_path: Path) -> None:
    save(kit, tmp_path, *SHARDS, "consolidated.safetensors")
    assert names(tmp_path) == STEMS
    save(kit, tmp_path, "model-00001-of-00002.safetensors")
    with pytest.raises(rsrc.SourceError, match=r"which of \S+00002\.safe\S+, \S+00003\.safe\S+\?"):
        open_checkpoint(tmp_path)
    assert names(tmp_path / SHARDS[0]) == STEMS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", ["model.safetensors"]),
        ("m-1-of-2.safetensors", ["m-1-of-2.safetensors", "m-2-of-2.safetensors"]),
        ("m-00000-of-00002.safetensors", ["m-00000-of-00002.safetensors", "m-00001-of-00002.saf"]),
        ("m-00003-of-00002.safetensors", ["m-00003-of-00002.safetensors"]),
        ("m-00001-of-00000.safetensors", ["m-00001-of-00000.safetensors"]),
        ("m-00001-of-00002.fp16.safetensors", ["m-00001-of-00002.fp16", "m-00002-of-00002.fp16"]),
        ("m_00001-of-00002.safetensors", ["m_00001-of-00002", "m_00002-of-00002"]),
    ],
)
def test_names(tmp_path: Path, name: str, expected: list[str]) -> None:
    found = [p.name for p in numbered_set(tmp_path / name)]
    assert len(found) == len(expected)
    assert all(map(str.startswith, found, expected))
