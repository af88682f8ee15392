"""The scripts in benchmarks/, with small models and no time: structure, not speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import rsr_runtime as rsr
import rsrc
from rsr_runtime import _native
from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import BENCHMARKS

README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
TINY = ["--layers=1", "--hidden=64", "--ffn=80", "--kv=32", "--vocab=51"]


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def run_script(name: str, *options: str) -> str:
    done = run(name, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_checkpoint_script(tmp_path: Path) -> None:
    small = ["--layers", "2", "--hidden", "128", "--ffn", "344", "--kv", "32", "--vocab", "51"]
    printed = run_script("make_2b_checkpoint.py", f"--output={tmp_path / 'c'}", *small)
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
    assert f"{sum(t.weights for t in report.tensors):,} ternary weights" in printed


def test_checkpoint_script_with_ternary_floats(tmp_path: Path) -> None:
    run_script("make_2b_checkpoint.py", f"--output={tmp_path / 'c'}", *TINY, "--weights=ternary")
    report = rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
    assert [t.layout for t in report.tensors if t.kind == "ternary"] == ["float"] * 7


def test_checkpoint_script_with_master_weights(tmp_path: Path) -> None:
    run_script("make_2b_checkpoint.py", f"--output={tmp_path / 'c'}", *TINY, "--weights=master")
    with pytest.raises(rsrc.NothingToCompileError):
        rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
    report = rsrc.compile(tmp_path / "c", tmp_path / "c.rsr", quantize="absmean")
    assert [t.layout for t in report.tensors if t.kind == "ternary"] == ["absmean"] * 7


def test_checkpoint_script_rejects_odd_rows(tmp_path: Path) -> None:
    made = run("make_2b_checkpoint.py", f"--output={tmp_path / 'c'}", "--hidden=130")
    assert made.returncode != 0
    assert "--hidden: found 130, expected a multiple of 4" in made.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="os.wait4")
def test_compile_script() -> None:
    options = ["--json", "--threads=1", "--weights=ternary"]
    result = json.loads(run_script("bench_compile.py", *options, *TINY))
    assert result["weights"] == 2 * 64 * 64 + 2 * 32 * 64 + 3 * 80 * 64
    assert result["peak_rss_bytes"] > 1 << 20
    assert result["threads"] == 1
    assert result["processor_seconds"] > 0
    assert result["load_seconds"] > 0
    assert result["load_rss_bytes"] > 1 << 20
    assert not [key for key in result if f"`{key}`" not in README]


@pytest.mark.skipif(sys.platform == "win32", reason="os.wait4")
def test_reuse_script() -> None:
    result = json.loads(run_script("reuse.py", "--json", "--rounds=1", *TINY))
    dense = 2 + 4  # embedding and norms
    assert [r["reused"]["tensors"] - dense for r in result.values()] == [-dense, 7, 6, 0]
    assert result["from nothing"]["peak_rss_bytes"] > 1 << 20
    assert not [key for key in result["from nothing"] if f"`{key}`" not in README]


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
    assert not [key for key in result["results"][0] if f"`{key}`" not in README]
    for (kind, n, _), row in rows.items():
        baseline = rows[kind, n, "NumPy float32"]["seconds_best"]
        assert row["speedup"] == pytest.approx(baseline / row["seconds_best"])
        assert row["encoding"] != "permuted" or row["direction"] == "reduce"
    for name in ("paper-time.png", "paper-memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_bonsai_script(tmp_path: Path) -> None:
    small = ["--layers=1", "--vocab=96"]
    run_script("make_bonsai_checkpoint.py", f"--output={tmp_path / 'c'}", *small)
    report = rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
    assert [t.layout for t in report.tensors if t.kind == "ternary"] == ["mlx"] * 8
    head = rsr.load(tmp_path / "c.rsr").matrix("model.embed_tokens.weight")
    assert (head.shape, head.group_columns) == ((96, 2048), 128)


def test_kinds_script() -> None:
    options = ["--shape=64x384", "--vectors=1,3", "--isa=scalar", "--seconds=0", "--json"]
    rows = json.loads(run_script("kinds.py", *options))["results"]
    assert len({row["kind"] for row in rows}) == 12
    grouped = [row for row in rows if row["activations"] == "int8-group"]
    assert len(grouped) == 2 * 7
    assert all(row["macs_per_ns"] > 0 and row["ratio_to_tensor_scale"] > 0 for row in rows)
    assert not [key for key in rows[0] if f"`{key}`" not in README]


def test_kernels_script() -> None:
    printed = run_script("kernels.py", "--shapes=65x100", "--seconds=0", "--markdown")
    kernels = 2 * len({1, rsr.get_num_threads()})
    assert printed.count("| 65 x 100 | ") == 2 * kernels
    assert "| W | x | threads | 1 | 2 | 4 | 8 | 16 | 32 | 64 | 256 |" in printed


def test_head_script() -> None:
    tiny = ["--shape=70x33", "--types=BF16,F16,F32,I8", "--threads=1", "--vectors=1,3"]
    rows = json.loads(run_script("head.py", *tiny, "--seconds=0", "--json"))["results"]
    assert len(rows) == 2 * (2 + 2 + 3 + 2)  # a plain read and the kernels in use; NumPy for F32
    for row in rows:
        assert row["seconds_best"] > 0
        assert row["multiply_adds"] == row["vectors"] * 70 * 33
        assert row["bytes"] == 70 * 33 * {"BF16": 2, "F16": 2, "F32": 4, "I8": 1}[row["type"]]


def test_tune_script() -> None:
    """It measures every constant and prints a row that names this processor."""
    small = ["--seconds=0", "--shape=200x300", "--head=64x64", "--megabytes=0"]
    vendor, family, _ = _native.processor()
    printed = run_script("tune.py", *small)
    assert f'{{{{"{vendor}", {family}, {family}}},' in printed
    rows = json.loads(run_script("tune.py", *small, "--json"))["results"]
    assert {row["isa"] for row in rows} <= set(rsr.cpu_info()["supported_isas"])
    if rsr.cpu_info()["isa"] != "scalar":
        assert {row["measured"] for row in rows} >= {"prefetch, memory", "output head"}


def test_speculation_script(tmp_path: Path) -> None:
    run_script("make_2b_checkpoint.py", f"--output={tmp_path / 'c'}", *TINY)
    rsrc.compile(tmp_path / "c", tmp_path / "c.rsr")
    options = [str(tmp_path / "c.rsr"), "--odds=0,100", "--seconds=0.3", "--threads=1", "--json"]
    never, always = json.loads(run_script("speculation.py", *options))["results"]
    assert never["accepted"] == 0
    assert always["drafted"] - 16 < always["accepted"] > 16  # the last pass may be ahead
    for row in (never, always):
        assert row["tokens"] >= row["passes"] > 0
        assert row["ratio"] == pytest.approx(
            row["tokens_per_second"] / row["tokens_per_second_without"]
        )


def test_activations_script(language_models: LanguageModels, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be. " * 9, encoding="utf-8")
    models = [str(language_models.path(name)) for name in ("bonsai", "bitnet-2b")]
    arguments = [str(text), *models, "--tokens=40"]
    rows = json.loads(run_script("activations.py", *arguments, "--json"))["results"]
    assert [(row["file"], row["activations"]) for row in rows] == [
        (models[0], "int8-group"),
        (models[1], "trained"),  # which "int8-group" does not change
    ]
    for row in rows:
        assert 0 < row["logit_error"] < 0.1
        assert 0.5 < row["same_most_likely"] <= 1
        assert 0.9 < row["perplexity"] / row["perplexity_float32"] < 1.1
        assert 0 <= row["greedy_tokens_in_common"] <= row["greedy_tokens"]
    assert "| int8-group |" in run_script("activations.py", *arguments, "--markdown")


def test_updates_script() -> None:
    result = json.loads(run_script("updates.py", "--shape", "64", "90", "--seconds=0", "--json"))
    assert [row["index"] for row in result["results"]] == ["ranked w16", "ranked n4s1", "permuted"]
    for row in result["results"]:
        assert all(row[name] > 0 for name in ("0.1%", "1.0%", "10.0%", "encode", "compile"))
