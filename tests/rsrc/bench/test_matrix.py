"""`rsrc bench` of matrices: tiny shapes and no time; structure, not speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import rsr_runtime as rsr
import rsrc
from rsr_formats.errors import RsrError
from rsr_formats.records import DenseTensor
from rsr_formats.writer import create
from rsr_testing.paths import BENCHMARKS
from rsrc import bench
from rsrc.bench.compiled import compile_matrix, distinct_isas

README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("quick")


def test_shape_has_the_documented_keys(shape_result: dict[str, Any]) -> None:
    keys = {*shape_result, *shape_result["results"][0]}
    assert not [key for key in keys if f"`{key}`" not in README]
    assert all(row.keys() == shape_result["results"][0].keys() for row in shape_result["results"])
    assert json.loads(json.dumps(shape_result)) == shape_result
    assert shape_result["shape"] == [65, 100]
    assert set(shape_result["ratio_to_plain_read"]) == {"int8", "float32"}


def test_shape_compares_what_it_should(shape_result: dict[str, Any]) -> None:
    info = rsr.cpu_info()
    own = [r for r in shape_result["results"] if r["engine"] == "rsr-ternary"]
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
        assert any(r["engine"] == "numpy" and r["level"] == level for r in shape_result["results"])


def in_use(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """Return the rows of the default packing and the instruction set in use."""
    first = result["results"][0]
    wanted |= {key: first[key] for key in ("engine", "encoding", "packing", "isa")}
    return [r for r in result["results"] if wanted.items() <= r.items()]


def test_batches_of_the_kernels_in_use(shape_result: dict[str, Any]) -> None:
    rows = [r for r in shape_result["results"] if r["vectors"] > 1]
    assert rows == [r for r in in_use(shape_result, level="cache") if r["vectors"] > 1]
    assert {(r["vectors"], r["dtype"], r["threads"]) for r in rows} == {
        (b, dtype, threads)
        for b in (4, 16, 64)
        for dtype in ("int8", "float32")
        for threads in (1, 2)
    }


def test_packings_for_other_instruction_sets_take_part(shape_result: dict[str, Any]) -> None:
    rows = [r for r in shape_result["results"] if r["encoding"] == "ranked"]
    targets = ("native", "avx2", "avx512")
    plans = {
        m.packing
        for m in compile_matrix(
            np.eye(9, dtype=np.int8) - np.eye(9, k=1, dtype=np.int8),
            *({"target": t} for t in targets),
        )
    }
    assert {r["packing"] for r in rows} == plans


def test_numbers_agree_with_each_other(shape_result: dict[str, Any]) -> None:
    for row in shape_result["results"]:
        assert 0 < row["seconds_best"] <= row["seconds_median"]
        assert row["weights"] == 65 * 100
        assert row["weights_per_ns"] == pytest.approx(6500 / row["seconds_median"] / 1e9)
        assert row["macs_per_ns"] == pytest.approx(row["vectors"] * row["weights_per_ns"])
        assert row["bits_per_weight"] == pytest.approx(8 * row["index_bytes"] / 6500)
        assert row["ratio_to_plain_read"] > 0
        assert row["rounds"] >= 3
    numpy_row = next(r for r in shape_result["results"] if r["engine"] == "numpy")
    assert numpy_row["index_bytes"] == 4 * 6500
    memory = shape_result["levels"]["memory"]["compiled"]["random"]
    assert memory["copies"] > 1
    assert memory["bytes"] >= 200_000


def test_headline_is_the_row_it_says(shape_result: dict[str, Any]) -> None:
    for dtype, ratio in shape_result["ratio_to_plain_read"].items():
        (row,) = (
            r
            for r in shape_result["results"]
            if (r["encoding"], r["isa"], r["dtype"], r["threads"], r["level"])
            == ("ranked", rsr.cpu_info()["isa"], dtype, 1, "memory")
            and r["packing"] == shape_result["results"][0]["packing"]
        )
        assert ratio == row["ratio_to_plain_read"]


def test_one_thread_only() -> None:
    rsr.set_num_threads(1)  # `quick` restores it
    result = bench.bench_shape(33, 20, seconds=0.0)
    assert {r["threads"] for r in result["results"] if r["engine"] == "rsr-ternary"} == {1}


def test_without_comparisons_the_kernels_in_use_remain() -> None:
    result = bench.bench_shape(33, 20, seconds=0.0, batches=(3,), compare=False)
    rows = result["results"]
    assert {r["isa"] for r in rows} == {rsr.cpu_info()["isa"]}
    assert {r["encoding"] for r in rows} == {"ranked"}
    assert {(r["level"], r["vectors"]) for r in rows} == {("cache", 1), ("memory", 1), ("cache", 3)}
    assert result["notes"] == []
    assert None not in result["ratio_to_plain_read"].values()


def test_file_measures_each_kind_and_a_pass(file_result: dict[str, Any]) -> None:
    assert [(g["matrix"], g["shape"], g["count"]) for g in file_result["groups"]] == [
        ("a", [40, 70], 2),
        ("c", [64, 33], 1),
    ]
    whole = [r for r in file_result["results"] if r["level"] == "model"]
    assert {(r["dtype"], r["threads"]) for r in whole} == {
        (dtype, threads) for dtype in ("int8", "float32") for threads in (1, 2)
    }
    assert all(r["weights"] == 2 * 40 * 70 + 64 * 33 for r in whole)
    headline = {r["dtype"]: r["ratio_to_plain_read"] for r in whole if r["threads"] == 1}
    assert file_result["ratio_to_plain_read"] == headline
    assert not [
        key for key in {*file_result, *file_result["groups"][0]} if f"`{key}`" not in README
    ]
    assert json.loads(json.dumps(file_result)) == file_result


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
    x86 = ["amx", "avx512vnni", "avx512", "avx2", "scalar"]
    arm = ["neon_i8mm", "neon_dotprod", "neon", "scalar"]
    for isas, used, expected in (
        (x86, "amx", ["amx", "avx2", "scalar"]),
        (x86, "avx2", ["avx2", "amx", "scalar"]),
        (arm, "neon_i8mm", ["neon_i8mm", "scalar"]),
    ):
        info = {"isa": used, "supported_isas": isas}
        monkeypatch.setattr(rsr, "cpu_info", lambda info=info: info)
        assert distinct_isas() == expected


def test_file_without_matrices_is_rejected(tmp_path: Path) -> None:
    with create(tmp_path / "dense.rsr") as writer:
        dense = DenseTensor("norm", "F32", (2,), writer.add([bytes(8)]))
        writer.finish(producer="test", metadata={}, files=[], tensors=[dense])
    with pytest.raises(RsrError, match="no compiled matrix"):
        bench.bench_file(tmp_path / "dense.rsr", seconds=0.0)


def test_shape_is_checked() -> None:
    with pytest.raises(RsrError, match="shape: found 0x5"):
        bench.bench_shape(0, 5)


def test_progress_goes_up_to_the_end(matrices: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bench.bench_file(matrices, seconds=0.0, progress=lambda *args: seen.append(args))
    assert list(dict.fromkeys(name for name, _, _ in seen)) == ["a", "c", "all matrices"]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert (seen[0][1:], seen[-1][1:]) == ((0, 1000), (1000, 1000))
