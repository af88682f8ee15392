"""`rsrc.compile(reuse=...)`: the bytes of a compilation from nothing, made of an older file."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import rsr_runtime
import rsrc
from rsr_formats import FormatError, RsrFile
from rsr_formats.records import IndexedTensor
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsr_testing.hub import Hub
from rsr_testing.rotation import PREFIX, declaration
from rsrc.cli.main import main
from rsrc.compiler import pipeline, reuse
from rsrc.export.decompile import decompile
from rsrc.inspection.file import inspect_file

RNG = np.random.default_rng(18)
T = RNG.integers(-1, 2, (48, 64)).astype(np.int8)
MASTER = RNG.standard_normal((32, 64)).astype(np.float32)
ROWS = np.array([[0.5], [2.0], [4.0]] * 16)
BITNET = {
    "quantization_config": {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "modules_to_not_convert": ["int8", "rows", "zeros", "master", "odd"],
    }
}
Edit = Callable[[dict[str, Any]], object]


def tensors(kit: Kit) -> dict[str, Any]:
    """Tensors of several layouts; those in `DENSE` are dense."""
    zeros = np.where(T == 0, np.where(RNG.random(T.shape) < 0.5, 0.0, -0.0), T)
    return {
        "packed.weight": kit.pack(T),
        "packed.weight_scale": kit.bf16([0.75]),
        "int8.weight": T[::-1].copy(),
        "rows.weight": (T * ROWS).astype(np.float16),
        "zeros.weight": zeros.astype(np.float32),
        "master.weight": MASTER,
        "norm.weight": np.ones(64, np.float32),
        "odd": np.zeros((0, 3), np.uint8),
    }


INDEXED = {"packed.weight", "int8.weight", "rows.weight", "zeros.weight"}
DENSE = {"master.weight", "norm.weight", "odd"}


@pytest.fixture
def save(kit: Kit, tmp_path: Path) -> Callable[..., Path]:
    made = tensors(kit)

    def save(
        edit: Edit | None = None, config: dict[str, Any] = BITNET, name: str = "model"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        found = {key: np.copy(t) if isinstance(t, np.ndarray) else t for key, t in made.items()}
        if edit is not None:
            edit(found)
        kit.save(folder / "model.safetensors", found, {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save


class Twice:
    """Compiles from nothing and with an older file, and compares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old = folder / "old.rsr"
        self.new = folder / "new.rsr"

    def __call__(self, source: Path | str, **options: Any) -> rsrc.Report:
        """Return the report of the compilation that reused `old`."""
        fresh = self.folder / "fresh.rsr"
        rsrc.compile(source, fresh, force=True, **options)
        report = rsrc.compile(source, self.new, reuse=self.old, force=True, **options)
        assert self.new.read_bytes() == fresh.read_bytes()
        return report


@pytest.fixture
def twice(tmp_path: Path) -> Twice:
    return Twice(tmp_path)


def reused(report: rsrc.Report) -> set[str]:
    return {t.name for t in report.tensors if t.reused}


def flip(name: str) -> Edit:
    """Change the last element of a tensor."""

    def edit(found: dict[str, Any]) -> None:
        flat = found[name].reshape(-1)
        flat[-1] = 1 if flat[-1] != 1 else 0

    return edit


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("zstd", [None, 3])
@pytest.mark.parametrize("in_panels", [False, True])
def test_what_did_not_change_is_reused(
    save: Any,
    twice: Twice,
    threads: int,
    zstd: int | None,
    in_panels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if in_panels:
        monkeypatch.setattr(pipeline, "_cost", lambda workers, p: None)
    options: dict[str, Any] = {"zstd": zstd, "threads": threads}
    rsrc.compile(save(), twice.old, **options)
    report = twice(save(), **options)
    assert reused(report) == INDEXED | DENSE
    stored = sum(t.bytes for t in report.tensors)
    assert report.reused == {"tensors": len(INDEXED | DENSE), "bytes": stored}
    assert not [note for note in report.notes if "reused" in note]
    for name in ("packed.weight", "zeros.weight", "master.weight"):
        changed = twice(save(flip(name)), **options)
        assert reused(changed) == (INDEXED | DENSE) - {name}


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda t: t.update({"packed.weight_scale": Kit.bf16([0.5])}), {"packed.weight"}),
        (lambda t: t.update({"rows.weight": t["rows.weight"] * np.float16(2)}), {"rows.weight"}),
        (lambda t: t.update({"zeros.weight": np.abs(t["zeros.weight"])}), {"zeros.weight"}),
        (lambda t: t.update({"norm.weight": np.ones(64, np.float16)}), {"norm.weight"}),
        (lambda t: t.update({"renamed.weight": t.pop("int8.weight")}), {"int8.weight"}),
        (lambda t: t.update({"norm.weight": t.pop("norm.weight")}), set()),  # moved to the end
        (lambda t: t.pop("rows.weight"), {"rows.weight"}),
    ],
)
def test_a_changed_source(save: Any, twice: Twice, change: Edit, lost: set[str]) -> None:
    rsrc.compile(save(), twice.old)
    assert reused(twice(save(change))) - {"renamed.weight"} == (INDEXED | DENSE) - lost


