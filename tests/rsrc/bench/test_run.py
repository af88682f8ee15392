"""`rsrc bench` and the scripts in benchmarks/: tiny shapes and no time; structure, not speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import save_file

import rsr_runtime as rsr
import rsrc
from rsr_formats.errors import RsrError
from rsr_formats.records import DenseTensor
from rsr_formats.writer import create
from rsr_runtime import Matrix
from rsr_runtime.kernels import multiply_rows
from rsr_testing.paths import BENCHMARKS
from rsrc import bench
from rsrc.bench import lineup, memory, turns
from rsrc.bench.matrices import compile_matrix
from rsrc.bench.products import distinct_isas

Array = npt.NDArray[Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep turns and rotations short, and let there be two threads."""
    monkeypatch.setattr(turns, "_TURN", 1e-4)
    monkeypatch.setattr(turns, "_SETTLE", 0.0)
    monkeypatch.setattr(memory, "_ROTATION", 200_000)
    monkeypatch.setattr(memory, "_RIVAL_ROTATION", 200_000)
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 1000)
    threads = rsr.get_num_threads()
    rsr.set_num_threads(2)
    yield
    rsr.set_num_threads(threads)


@pytest.fixture
def result() -> dict[str, Any]:
    """Return a result for a matrix whose sides are multiples of nothing."""
    return bench.bench_shape(65, 100, seconds=0.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file with three matrices of two kinds."""
    rng = np.random.default_rng(3)
    scale = np.float32(0.37)
    shapes = {"a": (40, 70), "b": (40, 70), "c": (64, 33)}
    tensors = {n: rng.integers(-1, 2, s).astype(np.float32) * scale for n, s in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    rsrc.compile(tmp_path / "model.safetensors", tmp_path / "model.rsr")
    return tmp_path / "model.rsr"


def text_of(result: dict[str, Any]) -> str:
    console = Console(width=200, markup=False)
    with console.capture() as capture:
        console.print(bench.render_table(result))
    return capture.get()


def test_shape_has_the_documented_keys(result: dict[str, Any]) -> None:
    readme = (BENCHMARKS / "README.md").read_text()
    keys = {*result, *result["results"][0]}
    assert not [key for key in keys if f"`{key}`" not in readme]
    assert all(row.keys() == result["results"][0].keys() for row in result["results"])
    assert json.loads(json.dumps(result)) == result
    assert result["shape"] == [65, 100]
    assert set(result["ratio_to_plain_read"]) == {"int8", "float32"}


def test_shape_compares_what_it_should(result: dict[str, Any]) -> None:
    info = rsr.cpu_info()
    own = [r for r in result["results"] if r["engine"] == "rsr-ternary"]
    default = own[0]["packing"]
    rows = [r for r in own if r["vectors"] == 1 and r["packing"] in (default, "u16")]
    for level in ("cache", "memory"):
        found = {
            (r["encoding"], r["algorithm"], r["isa"], r["dtype"], r["threads"])
            for r in rows
            if r["level"] == level
        }
        expected = {
            ("ranked", "rsr++", isa, dtype, 1)
            for isa in distinct_isas()
            for dtype in ("int8", "float32")
        }
        expected |= {("ranked", "rsr++", info["isa"], d, 2) for d in ("int8", "float32")}
        expected |= {("permuted", a, info["isa"], "float32", 1) for a in ("rsr", "rsr++")}
        assert found == expected
        assert any(r["engine"] == "numpy" and r["level"] == level for r in result["results"])


def in_use(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """Return the rows of the default packing and the instruction set in use."""
    first = result["results"][0]
    wanted |= {key: first[key] for key in ("engine", "encoding", "packing", "isa")}
    return [r for r in result["results"] if wanted.items() <= r.items()]


def test_batches_of_the_kernels_in_use(result: dict[str, Any]) -> None:
    rows = [r for r in result["results"] if r["vectors"] > 1]
    assert rows == [r for r in in_use(result, level="cache") if r["vectors"] > 1]
    assert {(r["vectors"], r["dtype"], r["threads"]) for r in rows} == {
        (b, dtype, threads)
        for b in (4, 16, 64)
        for dtype in ("int8", "float32")
        for threads in (1, 2)
    }


def test_huge_pages(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        {(d, t) for d in ("int8", "float32") for t in (1, 2)} if memory.has_huge_pages() else set()
    )
    found = in_use(result, level="memory-huge")
    assert {(r["dtype"], r["threads"]) for r in found} == expected
    monkeypatch.setattr(lineup, "has_huge_pages", lambda: False)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert not in_use(result, level="memory-huge")
    assert any("no level memory-huge" in note for note in result["notes"])


def test_packings_for_other_instruction_sets_take_part(result: dict[str, Any]) -> None:
    rows = [r for r in result["results"] if r["encoding"] == "ranked"]
    targets = ("native", "avx2", "avx512")
    plans = {
        m.packing
        for m in compile_matrix(
            np.eye(9, dtype=np.int8) - np.eye(9, k=1, dtype=np.int8),
            *({"target": t} for t in targets),
        )
    }
    assert {r["packing"] for r in rows} == plans


def test_numbers_agree_with_each_other(result: dict[str, Any]) -> None:
    for row in result["results"]:
        assert 0 < row["seconds_best"] <= row["seconds_median"]
        assert row["weights"] == 65 * 100
        assert row["weights_per_ns"] == pytest.approx(6500 / row["seconds_median"] / 1e9)
        assert row["macs_per_ns"] == pytest.approx(row["vectors"] * row["weights_per_ns"])
        assert row["bits_per_weight"] == pytest.approx(8 * row["index_bytes"] / 6500)
        assert row["ratio_to_plain_read"] > 0
        assert row["rounds"] >= 3
    numpy_row = next(r for r in result["results"] if r["engine"] == "numpy")
    assert numpy_row["index_bytes"] == 4 * 6500
    memory = result["levels"]["memory"]["compiled"]["random"]
    assert memory["copies"] > 1
    assert memory["bytes"] >= 200_000


def test_headline_is_the_row_it_says(result: dict[str, Any]) -> None:
    for dtype, ratio in result["ratio_to_plain_read"].items():
        (row,) = (
            r
            for r in result["results"]
            if (r["encoding"], r["isa"], r["dtype"], r["threads"], r["level"])
            == ("ranked", rsr.cpu_info()["isa"], dtype, 1, "memory")
            and r["packing"] == result["results"][0]["packing"]
        )
        assert ratio == row["ratio_to_plain_read"]


def test_settings_are_put_back() -> None:
    before = rsr.cpu_info()
    bench.bench_shape(33, 20, seconds=0.0)
    assert rsr.cpu_info() == before


def test_one_thread_only() -> None:
    rsr.set_num_threads(1)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert {r["threads"] for r in result["results"] if r["engine"] == "rsr-ternary"} == {1}


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize("level", ["first", "later"])
def test_a_wrong_product_is_noticed(
    monkeypatch: pytest.MonkeyPatch, dtype: type[Any], level: str
) -> None:
    right: Callable[..., Array] = Matrix.matvec
    calls = 0

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        nonlocal calls
        y = right(self, x, *args, **options)
        calls += x.dtype == dtype
        if x.dtype == dtype and (level == "first" or calls > 20):
            y[3] += 1
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError, match=f"dtype {np.dtype(dtype)}"):
        bench.bench_shape(65, 100, seconds=0.0)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_a_wrong_batch_is_noticed(monkeypatch: pytest.MonkeyPatch, dtype: type[Any]) -> None:
    def wrong(matrices: Any, x: Array, outputs: Any) -> None:
        multiply_rows(matrices, x, outputs)
        if x.dtype == dtype:
            outputs[0][3, 5] += 1

    monkeypatch.setattr("rsrc.bench.products.multiply_rows", wrong)
    with pytest.raises(bench.WrongResultError, match=f"y\\[{3 * 65 + 5}\\].*vectors 4"):
        bench.bench_shape(65, 100, seconds=0.0)


def test_nan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Array] = Matrix.matvec

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        y = right(self, x, *args, **options)
        if x.dtype == np.float32:
            y[:] = np.nan
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError):
        bench.bench_shape(33, 20, seconds=0.0)


def test_a_wrong_rival_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", lambda W, x, out: np.multiply(0, out, out=out))
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert "numpy" not in {r["engine"] for r in result["results"]}
    assert any("numpy float32 is left out: 33 sums" in note for note in result["notes"])


def test_a_rival_that_becomes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = np.matmul, 0

    def wrong(W: Array, x: Array, out: Array) -> Array:
        nonlocal calls
        calls += 1
        return right(W, x, out=out) + np.float32(calls > 2)

    monkeypatch.setattr(np, "matmul", wrong)
    with pytest.raises(bench.WrongResultError, match="engine numpy"):
        bench.bench_shape(33, 20, seconds=0.0)


def test_file_measures_each_kind_and_a_pass(model: Path) -> None:
    result = bench.bench_file(model, seconds=0.0)
    assert [(g["matrix"], g["shape"], g["count"]) for g in result["groups"]] == [
        ("a", [40, 70], 2),
        ("c", [64, 33], 1),
    ]
    whole = [r for r in result["results"] if r["level"] == "model"]
    assert {(r["dtype"], r["threads"]) for r in whole} == {
        (dtype, threads) for dtype in ("int8", "float32") for threads in (1, 2)
    }
    assert all(r["weights"] == 2 * 40 * 70 + 64 * 33 for r in whole)
    headline = {r["dtype"]: r["ratio_to_plain_read"] for r in whole if r["threads"] == 1}
    assert result["ratio_to_plain_read"] == headline
    assert "all matrices" in text_of(result)
    readme = (BENCHMARKS / "README.md").read_text()
    assert not [key for key in {*result, *result["groups"][0]} if f"`{key}`" not in readme]
    json.dumps(result)


def test_a_pass_is_checked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Array] = Matrix.matvec

    def wrong(self: Matrix, x: Array, *args: Any, **options: Any) -> Array:
        y = right(self, x, *args, **options)
        y[0] += self.name == "b" and args != ()  # no representative; only where it is timed
        return y

    monkeypatch.setattr(Matrix, "matvec", wrong)
    with pytest.raises(bench.WrongResultError, match="'b'"):
        bench.bench_file(model, seconds=0.0)


def test_file_with_one_permuted_matrix(tmp_path: Path) -> None:
    W = np.random.default_rng(0).integers(-1, 2, (50, 30)).astype(np.int8)
    save_file({"w": W}, tmp_path / "m.safetensors")
    rsrc.compile(tmp_path / "m.safetensors", tmp_path / "m.rsr", encoding="permuted")
    result = bench.bench_file(tmp_path / "m.rsr", seconds=0.0)
    rows = [r for r in result["results"] if r["engine"] == "rsr-ternary"]
    assert {r["algorithm"] for r in rows} == {"rsr", "rsr++"}
    assert {r["level"] for r in rows} == {"cache", "memory"}
    assert None not in result["ratio_to_plain_read"].values()


def test_file_with_scales_of_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scales = rng.random((50, 3), np.float32).repeat(32, axis=1)
    W = rng.integers(-1, 2, (50, 96)).astype(np.float32) * scales
    save_file({"w": W}, tmp_path / "m.safetensors")
    rsrc.compile(tmp_path / "m.safetensors", tmp_path / "m.rsr")
    result = bench.bench_file(tmp_path / "m.rsr", seconds=0.0)
    assert {r["engine"] for r in result["results"]} >= {"rsr-ternary", "numpy"}


def test_isas_that_differ_only_for_batches_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isas = ["amx", "avx512vnni", "avx512", "avx2", "scalar"]
    for used, expected in (("amx", ["amx", "avx2", "scalar"]), ("avx2", ["avx2", "amx", "scalar"])):
        info = {"isa": used, "supported_isas": isas}
        monkeypatch.setattr(rsr, "cpu_info", lambda info=info: info)
        assert distinct_isas() == expected


def test_file_without_matrices_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "dense.rsr") as writer:
        dense = DenseTensor("norm", "F32", (2,), writer.add([bytes(8)]))
        writer.finish(producer="test", metadata={}, files=[], tensors=[dense])
    with pytest.raises(RsrError, match="no compiled matrix"):
        bench.bench_file(tmp_path / "dense.rsr", seconds=0.0)


def test_shape_is_checked() -> None:
    with pytest.raises(RsrError, match="shape: found 0x5"):
        bench.bench_shape(0, 5)


def test_progress_goes_up_to_the_end(model: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bench.bench_file(model, seconds=0.0, progress=lambda *args: seen.append(args))
    assert list(dict.fromkeys(name for name, _, _ in seen)) == ["a", "c", "all matrices"]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert (seen[0][1:], seen[-1][1:]) == ((0, 1000), (1000, 1000))


def test_memory_stays_within_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(memory, "_available", lambda: 2 << 30)
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 8 << 20)
    plan = memory.plan_memory(2, 4)
    assert 2 * plan.compiled + 4 * plan.rival <= (2 << 30) / 4
    assert plan.copies(1 << 20, plan.compiled) * (1 << 20) >= 4 * (8 << 20)
    assert plan.copies(1000, plan.compiled) == 0  # even the most copies fit the caches
    assert plan.copies(64 << 30, plan.rival) == 1  # needs no copies


def test_memory_level_is_left_out_where_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 64 << 20)
    monkeypatch.setattr(memory, "_last_level_cache", lambda: 32 << 20)
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert {r["level"] for r in result["results"]} == {"cache"}
    assert result["ratio_to_plain_read"] == {"int8": None, "float32": None}
    assert any("no level memory" in note for note in result["notes"])
    assert "no level memory" in text_of(result)


def test_dense_rivals_are_left_out_where_they_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 10_000)
    result = bench.bench_shape(65, 100, seconds=0.0)
    assert {r["engine"] for r in result["results"]} == {"rsr-ternary"}
    assert any("random has no dense rivals" in note for note in result["notes"])


def test_table_names_every_row(result: dict[str, Any]) -> None:
    text = text_of(result)
    assert "65 x 100, from memory" in text
    assert "RSR++" in text
    assert "NumPy" in text
    one = [r for r in result["results"] if r["vectors"] == 1]
    kernels = len({(r["dtype"], r["threads"]) for r in one if r["encoding"] == "ranked"})
    assert text.count(" float32 ") == sum(r["dtype"] == "float32" for r in one) + kernels // 2
    assert "by number of vectors" in text


def test_plot_writes_a_picture(result: dict[str, Any], model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, one in (("shape", result), ("file", bench.bench_file(model, seconds=0.0))):
        bench.plot(one, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RsrError, match="pip install matplotlib"):
        bench.plot({}, tmp_path / "x.png")


def make(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = BENCHMARKS / "make_2b_checkpoint.py"
    command = [sys.executable, str(script), "--output", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_checkpoint_script(tmp_path: Path) -> None:
    small = ["--layers", "2", "--hidden", "128", "--ffn", "344", "--kv", "32", "--vocab", "51"]
    made = make(tmp_path / "c", *small)
    assert made.returncode == 0, made.stderr
    with safe_open(tmp_path / "c" / "model.safetensors", framework="numpy") as file:
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [51, 128]
        codes = file.get_tensor("model.layers.1.mlp.down_proj.weight")
    assert codes.shape == (32, 344)
    shifted = codes[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    counts = np.bincount(shifted.reshape(-1), minlength=4)
    assert counts[3] == 0
    assert (abs(counts[:3] / counts.sum() - 1 / 3) < 0.02).all()
    report = rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
    ternary = {t.name: t for t in report.tensors if t.kind == "ternary"}
    assert len(ternary) == 2 * 7
    assert ternary["model.layers.0.self_attn.k_proj.weight"].shape == (32, 128)
    assert ternary["model.layers.0.mlp.gate_proj.weight"].shape == (344, 128)
    assert "multiply" in (ternary["model.layers.0.mlp.gate_proj.weight"].scale or "")
    assert len(report.tensors) - len(ternary) == 2 + 2 * 4
    assert f"{sum(t.weights for t in report.tensors):,} ternary weights" in made.stdout


@pytest.mark.parametrize(
    ("weights", "quantize", "layout"),
    [("ternary", None, "float"), ("master", "absmean", "absmean"), ("master", None, None)],
)
def test_checkpoint_script_of_floats(
    tmp_path: Path, weights: str, quantize: str | None, layout: str | None
) -> None:
    small = ["--layers", "1", "--hidden", "64", "--ffn", "80", "--kv", "32", "--vocab", "51"]
    assert make(tmp_path / "c", *small, "--weights", weights).returncode == 0
    if layout is None:
        with pytest.raises(rsrc.NothingToCompileError):
            rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
        return
    report = rsrc.compile(tmp_path / "c", tmp_path / "c.rsr", quantize=quantize)
    assert [t.layout for t in report.tensors if t.kind == "ternary"] == [layout] * 7


def test_checkpoint_script_refuses_odd_rows(tmp_path: Path) -> None:
    made = make(tmp_path / "c", "--hidden", "130")
    assert made.returncode != 0
    assert "--hidden: found 130, expected a multiple of 4" in made.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="os.wait4")
def test_compile_script() -> None:
    small = ["--layers", "1", "--hidden", "128", "--ffn", "344", "--kv", "32", "--vocab", "51"]
    command = [sys.executable, str(BENCHMARKS / "bench_compile.py"), "--json", *small]
    command += ["--threads", "1", "--weights", "ternary"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["weights"] == 2 * 128 * 128 + 2 * 32 * 128 + 3 * 344 * 128
    assert result["peak_rss_bytes"] > 1 << 20
    assert result["threads"] == 1
    assert result["processor_seconds"] > 0
    assert result["load_seconds"] > 0
    assert result["load_rss_bytes"] > 1 << 20
    readme = (BENCHMARKS / "README.md").read_text()
    assert not [key for key in result if f"`{key}`" not in readme]


def run_script(name: str, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_paper_script(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = ["--plot-dir", str(tmp_path)]
    result = json.loads(run_script("paper.py", "--sizes=6-7", "--seconds=0", "--json", *drawn))
    rows = {(r["matrix"], r["n"], r["engine"]): r for r in result["results"]}
    assert list(rows) == [
        (kind, n, engine)
        for kind in ("binary", "ternary")
        for n in (64, 128)
        for engine in (
            *("NumPy int64", "NumPy float32", "RSR", "RSR++"),
            *("ranked float32", "ranked int8"),
        )
    ]
    readme = (BENCHMARKS / "README.md").read_text()
    assert not [key for key in result["results"][0] if f"`{key}`" not in readme]
    for (kind, n, _), row in rows.items():
        baseline = rows[kind, n, "NumPy float32"]["seconds_best"]
        assert row["speedup"] == pytest.approx(baseline / row["seconds_best"])
        assert row["encoding"] != "permuted" or row["direction"] == "reduce"
    for name in ("paper-time.png", "paper-memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_kernels_script() -> None:
    printed = run_script("kernels.py", "--shapes=65x100", "--seconds=0", "--markdown")
    kernels = 2 * len({1, rsr.get_num_threads()})
    assert printed.count("| 65 x 100 | ") == 2 * kernels
    assert "| W | x | threads | 1 | 2 | 4 | 8 | 16 | 32 | 64 | 256 |" in printed
