"""Matrices that list their patterns, and whose blocks may take every stride-th column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rsr_runtime as rsr
from rsr_formats.packing import block_from_ranks, pattern_values
from rsr_formats.records import BINARY_BITS, BINARY_SIGNS, LISTED_DIGITS, TERNARY
from rsr_runtime import _native
from rsr_testing.matrices import SPARSE, Build, Spec, Workshop, matrix_of, patterns_of
from rsr_testing.paths import GOLDEN

ROWS = (0, 1, 31, 32, 33, 127, 128, 129, 257)
COUNTS = (1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 22, 31, 32, 33, 40)


NO_ZEROS = patterns_of(5, lambda p: 1 not in p)  # 32 patterns of five, sums up to 640
LISTS: list[tuple[tuple[int, ...], int, bytes]] = [
    (TERNARY, 4, SPARSE),
    (TERNARY, 4, patterns_of(4, lambda p: len(set(p)) == 1)),
    (TERNARY, 5, NO_ZEROS),
    (TERNARY, 3, patterns_of(3, lambda p: p != (1, 1, 1))),  # 26, with other ranks than all 27
    (TERNARY, 1, b"\0\2"),
    (BINARY_SIGNS, 5, patterns_of(5, lambda p: p[0] == p[4], 2)),
    (BINARY_BITS, 4, b"\1\1\1\1"),
]


@pytest.mark.parametrize("stride", [1, 16])
@pytest.mark.parametrize(("digits", "k", "patterns"), LISTS, ids=range(len(LISTS)))
def test_one_vector(
    isa: str, digits: tuple[int, ...], k: int, patterns: bytes, stride: int,
    shared_build: Build, rng: np.random.Generator,
) -> None:  # fmt: skip
    run = k * stride
    flush = 32767 // (128 * k) // 3 * 3 * k  # inputs whose sums of -128 just fit int16
    widths = {0, run, 2 * run, 3 * run, flush // run * run, (flush // run + 1) * run}
    for b in shared_build([
        Spec((m, n), digits, k, scale="row", patterns=patterns, stride=stride, fill=fill)
        for n in sorted(widths) for m in ROWS for fill in ("random", "lowest", "highest")
    ]):  # fmt: skip
        n = b.spec.shape[1]
        for x in (-128, 127):
            b.check(np.full(n, x, np.int8))
        b.check(rng.integers(-128, 128, n).astype(np.int8))
        b.check(rng.standard_normal(n).astype(np.float32))


@pytest.mark.parametrize("stride", [1, 16])
@pytest.mark.parametrize(("digits", "k", "patterns"), LISTS, ids=range(len(LISTS)))
def test_several_vectors(
    isa: str, digits: tuple[int, ...], k: int, patterns: bytes, stride: int,
    shared_build: Build, rng: np.random.Generator,
) -> None:  # fmt: skip
    n = 7 * k * stride
    for b in shared_build(
        [Spec((m, n), digits, k, patterns=patterns, stride=stride) for m in (33, 128, 161)]
    ):
        for count in COUNTS:
            X = rng.integers(-128, 128, (n, count)).astype(np.int8)
            X[:, rng.random(count) < 0.3] = -128
            b.check(X, f"{count} vectors")
            b.check(rng.standard_normal((n, count)).astype(np.float32), f"{count} vectors")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stride", [1, 16])
def test_scales_of_groups(
    isa: str, stride: int, half: bool, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Groups that begin inside words, and a shorter last one."""
    specs = [
        Spec((m, n), TERNARY, 4, scale=scale, group=group, half=half, patterns=SPARSE,
             stride=stride)
        for group, n in ((64, 192), (128, 320), (256, 576))
        for m in (1, 31, 64, 130)
        for scale in ("row", "block")
    ]  # fmt: skip
    for b in shared_build(specs):
        n = b.spec.shape[1]
        b.check(rng.standard_normal(n).astype(np.float32))
        b.check(rng.integers(-128, 128, n).astype(np.int8))
        b.check_int8_linear(rng.standard_normal((3, n)).astype(np.float32))