def test_a_renamed_matrix_is_found_and_two_equal_ones_too(save: Any, twice: Twice) -> None:
    rsrc.compile(save(), twice.old)
    source = save(lambda t: t.update({"b.weight": t["int8.weight"], "c.weight": t["int8.weight"]}))
    assert reused(twice(source)) == INDEXED | DENSE | {"b.weight", "c.weight"}


def test_a_changed_config(save: Any, twice: Twice) -> None:
    """linear_class says whether the scale multiplies or divides."""
    rsrc.compile(save(), twice.old)
    divides = {
        "quantization_config": {**BITNET["quantization_config"], "linear_class": "bitlinear"}
    }
    assert reused(twice(save(config=divides))) == (INDEXED | DENSE) - {"packed.weight"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"target": "avx512"}, {"target": "avx2"}, set()),
        ({"target": "avx2"}, {"target": "neon"}, INDEXED),  # both pack n4s1
        ({"k": 2}, {"k": 3}, set()),
        ({"k": 2}, {"k": 2}, INDEXED),
        ({}, {"encoding": "permuted"}, set()),
        ({"encoding": "permuted"}, {"encoding": "permuted", "direction": "expand"}, set()),
        ({"encoding": "permuted"}, {"encoding": "permuted"}, INDEXED),
        ({}, {"exclude": ["int8*"]}, INDEXED - {"int8.weight"}),
        ({"exclude": ["int8*"]}, {}, INDEXED - {"int8.weight"}),
        ({"quantize": "absmean"}, {}, INDEXED),
        ({"quantize": "absmean"}, {"quantize": "absmean"}, INDEXED | {"master.weight"}),
        ({"quantize": "absmean"}, {"quantize": "twn"}, INDEXED),
        ({"quantize": "absmean"}, {"quantize": "absmean", "per": "group:32"}, INDEXED),
    ],
)
def test_changed_options(
    save: Any, twice: Twice, old: dict[str, Any], new: dict[str, Any], expected: set[str]
) -> None:
    rsrc.compile(save(), twice.old, **old)
    report = twice(save(), **new)
    assert {t.name for t in report.tensors if t.reused and t.kind != "dense"} == expected
    note = f"no index was reused: none in {twice.old} fits the source"
    assert (note in report.notes) == (not expected)


@pytest.mark.parametrize(("old", "new"), [(None, 3), (3, None), (3, 4)])
def test_another_compression(save: Any, twice: Twice, old: int | None, new: int | None) -> None:
    rsrc.compile(save(), twice.old, zstd=old)
    report = twice(save(), zstd=new)
    assert report.reused == {"tensors": 0, "bytes": 0}
    (note,) = (note for note in report.notes if "reused" in note)
    assert note.startswith(f"nothing was reused: {twice.old} has compression '")


