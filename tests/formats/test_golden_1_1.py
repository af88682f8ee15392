"""What version 1.1 added is read for ever; decoded here from SPEC.md and the reader alone."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_formats import IndexedTensor, RsrFile
from rsr_formats.decode import apply_scales, decode_digits, row_scales
from rsr_formats.records import Scale
from rsr_testing.paths import GOLDEN

FOLDER = GOLDEN / "v1.1"
SHA256 = "e917ef7f3cf4c4ee2ef6770bffdf9f22570e304fa4e4eb0b856e154689c2cd76"

# One character a weight: - is -1, 0 is 0, + is 1. Rows repeat.
N4S1 = [("-+0" * 17)[:50], "0" * 50, ("0+-" * 17)[:50]]
GROUPS = ["-+0-+0-+0-", "0000000000", "0+-0+-0+-0"]
BINARY = ["+-++-+-++-+-++-+-", "-++++-++++-++++-+", "+----+----+----+-", "-++++-++++-++++-+",
          "++--+++--+++--+++"]  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> RsrFile:
    return RsrFile(FOLDER / "golden.rsr")


def matrix(lines: list[str], rows: int) -> npt.NDArray[np.int8]:
    repeated = [lines[r % len(lines)] for r in range(rows)]
    return np.array([["-0+".index(c) - 1 for c in line] for line in repeated], np.int8)


def rank(t: IndexedTensor, packed: npt.NDArray[Any], r: int, j: int) -> int:
    """Return the rank of row r in column block j, from the formulas of SPEC.md section 7."""
    R = -(-t.shape[0] // 32) * 32
    G = t.scale.columns if t.scale is not None and t.scale.columns else t.shape[1]
    blocks = t.shape[1] // G * -(-G // t.k) + -(-(t.shape[1] % G) // t.k)
    if t.packing == "w16":
        r0, W = r // 128 * 128, -(-blocks // 3)
        word = int(packed[r0 * W + j // 3 * min(128, R - r0) + r - r0])
        return word >> 5 * (j % 3) & 31
    r0, U = r // 64 * 64, -(-blocks // 8)
    h, u, i = min(64, R - r0), j // 8, j % 8
    byte, signs = (int(packed[5 * (r0 * U + u * h) + v * h + r - r0]) for v in (i // 2, 4))
    m = byte >> 4 * (i % 2) & 15
    return 13 - m if signs >> 7 - i & 1 else 13 + m


def decoded(t: IndexedTensor, arrays: dict[str, Any]) -> npt.NDArray[np.int8]:
    """Return W, group by group and weight by weight."""
    B, W = len(t.digits), np.empty(t.shape, np.int8)
    G = t.scale.columns if t.scale is not None and t.scale.columns else t.shape[1]
    j = 0
    for first in range(0, t.shape[1], G):
        stop = min(first + G, t.shape[1])
        for c in range(first, stop, t.k):
            for r in range(t.shape[0]):
                for i in range(min(t.k, stop - c)):
                    s = rank(t, arrays["ranks"], r, j)
                    W[r, c + i] = t.digits[s // B ** (t.k - 1 - i) % B]
            j += 1
    return W


def test_the_file_is_the_one_written_then() -> None:
    assert hashlib.sha256((FOLDER / "golden.rsr").read_bytes()).hexdigest() == SHA256


def test_it_is_valid(golden: RsrFile) -> None:
    golden.verify()
    assert golden.version == (1, 1)


@pytest.mark.parametrize(
    ("name", "weights", "packing", "scale", "values"),
    [
        ("n4s1.weight", matrix(N4S1, 100), "n4s1", (30, None, "F16"), [1, -2, 3, 0.5]),
        ("groups.weight", matrix(GROUPS, 7), "w16", (1, 4, "F16"), [i / 2 for i in range(1, 22)]),
        ("blocks.weight", matrix(BINARY, 5), "w16", (2, 8, "F32"), [i / 4 for i in range(1, 10)]),
    ],
)
def test_tensors(
    golden: RsrFile,
    name: str,
    weights: npt.NDArray[np.int8],
    packing: str,
    scale: tuple[int, int | None, str],
    values: list[float],
) -> None:
    (t,) = (t for t in golden.header.tensors if t.name == name)
    assert isinstance(t, IndexedTensor)
    assert isinstance(t.scale, Scale)
    assert (t.packing, t.scale.rows, t.scale.columns, t.scale.dtype) == (packing, *scale)
    arrays = golden.index_arrays(t)
    assert arrays["scale"].tolist() == values
    np.testing.assert_array_equal(decoded(t, arrays), weights)
    np.testing.assert_array_equal(np.array(t.digits)[decode_digits(t, arrays)], weights)
    dense = weights.astype(np.float32)
    apply_scales(t, dense, row_scales(t, arrays["scale"]))
    rows, columns, _ = scale
    in_group = -(-t.shape[0] // rows)  # scales
    for (r, c), weight in np.ndenumerate(weights):
        factor = values[(c // columns if columns else 0) * in_group + r // rows]
        assert dense[r, c] == weight * factor


def test_todays_writer_makes_the_same_file(golden: RsrFile, tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "make_golden.py"))["write"](tmp_path / "golden.rsr")
    assert (tmp_path / "golden.rsr").read_bytes() == golden.path.read_bytes()
