"""Write golden.rsr: what version 1.1 adds, packing n4s1 and scales for groups of columns.

The file beside this script was written once and is read for ever
(tests/formats/test_golden_1_1.py). Do not write it again: a change of the format gets a new folder.

    python tests/golden/v1.1/make_golden.py OUT.rsr
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats import IndexedTensor, create
from rsr_formats.packing import pack_n4s1, pack_w16, ranks_of
from rsr_formats.records import BINARY_SIGNS, TERNARY, Scale, SourceRecord


def ternary_digits(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Return digit[r, c] = (r r + 2 c + r c) mod 3."""
    r, c = np.mgrid[:rows, :columns]
    return np.asarray((r * r + 2 * c + r * c) % 3, np.uint8)


def binary_digits(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Return digit[r, c] = 0 where (r + c c) mod 5 is odd, else 1."""
    r, c = np.mgrid[:rows, :columns]
    return np.where((r + c * c) % 5 % 2, 0, 1).astype(np.uint8)


def grouped_words(
    digits: npt.NDArray[np.uint8], base: int, k: int, pad: int, group: int
) -> list[bytes]:
    """Return packing w16 of a matrix whose groups of columns are cut one by one."""
    parts = [digits[:, c : c + group] for c in range(0, digits.shape[1], group)]
    ranks = np.concatenate([ranks_of(part, base, k, pad) for part in parts])
    return [pack_w16(ranks, 13 if base == 3 else 0).astype("<u2").tobytes()]


def write(path: Path) -> None:
    """Write the golden file."""
    with create(path) as writer:
        ranks = ranks_of(ternary_digits(100, 50), 3, 3, 1)
        n4s1 = IndexedTensor(
            "n4s1.weight", (100, 50), TERNARY, 3, "expand", "ranked", "n4s1",
            {"ranks": writer.add([pack_n4s1(ranks).tobytes()])},
            SourceRecord("int8", "I8", (100, 50)),
            Scale(30, writer.add([np.array([1, -2, 3, 0.5], "<f2").tobytes()]), None, "F16"),
        )  # fmt: skip
        groups = IndexedTensor(
            "groups.weight", (7, 10), TERNARY, 3, "expand", "ranked", "w16",
            {"ranks": writer.add(grouped_words(ternary_digits(7, 10), 3, 3, 1, 4))},
            SourceRecord("float", "F16", (7, 10)),
            Scale(1, writer.add([(np.arange(1, 22) / 2).astype("<f2").tobytes()]), 4, "F16"),
        )  # fmt: skip
        blocks = IndexedTensor(
            "blocks.weight", (5, 17), BINARY_SIGNS, 5, "expand", "ranked", "w16",
            {"ranks": writer.add(grouped_words(binary_digits(5, 17), 2, 5, 0, 8))},
            SourceRecord("float", "F32", (5, 17)),
            Scale(2, writer.add([(np.arange(1, 10) / 4).astype("<f4").tobytes()]), 8),
        )  # fmt: skip
        writer.finish(
            producer="rsr-ternary golden v1.1",
            metadata={"purpose": "read for ever"},
            files=[],
            tensors=[n4s1, groups, blocks],
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
