"""compile --head int8: the rule entry by entry, tied and untied heads, and decompiling."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats import DenseTensor, RsrFile, create
from rsr_formats.records import Quantized
from rsr_runtime import _native
from rsr_runtime.products import quantize_int8
from rsr_testing.checkpoints import Kit, Raw
from rsr_testing.gguf_files import GgufKit
from rsrc.cli.main import main
from rsrc.compiler import head
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare

Array = npt.NDArray[Any]

ROWS, COLUMNS = 300, 40
EMBEDDING, HEAD, SCALE = "model.embed_tokens.weight", "lm_head.weight", "lm_head.weight_scale"
UP = "model.layers.0.mlp.up_proj.weight"


def cut(values: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Round to `dtype`."""
    values = values.astype(np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values


def matrix(dtype: str, seed: int = 3) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    rows = 10.0 ** rng.uniform(-3, 2, (ROWS, 1))
    return cut(rng.standard_normal((ROWS, COLUMNS)) * rows, dtype)


@pytest.fixture
def make(kit: Kit, tmp_path: Path) -> Callable[..., Path]:
    """Write a model directory; return it."""

    def model(dtype: str = "BF16", tied: bool = False, **more: Any) -> Path:
        folder = tmp_path / f"source-{dtype}-{tied}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        rng = np.random.default_rng(5)
        tensors: dict[str, Array | Raw] = {
            EMBEDDING: kit.cast(matrix(dtype, 4), dtype),
            UP: rng.integers(-1, 2, (64, COLUMNS)).astype(np.int8),
            "model.norm.weight": kit.bf16(np.ones(COLUMNS)),
        }
        if not tied:
            tensors[HEAD] = kit.cast(matrix(dtype), dtype)
        kit.save(folder / "model.safetensors", {**tensors, **more}, {"format": "pt"})
        return folder

    return model


def dense(path: Path) -> dict[str, DenseTensor]:
    tensors = RsrFile(path).header.tensors
    return {t.name: t for t in tensors if isinstance(t, DenseTensor)}


# --- the rule -----------------------------------------------------------------------------------


def one_entry(w: float, largest: float) -> tuple[int, np.float32]:
    """Quantize one entry by the formula of SPEC.md."""
    scale = np.float32(largest) / np.float32(127)
    if scale == 0:
        return 0, scale
    quotient = np.float32(w) / scale
    return max(-127, min(127, round(Fraction(float(quotient))))), scale  # half to even


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3,
                 max_size=3),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_the_rule_entry_by_entry(rows: list[list[float]]) -> None:
    q, scale = head.quantize(np.array(rows, np.float32))
    for r, row in enumerate(rows):
        largest = max(map(abs, row))
        for c, w in enumerate(row):
            expected, of_row = one_entry(w, largest)
            assert q[r, c] == expected
            assert scale[r] == of_row


def test_literal_values() -> None:
    q, scale = head.quantize(np.array([[1, -0.5, 0.25, 0], [0, -0.0, 0, 0]], np.float32))
    assert q.dtype == np.int8
    assert q.tolist() == [[127, -64, 32, 0], [0, 0, 0, 0]]  # -63.5 and 31.75; the row of zeros
    assert scale.tolist() == [np.float32(1) / np.float32(127), 0]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zstd", [None, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_the_file_holds(
    make: Callable[..., Path], tmp_path: Path, dtype: str, tied: bool, zstd: int | None
) -> None:
    source, rsr = make(dtype, tied), tmp_path / "x.rsr"
    rsrc.compile(source, rsr, head="int8", zstd=zstd)
    values = matrix(dtype, 4 if tied else 3)
    q, scale = head.quantize(values)
    model = rsr_runtime.load(rsr, verify=True)
    np.testing.assert_array_equal(np.asarray(model[HEAD]), q)
    np.testing.assert_array_equal(np.asarray(model[SCALE]), scale)
    np.testing.assert_array_equal(np.asarray(model[EMBEDDING]), matrix(dtype, 4))
    assert RsrFile(rsr).version == (1, 3)
    tensors = dense(rsr)
    assert tensors[HEAD].quantized == Quantized("absmax", EMBEDDING if tied else HEAD, dtype)
    assert tensors[HEAD].is_added == tied
    assert [t.name for t in tensors.values() if t.quantized] == [HEAD]
    assert compare(rsr, source) == len(model) - 1 - tied
    order = list(model)
    assert order.index(SCALE) == order.index(HEAD) + 1


