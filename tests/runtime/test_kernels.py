"""Every kernel for one vector on every instruction set, at lengths where something begins anew.

Those are lanes, strips, words, and the columns after which int16 sums are added to wider ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_formats.errors import IndexDataError
from rsr_formats.packing import pattern_values, unpack_w16, w16_size
from rsr_formats.records import (
    BINARY_BITS,
    BINARY_SIGNS,
    MAX_IN_FEATURES_OF_2,
    QUINARY,
    TERNARY,
)
from rsr_runtime import _native
from rsr_testing.matrices import ISAS, RANKED, SPARSE, Build, Built, Spec, Workshop

Array = npt.NDArray[Any]
Digits = tuple[int, ...]

ROWS = (0, 1, 31, 32, 33, 64, 96, 127, 128, 129, 160, 255, 257)
PERMUTED = [
    (digits, k, direction)
    for digits, k in (
        *((TERNARY, k) for k in (1, 3, 6)),
        (BINARY_SIGNS, 5),
        (BINARY_BITS, 8),
        (QUINARY, 4),
        ((-1, 0, 1, 2), 5),
    )
    for direction in ("expand", "reduce")
]
# One of each kind, small enough to be tried with an odd value at every position.
KINDS: list[dict[str, Any]] = [
    *({"digits": digits, "k": k} for digits, k in ((TERNARY, 3), (TERNARY, 2))),
    *({"digits": digits, "k": 5} for digits in (BINARY_SIGNS, BINARY_BITS)),
    {"digits": (-1, 0, 1, 2), "k": 2},
    *(
        {"digits": digits, "k": k, "encoding": "permuted", "direction": direction}
        for digits, k in (
            (TERNARY, 3),
            (TERNARY, 5),
            (BINARY_SIGNS, 4),
            (BINARY_BITS, 3),
            (QUINARY, 2),
        )
        for direction in ("expand", "reduce")
    ),
]
N4S1 = {"shape": (97, 49), "packing": "n4s1"}
STRIDED = {"shape": (40, 128), "k": 4, "patterns": SPARSE, "stride": 16}


def columns_per_widen(digits: Digits, k: int) -> int:
    """Return how many columns' sums of -128 times the largest digit fit int16, in whole words."""
    return 32767 // (128 * k * max(map(abs, digits))) // 3 * 3 * k


