"""Writers of `tests/golden/<version>/golden.rsr`, one file per version of the format.

Each committed file was written once and must stay readable forever, so its bytes never change. A
change of the format gets a new version here and a new folder. To see what the current code writes:

    PYTHONPATH=tests/support python -m rsr_testing.golden_rsr v1.2 OUT.rsr
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsr_formats import (
    AuxiliaryTensor,
    DenseTensor,
    FileEntry,
    IndexedTensor,
    Quantized,
    Rotation,
    RsrWriter,
    Scale,
    SourceRecord,
    Tensor,
    create,
)
from rsr_formats.packing import (
    block_from_ranks,
    column_order,
    listed_ranks,
    pack_n4s1,
    pack_w16,
    padding_digit,
    padding_rank,
    ranks_of,
)
from rsr_formats.records import BINARY_SIGNS, QUINARY, TERNARY

Digits = npt.NDArray[np.uint8]


def ternary_digits(rows: int, columns: int) -> Digits:
    """Return digit[r, c] = (r r + 2 c + r c) mod 3."""
    r, c = np.mgrid[:rows, :columns]
    return np.asarray((r * r + 2 * c + r * c) % 3, np.uint8)


def wide_digits(rows: int, columns: int, base: int) -> Digits:
    """Return digit[r, c] = (r r + 3 c + r c) mod base."""
    r, c = np.mgrid[:rows, :columns]
    return np.asarray((r * r + 3 * c + r * c) % base, np.uint8)


def binary_digits(rows: int, columns: int) -> Digits:
    """Return digit[r, c] = 0 where (r + c c) mod 5 is odd, else 1."""
    r, c = np.mgrid[:rows, :columns]
    return np.where((r + c * c) % 5 % 2, 0, 1).astype(np.uint8)


def sparse_digits(rows: int, columns: int, stride: int) -> Digits:
    """Return a ternary matrix with one zero in each block of four columns that lie `stride` apart.

    Block j of row r has its zero in position (r + j) mod 4. The other digits are 0 where r + c is a
    multiple of 3, else 2.
    """
    r, c = np.mgrid[:rows, :columns]
    j, p = c // (4 * stride) * stride + c % stride, c // stride % 4
    return np.where(p == (r + j) % 4, 1, np.where((r + c) % 3 == 0, 0, 2)).astype(np.uint8)


def sparse_patterns() -> bytes:
    """Return the 32 patterns of four ternary digits that have exactly one zero (digit 1)."""
    numbers = [[n // 27, n // 9 % 3, n // 3 % 3, n % 3] for n in range(81)]
    return b"".join(bytes(p) for p in numbers if p.count(1) == 1)


def w16(digits: Digits, alphabet: tuple[int, ...], k: int, group: int = 1 << 24) -> list[bytes]:
    """Return a matrix in packing w16; each group of columns is cut by itself."""
    parts = [digits[:, c : c + group] for c in range(0, digits.shape[1], group)]
    pad = padding_digit(alphabet)
    ranks = np.concatenate([ranks_of(part, len(alphabet), k, pad) for part in parts])
    return [pack_w16(ranks, padding_rank(alphabet, k)).astype("<u2").tobytes()]


def listed_w16(
    digits: Digits, alphabet: tuple[int, ...], k: int, listed: bytes, stride: int
) -> list[bytes]:
    """Return a matrix of listed patterns in packing w16."""
    ordered = digits[:, column_order(digits.shape[1], k, stride)]
    ranks = listed_ranks(ranks_of(ordered, len(alphabet), k, 0), len(alphabet), k, listed)
    return [pack_w16(ranks, padding_rank(alphabet, k, listed)).astype("<u2").tobytes()]


def permuted(writer: RsrWriter, A: Digits, k: int, base: int = 3, pad: int = 1) -> dict[str, int]:
    """Write the sections of a matrix of `base` digits in encoding permuted."""
    blocks = [block_from_ranks(r, base**k) for r in ranks_of(A, base, k, pad)]
    return {
        "permutation": writer.add([b.permutation.astype("<u2").tobytes() for b in blocks]),
        "segments": writer.add([b.segments.astype("<u2").tobytes() for b in blocks]),
    }


def floats(values: object, dtype: str = "<f4") -> list[bytes]:
    """Return the bytes of a list of floats."""
    return [np.asarray(values).astype(dtype).tobytes()]


def write_1_0(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """One tensor of every kind that version 1.0 has."""
    files = [FileEntry("config.json", writer.add([b'{"model_type": "golden"}\n']))]
    ranked = IndexedTensor(
        "ranked.weight", (132, 10), TERNARY, 3, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(ternary_digits(132, 10), TERNARY, 3))},
        SourceRecord("bitnet", "U8", (33, 10), None,
                     (AuxiliaryTensor("ranked.weight_scale", "BF16", (1,), b"\x00\x40"),)),
        Scale(132, writer.add(floats([0.5]))),
    )  # fmt: skip
    expand = IndexedTensor(
        "expand.weight", (6, 5), TERNARY, 2, "expand", "permuted", "u16",
        permuted(writer, ternary_digits(6, 5), 2),
        SourceRecord("float", "BF16", (6, 5), writer.add([b"\x21\x00"])),
        Scale(1, writer.add(floats([1, 2, 0.5, 0.25, 4, 8]))),
    )  # fmt: skip
    reduce = IndexedTensor(
        "reduce.weight", (5, 7), TERNARY, 3, "reduce", "permuted", "u16",
        permuted(writer, ternary_digits(5, 7).T, 3), SourceRecord("int8", "I8", (5, 7)),
    )  # fmt: skip
    binary = IndexedTensor(
        "binary.weight", (33, 11), BINARY_SIGNS, 5, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(binary_digits(33, 11), BINARY_SIGNS, 5))},
        SourceRecord("absmean", "F32", (33, 11)),
        Scale(8, writer.add(floats([1, -2, 3, -4, 5]))),
    )  # fmt: skip
    norm = writer.add([bytes.fromhex("803f 0040 00c0 003f")])
    table = writer.add(floats(np.arange(256)), zstd_level=19)
    return files, [
        ranked,
        expand,
        reduce,
        binary,
        DenseTensor("norm.weight", "BF16", (2, 2), norm),
        DenseTensor("table.weight", "F32", (64, 4), table),
        DenseTensor("empty.weight", "U8", (0, 3), writer.add([])),
    ]


def write_1_0_reuse(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Two matrices with keys, and a dense tensor, which has none."""
    first, last = (
        IndexedTensor(
            f"{name}.weight", (7, 10), TERNARY, 3, "expand", "ranked", "w16",
            {"ranks": writer.add(w16(ternary_digits(7, 10), TERNARY, 3))},
            SourceRecord("int8", "I8", (7, 10)),
        )
        for name in ("first", "last")
    )  # fmt: skip
    norm = DenseTensor("norm.weight", "F32", (4,), writer.add(floats([1, 2, 3, 4])))
    return [], [first, norm, last]