def test_another_version_of_the_encoder(
    save: Any, twice: Twice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(reuse, "__version__", "0.0")
        older.setattr(pipeline, "PRODUCER", "rsrc 0.0")
        rsrc.compile(save(), twice.old)
    report = twice(save())
    assert reused(report) == DENSE
    (note,) = (note for note in report.notes if "reused" in note)
    assert note.endswith(f"fits the source; rsrc 0.0 compiled it, not rsrc {rsrc.__version__}")


KEY = b64encode(bytes(16)).decode()


@pytest.mark.parametrize(
    "entry",
    [None, "", "raw", f"raw {KEY}", "raw ????", f" {4 * KEY}", "raw é", f"raw {5 * KEY}"],
)
def test_a_file_without_keys(save: Any, twice: Twice, entry: str | None) -> None:
    rsrc.compile(save(), twice.old)

    def edit(document: dict[str, Any]) -> None:
        del document["metadata"]["rsr.reuse"]
        if entry is not None:
            document["metadata"]["rsr.reuse"] = entry

    Kit.tamper(twice.old, edit)
    report = twice(save())
    assert not reused(report)
    (note,) = (note for note in report.notes if "reused" in note)
    assert note.startswith(f"nothing was reused: {twice.old} has no keys of its tensors")


def test_keys_of_other_tensors(save: Any, twice: Twice) -> None:
    """Records must agree with the plan, so wrong keys make no invalid file."""
    rsrc.compile(save(), twice.old)

    def edit(document: dict[str, Any]) -> None:
        entry = reuse.ReuseEntry.of(RsrFile(twice.old).header)
        assert entry is not None
        document["metadata"]["rsr.reuse"] = reuse.ReuseEntry("raw", entry.keys[::-1]).encoded()

    Kit.tamper(twice.old, edit)
    assert reused(twice(save())) == DENSE


@pytest.mark.parametrize("in_panels", [False, True])
@pytest.mark.parametrize("zstd", [None, 3])
def test_damage_is_not_copied(
    save: Any, twice: Twice, zstd: int | None, in_panels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_panels:
        monkeypatch.setattr(pipeline, "_cost", lambda workers, p: None)
    rsrc.compile(save(), twice.old, zstd=zstd)
    header = RsrFile(twice.old).header
    data = bytearray(twice.old.read_bytes())
    damaged = {"packed.weight", "zeros.weight", "master.weight"}
    for t in header.tensors:
        if t.name in damaged:
            number = max(t.all_sections().values()) if isinstance(t, IndexedTensor) else t.section
            s = header.sections[number]
            data[s.offset + s.stored_size - 1] ^= 4
    twice.old.write_bytes(data)
    report = twice(save(), zstd=zstd)
    RsrFile(twice.new).verify()
    assert reused(report) == (INDEXED | DENSE) - damaged
    (note,) = (note for note in report.notes if "damaged" in note)
    # A raw dense tensor that differs from the source may as well have changed.
    compressed = "tensor 'master.weight', " if zstd else ""
    assert note == (
        f"{twice.old} is damaged and was not reused for: negative zeros of tensor 'zeros.weight', "
        f"scale of tensor 'packed.weight', {compressed}"
    ).removesuffix(", ")


@pytest.mark.parametrize("zstd", [None, 3])
def test_a_wrong_hash_is_not_copied(save: Any, twice: Twice, zstd: int | None) -> None:
    """Not even with bytes that are right: the new file would fail its own check."""
    rsrc.compile(save(), twice.old, zstd=zstd)
    header = RsrFile(twice.old).header
    wrong = {n for n, name in enumerate(header.owners()) if "master" in name}
    wrong |= {f.section for f in header.files if f.name == "config.json"}

    def edit(document: dict[str, Any]) -> None:
        for number in wrong:
            document["sections"][number]["sha256"] = bytes(32)

    Kit.tamper(twice.old, edit)
    report = twice(save(), zstd=zstd)
    RsrFile(twice.new).verify()
    assert reused(report) == (INDEXED | DENSE) - {"master.weight"}
    (note,) = (note for note in report.notes if "damaged" in note)
    assert note.endswith("not reused for: file 'config.json', tensor 'master.weight'")


def test_it_may_be_the_output(save: Any, twice: Twice) -> None:
    rsrc.compile(save(), twice.old)
    source = save(flip("int8.weight"))
    twice(source)
    with pytest.raises(rsrc.OutputExistsError):
        rsrc.compile(source, twice.old, reuse=twice.old)
    report = rsrc.compile(source, twice.old, reuse=twice.old, force=True)
    assert reused(report) == (INDEXED | DENSE) - {"int8.weight"}
    assert twice.old.read_bytes() == twice.new.read_bytes()
    assert Kit.leftovers(twice.folder) == []


def test_another_model(save: Any, kit: Kit, twice: Twice) -> None:
    other = kit.save(
        twice.folder / "other.safetensors", {"w": 1 - np.abs(T), "norm.weight": MASTER}
    )
    rsrc.compile(other, twice.old)
    report = twice(save())
    assert not reused(report)
    assert f"no index was reused: none in {twice.old} fits the source" in report.notes


def test_wrong_files(save: Any, twice: Twice) -> None:
    source = save()
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        rsrc.compile(source, twice.new, reuse=source / "model.safetensors")
    for path in (source, twice.folder / "nowhere.rsr"):
        with pytest.raises(OSError, match=path.name):
            rsrc.compile(source, twice.new, reuse=path)
    rsrc.compile(source, twice.old)
    with ThreadPoolExecutor(1) as executor, pytest.raises(rsrc.OptionError, match="executor"):
        rsrc.compile(source, twice.new, reuse=twice.old, executor=executor)
    assert not twice.new.exists()


def test_the_keys_do_not_depend_on_the_executor(save: Any, twice: Twice) -> None:
    rsrc.compile(save(), twice.old)
    with ThreadPoolExecutor(2) as executor:
        rsrc.compile(save(), twice.new, executor=executor)
    assert twice.new.read_bytes() == twice.old.read_bytes()


class TestKinds:
    """Sources of other kinds."""

    def test_gguf(self, gguf_kit: GgufKit, twice: Twice) -> None:
        def data(seed: int) -> bytes:
            rng = np.random.default_rng(seed)
            blocks = rng.integers(0, 3, (8, 64, 4)) @ [1, 4, 16, 64]  # TQ2_0: codes, then an F16
            scales = np.full((8, 1), 0.5, "<f2").view(np.uint8)
            return np.concatenate([blocks.astype(np.uint8), scales], axis=1).tobytes()

        def source(*seeds: int) -> Path:
            path = twice.folder / "m.gguf"
            found = {f"blk.{i}.ffn_up.weight": ([8, 256], 35, data(s)) for i, s in enumerate(seeds)}
            norm = {"output_norm.weight": ([4], 0, bytes(16))}
            return gguf_kit.save(path, {"general.architecture": "x"}, found | norm)

        rsrc.compile(source(1, 2), twice.old)
        report = twice(source(1, 3))
        assert [t.reused for t in report.tensors] == [True, False, True]
        assert report.tensors[0].kind == "ternary"

    def test_listed_patterns(self, kit: Kit, twice: Twice) -> None:
        t = np.sign(RNG.standard_normal((64, 64))).astype(np.int8)
        t[np.arange(64)[:, None], 4 * np.arange(16) + RNG.integers(0, 4, (64, 16))] = 0
        source = kit.save(twice.folder / "s.safetensors", {"w": t})
        rsrc.compile(source, twice.old, target="avx512")
        assert reused(twice(source, target="avx512")) == {"w"}
        (record,) = RsrFile(twice.new).header.tensors
        assert isinstance(record, IndexedTensor)
        assert record.pattern_list is not None
        assert not reused(twice(source, target="avx2"))

    def test_shards(self, kit: Kit, twice: Twice) -> None:
        made = tensors(kit)
        names = list(made)
        for i, folder in enumerate(("one", "two")):
            (twice.folder / folder).mkdir()
            halves = {"a.safetensors": names[: 3 + i], "b.safetensors": names[3 + i :]}
            shards = {shard: {n: made[n] for n in half} for shard, half in halves.items()}
            kit.save_sharded(twice.folder / folder, shards)
        rsrc.compile(twice.folder / "one", twice.old)
        assert reused(twice(twice.folder / "two")) == INDEXED | DENSE

    def test_experts_and_a_rotated_basis(self, kit: Kit, twice: Twice) -> None:
        config = {
            "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 16, "num_experts": 3,
            "moe_intermediate_size": 8, "num_experts_per_tok": 2, "num_hidden_layers": 1,
        }  # fmt: skip
        stacks = "model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"
        experts = np.stack([T[:16, 8 * e : 8 * e + 8] for e in range(3)]).astype(np.float16)
        q = "model.layers.0.self_attn.q_proj.weight"
        source = twice.folder / "m"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(config))
        for seed in (1, 2):  # another basis
            declared = declaration([q], [], [16], 16, seed)
            fields = {key.removeprefix(PREFIX): value for key, value in declared.items()}
            (source / "hadamard.json").write_text(json.dumps(fields))
            attention = T[:16, :16].astype(np.float32)
            kit.save(
                source / "model.safetensors",
                {stacks[0]: experts, stacks[1]: experts.swapaxes(1, 2).repeat(2, 1), q: attention},
            )
            if seed == 1:
                rsrc.compile(source, twice.old)
            experts[2, 0, 0] += 1 if experts[2, 0, 0] < 1 else -1
        header = RsrFile(twice.old).header
        assert (len(header.stacks), len(header.rotations)) == (2, 1)
        report = twice(source)
        lost = {f"model.layers.0.mlp.experts.2.{part}_proj.weight" for part in ("gate", "down")}
        assert {t.name for t in report.tensors} - reused(report) == lost

    def test_an_int8_head_is_made_again(self, save: Any, twice: Twice) -> None:
        """Its loss is measured while it is written."""
        head = {"lm_head.weight": MASTER}
        rsrc.compile(save(lambda t: t.update(head)), twice.old, head="int8")
        report = twice(save(lambda t: t.update(head)), head="int8")
        assert reused(report) == INDEXED | DENSE
        assert report.head is not None

    def test_a_stream_of_the_hub(self, hub: Hub, save: Any, twice: Twice) -> None:
        hub.add("a/b", save())
        rsrc.compile("hf://a/b", twice.old, cache=False)
        hub.add("a/b", save(flip("rows.weight")))
        assert reused(twice("hf://a/b", cache=False)) == (INDEXED | DENSE) - {"rows.weight"}
        assert not (twice.folder / "home" / "hub").exists()


class TestEntry:
    """The entry of the metadata."""

    def test_it_is_shown_nowhere(self, save: Any, twice: Twice) -> None:
        rsrc.compile(save(), twice.old)
        header = RsrFile(twice.old).header
        assert b"rsr.reuse" in twice.old.read_bytes()
        indexed = sum(isinstance(t, IndexedTensor) for t in header.tensors)
        assert len(header.reuse or "") < 6 + 22 * indexed
        assert header.metadata == {"format": "pt"}
        assert rsr_runtime.load(twice.old).metadata == {"format": "pt"}
        assert inspect_file(twice.old)["metadata"] == {"format": "pt"}
        back = twice.folder / "back.safetensors"
        decompile(twice.old, back)
        assert b"rsr.reuse" not in back.read_bytes()

    def test_a_source_cannot_bring_its_own(self, kit: Kit, twice: Twice) -> None:
        source = twice.folder / "s.safetensors"
        files = []
        for metadata in ({}, {"rsr.reuse": "raw x"}):
            kit.save(source, {"w": T}, metadata)
            rsrc.compile(source, twice.new, force=True)
            files.append(twice.new.read_bytes())
        assert files[0] == files[1]

    def test_metadata_that_leave_no_room(self, kit: Kit, twice: Twice) -> None:
        """The file is valid, has no keys, and the report says so."""
        source = twice.folder / "s.safetensors"
        kit.save(source, {"w": T}, {"long": "x" * ((1 << 19) - 40)})
        report = rsrc.compile(source, twice.old)
        assert RsrFile(twice.old).header.reuse is None
        assert any("so it cannot be reused" in note for note in report.notes)
        note = twice(source).notes[0]
        assert note.startswith(f"nothing was reused: {twice.old} has no keys")

    def test_unpacked_files_can_be_reused(self, save: Any, twice: Twice) -> None:
        small = twice.folder / "small.rsr"
        rsrc.compile(save(), small, zstd=3)
        rsrc.unpack(small, twice.old)
        assert reused(twice(save())) == INDEXED | DENSE


class TestCommand:
    """`rsrc compile --reuse`."""

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(main, ["compile", *map(str, arguments)], prog_name="rsrc")

    def test_the_report(self, save: Any, twice: Twice) -> None:
        rsrc.compile(save(), twice.old)
        paths = save(flip("int8.weight")), "-o", twice.new, "--reuse", twice.old, "--force"
        done = self.run(*paths)
        assert done.exit_code == 0
        (row,) = (line for line in done.output.splitlines() if "reused" in line)
        names = (INDEXED | DENSE) - {"int8.weight"}
        found = json.loads(self.run(*paths, "--json").output)
        stored = sum(t["bytes"] for t in found["tensors"] if t["name"] in names)
        assert [cell.strip() for cell in row.split("│")[1:6]] == [
            "reused",
            "6",
            "",
            "",
            f"{stored:,}",
        ]
        assert found["reused"] == {"tensors": 6, "bytes": stored}
        assert {t["name"] for t in found["tensors"] if t["reused"]} == names

    def test_wrong_files_and_options(self, save: Any, twice: Twice) -> None:
        paths = save(), "-o", twice.new, "--reuse"
        for old, code, why in (
            (save() / "model.safetensors", 1, "not a .rsr file"),
            (twice.folder / "nowhere.rsr", 1, "nowhere.rsr"),
        ):
            done = self.run(*paths, old)
            assert (done.exit_code, why in done.output) == (code, True), done.output
        done = self.run(*paths, twice.old, "--executor", "dask://h:1")
        assert (done.exit_code, "the workers of --executor" in done.output) == (2, True)
