"""What the cost model chooses, and which options are rejected."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime
import rsrc
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, TERNARY, largest_k
from rsr_testing.checkpoints import Kit
from rsrc.compiler.options import CompileOptions
from rsrc.compiler.plan import SEGMENT_COST, IndexPlan, permuted_k, plan
from rsrc.compiler.recognize import PassthroughTensor
from rsrc.compiler.target import TARGET_OF_ISA, TARGETS, native_target
from rsrc.layouts import TernaryTensor
from rsrc.layouts.int8 import Int8
from rsrc.layouts.scales import ScaleGrid
from rsrc.source.tensor import SourceTensor


def tensor(rows: int, columns: int, digits: tuple[int, ...] = TERNARY) -> TernaryTensor:
    source = SourceTensor("w", "I8", (rows, columns), Path("x"), 0, rows * columns)
    return TernaryTensor(source, Int8(), (rows, columns), digits, None, "none")


def one(t: TernaryTensor, **options: Any) -> IndexPlan:
    (found,) = plan([t], CompileOptions(**options))
    assert isinstance(found, IndexPlan)
    return found


def grouped() -> TernaryTensor:
    scale = ScaleGrid(np.ones((64, 2), np.float32), 1, 32)
    return dataclasses.replace(tensor(64, 64), scale=scale)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("digits", "k"), [(TERNARY, 3), (BINARY_SIGNS, 5), (BINARY_BITS, 5)])
def test_auto_is_ranked_on_every_target(target: str, digits: tuple[int, ...], k: int) -> None:
    for encoding in ("auto", "ranked"):
        p = one(tensor(70000, 40, digits), target=target, encoding=encoding)
        assert (p.encoding, p.direction, p.k) == ("ranked", "expand", k)


@pytest.mark.parametrize(
    ("target", "ternary"),
    [("generic", "w16"), ("avx2", "n4s1"), ("avx512", "w16"), ("neon", "n4s1")],
)
def test_the_packing_is_the_target_s(target: str, ternary: str) -> None:
    assert one(tensor(64, 64), target=target).packing == ternary
    assert one(grouped(), target=target).packing == ternary
    assert one(grouped(), target=target, k=2).packing == "w16"
    assert one(tensor(64, 64), target=target, k=2).packing == "w16"  # n4s1 is for k = 3
    assert one(tensor(64, 64, BINARY_SIGNS), target=target).packing == "w16"
    assert one(tensor(64, 64, BINARY_SIGNS), target=target, k=3).packing == "w16"
    assert one(tensor(64, 64), target=target, encoding="permuted").packing == "u16"


@pytest.mark.parametrize("target", TARGETS[1:])
def test_patterns_may_be_listed_where_w16_is_the_packing(target: str) -> None:
    def lists(t: TernaryTensor, **options: Any) -> bool:
        return one(t, target=target, **options).lists

    ternary, binary = tensor(64, 64), tensor(64, 64, BINARY_SIGNS)
    assert lists(ternary) == (one(ternary, target=target).packing == "w16")
    assert lists(grouped()) == lists(ternary)
    assert lists(ternary, k=4)
    assert not any(lists(ternary, k=k) for k in (1, 2, 3))
    assert not lists(binary)
    assert not lists(binary, k=4)
    assert not lists(ternary, encoding="permuted")
    assert not lists(ternary, encoding="permuted", k=4)


@pytest.mark.parametrize(
    ("isa", "target"),
    [
        ("amx", "avx512"),
        ("avx512vnni", "avx512"),
        ("avx512", "avx512"),
        ("avx2", "avx2"),
        ("neon_i8mm", "neon"),
        ("neon_dotprod", "neon"),
        ("neon", "neon"),
        ("scalar", "generic"),
    ],
)
def test_native_is_what_products_run_on(
    monkeypatch: pytest.MonkeyPatch, isa: str, target: str
) -> None:
    monkeypatch.setattr(rsr_runtime, "cpu_info", lambda: {"isa": isa})
    assert native_target() == target
    t = tensor(64, 64)
    assert one(t) == one(t, target=target)


def test_every_instruction_set_has_a_target() -> None:
    compiled = rsr_runtime.cpu_info()["compiled_isas"]
    assert set(compiled) <= set(TARGET_OF_ISA)


def test_permuted_takes_the_direction_of_the_paper() -> None:
    assert one(tensor(4, 5), encoding="permuted").direction == "reduce"
    assert one(tensor(4, 5), encoding="permuted", direction="expand").direction == "expand"


@pytest.mark.parametrize(
    ("shape", "direction", "packing"),
    [
        ((65535, 2), "expand", "u16"),
        ((65536, 2), "expand", "u32"),
        ((65536, 2), "reduce", "u16"),
        ((2, 65536), "reduce", "u32"),
    ],
)
def test_index_type(shape: tuple[int, int], direction: str, packing: str) -> None:
    assert one(tensor(*shape), encoding="permuted", direction=direction).packing == packing


def test_largest_k() -> None:
    found = [largest_k(base, encoding) for base in (2, 3) for encoding in ("ranked", "permuted")]
    assert found == [5, 16, 3, 10]


@pytest.mark.parametrize("base", [2, 3])
def test_permuted_k_minimizes_the_documented_cost(base: int) -> None:
    def cost(rows: int, k: int) -> float:
        return (rows + SEGMENT_COST * float(base) ** k) / k

    chosen = []
    for rows in (0, 1, 64, 512, 4096, 65536, 1 << 20, 1 << 31):
        k = permuted_k(base, rows)
        chosen.append(k)
        others = range(1, largest_k(base, "permuted") + 1)
        assert cost(rows, k) == min(cost(rows, other) for other in others)
    assert chosen == sorted(chosen)
    assert chosen[0] == 1
    assert chosen[-1] == largest_k(base, "permuted")


@pytest.mark.parametrize(
    ("digits", "options", "message"),
    [
        (TERNARY, {"k": 5}, "w: k = 5, expected 1 to 4 for base 3 in encoding ranked"),
        (BINARY_BITS, {"k": 6}, "w: k = 6, expected 1 to 5 for base 2"),
        (TERNARY, {"k": 11, "encoding": "permuted"}, "expected 1 to 10"),
        (BINARY_SIGNS, {"k": 17, "encoding": "permuted"}, "expected 1 to 16"),
        (TERNARY, {"k": 0}, "k = 0"),
        (TERNARY, {"k": -1}, "k = -1"),
        (TERNARY, {"direction": "reduce"}, "ranked has direction expand only"),
        (TERNARY, {"encoding": "packed"}, "encoding: found 'packed', expected one of auto, ranked"),
        (TERNARY, {"direction": "left"}, "direction: found 'left', expected one of auto, expand"),
        (TERNARY, {"target": "vax"}, "target: found 'vax', expected one of native, generic"),
    ],
)
def test_refused(digits: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(rsrc.OptionError, match=message):
        one(tensor(4, 4, digits), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zstd": 0}, "zstd: found level 0, expected 1 to 22"),
        ({"zstd": 23}, "zstd"),
        ({"threads": 0}, "threads: found 0, expected 1 or more"),
        ({"quantize": "int4"}, "quantize: found 'int4', expected one of absmean, absmedian, twn"),
        ({"per": "row"}, "per: found 'row', but it applies only with quantize"),
        ({"quantize": "twn", "per": "column"}, "per: found 'column', expected tensor, row or "),
        *(
            ({"quantize": "twn", "per": f"group:{n}"}, f"per: found 'group:{n}'")
            for n in ("", "0", "-1", "1.5", "x", "²", "1" * 10)
        ),
        ({"k": 4}, "w: k = 4"),
        ({"include": "w"}, "include: found 'w', expected a list of patterns"),
        ({"exclude": "w"}, "exclude: found 'w', expected a list of patterns"),
    ],
)
def test_refused_by_compile(
    kit: Kit, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    source = kit.save(tmp_path / "s.safetensors", {"w": np.array([[1, 0, -1]], np.int8)})
    with pytest.raises(rsrc.OptionError, match=message) as caught:
        rsrc.compile(source, tmp_path / "x.rsr", **options)
    assert isinstance(caught.value, ValueError)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_dense_tensors_pass_through() -> None:
    kept = PassthroughTensor(tensor(1, 1).tensor, "why")
    assert plan([kept]) == [kept]
