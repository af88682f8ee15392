"""Makes `.rsr` files with the NumPy encoders, never with the compiler, and checks products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from rsr_formats import packing as encoding
from rsr_formats.records import TERNARY, DenseTensor, FileEntry, IndexedTensor, Scale, SourceRecord
from rsr_formats.writer import RsrWriter, create
from rsr_runtime import Matrix

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Damage = Callable[[Arrays], None]

ISAS: list[str] = list(rsr.cpu_info()["supported_isas"])
BLOCK = 7  # rows that share a scale in Spec(scale="block")


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


@dataclass(frozen=True)
class Built:
    """A loaded matrix, and what it must equal."""

    spec: Spec
    matrix: Matrix
    W: npt.NDArray[np.int64]  # digit values, (out, in)
    scale: npt.NDArray[np.float64]  # of each row, (out,); (out, in) with groups

    def exact(self, x: Array) -> npt.NDArray[np.int64]:
        """W @ x for integers: exact, as float64 holds every integer below 2^53."""
        product: npt.NDArray[np.float64] = self.W.astype(np.float64) @ x.astype(np.float64)
        return product.astype(np.int64)

    def check(self, x: Array, what: object = "") -> Array:
        """Multiply by one vector, and compare as far as `Matrix` promises; return the product."""
        found = self.matrix @ x
        where = f"{self.spec}, {rsr.cpu_info()['isa']}, {what}"
        if x.dtype == np.int8:
            assert found.dtype == np.int32, where
            expected = self.exact(x)
            wrong = np.flatnonzero(found != expected)
            assert not len(wrong), (
                f"{where}: rows {wrong[:8]} are {found[wrong[:8]]}, expected {expected[wrong[:8]]}"
            )
            return found
        assert found.dtype == np.float32, where
        x64 = x.astype(np.float64)
        scale = self.scale if self.scale.ndim == 2 else self.scale[:, None]
        error = np.abs(found - (self.W * scale) @ x64)
        bound = (
            max(len(x), 3) * 2.0**-24 * (np.abs(np.broadcast_to(scale, self.W.shape)) @ np.abs(x64))
        )
        wrong = np.flatnonzero(~(error <= bound))
        assert not len(wrong), (
            f"{where}: rows {wrong[:8]} are off by {error[wrong[:8]]}, allowed {bound[wrong[:8]]}"
        )
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
        built = []
        for spec in specs:
            matrix = model[spec.key]
            assert isinstance(matrix, Matrix)
            built.append(Built(spec, matrix, *dense[spec.key]))
        return built

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
        patterns = encoding.pattern_digits(len(spec.digits), spec.k, spec.patterns)
        W[:, encoding.column_order(spec.shape[1], spec.k, spec.stride)] = patterns[numbers].reshape(
            spec.shape
        )
        return W


def _spread(A: npt.NDArray[np.uint8], spec: Spec) -> npt.NDArray[np.uint8]:
    """Fill every group with padding digits up to a whole number of column blocks."""
    pad = encoding.padding_digit(spec.digits)
    groups = [A[:, c : c + spec.group] for c in range(0, A.shape[1], spec.group)]
    return np.concatenate(
        [np.pad(g, ((0, 0), (0, -g.shape[1] % spec.k)), constant_values=pad) for g in groups], 1
    )


def _encode(A: npt.NDArray[np.uint8], spec: Spec) -> tuple[str, Arrays]:
    base, pad = len(spec.digits), encoding.padding_digit(spec.digits)
    if spec.stride > 1:
        A = A[:, encoding.column_order(A.shape[1], spec.k, spec.stride)]
    ranks = encoding.ranks_of(A, base, spec.k, pad)
    if spec.patterns is not None:
        ranks = encoding.listed_ranks(ranks, base, spec.k, spec.patterns)
    if spec.encoding == "ranked" and spec.packing == "n4s1":
        return "n4s1", {"ranks": encoding.pack_n4s1(ranks)}
    if spec.encoding == "ranked":
        pad_rank = encoding.padding_rank(spec.digits, spec.k, spec.patterns)
        return "w16", {"ranks": encoding.pack_w16(ranks, pad_rank)}
    packing, item = ("u16", np.uint16) if len(A) <= 0xFFFF else ("u32", np.uint32)
    patterns = base**spec.k
    permutation = np.empty((len(ranks), len(A)), item)
    segments = np.empty((len(ranks), patterns + 1), item)
    for j, block_ranks in enumerate(ranks):
        permutation[j], segments[j] = encoding.block_from_ranks(block_ranks, patterns)
    return packing, {"permutation": permutation, "segments": segments}