def write_1_1(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Packing n4s1, and scales for groups of columns."""
    n4s1 = IndexedTensor(
        "n4s1.weight", (100, 50), TERNARY, 3, "expand", "ranked", "n4s1",
        {"ranks": writer.add([pack_n4s1(ranks_of(ternary_digits(100, 50), 3, 3, 1)).tobytes()])},
        SourceRecord("int8", "I8", (100, 50)),
        Scale(30, writer.add(floats([1, -2, 3, 0.5], "<f2")), None, "F16"),
    )  # fmt: skip
    groups = IndexedTensor(
        "groups.weight", (7, 10), TERNARY, 3, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(ternary_digits(7, 10), TERNARY, 3, 4))},
        SourceRecord("float", "F16", (7, 10)),
        Scale(1, writer.add(floats(np.arange(1, 22) / 2, "<f2")), 4, "F16"),
    )  # fmt: skip
    blocks = IndexedTensor(
        "blocks.weight", (5, 17), BINARY_SIGNS, 5, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(binary_digits(5, 17), BINARY_SIGNS, 5, 8))},
        SourceRecord("float", "F32", (5, 17)),
        Scale(2, writer.add(floats(np.arange(1, 10) / 4)), 8),
    )  # fmt: skip
    return [], [n4s1, groups, blocks]


def write_1_2(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Listed patterns, strides, more layouts, and an auxiliary tensor that is derived."""
    listed, pairs = sparse_patterns(), b"\0\1\1\0\1\1"
    sparse = IndexedTensor(
        "sparse.weight", (130, 20), TERNARY, 4, "expand", "ranked", "w16",
        {"ranks": writer.add(listed_w16(sparse_digits(130, 20, 1), TERNARY, 4, listed, 1))},
        SourceRecord("absmedian", "BF16", (130, 20)),
        Scale(130, writer.add(floats([0.75]))), listed,
    )  # fmt: skip
    strided = IndexedTensor(
        "strided.weight", (5, 192), TERNARY, 4, "expand", "ranked", "w16",
        {"ranks": writer.add(listed_w16(sparse_digits(5, 192, 16), TERNARY, 4, listed, 16))},
        SourceRecord("float", "F16", (5, 192)),
        Scale(1, writer.add(floats(np.arange(1, 11) / 2, "<f2")), 128, "F16"), listed, 16,
    )  # fmt: skip
    digits = np.tile(np.array([[0, 1, 1, 0], [1, 1, 0, 0]], np.uint8), (17, 2))
    binary = IndexedTensor(
        "binary.weight", (34, 8), BINARY_SIGNS, 2, "expand", "ranked", "w16",
        {"ranks": writer.add(listed_w16(digits, BINARY_SIGNS, 2, pairs, 2))},
        SourceRecord("twn", "F32", (34, 8)), None, pairs, 2,
    )  # fmt: skip
    scales = AuxiliaryTensor("mlx.scales", "F16", (3, 1), None)
    mlx = IndexedTensor(
        "mlx.weight", (3, 6), TERNARY, 3, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(sparse_digits(3, 6, 1), TERNARY, 3))},
        SourceRecord("mlx", "U32", (3, 1), None, (scales,)),
        Scale(1, writer.add(floats([1, 2, 3]))),
    )  # fmt: skip
    return [], [sparse, strided, binary, mlx]


