"""Makes `.rsr` files with the NumPy encoders, never with the compiler, and checks products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from rsr_formats.packing import (
    block_from_ranks,
    column_order,
    listed_ranks,
    pack_n4s1,
    pack_w16,
    padding_digit,
    padding_rank,
    pattern_digits,
    ranks_of,
)
from rsr_formats.records import (
    LISTED_DIGITS,
    QUINARY,
    TERNARY,
    DenseTensor,
    FileEntry,
    IndexedTensor,
    Scale,
    SourceRecord,
)
from rsr_formats.writer import RsrWriter, create
from rsr_runtime import Matrix
from rsr_runtime.reference import quantize_int8

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Damage = Callable[[Arrays], None]

# Of every build, widest first.
KNOWN_ISAS = ("amx", "avx512vnni", "avx512", "avx2", "neon_i8mm", "neon_dotprod", "neon", "scalar")
ISAS: list[str] = list(rsr.cpu_info()["supported_isas"])
BLOCK = 7  # rows that share a scale in Spec(scale="block")


def patterns_of(k: int, keep: Callable[[tuple[int, ...]], bool], base: int = 3) -> bytes:
    """Return the patterns of k digits that `keep` accepts, in order."""
    return b"".join(bytes(p) for p in itertools.product(range(base), repeat=k) if keep(p))


SPARSE = patterns_of(4, lambda p: p.count(1) == 1)  # 3:4 sparse, one zero in four: 32 patterns


@dataclass(frozen=True)
class Spec:
    """One indexed tensor of a test model."""

    shape: tuple[int, int]
    digits: tuple[int, ...] = TERNARY
    k: int = 3
    encoding: str = "ranked"
    direction: str = "expand"
    scale: str = "none"  # or "tensor", "row", "block"
    fill: str = "random"  # or "lowest", "highest": every weight the same digit
    packing: str = "w16"  # of a ranked one; or "n4s1"
    name: str = ""  # "": the spec itself, in words
    group: int = 0  # columns that share a scale of every row; `scale` is then "row" or "block"
    half: bool = False  # float16 scales
    patterns: bytes | None = None  # listed; in_features and `group` are multiples of k * stride
    stride: int = 1

    @property
    def key(self) -> str:
        return self.name or str(self)


# The alphabets and k that kernels of encoding ranked are tried with.
RANKED = [
    *((digits, k) for digits in LISTED_DIGITS for k in range(1, 6) if len(digits) ** k <= 32),
    *(((-1, 0, 1, 2), 2), ((-2, -1, 1, 2), 1), (QUINARY, 2)),
]


def float32_bound(magnitudes: Array, x: Array, least: int = 3) -> Array:
    """Return how far a float32 product W @ x may lie from the exact one: n 2^-24 |W| @ |x|.

    Each of a row's n products and sums rounds once, in whatever order it is added up.

    Args:
        magnitudes: |W| or bounds of it, (out, in); (out, 1) where they are alike along each row.
        x: (in,) or (in, b).
        least: The smallest n that counts. A scale rounds too, which shows in the shortest rows.
    """
    size = np.abs(x.astype(np.float64))
    if magnitudes.shape[1] == 1:
        size = size.sum(axis=0, keepdims=True)
    bound: Array = max(len(x), least) * 2.0**-24 * (magnitudes @ size)
    return bound


@dataclass(frozen=True)
class Built:
    """A loaded matrix, and what it must equal."""

    spec: Spec
    matrix: Matrix
    W: npt.NDArray[np.int64]  # digit values, (out, in)
    scale: npt.NDArray[np.float64]  # of each row, (out,); (out, in) with groups

    @cached_property
    def _wide(self) -> npt.NDArray[np.float64]:
        return self.W.astype(np.float64)

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        return self.scale if self.scale.ndim == 2 else self.scale[:, None]

    @cached_property
    def scaled(self) -> npt.NDArray[np.float64]:
        """The dense matrix, (out, in)."""
        return self._wide * self._scale

    def exact(self, x: Array) -> npt.NDArray[np.int64]:
        """W @ x for integers: exact, as float64 holds every integer below 2^53."""
        return (self._wide @ x.astype(np.float64)).astype(np.int64)

    def bound(self, x: Array) -> Array:
        """How far a float32 product with x, (in,) or (in, b), may be off, as `Matrix` promises."""
        return float32_bound(np.abs(self._scale) * max(map(abs, self.spec.digits)), x)

    def check(self, x: Array, what: object = "") -> Array:
        """Multiply by x, (in,) or (in, b), compare as far as `Matrix` promises; return W @ x."""
        found = self.matrix @ x
        if x.dtype == np.float32:
            self.check_float32(found, x, what)
            return found
        assert found.dtype == np.int32, self._where(what)
        expected = self.exact(x)
        wrong = np.argwhere(found != expected)[:8]
        assert not len(wrong), (
            f"{self._where(what)}: at {wrong.tolist()} are {[found[tuple(i)] for i in wrong]}, "
            f"expected {[expected[tuple(i)] for i in wrong]}"
        )
        return found

    def check_float32(self, found: Array, x: Array, what: object = "") -> None:
        """Compare what is said to be the float32 product with x, (in,) or (in, b)."""
        assert found.dtype == np.float32, self._where(what)
        error, bound = np.abs(found - self.scaled @ x.astype(np.float64)), self.bound(x)
        assert error.shape == bound.shape, self._where(what)
        wrong = np.argwhere(~(error <= bound))[:8]
        assert not len(wrong), (
            f"{self._where(what)}: at {wrong.tolist()} are off by "
            f"{[error[tuple(i)] for i in wrong]}, allowed {[bound[tuple(i)] for i in wrong]}"
        )

    def check_int8_linear(self, x: Array) -> None:
        """Check `linear` with int8 activations; x (count, in) of float32."""
        q, s = quantize_int8(x)
        error = np.abs(self.matrix.linear(x, "int8").T - self.scaled @ q.T.astype(np.float64) / s.T)
        assert (error <= self.bound(q.T) / s.T).all(), self._where("linear, int8")

    def check_not_finite(self, x: Array, found: Array | None = None) -> None:
        """Check that NaN and infinities in x, (in,) or (in, b), spread as in a dense product."""
        wide = x.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a zero times infinity is NaN, and no zero is skipped
            columns = wide.T[..., None, :] if wide.ndim == 2 else wide
            expected = (self.scaled * columns).sum(axis=-1).T
            y = self.matrix @ x if found is None else found
        for test in (np.isnan, np.isposinf, np.isneginf):
            assert (test(y) == test(expected)).all(), self._where(x)

    def _where(self, what: object) -> str:
        return f"{self.spec}, {rsr.cpu_info()['isa']}, {what}"


Build = Callable[[Sequence[Spec]], list[Built]]


def matrix_of(model: rsr.Model, name: str) -> Matrix:
    found = model[name]
    assert isinstance(found, Matrix), name
    return found


class Workshop:
    """Makes models in one folder."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self._folder = folder
        self._rng = rng
        self._made = 0

    def path(self) -> Path:
        self._made += 1
        return self._folder / f"{self._made}.rsr"

    def build(
        self, specs: Sequence[Spec], damage: Damage | None = None, **load: Any
    ) -> list[Built]:
        """Write one file with a matrix per spec, load it and return its matrices.

        `damage` may change the arrays of an index before they are written.
        """
        path = self.path()
        dense = self.write(path, specs, damage)
        model = rsr.load(path, **load)
        return [Built(spec, matrix_of(model, spec.key), *dense[spec.key]) for spec in specs]

    def one(self, shape: tuple[int, int], damage: Damage | None = None, **spec: Any) -> Built:
        """Build a model of one matrix."""
        return self.build([Spec(shape, **spec)], damage)[0]

    def write(
        self,
        path: Path,
        specs: Sequence[Spec],
        damage: Damage | None = None,
        *,
        dense: Sequence[tuple[str, str, tuple[int, ...], bytes]] = (),
        files: dict[str, bytes] | None = None,
        metadata: dict[str, str] | None = None,
        zstd: int | None = None,
    ) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Write a file; return W and the scale of each row by tensor name.

        `dense` tensors are (name, dtype, shape, bytes).
        """
        truth = {}
        with create(path, force=True) as writer:
            tensors: list[DenseTensor | IndexedTensor] = []
            for spec in specs:
                tensor, W, scale = self._add(writer, spec, damage, zstd)
                tensors.append(tensor)
                truth[spec.key] = W, scale
            for name, dtype, shape, data in dense:
                tensors.append(DenseTensor(name, dtype, shape, writer.add([data], zstd)))
            entries = [FileEntry(n, writer.add([d], zstd)) for n, d in (files or {}).items()]
            writer.finish(producer="tests", metadata=metadata or {}, files=entries, tensors=tensors)
        return truth

    def _add(
        self, writer: RsrWriter, spec: Spec, damage: Damage | None, zstd: int | None
    ) -> tuple[IndexedTensor, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        numbers = self._digits(spec)
        A = numbers if spec.direction == "expand" else numbers.T
        packing, arrays = _encode(_spread(A, spec) if spec.group else A, spec)
        if damage is not None:
            damage(arrays)
        sections = {part: writer.add([a.tobytes()], zstd) for part, a in arrays.items()}
        out = spec.shape[0]
        rows_per_scale = {"tensor": max(1, out), "row": 1, "block": BLOCK}.get(spec.scale)
        rng, scale, row_scale = self._rng, None, np.ones(out)
        if spec.group:
            assert rows_per_scale is not None
            groups, kind = -(-spec.shape[1] // spec.group), "<f2" if spec.half else "<f4"
            values = rng.standard_normal((groups, -(-out // rows_per_scale))).astype(kind)
            section = writer.add([values.tobytes()], zstd)
            scale = Scale(rows_per_scale, section, spec.group, "F16" if spec.half else "F32")
            rows, columns = np.arange(out) // rows_per_scale, np.arange(spec.shape[1]) // spec.group
            row_scale = values.astype(np.float64)[columns][:, rows].T
        elif rows_per_scale is not None:
            values = rng.standard_normal(-(-out // rows_per_scale)).astype(np.float32)
            scale = Scale(rows_per_scale, writer.add([values.tobytes()], zstd))
            row_scale = np.repeat(values, rows_per_scale)[:out].astype(np.float64)
        tensor = IndexedTensor(
            spec.key, spec.shape, spec.digits, spec.k, spec.direction, spec.encoding, packing,
            sections, SourceRecord("int8", "I8", spec.shape), scale, spec.patterns, spec.stride,
        )  # fmt: skip
        return tensor, np.array(spec.digits, np.int64)[numbers], row_scale

    def _digits(self, spec: Spec) -> npt.NDArray[np.uint8]:
        """Draw the digits of W; with listed patterns, pattern by pattern."""
        base, shape = len(spec.digits), spec.shape
        if spec.patterns is not None:
            base, shape = len(spec.patterns) // spec.k, (shape[0], shape[1] // spec.k)
        numbers = np.zeros(shape, np.uint8)
        if spec.fill == "random":
            numbers = self._rng.integers(0, base, shape).astype(np.uint8)
        elif spec.fill == "highest":
            numbers += base - 1
        if spec.patterns is None:
            return numbers
        W = np.empty(spec.shape, np.uint8)
        patterns = pattern_digits(len(spec.digits), spec.k, spec.patterns)
        W[:, column_order(spec.shape[1], spec.k, spec.stride)] = patterns[numbers].reshape(
            spec.shape
        )
        return W


def _spread(A: npt.NDArray[np.uint8], spec: Spec) -> npt.NDArray[np.uint8]:
    """Fill every group with padding digits up to a whole number of column blocks."""
    pad = padding_digit(spec.digits)
    groups = [A[:, c : c + spec.group] for c in range(0, A.shape[1], spec.group)]
    return np.concatenate(
        [np.pad(g, ((0, 0), (0, -g.shape[1] % spec.k)), constant_values=pad) for g in groups], 1
    )


def _encode(A: npt.NDArray[np.uint8], spec: Spec) -> tuple[str, Arrays]:
    base, pad = len(spec.digits), padding_digit(spec.digits)
    if spec.stride > 1:
        A = A[:, column_order(A.shape[1], spec.k, spec.stride)]
    ranks = ranks_of(A, base, spec.k, pad)
    if spec.patterns is not None:
        ranks = listed_ranks(ranks, base, spec.k, spec.patterns)
    if spec.encoding == "ranked" and spec.packing == "n4s1":
        group_blocks = -(-spec.group // spec.k) if spec.group else None
        return "n4s1", {"ranks": pack_n4s1(ranks, group_blocks)}
    if spec.encoding == "ranked":
        pad_rank = padding_rank(spec.digits, spec.k, spec.patterns)
        return "w16", {"ranks": pack_w16(ranks, pad_rank)}
    packing, item = ("u16", np.uint16) if len(A) <= 0xFFFF else ("u32", np.uint32)
    patterns = base**spec.k
    permutation = np.empty((len(ranks), len(A)), item)
    segments = np.empty((len(ranks), patterns + 1), item)
    for j, block_ranks in enumerate(ranks):
        permutation[j], segments[j] = block_from_ranks(block_ranks, patterns)
    return packing, {"permutation": permutation, "segments": segments}
