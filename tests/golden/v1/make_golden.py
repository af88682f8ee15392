"""Write golden.rsr: one tensor of every kind that version 1.0 has.

The file beside this script was written once and is read for ever (tests/formats/test_golden.py).
Do not write it again: a change of the format gets a new folder. Run it into another place to see
whether today's writer still makes the same bytes (which a new zstd may change):

    python tests/golden/v1/make_golden.py OUT.rsr
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats import DenseTensor, IndexedTensor, create
from rsr_formats.packing import block_from_ranks, pack_w16, padding_digit, ranks_of
from rsr_formats.records import BINARY_SIGNS, TERNARY, FileEntry, InlineTensor, Scale, SourceRecord
from rsr_formats.writer import RsrWriter


def ternary_matrix(rows: int, columns: int) -> npt.NDArray[np.int8]:
    """Return W[r, c] = ((r r + 2 c + r c) mod 3) - 1."""
    r, c = np.mgrid[:rows, :columns]
    return np.asarray((r * r + 2 * c + r * c) % 3 - 1, np.int8)


def binary_matrix(rows: int, columns: int) -> npt.NDArray[np.int8]:
    """Return W[r, c] = -1 where (r + c c) mod 5 is odd, else 1."""
    r, c = np.mgrid[:rows, :columns]
    return np.where((r + c * c) % 5 % 2, -1, 1).astype(np.int8)


def ranks(A: npt.NDArray[np.int8], digits: tuple[int, ...], k: int) -> npt.NDArray[np.uint16]:
    """Return the ranks of a matrix of digit values."""
    codes = np.searchsorted(digits, A).astype(np.uint8)
    return ranks_of(codes, len(digits), k, padding_digit(digits))


def permuted(writer: RsrWriter, A: npt.NDArray[np.int8], k: int) -> dict[str, int]:
    """Write the sections of a ternary matrix in encoding permuted."""
    blocks = [block_from_ranks(r, 3**k) for r in ranks(A, TERNARY, k)]
    return {
        "permutation": writer.add([b.permutation.astype("<u2").tobytes() for b in blocks]),
        "segments": writer.add([b.segments.astype("<u2").tobytes() for b in blocks]),
    }


def write(path: Path) -> None:
    """Write the golden file."""
    with create(path) as writer:
        config = writer.add([b'{"model_type": "golden"}\n'])

        words = pack_w16(ranks(ternary_matrix(132, 10), TERNARY, 3), 13)
        ranked = IndexedTensor(
            "ranked.weight", (132, 10), TERNARY, 3, "expand", "ranked", "w16",
            {"ranks": writer.add([words.astype("<u2").tobytes()])},
            SourceRecord("bitnet", "U8", (33, 10), None,
                         (InlineTensor("ranked.weight_scale", "BF16", (1,), b"\x00\x40"),)),
            Scale(132, writer.add([np.array([0.5], "<f4").tobytes()])),
        )  # fmt: skip

        W = ternary_matrix(6, 5)
        expand = IndexedTensor(
            "expand.weight", (6, 5), TERNARY, 2, "expand", "permuted", "u16",
            permuted(writer, W, 2),
            SourceRecord("float", "BF16", (6, 5), writer.add([b"\x21\x00"])),
            Scale(1, writer.add([np.array([1, 2, 0.5, 0.25, 4, 8], "<f4").tobytes()])),
        )  # fmt: skip

        W = ternary_matrix(5, 7)
        reduce = IndexedTensor(
            "reduce.weight", (5, 7), TERNARY, 3, "reduce", "permuted", "u16",
            permuted(writer, W.T, 3), SourceRecord("int8", "I8", (5, 7)),
        )  # fmt: skip

        words = pack_w16(ranks(binary_matrix(33, 11), BINARY_SIGNS, 5), 0)
        binary = IndexedTensor(
            "binary.weight", (33, 11), BINARY_SIGNS, 5, "expand", "ranked", "w16",
            {"ranks": writer.add([words.astype("<u2").tobytes()])},
            SourceRecord("absmean", "F32", (33, 11)),
            Scale(8, writer.add([np.array([1, -2, 3, -4, 5], "<f4").tobytes()])),
        )  # fmt: skip

        norm = DenseTensor("norm.weight", "BF16", (2, 2),
                           writer.add([bytes.fromhex("803f 0040 00c0 003f")]))  # fmt: skip
        table = DenseTensor("table.weight", "F32", (64, 4),
                            writer.add([np.arange(256, dtype="<f4").tobytes()], 19))  # fmt: skip
        empty = DenseTensor("empty.weight", "U8", (0, 3), writer.add([]))
        writer.finish(
            producer="rsr-ternary golden v1",
            metadata={"purpose": "read for ever", "größe": "klein"},
            files=[FileEntry("config.json", config)],
            tensors=[ranked, expand, reduce, binary, norm, table, empty],
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
