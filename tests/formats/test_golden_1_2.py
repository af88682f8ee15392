"""What version 1.2 added is read for ever; decoded here from SPEC.md and the reader alone."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_formats import IndexedTensor, RsrFile
from rsr_formats.decode import decode_digits
from rsr_formats.records import InlineTensor
from rsr_testing.paths import GOLDEN

FOLDER = GOLDEN / "v1.2"
SHA256 = "4b804c3dbaca675f6d8f34045579b3aa60a76697b620c25fc370ceb7983c7efb"

# One character a weight: - is -1, 0 is 0, + is 1. Rows repeat.
SPARSE = [
    "0++-+0-++-0+-++00+-+",
    "+0-++-0+-++00+-++0++",
    "+-0+-++00+-++0++-+0-",
    "-++00+-++0++-+0-++-0",
    "0+-++0++-+0-++-00-++",
    "+0++-+0-++-00-++-0+-",
    "-+0-++-00-++-0+-++0+",
    "++-00-++-0+-++0++-+0",
    "0-++-0+-++0++-+00++-",
    "-0+-++0++-+00++-+0-+",
    "++0++-+00++-+0-++-0+",
    "+-+00++-+0-++-0+-++0",
]
STRIDED = [
    "0++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++00+-+0-++0++-0+-++0++-0+-+0-++0++"
    "-+0-++0++-0+-+0-++-0+-+0-++0++-00-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+0",
    "++-0+-+0-++0++-00-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+00++-0+-+0-++0++-"
    "+0-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++00+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+0-",
    "+-0+-+0-++0++-0+-++0++-0+-+0-++00+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-0"
    "0-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+00++-0+-+0-++0++-+0-++0++-0+-+0-+",
    "-0+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+00++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-0+"
    "-++0++-0+-+0-++00+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-00-++0++-0+-+0-++",
    "0+-+0-++0++-0+-++0++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-00-++0++-0+-+0-++-0+-+0-++0++-0+-"
    "++0++-0+-+0-++0++-+0-++0++-0+-+00++-0+-+0-++0++-+0-++0++-0+-+0-++-0+-+0-++0++-0+-++0++-0+-+0-++0",
]
BINARY = ["-++--++-", "++--++--"]
MLX = ["0++-+0", "+0-++-", "+-0+-+"]


@pytest.fixture(scope="module")
def golden() -> RsrFile:
    return RsrFile(FOLDER / "golden.rsr")


def record(golden: RsrFile, name: str) -> IndexedTensor:
    (t,) = (t for t in golden.header.tensors if t.name == name)
    assert isinstance(t, IndexedTensor)
    return t


def matrix(lines: list[str], rows: int) -> npt.NDArray[np.int8]:
    repeated = [lines[r % len(lines)] for r in range(rows)]
    return np.array([["-0+".index(c) - 1 for c in line] for line in repeated], np.int8)


def decoded(t: IndexedTensor, packed: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return W weight by weight, from the formulas of SPEC.md sections 6 and 7.1."""
    W = np.empty(t.shape, np.int8)
    k, S = t.k, t.stride
    assert t.pattern_list is not None
    patterns = [t.pattern_list[i : i + k] for i in range(0, len(t.pattern_list), k)]
    G = t.scale.columns if t.scale is not None and t.scale.columns else t.shape[1]
    blocks, R = t.shape[1] // k, -(-t.shape[0] // 32) * 32
    words = -(-blocks // 3)
    for b in range(blocks):
        f, j = b // (G // k) * G, b % (G // k)
        for r in range(t.shape[0]):
            r0 = r // 128 * 128
            word = int(packed[r0 * words + b // 3 * min(128, R - r0) + r - r0])
            pattern = patterns[word >> 5 * (b % 3) & 31]
            for p in range(k):
                W[r, f + j // S * k * S + j % S + S * p] = t.digits[pattern[p]]
    return W


def test_the_file_is_the_one_written_then() -> None:
    assert hashlib.sha256((FOLDER / "golden.rsr").read_bytes()).hexdigest() == SHA256


def test_it_is_valid(golden: RsrFile) -> None:
    golden.verify()
    assert golden.version == (1, 2)


@pytest.mark.parametrize(
    ("name", "weights", "patterns", "stride"),
    [
        ("sparse.weight", matrix(SPARSE, 130), 32, 1),
        ("strided.weight", matrix(STRIDED, 5), 32, 16),
        ("binary.weight", matrix(BINARY, 34), 3, 2),
    ],
)
def test_listed_patterns(
    golden: RsrFile, name: str, weights: npt.NDArray[np.int8], patterns: int, stride: int
) -> None:
    t = record(golden, name)
    assert (t.patterns, t.stride) == (patterns, stride)
    arrays = golden.index_arrays(t)
    np.testing.assert_array_equal(decoded(t, arrays["ranks"]), weights)
    np.testing.assert_array_equal(np.array(t.digits)[decode_digits(t, arrays)], weights)


def test_layouts_and_companions(golden: RsrFile) -> None:
    layouts = [record(golden, f"{name}.weight").source.layout for name in ("sparse", "binary")]
    assert layouts == ["absmedian", "twn"]
    t = record(golden, "mlx.weight")
    assert t.source.layout == "mlx"
    assert t.source.auxiliary == (InlineTensor("mlx.scales", "F16", (3, 1), None),)
    digits = decode_digits(t, golden.index_arrays(t))
    np.testing.assert_array_equal(np.array(t.digits)[digits], matrix(MLX, 3))


def test_todays_writer_makes_the_same_file(golden: RsrFile, tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "make_golden_1_2.py"))["write"](tmp_path / "golden.rsr")
    assert (tmp_path / "golden.rsr").read_bytes() == golden.path.read_bytes()