def test_without_the_option_nothing_changes(make: Callable[..., Path], tmp_path: Path) -> None:
    report = rsrc.compile(make(), tmp_path / "x.rsr")
    assert report.head is None
    assert RsrFile(tmp_path / "x.rsr").version < (1, 3)
    assert SCALE not in dense(tmp_path / "x.rsr")


@pytest.mark.parametrize("tied", [False, True])
def test_same_bytes_for_any_threads_and_executor(
    make: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    source, files = make(tied=tied), []
    with ThreadPoolExecutor(2) as pool:
        ways: list[dict[str, Any]] = [{"threads": 1}, {"threads": 3}, {"executor": pool}]
        for i, options in enumerate(ways):
            rsrc.compile(source, tmp_path / f"{i}.rsr", head="int8", **options)
            files.append((tmp_path / f"{i}.rsr").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_tied_model_comes_back_byte_for_byte(
    make: Callable[..., Path], tmp_path: Path, kit: Kit
) -> None:
    source, rsr = make(tied=True), tmp_path / "x.rsr"
    rsrc.compile(source, rsr, head="int8")
    result = decompile(rsr, tmp_path / "back.safetensors")
    assert result.quantized == []
    assert result.notes == [f"not written: {HEAD} in int8, which the source does not have"]
    back, original = (
        kit.judge(p) for p in (tmp_path / "back.safetensors", source / "model.safetensors")
    )
    assert back == original


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_an_untied_head_comes_back_as_kept(
    make: Callable[..., Path], tmp_path: Path, kit: Kit, dtype: str
) -> None:
    source, rsr, path = make(dtype), tmp_path / "x.rsr", tmp_path / "back.safetensors"
    rsrc.compile(source, rsr, head="int8")
    assert decompile(rsr, path).quantized == [HEAD]
    back, original = kit.judge(path), kit.judge(source / "model.safetensors")
    assert back.keys() == original.keys()
    assert {name for name in back if back[name] != original[name]} == {HEAD}
    q, scale = head.quantize(matrix(dtype))
    kept = q.astype(np.float32) * scale[:, None]
    found = back[HEAD]
    assert (found.dtype, found.shape) == (dtype, kept.shape)
    raw = np.frombuffer(found.data, {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[dtype])
    values = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw
    bits = {"BF16": 8, "F16": 11, "F32": 24}[dtype]
    np.testing.assert_allclose(
        values.reshape(kept.shape).astype(np.float64), kept, rtol=2.0**-bits, atol=2.0**-25
    )


@pytest.mark.parametrize("form", ["float", "int8", "bitnet"])
@pytest.mark.parametrize("tied", [False, True])
def test_other_forms_have_the_tensors_of_the_source(
    make: Callable[..., Path], tmp_path: Path, kit: Kit, tied: bool, form: str
) -> None:
    source, rsr, plain = make(tied=tied), tmp_path / "x.rsr", tmp_path / "plain.rsr"
    rsrc.compile(source, rsr, head="int8")
    rsrc.compile(source, plain)
    for path, name in ((rsr, "with"), (plain, "without")):
        decompile(path, tmp_path / name, to=form)
    found, expected = (
        kit.judge(tmp_path / name / "model.safetensors") for name in ("with", "without")
    )
    is_int8 = form == "int8"  # which has a place for the head that compiling quantized
    assert found.keys() == expected.keys() | ({HEAD, f"{HEAD}_scale"} if is_int8 else set())
    different = {name for name in expected if found[name] != expected[name]}
    assert different == (set() if tied else {HEAD})
    if HEAD in found:
        assert found[HEAD].dtype == ("I8" if is_int8 else "BF16")


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_sources_and_gguf_again(
    tmp_path: Path, gguf_kit: GgufKit, make: Callable[..., Path], tied: bool
) -> None:
    gguf = pytest.importorskip("gguf")
    embedding, up = matrix("F16", 4), np.random.default_rng(5).integers(-1, 2, (256, 256))
    wide = np.tile(embedding, (1, 7))[:, :256].astype(np.float16)
    blocks = gguf.quants.quantize(up.astype(np.float32), gguf.GGMLQuantizationType.TQ2_0)
    tensors = {
        "token_embd.weight": (wide.shape, 1, wide.tobytes()),
        "blk.0.ffn_up.weight": (up.shape, 35, blocks.tobytes()),
    }
    if not tied:
        tensors["output.weight"] = (wide.shape, 1, (wide * np.float16(2)).tobytes())
    metadata: dict[str, Any] = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 64,
        "llama.embedding_length": 256, "llama.feed_forward_length": 256,
        "llama.attention.head_count": 4, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": ROWS,
    }  # fmt: skip
    source, rsr = gguf_kit.save(tmp_path / "m.gguf", metadata, tensors), tmp_path / "x.rsr"
    report = rsrc.compile(source, rsr, head="int8").head
    assert report is not None
    assert report.is_added == tied
    q, scale = head.quantize(wide.astype(np.float32) * (1 if tied else 2))
    model = rsr_runtime.load(rsr)
    np.testing.assert_array_equal(np.asarray(model[HEAD]), q)
    np.testing.assert_array_equal(np.asarray(model[SCALE]), scale)
    assert compare(rsr, source) == len(tensors)
    decompile(rsr, tmp_path / "back.gguf", to="gguf")
    names = {t.name: t for t in gguf.GGUFReader(tmp_path / "back.gguf").tensors}
    assert names.keys() == tensors.keys()
    if not tied:
        kept = (q.astype(np.float32) * scale[:, None]).astype(np.float16)
        np.testing.assert_array_equal(names["output.weight"].data, kept)


# --- verify -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [HEAD, SCALE])
@pytest.mark.parametrize("tied", [False, True])
def test_verify_finds_one_flipped_bit(
    make: Callable[..., Path], tmp_path: Path, tied: bool, part: str
) -> None:
    """The file is rewritten with a valid hash: only comparison with the source detects it."""
    source, rsr = make(tied=tied), tmp_path / "x.rsr"
    rsrc.compile(source, rsr, head="int8")
    file = RsrFile(rsr)
    with create(tmp_path / "y.rsr") as writer:
        for number in range(len(file.header.sections)):
            data = bytearray(file.section(number).tobytes())
            if number == dense(rsr)[part].section:
                data[len(data) // 2] ^= 1
            writer.add([bytes(data)])
        writer.finish(
            producer="test", metadata=file.header.metadata, files=file.header.files,
            tensors=file.header.tensors,
        )  # fmt: skip
    RsrFile(tmp_path / "y.rsr").verify()
    of = EMBEDDING if tied else HEAD
    row = ROWS // 2
    with pytest.raises(rsrc.MismatchError, match=f"{HEAD}: '{of}' quantizes to another row {row}"):
        compare(tmp_path / "y.rsr", source)


def test_verify_finds_another_source(make: Callable[..., Path], tmp_path: Path, kit: Kit) -> None:
    source, rsr = make(tied=True), tmp_path / "x.rsr"
    rsrc.compile(source, rsr, head="int8")
    other = make(tied=True, **{EMBEDDING: kit.cast(matrix("F16", 4), "F16")})
    with pytest.raises(rsrc.MismatchError, match="made of BF16"):
        compare(rsr, other)
    assert source == other


def test_the_command_line(make: Callable[..., Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    for tied in (False, True):
        source, rsr = make(tied=tied), tmp_path / f"{tied}.rsr"
        told = run(main, ["compile", str(source), "-o", str(rsr), "--head", "int8"])
        assert told.exit_code == 0, told.output
        for words in ("output head in int8, lossy", "same top token", "random hidden vectors"):
            assert words in told.stdout
        assert (f"made from {EMBEDDING}, which is kept" in told.stdout) == tied
        told = run(main, ["verify", str(rsr), "--against", str(source)])
        assert told.exit_code == 0, told.output
        end = f", and {HEAD}, quantized from it" if tied else ", 1 re-quantized as when compiled"
        assert told.stdout.rstrip().endswith(end)
        told = run(main, ["verify", str(rsr), "--against", str(source), "--json"])
        result = json.loads(told.stdout)
        assert (result["quantised"], result["added"]) == (1 - tied, [HEAD] * tied)
        told = run(main, ["inspect", str(rsr)])
        assert "dense I8, absmax of BF16" in told.stdout
        shown = json.loads(run(main, ["inspect", str(rsr), "--tensor", HEAD, "--json"]).stdout)
        of = EMBEDDING if tied else HEAD
        assert shown["quantised"] == {"rule": "absmax", "of": of, "dtype": "BF16"}
        assert f"absmax of {of}, BF16" in run(main, ["inspect", str(rsr), "--tensor", HEAD]).stdout
    told = run(main, ["compile", str(source), "-o", str(rsr), "--head", "int4"])
    assert told.exit_code == 2


def test_unpack_keeps_it(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make(tied=True)
    raw, small, back = (tmp_path / name for name in ("raw.rsr", "small.rsr", "back.rsr"))
    rsrc.compile(source, raw, head="int8")
    rsrc.compile(source, small, head="int8", zstd=5)
    rsrc.unpack(small, back)
    assert back.read_bytes() == raw.read_bytes()


# --- rejected -----------------------------------------------------------------------------------


def test_what_is_refused(make: Callable[..., Path], tmp_path: Path, kit: Kit) -> None:
    rng, rsr = np.random.default_rng(1), tmp_path / "x.rsr"
    ternary = kit.bf16(rng.integers(-1, 2, (ROWS, COLUMNS)))
    infinite = np.ones((ROWS, COLUMNS), np.float32)
    infinite[217, 5] = np.inf
    cases: list[tuple[dict[str, Any], str]] = [
        ({HEAD: ternary}, r"'lm_head.weight' is ternary \(layout float\).*--exclude"),
        ({HEAD: np.ones((ROWS, COLUMNS), np.float64)}, r"F64 \[300, 40\], expected a matrix of"),
        ({HEAD: np.ones(COLUMNS, np.float32)}, r"F32 \[40\], expected a matrix of F16, BF16, F32"),
        ({SCALE: np.ones(ROWS, np.float32)}, "has a tensor 'lm_head.weight_scale' already"),
        (
            {HEAD: np.arange(1 << 17, dtype="f4")[None]},
            "131072 columns, an int8 head at most 131071",
        ),
    ]
    for more, words in cases:
        with pytest.raises(rsrc.OptionError, match=words):
            rsrc.compile(make(**more), rsr, head="int8")
    with pytest.raises(rsrc.SourceError, match="row 217 has an entry that is not finite"):
        rsrc.compile(make(**{HEAD: infinite}), rsr, head="int8")
    with pytest.raises(rsrc.OptionError, match="head: found 'int4', expected int8"):
        rsrc.compile(make(), rsr, head="int4")
    assert not rsr.exists()
    assert not kit.leftovers(tmp_path)


def test_no_head(make: Callable[..., Path], tmp_path: Path, kit: Kit) -> None:
    folder, rsr = make(tied=True), tmp_path / "x.rsr"
    (folder / "config.json").write_text("{}")
    with pytest.raises(rsrc.OptionError, match=r"no 'lm_head.weight', and tie_word.* is not true"):
        rsrc.compile(folder, rsr, head="int8")
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    kit.save(folder / "model.safetensors", {UP: np.ones((4, 4), np.int8)})
    with pytest.raises(rsrc.OptionError, match=r"and no 'model\.embed_tokens\.weight'"):
        rsrc.compile(folder, rsr, head="int8")


def test_an_excluded_ternary_head_becomes_int8(
    make: Callable[..., Path], tmp_path: Path, kit: Kit
) -> None:
    ternary = np.random.default_rng(1).integers(-1, 2, (ROWS, COLUMNS))
    source = make(**{HEAD: kit.bf16(ternary)})
    rsrc.compile(source, tmp_path / "x.rsr", head="int8", exclude=["lm_head.*"])
    model = rsr_runtime.load(tmp_path / "x.rsr")
    np.testing.assert_array_equal(np.asarray(model[HEAD]), 127 * ternary)


# --- the report ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_the_report_says_what_the_kernels_give(
    make: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    source = make(tied=tied)
    report = rsrc.compile(source, tmp_path / "x.rsr", head="int8")
    found = report.head
    assert found is not None
    W = matrix("BF16", 4 if tied else 3)
    q, scale = head.quantize(W)
    assert (found.of, found.is_added) == (EMBEDDING if tied else HEAD, tied)
    assert found.bytes == ROWS * COLUMNS + 4 * ROWS
    assert found.bytes_saved == 2 * ROWS * COLUMNS - found.bytes
    kept = q * scale[:, None].astype(np.float64)
    norm = np.linalg.norm
    assert found.relative_error == pytest.approx(norm(W - kept) / norm(W), rel=1e-4)
    hidden = np.random.default_rng(0).standard_normal((64, COLUMNS), np.float32)
    logits = np.empty((64, ROWS), np.float32)
    _native.multiply_rows_i8(q, scale, *quantize_int8(hidden), logits)
    exact = hidden.astype(np.float64) @ W.T.astype(np.float64)
    assert found.logits_relative_error == pytest.approx(
        norm(logits - exact) / norm(exact), rel=1e-3
    )
    cosine = np.vdot(logits, exact) / norm(logits.astype(np.float64)) / norm(exact)
    assert found.logits_cosine == pytest.approx(cosine, abs=1e-6)
    assert found.argmax_kept == (logits.argmax(1) == exact.argmax(1)).mean()
    assert found.vectors == 64
    assert "times model.norm.weight" in found.measured
    document = json.loads(json.dumps(report.to_dict()))
    by_name = {t["name"]: t for t in document["tensors"]}
    assert by_name[HEAD]["head"]["argmax_kept"] == found.argmax_kept
    assert by_name[EMBEDDING]["head"] is by_name[SCALE]["head"] is None
    assert by_name[HEAD]["kind"] == by_name[SCALE]["kind"] == "dense"
    assert by_name[HEAD]["source_bytes"] == (0 if tied else 2 * ROWS * COLUMNS)
    assert by_name[HEAD]["bytes"] + by_name[SCALE]["bytes"] == found.bytes
    assert "lossy" in by_name[HEAD]["reason"]


def record(seen: list[tuple[str, int, int]], name: str, done: int, total: int) -> None:
    seen.append((name, done, total))


def test_progress_ends_at_its_total(make: Callable[..., Path], tmp_path: Path) -> None:
    for tied in (False, True):
        seen: list[tuple[str, int, int]] = []
        progress = partial(record, seen)
        rsrc.compile(make(tied=tied), tmp_path / f"{tied}.rsr", head="int8", progress=progress)
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert seen[-1][1] == seen[-1][2]


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 1000))
def test_any_shape_comes_back(kit: Kit, scratch: Path, rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    source, rsr = scratch / "head.safetensors", scratch / "head.rsr"
    kit.save(source, {HEAD: values, UP: np.ones((1, 1), np.int8)})
    rsrc.compile(source, rsr, head="int8", exclude=["lm_head.*"], force=True)
    q, _ = head.quantize(values)
    np.testing.assert_array_equal(np.asarray(rsr_runtime.load(rsr, verify=True)[HEAD]), q)
    assert compare(rsr, source) == 2


def test_memory_is_bounded(kit: Kit, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).standard_normal((20_000, 512)).astype(np.float32)
    source = kit.save(tmp_path / "s.safetensors", {HEAD: wide, UP: np.ones((4, 4), np.int8)})
    nbytes = wide.nbytes
    del wide
    rsrc.compile(source, tmp_path / "warm.rsr", threads=1)
    tracemalloc.start()
    rsrc.compile(source, tmp_path / "x.rsr", head="int8", threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert nbytes > 40_000_000
    assert peak < nbytes // 2
