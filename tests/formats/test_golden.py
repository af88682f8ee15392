"""The file of version 1.0 is read for ever: its bytes never change, nor does what they mean.

Decoded here from SPEC.md alone, with nothing of `rsr_formats` but the reader.
"""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_formats import DenseTensor, IndexedTensor, RsrFile
from rsr_formats.records import FileEntry, InlineTensor, SourceRecord
from rsr_testing.paths import GOLDEN

FOLDER = GOLDEN / "v1"
SHA256 = "17ea84512ec9a52db6154690c6f7585e2a2cd54c6f4f2e4bf331ffa959bc2eb9"

# One character a weight: - is -1, 0 is 0, + is 1.
EXPAND = ["-+0-+", "00000", "0+-0+", "-+0-+", "00000", "0+-0+"]
REDUCE = ["-+0-+0-", "0000000", "0+-0+-0", "-+0-+0-", "0000000"]
BINARY = ["+-++-+-++-+", "-++++-++++-", "+----+----+", "-++++-++++-", "++--+++--++"]  # row mod 5
# Row r of the ranked matrix is row r mod 3 here.
RANKED = ["-+0-+0-+0-", "0000000000", "0+-0+-0+-0"]


@pytest.fixture(scope="module")
def golden() -> RsrFile:
    return RsrFile(FOLDER / "golden.rsr")


def matrix(lines: list[str]) -> npt.NDArray[np.int8]:
    return np.array([["-0+".index(c) - 1 for c in line] for line in lines], np.int8)


