"""Every kind of source, and every way a source can be invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats.model_files import LISTS, MODEL_FILES, path_in_model
from rsr_testing.checkpoints import Kit
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.source.open import open_checkpoint

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)
ONE: dict[str, Any] = {"a": T}
PACKED: dict[str, Any] = {"w": np.array([[0xA1, 0x18], [0x90, 0x0A]], np.uint8)}
SCALE = {"w_scale": np.array([4], np.float32)}


def index_file(folder: Path, weight_map: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_single_file(kit: Kit, tmp_path: Path) -> None:
    path = kit.save(tmp_path / "x.safetensors", ONE | SCALE, {"format": "pt"})
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["a", "w_scale"]
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.files == {}
    assert checkpoint.nbytes == 10
    assert checkpoint.tensors["a"].read().tobytes() == T.tobytes()


def test_single_file_takes_the_scale_rule_of_the_config_beside_it(kit: Kit, tmp_path: Path) -> None:
    path = kit.save(tmp_path / "x.safetensors", PACKED | SCALE)
    config = {"quantization_config": {"linear_class": "autobitlinear"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = rsrc.compile(path, tmp_path / "x.rsr")
    assert report.tensors[0].scale == "multiply by weight_scale (autobitlinear)"


def test_scale_in_another_shard(kit: Kit, tmp_path: Path) -> None:
    source = kit.save_sharded(tmp_path, {"1.safetensors": PACKED | ONE, "2.safetensors": SCALE})
    report = rsrc.compile(source, tmp_path / "x.rsr")
    assert {t.name: t.kind for t in report.tensors} == {"w": "ternary", "a": "ternary"}
    assert compare(tmp_path / "x.rsr", source) == 3
    decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors")
    assert kit.judge(tmp_path / "back.safetensors") == {
        **kit.judge(tmp_path / "1.safetensors"),
        **kit.judge(tmp_path / "2.safetensors"),
    }


def test_tensors_outside_the_index_are_no_part_of_the_model(kit: Kit, tmp_path: Path) -> None:
    kit.save(tmp_path / "1.safetensors", ONE | {"stale": T})
    assert list(open_checkpoint(index_file(tmp_path, {"a": "1.safetensors"})).tensors) == ["a"]


class TestDirectory:
    def test_a_single_file_wins_over_an_index(self, kit: Kit, tmp_path: Path) -> None:
        kit.save_sharded(tmp_path, {"1.safetensors": {"sharded": T}})
        kit.save(tmp_path / "model.safetensors", ONE)
        assert list(open_checkpoint(tmp_path).tensors) == ["a"]

    def test_an_index_wins_over_other_files(self, kit: Kit, tmp_path: Path) -> None:
        kit.save_sharded(tmp_path, {"1.safetensors": {"sharded": T}})
        kit.save(tmp_path / "consolidated.safetensors", ONE)
        assert list(open_checkpoint(tmp_path).tensors) == ["sharded"]

    def test_a_lone_file_may_have_any_name(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "any.safetensors", ONE)
        assert list(open_checkpoint(tmp_path).tensors) == ["a"]

    def test_several_candidates(self, kit: Kit, tmp_path: Path) -> None:
        for name in ("x.safetensors", "y.safetensors"):
            kit.save(tmp_path / name, ONE)
        with pytest.raises(rsrc.SourceError, match=r"which of x\.safetensors, y\.safetensors\?"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
    def test_pickles_only(self, tmp_path: Path, suffix: str) -> None:
        """tests/parity runs the code that the message gives."""
        pickle = tmp_path / f"pytorch_model{suffix}"
        pickle.write_bytes(b"")
        for source in (tmp_path, pickle):
            with pytest.raises(rsrc.SourceError) as caught:
                open_checkpoint(source)
            assert f"pickled weights ('{pickle.name}') are not read" in str(caught.value)
            assert f"`w = torch.load('{pickle.name}', map_location='cpu'" in str(caught.value)
            assert "`safetensors.torch.save_file({n: t.contig" in str(caught.value)

    def test_pickled_shards(self, tmp_path: Path) -> None:
        names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
        for name in (*names, "training_args.bin"):
            (tmp_path / name).write_bytes(b"")
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"a": names[1], "b": names[0]}}))
        for source in (tmp_path, index):
            with pytest.raises(rsrc.SourceError) as caught:
                open_checkpoint(source)
            assert f"pickled weights ('{names[0]}', '{names[1]}'" in str(caught.value)
            assert "for f in sorted(glob.glob('pytorch_model*.bin'))" in str(caught.value)

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(rsrc.SourceError, match=r"no \.safetensors or \.gguf file in this dir"):
            open_checkpoint(tmp_path)

    def test_files_are_kept(self, kit: Kit, tmp_path: Path) -> None:
        rsr_runtime = pytest.importorskip("rsr_runtime")
        model = tmp_path / "model"
        model.mkdir()
        kit.save(model / "model.safetensors", ONE)
        for name in MODEL_FILES:
            path = model / path_in_model(name)
            path.parent.mkdir(exist_ok=True)
            empty = "[]" if name in LISTS else "{}"
            path.write_text(empty if name.endswith(".json") else f"text of {name}\0\xff")
        (model / "README.md").write_text("not a part of the model")
        (model / "empty.txt").write_text("")
        report = rsrc.compile(model, tmp_path / "x.rsr", zstd=3)
        assert report.files == tuple(sorted(MODEL_FILES))
        with rsr_runtime.load(tmp_path / "x.rsr", verify=True) as loaded:
            kept = {name: bytes(data) for name, data in loaded.files.items()}
        assert kept == {name: (model / path_in_model(name)).read_bytes() for name in MODEL_FILES}


class TestIndexRefused:
    def test_missing_shards_are_all_named(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "1.safetensors", ONE)
        shards = {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors"}
        with pytest.raises(
            rsrc.SourceError,
            match=r"2 of 3 shards missing: 2\.safetensors, 3\.safetensors; download them$",
        ):
            open_checkpoint(index_file(tmp_path, shards))

    @pytest.mark.parametrize(
        "name",
        [
            "../x.safetensors", "/etc/passwd", "a/x.safetensors", "x\0.safetensors", "..", ".", "",
            "..\\x.safetensors", "C:x.safetensors", "C:\\x", "\\\\host\\x", "\x1b[2J", "x" * 256,
        ],
    )  # fmt: skip
    def test_shard_names_that_are_paths(self, kit: Kit, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        kit.save(tmp_path / "x.safetensors", ONE)
        with pytest.raises(rsrc.SourceError, match=r"index\.json: .* is not a plain file name"):
            open_checkpoint(index_file(folder, {"a": name}))

    def test_tensor_in_two_shards(self, kit: Kit, tmp_path: Path) -> None:
        shards = {"1.safetensors": {**ONE, "b": T}, "2.safetensors": ONE}
        source = kit.save_sharded(tmp_path, shards)
        with pytest.raises(rsrc.SourceError, match=r"'a' is in both 1\.safe\w+ and 2\.safe\w+"):
            open_checkpoint(source)

    def test_tensor_not_in_its_shard(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "1.safetensors", ONE)
        kit.save(tmp_path / "2.safetensors", {"b": T})
        wrong = {"a": "2.safetensors", "b": "2.safetensors", "c": "1.safetensors"}
        with pytest.raises(
            rsrc.SourceError, match=r"not in the shard named: a \(in 2\.\w+\), c \(in 1\.\w+\)$"
        ):
            open_checkpoint(index_file(tmp_path, wrong))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "empty: download it again"),
            (b" ", "not an index of shards: at byte 1: found the end, expected '{'"),
            (b"{", "not an index of shards: at byte 1: not valid JSON"),
            (b'{"a": "\xff"}', "not an index of shards: at byte 6: not valid JSON"),
            (b"[" * 100_000, r"not an index of shards: at byte 0: found '\[', expected '{'"),
            (b'{"a": ' + b"[" * 60_000, "not an index of shards: at byte 6: not valid JSON"),
            (b"{}", "expected a non-empty map under 'weight_map'"),
            (b'{"weight_map": {}}', "expected a non-empty map"),
            (b'{"weight_map": ["a"]}', r"not an index of shards: .* found '\[', expected '{'"),
            (b'{"weight_map": {"a": 3}}', "not an index of shards: .* a string, found int"),
            (
                b'{"weight_map": {"a": "b" "c": "d"}}',
                "not an index .* found '\"', expected ',' or '}'",
            ),
            (b'{"weight_map": {"a": "b", "a": "b"}}', "not an index of shards: 'a' occurs twice"),
            (b'{"weight_map": {"a": "b"}} {}', "not an index of shards: .* something follows"),
            (b'{"weight_map": {"a": "\\ud800"}}', "not an index of shards: .* not valid Unicode"),
        ],
    )
    def test_not_an_index(self, tmp_path: Path, text: bytes, message: str) -> None:
        path = tmp_path / "model.safetensors.index.json"
        path.write_bytes(text)
        with pytest.raises(rsrc.SourceError, match=rf"index\.json: {message}"):
            open_checkpoint(path)


def header(text: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def entry(name: str, begin: int, end: int, shape: str = "[2]") -> bytes:
    offsets = f'"data_offsets":[{begin},{end}]'
    return f'"{name}":{{"dtype":"I8","shape":{shape},{offsets}}}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x02\0\0", id="cut in the size"),
        pytest.param(header(b"{}", size=10), id="cut in the header"),
        pytest.param(header(b"{}", size=1 << 62), id="header bomb"),
        pytest.param(header(b"{}", size=(1 << 64) - 1), id="header overflow"),
        pytest.param(header(b"not json"), id="JSON"),
        pytest.param(header(b'{"\xff\xfe":1}'), id="UTF-8"),
        pytest.param(header(b'{"a":' + b"[" * 100_000), id="nesting bomb"),
        pytest.param(header(b"{" + entry("a", 0, 2) + b"}", b"x"), id="cut in the data"),
        pytest.param(header(b"{" + entry("a", 0, 2) + b"}", b"xyz"), id="trailing"),
        pytest.param(
            header(b"{" + entry("a", 0, 2) + b"," + entry("b", 1, 3) + b"}", b"xyz"), id="overlap"
        ),
        pytest.param(
            header(b"{" + entry("a", 0, 2) + b"," + entry("b", 3, 5) + b"}", b"vwxyz"), id="hole"
        ),
        pytest.param(
            header(b"{" + entry("a", 0, 2) + b"," + entry("a", 2, 4) + b"}", b"wxyz"), id="twice"
        ),
        pytest.param(header(b"{" + entry("a", 0, 2, "[3]") + b"}", b"xy"), id="shape"),
        pytest.param(
            header(b"{" + entry("a", 0, 2, "[4294967296,4294967296,4294967296]") + b"}", b"xy"),
            id="product overflow",
        ),
        pytest.param(header(b'{"a":{"dtype":"T2","shape":[],"data_offsets":[0,0]}}'), id="dtype"),
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_damaged_safetensors(tmp_path: Path, data: bytes, sharded: bool) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    source = index_file(tmp_path, {"a": path.name}) if sharded else path
    with pytest.raises(rsrc.SourceError, match=r"bad\.safetensors: not a valid safetensors file"):
        rsrc.compile(source, tmp_path / "x.rsr")
    assert not (tmp_path / "x.rsr").exists()


@pytest.mark.parametrize("second", [(0, 2), (2, 4)])
def test_a_name_that_is_there_twice(tmp_path: Path, second: tuple[int, int]) -> None:
    """The library takes the last one, which may not be the intended one."""
    text = b"{" + entry("w", 0, 2) + b"," + entry("w", *second) + b"}"
    path = tmp_path / "twice.safetensors"
    path.write_bytes(header(text, b"xyzw"[: second[1]]))
    with pytest.raises(rsrc.SourceError, match=r"twice\.safetensors: not a valid safetensors file"):
        open_checkpoint(path)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.safetensors"
    path.write_bytes(header(b'{"__metadata__":{"a":"1","a":"2"},' + entry("w", 0, 2) + b"}", b"xy"))
    with pytest.raises(rsrc.SourceError, match="'a' occurs twice"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.safetensors", "no such file"),
        ("model.gguf", "4 bytes are too few for a GGUF file: download it again"),
        ("notes.txt", r"expected a \.safetensors file"),
    ],
)
def test_other_sources(tmp_path: Path, name: str, message: str) -> None:
    if "nowhere" not in name:
        (tmp_path / name).write_bytes(b"GGUF" if name.endswith(".gguf") else b"notes")
    with pytest.raises(rsrc.SourceError, match=message):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"quantization_config": {"linear_class": "novel"}}']
)
def test_damaged_config(kit: Kit, tmp_path: Path, text: bytes) -> None:
    kit.save(tmp_path / "model.safetensors", PACKED | SCALE)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(rsrc.SourceError, match=r"config\.json: "):
        rsrc.compile(tmp_path, tmp_path / "x.rsr")


def test_unaligned_bf16(kit: Kit, tmp_path: Path) -> None:
    bits = kit.bf16([[0.5, -0.5, 0], [0.5, 0, 0]])
    tensors: dict[str, Any] = {"odd": np.zeros(3, np.uint8), "a": bits, "b": T[:1, :1], "c": bits}
    source = kit.save(tmp_path / "s.safetensors", tensors)
    found = open_checkpoint(source).tensors
    assert {found["a"].offset % 2, found["c"].offset % 2} == {0, 1}
    report = rsrc.compile(source, tmp_path / "x.rsr")
    assert [t.kind for t in report.tensors] == ["dense", "ternary", "ternary", "ternary"]
    decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors")
    assert kit.judge(tmp_path / "back.safetensors") == kit.judge(source)


def test_every_dtype_is_kept(kit: Kit, tmp_path: Path) -> None:
    """Dense tensors of every dtype, including scalars and empty ones, are restored unchanged."""
    sizes = {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
        "F8_E5M2FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
        "U64": 8, "I64": 8, "F64": 8, "C64": 8,
    }  # fmt: skip
    tensors: dict[str, Any] = {"w": T}
    for dtype, size in sizes.items():
        tensors[f"{dtype}.scalar"] = kit.literal(dtype, (), b"\x01" * size)
        tensors[f"{dtype}.empty"] = kit.literal(dtype, (3, 0, 2), b"")
        tensors[f"{dtype}.cube"] = kit.literal(dtype, (1, 3, 1), bytes(range(3 * size)))
    tensors["F4"] = kit.literal("F4", (3, 2), b"\x01\x23\x45")
    tensors["F6_E2M3"] = kit.literal("F6_E2M3", (4,), b"\x01\x23\x45")
    source = kit.save(tmp_path / "s.safetensors", tensors, {"any": "thing"})
    assert len(kit.judge(source)) == len(tensors)  # the library knows all of them
    for zstd in (None, 1):
        report = rsrc.compile(source, tmp_path / "x.rsr", zstd=zstd, force=True)
        assert [t.name for t in report.tensors if t.kind != "dense"] == ["w"]
        decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors", force=True)
        assert kit.judge(tmp_path / "back.safetensors") == kit.judge(source)
        assert compare(tmp_path / "x.rsr", source) == len(tensors)
        assert open_checkpoint(tmp_path / "back.safetensors").metadata == {"any": "thing"}
