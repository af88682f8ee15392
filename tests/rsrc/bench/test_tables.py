"""The results of benchmarks as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rsrc import bench

Result = dict[str, Any]


def text(table: RenderableType, width: int = 80) -> str:
    console = Console(width=width, markup=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_row_of_a_shape(shape_result: Result) -> None:
    printed = text(bench.render_table(shape_result), 200)
    assert "65 x 100, from memory" in printed
    assert "RSR++" in printed
    assert "NumPy" in printed
    one = [r for r in shape_result["results"] if r["vectors"] == 1]
    kernels = len({(r["dtype"], r["threads"]) for r in one if r["encoding"] == "ranked"})
    assert printed.count(" float32 ") == sum(r["dtype"] == "float32" for r in one) + kernels // 2
    assert "by number of vectors" in printed


def test_no_word_is_cut_at_80_columns(shape_result: Result) -> None:
    printed = text(bench.render_table(shape_result))
    assert "…" not in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    for heading in ("dtype", "thr", "bits/w", "time", "weights/ns", "GB/s", "of read"):
        assert heading in printed


def test_pass_over_a_file(file_result: Result) -> None:
    assert "all matrices" in text(bench.render_table(file_result), 200)


def test_notes(file_result: Result) -> None:
    printed = text(bench.render_table({**file_result, "notes": ["no \x1b for a: too large"]}), 200)
    assert printed.endswith("no \\x1b for a: too large\n")


def test_model(model_result: Result) -> None:
    printed = text(bench.render_model_table(model_result))
    assert "BitNetForCausalLM, 2 layers of 64" in printed
    assert "a prompt of 40 tokens" in printed
    for row in model_result["results"]:
        for one in row["decode"]:
            assert f"{one['ratio_to_plain_read']:.0%}" in printed
            assert f" {one['share_by_part']['attention']:.0%} " in printed


@pytest.mark.parametrize("milliseconds", [0.004, 4.0, 9876.5])
@pytest.mark.parametrize("rate", [0.1, 98.765, 98765.4])
def test_model_fits_80_columns(
    with_ratio: Callable[[float], Result], milliseconds: float, rate: float
) -> None:
    result = with_ratio(1.33)
    for row in result["results"]:
        for one in row["decode"]:
            one["context"] = 131072
            one["seconds_median"] = milliseconds / 1e3
            one["seconds_by_part"] = dict.fromkeys(one["seconds_by_part"], milliseconds / 1e3)
            one["tokens_per_second_median"] = one["tokens_per_second_best"] = rate
    result["model"] |= {"layers": 30, "indexed_weights": 2_084_044_800}
    result["machine"]["processor"] = "Any"
    printed = text(bench.render_model_table(result))
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    # Nothing wraps either: the lines are those of a wide terminal.
    wide = text(bench.render_model_table(result), 200)
    assert [s.rstrip() for s in printed.splitlines()] == [s.rstrip() for s in wide.splitlines()]


@pytest.mark.parametrize(("ratio", "expected"), [(1.33, True), (1.0, False)])
def test_model_in_cache(
    with_ratio: Callable[[float], Result], ratio: float, expected: bool
) -> None:
    printed = text(bench.render_model_table(with_ratio(ratio)))
    assert ("the caches hold these bytes, so the read is no limit" in printed) == expected