def write_1_3(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Quantized dense tensors: a head that replaces its source, and one beside the embedding."""
    rows = [[127.0, -63.5, 31.75, 0.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.5, -1.0, 0.125]]
    bf16 = (np.array(rows, "<f4").view("<u4") >> 16).astype("<u2")
    embedding = writer.add([bf16.tobytes()])
    head = writer.add([np.array([[127, -1], [-127, 126]], "i1").tobytes()])
    head_scale = writer.add(floats([0.5, 2.0]))
    tied_rows = [[127, -64, 32, 0], [0, 0, 0, 0], [32, 64, -127, 16]]
    tied = writer.add([np.array(tied_rows, "i1").tobytes()])
    tied_scale = writer.add(floats(np.array([127, 0, 1], "<f4") / np.float32(127)))
    head_source = Quantized("absmax", "head.weight", "F16")
    tied_source = Quantized("absmax", "embedding.weight", "BF16")
    return [], [
        DenseTensor("embedding.weight", "BF16", (3, 4), embedding),
        DenseTensor("head.weight", "I8", (2, 2), head, head_source),
        DenseTensor("head.weight_scale", "F32", (2,), head_scale),
        DenseTensor("tied.weight", "I8", (3, 4), tied, tied_source),
        DenseTensor("tied.weight_scale", "F32", (3,), tied_scale),
    ]


def write_1_4(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """One-bit codes of MLX, with scales and biases that are derived."""
    scales = AuxiliaryTensor("mlx.scales", "F16", (3, 2), None)
    biases = AuxiliaryTensor("mlx.biases", "F16", (3, 2), None)
    mlx = IndexedTensor(
        "mlx.weight", (3, 64), BINARY_SIGNS, 5, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(binary_digits(3, 64), BINARY_SIGNS, 5, 32))},
        SourceRecord("mlx-1bit", "U32", (3, 2), None, (scales, biases)),
        Scale(1, writer.add(floats(np.arange(1, 7) / 4)), 32),
    )  # fmt: skip
    return [], [mlx]


def write_1_4_groups(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Packing n4s1 with groups of columns: units of two to eight blocks."""
    scales = (("wide", 100, 32, 30, "F16"), ("narrow", 7, 4, 1, "F32"), ("odd", 33, 20, 33, "F32"))
    tensors: list[Tensor] = []
    for name, rows, group, rows_per_scale, dtype in scales:
        A = ternary_digits(rows, 50)
        cut = [A[:, c : c + group] for c in range(0, 50, group)]
        ranks = np.concatenate([ranks_of(part, 3, 3, 1) for part in cut])
        packed = pack_n4s1(ranks, -(-group // 3))
        count = len(cut) * -(-rows // rows_per_scale)
        values = floats(np.arange(1, count + 1) / 2, "<f2" if dtype == "F16" else "<f4")
        tensors.append(
            IndexedTensor(
                f"{name}.weight", (rows, 50), TERNARY, 3, "expand", "ranked", "n4s1",
                {"ranks": writer.add([packed.tobytes()])},
                SourceRecord("float", "F32", (rows, 50)),
                Scale(rows_per_scale, writer.add(values), group, dtype),
            )
        )  # fmt: skip
    return [], tensors


def write_1_5(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Four and five digits of magnitude up to 2."""
    plus, minus = (-1, 0, 1, 2), (-2, -1, 0, 1)
    groups = IndexedTensor(
        "groups.weight", (37, 11), plus, 2, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(wide_digits(37, 11, 4), plus, 2, 4))},
        SourceRecord("float", "F16", (37, 11)),
        Scale(37, writer.add(floats([0.5, -2, 3], "<f2")), 4, "F16"),
    )  # fmt: skip
    scales = AuxiliaryTensor("mlx.scales", "F16", (3, 1), None)
    biases = AuxiliaryTensor("mlx.biases", "F16", (3, 1), None)
    mlx = IndexedTensor(
        "mlx.weight", (3, 16), minus, 2, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(wide_digits(3, 16, 4), minus, 2))},
        SourceRecord("mlx", "U32", (3, 1), None, (scales, biases)),
        Scale(1, writer.add(floats([1, -0.5, 0.25]))),
    )  # fmt: skip
    quinary = IndexedTensor(
        "quinary.weight", (5, 7), QUINARY, 2, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(wide_digits(5, 7, 5), QUINARY, 2))},
        SourceRecord("int8", "I8", (5, 7)),
    )  # fmt: skip
    reduce = IndexedTensor(
        "reduce.weight", (6, 5), (-2, -1, 1, 2), 3, "reduce", "permuted", "u16",
        permuted(writer, wide_digits(6, 5, 4).T, 3, 4, 0), SourceRecord("int8", "I8", (6, 5)),
    )  # fmt: skip
    return [], [groups, mlx, quinary, reduce]


def write_1_5_rotation(writer: RsrWriter) -> tuple[list[FileEntry], list[Tensor]]:
    """Matrices in rotated bases, indexed, dense and int8."""
    indexed = IndexedTensor(
        "rotated.weight", (3, 32), TERNARY, 3, "expand", "ranked", "w16",
        {"ranks": writer.add(w16(ternary_digits(3, 50)[:, :32], TERNARY, 3))},
        SourceRecord("float", "F16", (3, 32)),
        Scale(3, writer.add(floats([0.5]))), rotation=0,
    )  # fmt: skip
    embedding = writer.add(floats(np.arange(32) / 8))
    head = writer.add([np.arange(-16, 16, dtype="i1").tobytes()])
    head_scale = writer.add(floats([0.5, 2.0]))
    return [], [
        indexed,
        DenseTensor("embedding.weight", "F32", (2, 16), embedding, rotation=1),
        DenseTensor(
            "head.weight", "I8", (2, 16), head, Quantized("absmax", "embedding.weight", "F32"), 1
        ),
        DenseTensor("head.weight_scale", "F32", (2,), head_scale),
    ]


ROTATIONS = {
    "v1.5-rotation": (Rotation(32, bytes.fromhex("01020480")), Rotation(16, bytes.fromhex("00ff")))
}
REUSE = {"v1.0-reuse": "raw AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
WRITERS: dict[str, Callable[[RsrWriter], tuple[list[FileEntry], list[Tensor]]]] = {
    "v1": write_1_0,
    "v1.0-reuse": write_1_0_reuse,
    "v1.1": write_1_1,
    "v1.2": write_1_2,
    "v1.3": write_1_3,
    "v1.4": write_1_4,
    "v1.4-groups": write_1_4_groups,
    "v1.5": write_1_5,
    "v1.5-rotation": write_1_5_rotation,
}


def write(version: str, path: Path) -> None:
    """Write the golden file of a version."""
    metadata = {"purpose": "read for ever"} | ({"größe": "klein"} if version == "v1" else {})
    with create(path) as writer:
        files, tensors = WRITERS[version](writer)
        writer.finish(
            producer=f"rsr-ternary golden {version}",
            metadata=metadata,
            files=files,
            tensors=tensors,
            rotations=ROTATIONS.get(version, ()),
            reuse=REUSE.get(version),
        )


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
