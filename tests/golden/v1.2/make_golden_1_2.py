"""Write golden.rsr: what version 1.2 adds, listed patterns, strides, layouts, derived companions.

The file beside this script was written once and is read for ever
(tests/formats/test_golden_1_2.py). Do not write it again: a change of the format gets a new folder.

    python tests/golden/v1.2/make_golden_1_2.py OUT.rsr
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats import IndexedTensor, create
from rsr_formats.packing import column_order, listed_ranks, pack_w16, padding_rank, ranks_of
from rsr_formats.records import BINARY_SIGNS, TERNARY, InlineTensor, Scale, SourceRecord


def sparse_digits(rows: int, columns: int, stride: int) -> npt.NDArray[np.uint8]:
    """Return a ternary matrix with one zero in each block of four columns that lie `stride` apart.

    The zero of block j in row r is at place (r + j) mod 4; other digits are 0 where r + c is a
    multiple of 3, else 2.
    """
    r, c = np.mgrid[:rows, :columns]
    j, p = c // (4 * stride) * stride + c % stride, c // stride % 4
    return np.where(p == (r + j) % 4, 1, np.where((r + c) % 3 == 0, 0, 2)).astype(np.uint8)


def words(
    digits: npt.NDArray[np.uint8], values: tuple[int, ...], k: int, listed: bytes, stride: int
) -> list[bytes]:
    """Return packing w16 of a matrix made of listed patterns."""
    ordered = digits[:, column_order(digits.shape[1], k, stride)]
    ranks = listed_ranks(ranks_of(ordered, len(values), k, 0), len(values), k, listed)
    return [pack_w16(ranks, padding_rank(values, k, listed)).astype("<u2").tobytes()]


def sparse_patterns() -> bytes:
    """Return the 32 patterns of four ternary digits that have exactly one zero (digit 1)."""
    numbers = [[n // 27, n // 9 % 3, n // 3 % 3, n % 3] for n in range(81)]
    return b"".join(bytes(p) for p in numbers if p.count(1) == 1)


def write(path: Path) -> None:
    """Write the golden file."""
    listed = sparse_patterns()
    with create(path) as writer:
        sparse = IndexedTensor(
            "sparse.weight", (130, 20), TERNARY, 4, "expand", "ranked", "w16",
            {"ranks": writer.add(words(sparse_digits(130, 20, 1), TERNARY, 4, listed, 1))},
            SourceRecord("absmedian", "BF16", (130, 20)),
            Scale(130, writer.add([np.array([0.75], "<f4").tobytes()])),
            listed,
        )  # fmt: skip
        strided = IndexedTensor(
            "strided.weight", (5, 192), TERNARY, 4, "expand", "ranked", "w16",
            {"ranks": writer.add(words(sparse_digits(5, 192, 16), TERNARY, 4, listed, 16))},
            SourceRecord("float", "F16", (5, 192)),
            Scale(1, writer.add([(np.arange(1, 11) / 2).astype("<f2").tobytes()]), 128, "F16"),
            listed, 16,
        )  # fmt: skip
        pairs = np.tile(np.array([[0, 1, 1, 0], [1, 1, 0, 0]], np.uint8), (17, 2))
        binary = IndexedTensor(
            "binary.weight", (34, 8), BINARY_SIGNS, 2, "expand", "ranked", "w16",
            {"ranks": writer.add(words(pairs, BINARY_SIGNS, 2, b"\0\1\1\0\1\1", 2))},
            SourceRecord("twn", "F32", (34, 8)), None, b"\0\1\1\0\1\1", 2,
        )  # fmt: skip
        ranks = ranks_of(sparse_digits(3, 6, 1), 3, 3, 1)
        mlx = IndexedTensor(
            "mlx.weight", (3, 6), TERNARY, 3, "expand", "ranked", "w16",
            {"ranks": writer.add([pack_w16(ranks, 13).astype("<u2").tobytes()])},
            SourceRecord(
                "mlx", "U32", (3, 1), None, (InlineTensor("mlx.scales", "F16", (3, 1), None),)
            ),
            Scale(1, writer.add([np.array([1, 2, 3], "<f4").tobytes()])),
        )  # fmt: skip
        writer.finish(
            producer="rsr-ternary golden v1.2",
            metadata={"purpose": "read for ever"},
            files=[],
            tensors=[sparse, strided, binary, mlx],
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