@st.composite
def listed(draw: st.DrawFn) -> dict[str, Any]:
    digits = draw(st.sampled_from(LISTED_DIGITS))
    base, k = len(digits), draw(st.integers(1, 5))
    most = min(32, base**k - 1)
    numbers = draw(st.sets(st.integers(0, base**k - 1), min_size=1, max_size=most))
    patterns = b"".join(
        bytes(n // base**i % base for i in reversed(range(k))) for n in sorted(numbers)
    )
    stride = draw(st.sampled_from([1, 2, 7, 16]))
    shape = (draw(st.integers(0, 300)), draw(st.integers(0, 9)) * k * stride)
    return {"shape": shape, "digits": digits, "k": k, "patterns": patterns, "stride": stride}


@given(listed(), st.integers(1, 40))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_list(isa: str, workshop: Workshop, case: dict[str, Any], count: int) -> None:
    b = workshop.one(**case)
    rng = np.random.default_rng(count)
    X = rng.integers(-128, 128, (case["shape"][1], count)).astype(np.int8)
    b.check(X)
    b.check(rng.standard_normal(case["shape"][1]).astype(np.float32))
    np.testing.assert_array_equal(b.matrix.to_dense("int8"), b.W)


def test_blocks_have_ranks_of_the_list(workshop: Workshop) -> None:
    b = workshop.one((100, 128), k=4, patterns=SPARSE, stride=16)
    w = b.matrix
    assert (w.k, w.blocks, w.packing) == (4, 32, "w16")
    assert "k=4" in repr(w)
    values = pattern_values(TERNARY, 4, SPARSE)
    for j in (0, 1, 17, 31):
        first = j // 16 * 64 + j % 16
        rows = b.W[:, first : first + 49 : 16]
        ranks = (rows[:, None] == values).all(axis=2).argmax(axis=1).astype(np.uint16)
        for part, expected in zip(w.block(j), block_from_ranks(ranks, 32), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_only_matrices_with_one_order_of_inputs_share_tables(
    isa: str, workshop: Workshop, rng: np.random.Generator
) -> None:
    usual: dict[str, Any] = {"k": 4, "patterns": SPARSE}
    kinds: list[dict[str, Any]] = [
        {"stride": 1}, {"stride": 16}, {"stride": 2}, {"stride": 16, "scale": "row"},
        {"stride": 1, "patterns": SPARSE[4:]}, {"k": 3, "patterns": None},
    ]  # fmt: skip
    built = workshop.build([
        Spec((65, 384), name=str(i), **(usual | kind))
        for i, kind in enumerate(kinds)
    ])  # fmt: skip
    natives = [i for i in (b.matrix.index for b in built) if isinstance(i, _native.Ranked)]
    assert len(natives) == len(built)
    shares = {
        (i, j)
        for i, a in enumerate(natives)
        for j, b in enumerate(natives)
        if i < j and a is not None and b is not None and a.shares_input(b)
    }
    assert shares == {(1, 3)}
    X = rng.integers(-128, 128, (384, 6)).astype(np.int8)
    for y, b in zip(rsr.matmul_all([b.matrix for b in built], X), built, strict=True):
        np.testing.assert_array_equal(y, b.exact(X))


def test_native_code_checks_the_stride() -> None:
    def ranked(columns: int, stride: int, group: int = 0) -> None:
        words = np.zeros(-(-columns // 12) * 32, np.uint16)
        scales = np.zeros((-(-columns // group), 4), np.uint8) if group else None
        _native.Ranked(
            words, 1, columns, np.zeros((4, 32), np.int16), np.ones(1, np.float32), 1,
            scales, group, stride,
        )  # fmt: skip

    ranked(128, 16)
    ranked(128, 16, 64)
    ranked(0, 16)
    for arguments in ((96, 16), (128, 33), (128, 16, 32), (128, 16, 96)):
        with pytest.raises(ValueError, match="multiples of k"):
            ranked(*arguments)
    for stride in (0, 1 << 62):
        with pytest.raises(ValueError, match="stride must be"):
            ranked(128, stride)


def test_the_golden_file(isa: str, rng: np.random.Generator) -> None:
    model = rsr.load(GOLDEN / "v1.2/golden.rsr")
    for name in ("sparse.weight", "strided.weight", "binary.weight"):
        w = matrix_of(model, name)
        x = rng.integers(-128, 128, (w.shape[1], 3)).astype(np.int8)
        np.testing.assert_array_equal(w @ x, w.to_dense("int8").astype(np.int64) @ x)