def inputs(n: int, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Yield vectors with names: zeros, either end of int8, random ones, floats of all sizes."""
    yield "zero", np.zeros(n, np.int8)
    yield "-128", np.full(n, -128, np.int8)
    yield "127", np.full(n, 127, np.int8)
    random = rng.integers(-128, 128, n).astype(np.int8)
    yield "random", np.where(rng.random(n) < 0.5, np.int8(-128), random)
    yield "zero", np.zeros(n, np.float32)
    yield "normal", rng.standard_normal(n).astype(np.float32)
    magnitudes = 10.0 ** rng.uniform(-6, 6, n)
    yield "all magnitudes", (rng.standard_normal(n) * magnitudes).astype(np.float32)


def check_all(built: Sequence[Built], rng: np.random.Generator) -> None:
    for b in built:
        for name, x in inputs(b.spec.shape[1], rng):
            y = b.check(x, name)
            if b.spec.encoding == "permuted" and x.dtype == np.int8:
                for algorithm in ("rsr", "rsr++"):
                    z = b.matrix.matvec(x, algorithm=algorithm)
                    np.testing.assert_array_equal(z, y, f"{b.spec}, {name}, {algorithm}")


@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_ranked(
    isa: str, digits: Digits, k: int, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    limit = columns_per_widen(digits, k)
    around = {0, 1, 2, 3, 8, 9, 10, 3 * k - 1, 3 * k, 3 * k + 1, 6 * k + 1}
    around |= {limit - 1, limit, limit + 1, 2 * limit + 1}
    specs = [
        Spec((m, n), digits, k, scale="row") for n in sorted(around) for m in ROWS
    ]  # fmt: skip
    check_all(shared_build(specs), rng)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_scales_of_groups(
    isa: str, digits: Digits, k: int, half: bool, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Groups that end inside words and blocks, that need wider sums, and a shorter last one."""
    columns = [(1, 3), (k, 4 * k + 1), (7, 50), (32, 100), (64, 64 * 3), (128, 300)]
    columns += [
        (group, 2 * group + 5)
        for group in (
            columns_per_widen(digits, k) - 1,
            columns_per_widen(digits, k),
            columns_per_widen(digits, k) + 1,
        )
    ]
    specs = [
        Spec((m, n), digits, k, scale=scale, group=group, half=half, fill=fill)
        for group, n in columns
        for m in (1, 31, 64, 97, 130)
        for scale, fill in (("row", "random"), ("block", "lowest"))
    ]
    check_all(shared_build(specs), rng)


@pytest.mark.parametrize("packing", ["w16", "n4s1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_linear_with_scales_of_groups(
    isa: str,
    threads: int,
    packing: str,
    workshop: Workshop,
    restore: None,
    rng: np.random.Generator,
) -> None:
    rsr.set_num_threads(threads)
    b = workshop.one((1090, 700), scale="row", group=64, half=True, packing=packing)
    assert b.matrix.nbytes > 2 * (64 << 10)  # enough for two threads
    assert b.matrix.scale.shape == (1090, 11)
    b.check_int8_linear(rng.standard_normal((5, 700)).astype(np.float32))
    b.check(rng.integers(-128, 128, 700).astype(np.int8))  # products with int8 ignore the scales


@pytest.mark.parametrize("fill", ["lowest", "highest"])
@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_ranked_sums_reach_their_bounds(
    isa: str, digits: Digits, k: int, fill: str, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """All weights alike and all inputs -128: the largest sum that an int16 lane ever holds."""
    columns = [
        limit * columns_per_widen(digits, k) + more for limit in (1, 2, 5) for more in (-1, 0, 1)
    ]
    specs = [Spec((m, n), digits, k, fill=fill) for n in columns for m in (33, 128)]
    check_all(shared_build(specs), rng)


def test_the_longest_row_of_digits_of_2(isa: str) -> None:
    """All digits 2, all inputs -128: the largest sum, -256 (2^23 - 1), just fits int32."""
    digits, k, columns = (-1, 0, 1, 2), 2, MAX_IN_FEATURES_OF_2
    patterns = np.zeros((k, 32), np.int16)
    patterns[:, :16] = pattern_values(digits, k).T
    words = np.full(w16_size(1, -(-columns // k)) // 2, 15 | 15 << 5 | 15 << 10, np.uint16)
    one = np.ones(1, np.float32)
    index = _native.Ranked(words, 1, columns, patterns, one, 1, None, 0)
    x = np.full((1, columns), -128, np.int8)
    y = np.zeros((1, 1), np.int32)
    _native.multiply_i8([index], x, [y])
    assert y[0, 0] == -256 * columns == -(2**31) + 256
    with pytest.raises(ValueError, match="overflow int32"):
        _native.Ranked(words, 1, columns + 1, patterns, one, 1, None, 0)


@pytest.mark.parametrize(("digits", "k", "direction"), PERMUTED)
def test_permuted(
    isa: str, digits: Digits, k: int, direction: str, shared_build: Build,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    short = (0, 1, 2, 33, 130)  # permuted rows
    long = sorted({0, 1, k - 1, k, k + 1, 7 * k, 8 * k - 1, 8 * k + 1, 17 * k + 1} - {-1})
    shapes = [(m, n) if direction == "expand" else (n, m) for m in short for n in long]
    specs = [
        Spec(shape, digits, k, "permuted", direction, scale, fill)
        for shape in shapes
        for scale, fill in (("block", "random"), ("none", "lowest"))
    ]
    check_all(shared_build(specs), rng)


@pytest.mark.parametrize("direction", ["expand", "reduce"])
def test_permuted_beyond_16_bit_rows(
    isa: str, direction: str, shared_build: Build, rng: np.random.Generator
) -> None:
    specs = []
    for rows in (65535, 65536):
        shape = (rows, 5) if direction == "expand" else (5, rows)
        specs.append(Spec(shape, TERNARY, 4, "permuted", direction, "tensor"))
    built = shared_build(specs)
    assert [b.matrix.packing for b in built] == ["u16", "u32"]
    check_all(built, rng)


@pytest.mark.parametrize("direction", ["expand", "reduce"])
def test_permuted_with_the_largest_k(
    isa: str, direction: str, shared_build: Build, rng: np.random.Generator
) -> None:
    shape = (33, 18) if direction == "expand" else (18, 33)
    specs = [Spec(shape, BINARY_SIGNS, 16, "permuted", direction)]
    specs += [Spec(shape, TERNARY, 10, "permuted", direction)]
    check_all(shared_build(specs), rng)


@pytest.mark.parametrize("kind", [*KINDS, N4S1, STRIDED], ids=[*map(str, KINDS), "n4s1", "strided"])
def test_nan_and_infinity_spread_as_in_a_dense_product(
    isa: str, kind: dict[str, Any], shared_build: Build, rng: np.random.Generator
) -> None:
    (built,) = shared_build([Spec(**{"shape": (35, 19), "scale": "row", **kind})])
    n = built.spec.shape[1]
    values = [(v,) for v in (np.nan, np.inf, -np.inf)] + [(np.inf, -np.inf), (np.inf, np.nan)]
    for i in range(n):
        for several in values:
            x = rng.standard_normal(n).astype(np.float32)
            for j, value in enumerate(several):
                x[(i + 5 * j) % n] = value
            built.check_not_finite(x)
            if built.spec.encoding == "permuted":
                built.check_not_finite(x, built.matrix.matvec(x, algorithm="rsr"))


@pytest.mark.parametrize(("digits", "k"), RANKED)
def test_ranks_without_a_pattern_look_up_zero(
    isa: str, digits: Digits, k: int, workshop: Workshop, rng: np.random.Generator
) -> None:
    """Random words, bit 15 included: no crash, and the same product by every kernel."""
    patterns = len(digits) ** k
    kept: list[Array] = []

    def scramble(arrays: dict[str, Array]) -> None:
        words = arrays["ranks"]
        words[:] = rng.integers(0, 1 << 16, words.shape)
        kept.append(words)

    shape = (161, 3 * k * 4 + 1)
    built = workshop.one(shape, scramble, digits=digits, k=k)
    (words,) = kept
    table = np.zeros((32, k), np.int64)
    table[:patterns] = pattern_values(digits, k)
    blocks = [table[unpack_w16(words, shape[0], built.matrix.blocks, j)]
              for j in range(built.matrix.blocks)]  # fmt: skip
    W = np.concatenate(blocks, axis=1)[:, : shape[1]]
    for x in (np.full(shape[1], -128, np.int8), rng.integers(-128, 128, shape[1]).astype(np.int8)):
        np.testing.assert_array_equal(built.matrix @ x, W @ x.astype(np.int64))
    with pytest.raises(IndexDataError, match="ranks of tensor"):
        built.matrix.to_dense()
    if patterns < 32:
        with pytest.raises(IndexDataError, match=f"expected 0 to {patterns - 1}"):
            [built.matrix.block(j) for j in range(built.matrix.blocks)]


BIG: list[dict[str, Any]] = [  # at least 7 * 64 KiB of index: seven threads take part
    {"shape": (1100, 2100)},
    {"shape": (1100, 3500), "digits": BINARY_SIGNS, "k": 5},
    {"shape": (1090, 2100), "scale": "row", "group": 128, "half": True},
    {"shape": (1090, 2100), "scale": "row", "group": 128},
    {"shape": (600, 1500), "k": 4, "encoding": "permuted"},
    {"shape": (1500, 600), "k": 4, "encoding": "permuted", "direction": "reduce"},
    {"shape": (1100, 2100), "packing": "n4s1"},
    {"shape": (1090, 2100), "packing": "n4s1", "scale": "row", "group": 128, "half": True},
    {"shape": (65, 42000), "packing": "n4s1"},  # fewer strips than threads
]


@pytest.mark.parametrize("kind", BIG, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(
    isa: str, kind: dict[str, Any], shared_build: Build,
    rng: np.random.Generator, restore: None,
) -> None:  # fmt: skip
    (built,) = shared_build([Spec(**{"scale": "row", **kind})])
    assert built.matrix.nbytes > 7 * (64 << 10)
    n = built.spec.shape[1]
    rsr.set_num_threads(1)
    vectors = [x for _, x in inputs(n, rng)]
    alone = [built.check(x) for x in vectors]
    for threads in (2, 3, 7):
        rsr.set_num_threads(threads)
        for x, expected in zip(vectors, alone, strict=True):
            found = built.matrix @ x
            assert found.tobytes() == expected.tobytes(), f"{built.spec}, {isa}, {threads} threads"


@pytest.mark.parametrize("kind", BIG + [{"shape": (129, 85), **kind} for kind in KINDS], ids=str)
def test_instruction_sets_agree_to_the_bit_for_int8(
    kind: dict[str, Any], shared_build: Build,
    rng: np.random.Generator, restore: None,
) -> None:  # fmt: skip
    (built,) = shared_build([Spec(**kind)])
    for name, x in inputs(built.spec.shape[1], rng):
        if x.dtype == np.int8:
            products = []
            for isa in ISAS:
                rsr.use_isa(isa)
                products.append((built.matrix @ x).tobytes())
            assert len(set(products)) == 1, f"{built.spec}, {name}: {ISAS} differ"


def test_plain_read_takes_any_length(isa: str) -> None:
    for n in (0, 1, 31, 127, 128, 129, 255, 256, 257, 1000):
        data = np.zeros(n, np.uint8)
        assert _native.plain_read(data) == 0
        for i in range(n):  # depends on every byte
            data[i] = 1
            assert _native.plain_read(data) != 0, (isa, n, i)
            data[i] = 0