def decoded(t: IndexedTensor, arrays: dict[str, Any]) -> npt.NDArray[np.int8]:
    """Return W, weight by weight, from the formulas of SPEC.md sections 6 and 7."""
    B = len(t.digits)
    rows, columns = t.shape if t.direction == "expand" else t.shape[::-1]
    blocks = -(-columns // t.k)
    A = np.empty((rows, blocks * t.k), np.int8)
    for j in range(blocks):
        for r in range(rows):
            if t.encoding == "ranked":
                W, R = -(-blocks // 3), -(-rows // 32) * 32
                r0 = r // 128 * 128
                word = int(arrays["ranks"][r0 * W + j // 3 * min(128, R - r0) + r - r0])
                rank = word >> 5 * (j % 3) & 31
            else:
                position = arrays["permutation"][j].tolist().index(r)
                rank = int(np.searchsorted(arrays["segments"][j], position, side="right")) - 1
            for i in range(t.k):
                A[r, j * t.k + i] = t.digits[rank // B ** (t.k - 1 - i) % B]
    A = A[:, :columns]
    return A if t.direction == "expand" else A.T


def test_the_file_is_the_one_written_then() -> None:
    assert hashlib.sha256((FOLDER / "golden.rsr").read_bytes()).hexdigest() == SHA256


def test_it_is_valid(golden: RsrFile) -> None:
    golden.verify()


def test_what_it_says_of_itself(golden: RsrFile) -> None:
    assert golden.header.producer == "rsr-ternary golden v1"
    assert golden.header.metadata == {"purpose": "read for ever", "größe": "klein"}
    assert golden.header.files == (FileEntry("config.json", 0),)
    assert golden.section(0).tobytes() == b'{"model_type": "golden"}\n'
    assert [t.name for t in golden.header.tensors] == [
        "ranked.weight",
        "expand.weight",
        "reduce.weight",
        "binary.weight",
        "norm.weight",
        "table.weight",
        "empty.weight",
    ]


def indexed(golden: RsrFile, name: str) -> IndexedTensor:
    (t,) = (t for t in golden.header.tensors if t.name == name)
    assert isinstance(t, IndexedTensor)
    return t


@pytest.mark.parametrize(
    ("name", "weights", "scale", "record"),
    [
        (
            "ranked.weight",
            RANKED * 44,
            [0.5],
            ("ternary", 3, "expand", "ranked", "w16", 132),
        ),
        (
            "expand.weight",
            EXPAND,
            [1, 2, 0.5, 0.25, 4, 8],
            ("ternary", 2, "expand", "permuted", "u16", 1),
        ),
        (
            "reduce.weight",
            REDUCE,
            [1],
            ("ternary", 3, "reduce", "permuted", "u16", None),
        ),
        (
            "binary.weight",
            (BINARY * 7)[:33],
            [1, -2, 3, -4, 5],
            ("binary", 5, "expand", "ranked", "w16", 8),
        ),
    ],
)
def test_indexed_tensors(
    golden: RsrFile,
    name: str,
    weights: list[str],
    scale: list[float],
    record: tuple[object, ...],
) -> None:
    t = indexed(golden, name)
    rows = None if t.scale is None else t.scale.rows
    assert (t.kind, t.k, t.direction, t.encoding, t.packing, rows) == record
    assert t.shape == (len(weights), len(weights[0]))
    arrays = golden.index_arrays(t)
    np.testing.assert_array_equal(decoded(t, arrays), matrix(weights))
    assert arrays["scale"].tolist() == scale


def test_a_literal_index(golden: RsrFile) -> None:
    """Block 0 of the matrix that is stored transposed: three columns of W^T."""
    arrays = golden.index_arrays(indexed(golden, "reduce.weight"))
    # Rows of W^T in W's rows 0, 1, 2: -00 +0+ 00- -00 +0+ 00- -00, so the ranks are
    # 4, 23, 12, 4, 23, 12, 4.
    assert arrays["permutation"][0].tolist() == [0, 3, 6, 2, 5, 1, 4]
    assert arrays["segments"][0].tolist() == [0] * 5 + [3] * 8 + [5] * 11 + [7] * 4


def test_source_records(golden: RsrFile) -> None:
    companion = InlineTensor("ranked.weight_scale", "BF16", (1,), b"\x00\x40")
    sources = {t.name: t.source for t in golden.header.tensors if isinstance(t, IndexedTensor)}
    zeros = sources["expand.weight"].negative_zeros
    assert zeros is not None
    assert golden.section(zeros).tobytes() == b"\x21\x00"
    assert sources == {
        "ranked.weight": SourceRecord("bitnet", "U8", (33, 10), None, (companion,)),
        "expand.weight": SourceRecord("float", "BF16", (6, 5), zeros),
        "reduce.weight": SourceRecord("int8", "I8", (5, 7)),
        "binary.weight": SourceRecord("absmean", "F32", (33, 11)),
    }


def test_dense_tensors(golden: RsrFile) -> None:
    dense = {t.name: t for t in golden.header.tensors if isinstance(t, DenseTensor)}
    contents = {name: golden.section(t.section).tobytes() for name, t in dense.items()}
    assert {name: (t.dtype, t.shape) for name, t in dense.items()} == {
        "norm.weight": ("BF16", (2, 2)),
        "table.weight": ("F32", (64, 4)),
        "empty.weight": ("U8", (0, 3)),
    }
    assert contents == {
        "norm.weight": bytes.fromhex("803f 0040 00c0 003f"),  # 1, 2, -2, 0.5
        "table.weight": np.arange(256, dtype="<f4").tobytes(),
        "empty.weight": b"",
    }
    assert golden.header.sections[dense["table.weight"].section].codec == "zstd"


def test_todays_writer_makes_the_same_file(golden: RsrFile, tmp_path: Path) -> None:
    """All but what zstd made of a section, which its next version may do better."""
    runpy.run_path(str(FOLDER / "make_golden.py"))["write"](tmp_path / "golden.rsr")
    today = RsrFile(tmp_path / "golden.rsr")
    today.verify()
    assert today.header.tensors == golden.header.tensors
    for i, (then, now) in enumerate(
        zip(golden.header.sections, today.header.sections, strict=True)
    ):
        assert (then.size, then.codec) == (now.size, now.codec)
        assert golden.section(i).tobytes() == today.section(i).tobytes()
