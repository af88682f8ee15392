"""The committed file of every format version: its bytes and their meaning never change.

The indices are decoded here from the formulas of SPEC.md; only the reader is used.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
from rsr_formats import (
    AuxiliaryTensor,
    DenseTensor,
    FileEntry,
    IndexedTensor,
    Quantized,
    Rotation,
    RsrFile,
    SourceRecord,
)
from rsr_formats.decode import apply_scales, decode_digits, row_scales
from rsr_testing.golden_rsr import WRITERS, write
from rsr_testing.paths import GOLDEN
from rsrc.compiler.reuse import ReuseEntry
from rsrc.export import FORMS

Values = npt.NDArray[np.int8]

SHA256 = {
    "v1": "17ea84512ec9a52db6154690c6f7585e2a2cd54c6f4f2e4bf331ffa959bc2eb9",
    "v1.0-reuse": "3402344d41773088d24e34c5d80e35e51fbd3f7407e6090e9f7415d014480cc2",
    "v1.1": "e917ef7f3cf4c4ee2ef6770bffdf9f22570e304fa4e4eb0b856e154689c2cd76",
    "v1.2": "4b804c3dbaca675f6d8f34045579b3aa60a76697b620c25fc370ceb7983c7efb",
    "v1.3": "ab77c899530e1afca61313d413dc1caecb4dfa15c6c82aa79e4cb3741c1ec2a8",
    "v1.4": "c907e6dc8e84052145381dc42b5dd7b23c6bfbf66b83259999a381e225597a93",
    "v1.4-groups": "514f674b79471d53fd35db2a842093d98b039dc0258d575d430a61606c3502bf",
    "v1.5": "98895500a2d6c639c33ae048275a7abe86e838cf30f88d87f4494ca5cd5de043",
    "v1.5-rotation": "9fdca3db68d2189a1685ef5caf7a71aeb5bc044d3285fa7e9cfcccf8f968ce28",
}
VERSION = pytest.mark.parametrize("version", SHA256)

# The matrices, one character per weight: = is -2, - is -1, 0 is 0, + is 1, 2 is 2. The rows repeat.
RANKED = ["-+0-+0-+0-", "0000000000", "0+-0+-0+-0"]
EXPAND = ["-+0-+", "00000", "0+-0+"]
REDUCE = ["-+0-+0-", "0000000", "0+-0+-0"]
BINARY = ["+-++-+-++-+", "-++++-++++-", "+----+----+", "-++++-++++-", "++--+++--++"]
N4S1 = [("-+0" * 17)[:50], "0" * 50, ("0+-" * 17)[:50]]
BLOCKS = ["+-++-+-++-+-++-+-", "-++++-++++-++++-+", "+----+----+----+-", "-++++-++++-++++-+",
          "++--+++--+++--+++"]  # fmt: skip
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
PAIRS = ["-++--++-", "++--++--"]
MLX = ["0++-+0", "+0-++-", "+-0+-+"]
PLUS_2 = ["-2+0-2+0-2+", "0" * 11, "-0+2-0+2-0+", "02020202020"]
MINUS_2 = ["=+0-" * 4, "-" * 16, "=-0+" * 4]
QUINARY = ["=+-20=+", "-=2+0-=", "2222222", "2=-0+2=", "-+=02-+"]
WITHOUT_0 = ["=2+-=", "-----", "=-+2=", "-2-2-"]
ONE_BIT = [("+-++-" * 13)[:64], ("-++++" * 13)[:64], ("+----" * 13)[:64]]


def golden_path(version: str) -> Path:
    return GOLDEN / version / "golden.rsr"


@cache
def golden(version: str) -> RsrFile:
    return RsrFile(golden_path(version))


def indexed(version: str, name: str) -> IndexedTensor:
    (t,) = (t for t in golden(version).header.tensors if t.name == name)
    assert isinstance(t, IndexedTensor)
    return t


def dense(version: str, name: str) -> DenseTensor:
    (t,) = (t for t in golden(version).header.tensors if t.name == name)
    assert isinstance(t, DenseTensor)
    return t


def matrix(lines: list[str], rows: int) -> Values:
    repeated = [lines[r % len(lines)] for r in range(rows)]
    return np.array([["=-0+2".index(c) - 2 for c in line] for line in repeated], np.int8)


# --- the formulas of SPEC.md sections 6 and 7 -----------------------------------------------------


def columns_of(t: IndexedTensor, columns: int, j: int) -> list[int]:
    """Return the columns of A in column block j."""
    G = t.scale.columns if t.scale is not None and t.scale.columns else columns
    g, i = divmod(j, -(-G // t.k))
    f, S = g * G, t.stride
    found = [f + i // S * t.k * S + i % S + S * p for p in range(t.k)]
    return [c for c in found if c < min(f + G, columns)]


def rank(t: IndexedTensor, arrays: dict[str, Any], blocks: int, r: int, j: int) -> int:
    """Return the rank of row r of A in column block j."""
    if t.encoding == "permuted":
        position = arrays["permutation"][j].tolist().index(r)
        return int(np.searchsorted(arrays["segments"][j], position, side="right")) - 1
    packed, R = arrays["ranks"], -(-t.shape[0] // 32) * 32
    if t.packing == "w16":
        r0, W = r // 128 * 128, -(-blocks // 3)
        word = int(packed[r0 * W + j // 3 * min(128, R - r0) + r - r0])
        return word >> 5 * (j % 3) & 31
    r0, units = r // 64 * 64, n4s1_units(t, blocks)
    h, V = min(64, R - r0), sum(-(-5 * m // 8) for m in units)
    f = first = u = 0
    while first + units[u] <= j:
        f, first, u = f + -(-5 * units[u] // 8), first + units[u], u + 1
    i, last = j - first, -(-5 * units[u] // 8) - 1
    byte, signs = (int(packed[r0 * V + (f + v) * h + r - r0]) for v in (i // 2, last))
    m = byte >> 4 * (i % 2) & 15
    return 13 - m if signs >> 7 - i & 1 else 13 + m


def n4s1_units(t: IndexedTensor, blocks: int) -> list[int]:
    """Return the blocks of every unit."""
    if t.scale is None or t.scale.columns is None:
        return [8] * -(-blocks // 8)
    n = -(-t.scale.columns // 3)
    groups = [min(n, blocks - first) for first in range(0, blocks, n)]
    return [min(8, size - first) for size in groups for first in range(0, size, 8)]


def pattern(t: IndexedTensor, s: int) -> list[int]:
    """Return the digits of pattern s."""
    if t.pattern_list is not None:
        return list(t.pattern_list[s * t.k : (s + 1) * t.k])
    B = len(t.digits)
    return [s // B ** (t.k - 1 - i) % B for i in range(t.k)]


def decoded(t: IndexedTensor, arrays: dict[str, Any]) -> Values:
    """Return W weight by weight."""
    rows, columns = t.shape if t.direction == "expand" else t.shape[::-1]
    G = t.scale.columns if t.scale is not None and t.scale.columns else columns
    blocks = columns // G * -(-G // t.k) + -(-(columns % G) // t.k)
    A = np.full((rows, columns), 99, np.int8)
    for j in range(blocks):
        places = columns_of(t, columns, j)
        for r in range(rows):
            digits = pattern(t, rank(t, arrays, blocks, r, j))
            for c, digit in zip(places, digits, strict=False):  # the rest is padding
                A[r, c] = t.digits[digit]
    return A if t.direction == "expand" else A.T


# --- every version --------------------------------------------------------------------------------


def test_every_version_has_a_file() -> None:
    folders = {path.parent.name for path in GOLDEN.glob("*/golden.rsr")}
    assert folders == set(SHA256) == set(WRITERS)


@VERSION
def test_the_file_never_changes(version: str) -> None:
    assert hashlib.sha256(golden_path(version).read_bytes()).hexdigest() == SHA256[version]


@VERSION
def test_the_file_is_valid(version: str) -> None:
    golden(version).verify()
    assert golden(version).version == (1, int(f"{version}.0".split("-")[0].split(".")[1]))


@VERSION
def test_the_current_writer_writes_the_same_file(version: str, tmp_path: Path) -> None:
    """Except for the bytes of compressed sections, which depend on the version of zstd."""
    path = tmp_path / "golden.rsr"
    write(version, path)
    then, now = golden(version), RsrFile(path)
    now.verify()
    if all(s.codec == "raw" for s in then.header.sections):
        assert path.read_bytes() == golden_path(version).read_bytes()
    assert now.header.tensors == then.header.tensors
    for i, (old, new) in enumerate(zip(then.header.sections, now.header.sections, strict=True)):
        assert (old.size, old.codec) == (new.size, new.codec)
        assert then.section(i).tobytes() == now.section(i).tobytes()


class Golden(NamedTuple):
    """An indexed tensor of a golden file."""

    version: str
    name: str
    weights: Values
    record: tuple[object, ...]  # k, direction, encoding, packing, number of patterns, stride
    scale: tuple[object, ...] | None  # rows, columns, dtype
    scales: list[float]


W16, N4, U16 = ("expand", "ranked", "w16"), ("expand", "ranked", "n4s1"), ("permuted", "u16")
TENSORS = [
    Golden("v1", "ranked.weight", matrix(RANKED, 132), (3, *W16, 27, 1), (132, None, "F32"), [0.5]),
    Golden("v1", "expand.weight", matrix(EXPAND, 6), (2, "expand", *U16, 9, 1),
           (1, None, "F32"), [1, 2, 0.5, 0.25, 4, 8]),
    Golden("v1", "reduce.weight", matrix(REDUCE, 5), (3, "reduce", *U16, 27, 1), None, [1]),
    Golden("v1", "binary.weight", matrix(BINARY, 33), (5, *W16, 32, 1),
           (8, None, "F32"), [1, -2, 3, -4, 5]),
    Golden("v1.0-reuse", "first.weight", matrix(RANKED, 7), (3, *W16, 27, 1), None, [1]),
    Golden("v1.0-reuse", "last.weight", matrix(RANKED, 7), (3, *W16, 27, 1), None, [1]),
    Golden("v1.1", "n4s1.weight", matrix(N4S1, 100), (3, *N4, 27, 1),
           (30, None, "F16"), [1, -2, 3, 0.5]),
    Golden("v1.1", "groups.weight", matrix(RANKED, 7), (3, *W16, 27, 1),
           (1, 4, "F16"), [i / 2 for i in range(1, 22)]),
    Golden("v1.1", "blocks.weight", matrix(BLOCKS, 5), (5, *W16, 32, 1),
           (2, 8, "F32"), [i / 4 for i in range(1, 10)]),
    Golden("v1.2", "sparse.weight", matrix(SPARSE, 130), (4, *W16, 32, 1),
           (130, None, "F32"), [0.75]),
    Golden("v1.2", "strided.weight", matrix(STRIDED, 5), (4, *W16, 32, 16),
           (1, 128, "F16"), [i / 2 for i in range(1, 11)]),
    Golden("v1.2", "binary.weight", matrix(PAIRS, 34), (2, *W16, 3, 2), None, [1]),
    Golden("v1.2", "mlx.weight", matrix(MLX, 3), (3, *W16, 27, 1), (1, None, "F32"), [1, 2, 3]),
    Golden("v1.4", "mlx.weight", matrix(ONE_BIT, 3), (5, *W16, 32, 1),
           (1, 32, "F32"), [i / 4 for i in range(1, 7)]),
    Golden("v1.4-groups", "wide.weight", matrix(N4S1, 100), (3, *N4, 27, 1),
           (30, 32, "F16"), [i / 2 for i in range(1, 9)]),
    Golden("v1.4-groups", "narrow.weight", matrix(N4S1, 7), (3, *N4, 27, 1),
           (1, 4, "F32"), [i / 2 for i in range(1, 92)]),
    Golden("v1.4-groups", "odd.weight", matrix(N4S1, 33), (3, *N4, 27, 1),
           (33, 20, "F32"), [0.5, 1, 1.5]),
    Golden("v1.5", "groups.weight", matrix(PLUS_2, 37), (2, *W16, 16, 1),
           (37, 4, "F16"), [0.5, -2, 3]),
    Golden("v1.5", "mlx.weight", matrix(MINUS_2, 3), (2, *W16, 16, 1),
           (1, None, "F32"), [1, -0.5, 0.25]),
    Golden("v1.5", "quinary.weight", matrix(QUINARY, 5), (2, *W16, 25, 1), None, [1]),
    Golden("v1.5", "reduce.weight", matrix(WITHOUT_0, 6), (3, "reduce", *U16, 64, 1), None, [1]),
    Golden("v1.5-rotation", "rotated.weight", matrix([line[:32] for line in N4S1], 3),
           (3, *W16, 27, 1), (3, None, "F32"), [0.5]),
]  # fmt: skip
TENSOR = pytest.mark.parametrize("case", TENSORS, ids=lambda c: f"{c.version}-{c.name}")


def test_every_indexed_tensor_has_a_case() -> None:
    stored = {
        (version, t.name)
        for version in SHA256
        for t in golden(version).header.tensors
        if isinstance(t, IndexedTensor)
    }
    assert stored == {(case.version, case.name) for case in TENSORS}


@TENSOR
def test_the_record_of_an_indexed_tensor(case: Golden) -> None:
    t = indexed(case.version, case.name)
    found = (t.k, t.direction, t.encoding, t.packing, t.patterns, t.stride)
    assert (t.shape, found) == (case.weights.shape, case.record)
    scale = None if t.scale is None else (t.scale.rows, t.scale.columns, t.scale.dtype)
    assert scale == case.scale


@TENSOR
def test_the_weights_of_an_indexed_tensor(case: Golden) -> None:
    t = indexed(case.version, case.name)
    arrays = golden(case.version).index_arrays(t)
    np.testing.assert_array_equal(decoded(t, arrays), case.weights)
    np.testing.assert_array_equal(np.array(t.digits)[decode_digits(t, arrays)], case.weights)


@TENSOR
def test_the_scales_of_an_indexed_tensor(case: Golden) -> None:
    t = indexed(case.version, case.name)
    scale = golden(case.version).index_arrays(t)["scale"]
    assert scale.tolist() == case.scales
    W = case.weights.astype(np.float32)
    apply_scales(t, W, row_scales(t, scale))
    rows = 1 << 31 if t.scale is None else t.scale.rows
    columns = t.shape[1] if t.scale is None or t.scale.columns is None else t.scale.columns
    per_group = -(-t.shape[0] // rows)
    for (r, c), weight in np.ndenumerate(case.weights):
        assert W[r, c] == weight * case.scales[c // columns * per_group + r // rows]


# --- version 1.0 ----------------------------------------------------------------------------------


def test_the_header_of_1_0() -> None:
    file = golden("v1")
    assert file.header.producer == "rsr-ternary golden v1"
    assert file.header.metadata == {"purpose": "read for ever", "größe": "klein"}
    assert file.header.files == (FileEntry("config.json", 0),)
    assert file.section(0).tobytes() == b'{"model_type": "golden"}\n'
    assert [t.name for t in file.header.tensors] == [
        "ranked.weight",
        "expand.weight",
        "reduce.weight",
        "binary.weight",
        "norm.weight",
        "table.weight",
        "empty.weight",
    ]


def test_the_keys_of_1_0_are_no_metadata() -> None:
    header = golden("v1.0-reuse").header
    assert header.metadata == {"purpose": "read for ever"}
    assert header.reuse == "raw AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    entry = ReuseEntry.of(header)
    assert entry == ReuseEntry("raw", (bytes(range(16)), bytes(range(16, 32))))
    assert entry.encoded() == header.reuse
    assert rsr_runtime.load(golden_path("v1.0-reuse")).metadata == header.metadata


def test_a_permutation_and_a_segment_list_of_1_0() -> None:
    """Block 0 of the matrix that is stored transposed: three columns of W^T."""
    arrays = golden("v1").index_arrays(indexed("v1", "reduce.weight"))
    # Rows of W^T in W's rows 0, 1, 2: -00 +0+ 00- -00 +0+ 00- -00, so the ranks are
    # 4, 23, 12, 4, 23, 12, 4.
    assert arrays["permutation"][0].tolist() == [0, 3, 6, 2, 5, 1, 4]
    assert arrays["segments"][0].tolist() == [0] * 5 + [3] * 8 + [5] * 11 + [7] * 4


def test_the_source_records_of_1_0() -> None:
    file = golden("v1")
    auxiliary = AuxiliaryTensor("ranked.weight_scale", "BF16", (1,), b"\x00\x40")
    sources = {t.name: t.source for t in file.header.tensors if isinstance(t, IndexedTensor)}
    zeros = sources["expand.weight"].negative_zeros
    assert zeros is not None
    assert file.section(zeros).tobytes() == b"\x21\x00"
    assert sources == {
        "ranked.weight": SourceRecord("bitnet", "U8", (33, 10), None, (auxiliary,)),
        "expand.weight": SourceRecord("float", "BF16", (6, 5), zeros),
        "reduce.weight": SourceRecord("int8", "I8", (5, 7)),
        "binary.weight": SourceRecord("absmean", "F32", (33, 11)),
    }


def test_the_dense_tensors_of_1_0() -> None:
    file = golden("v1")
    tensors = {t.name: t for t in file.header.tensors if isinstance(t, DenseTensor)}
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "norm.weight": ("BF16", (2, 2)),
        "table.weight": ("F32", (64, 4)),
        "empty.weight": ("U8", (0, 3)),
    }
    assert {name: file.section(t.section).tobytes() for name, t in tensors.items()} == {
        "norm.weight": bytes.fromhex("803f 0040 00c0 003f"),  # 1, 2, -2, 0.5
        "table.weight": np.arange(256, dtype="<f4").tobytes(),
        "empty.weight": b"",
    }
    assert file.header.sections[tensors["table.weight"].section].codec == "zstd"


# --- version 1.2 ----------------------------------------------------------------------------------


def test_the_layouts_of_1_2() -> None:
    layouts = {
        t.name: t.source.layout
        for t in golden("v1.2").header.tensors
        if isinstance(t, IndexedTensor)
    }
    assert layouts == {
        "sparse.weight": "absmedian",
        "strided.weight": "float",
        "binary.weight": "twn",
        "mlx.weight": "mlx",
    }


def test_an_auxiliary_tensor_without_data_in_1_2() -> None:
    t = indexed("v1.2", "mlx.weight")
    assert t.source.auxiliary == (AuxiliaryTensor("mlx.scales", "F16", (3, 1), None),)


# --- version 1.3 ----------------------------------------------------------------------------------

EMBEDDING = "fe42 7ec2 fe41 0000 0000 0000 0000 0000 803e 003f 80bf 003e"  # BF16


def test_a_quantized_tensor_beside_its_source_in_1_3() -> None:
    file, t = golden("v1.3"), dense("v1.3", "tied.weight")
    assert t.quantized == Quantized("absmax", "embedding.weight", "BF16")
    assert t.is_added
    rows = [[127, -64, 32, 0], [0, 0, 0, 0], [32, 64, -127, 16]]
    assert file.section(t.section).view("i1").reshape(3, 4).tolist() == rows
    scale = file.section(dense("v1.3", "tied.weight_scale").section)
    assert scale.tobytes() == struct.pack("<3f", 1, 0, 1 / 127)
    embedding = dense("v1.3", "embedding.weight")
    assert embedding.quantized is None
    assert file.section(embedding.section).tobytes() == bytes.fromhex(EMBEDDING)


def test_a_quantized_tensor_that_replaces_its_source_in_1_3() -> None:
    file, t = golden("v1.3"), dense("v1.3", "head.weight")
    assert t.quantized == Quantized("absmax", "head.weight", "F16")
    assert not t.is_added
    assert file.section(t.section).tobytes() == bytes([127, 255, 129, 126])
    scale = file.section(dense("v1.3", "head.weight_scale").section)
    assert scale.tobytes() == struct.pack("<2f", 0.5, 2)


def test_the_restored_source_of_1_3() -> None:
    """It has no row scales, and no int8 tensor that was added."""
    source = {t.name: t for t in FORMS["source"](golden("v1.3"), None).tensors}
    assert list(source) == ["embedding.weight", "head.weight"]
    assert source["embedding.weight"].read().tobytes() == bytes.fromhex(EMBEDDING)
    head = source["head.weight"]
    assert (head.dtype, head.shape) == ("F16", (2, 2))
    assert head.read().tobytes() == struct.pack("<4e", 63.5, -0.5, -254.0, 252.0)  # q * scale


# --- version 1.4 ----------------------------------------------------------------------------------


def test_the_restored_source_of_1_4() -> None:
    """Bits of the weights, twice their scales, and minus their scales."""
    assert indexed("v1.4", "mlx.weight").source.layout == "mlx-1bit"
    source = {t.name: t for t in FORMS["source"](golden("v1.4"), None).tensors}
    weight = source["mlx.weight"]
    assert (weight.dtype, weight.shape) == ("U32", (3, 2))
    words = "adb5d65a 6badb5d6 de7befbd f7de7bef 21841042 08218410"
    assert weight.read().tobytes() == bytes.fromhex(words)
    scales = struct.pack("<6e", 0.5, 2, 1, 2.5, 1.5, 3)
    assert source["mlx.scales"].read().tobytes() == scales
    biases = struct.pack("<6e", -0.25, -1, -0.5, -1.25, -0.75, -1.5)
    assert source["mlx.biases"].read().tobytes() == biases


# --- version 1.5 ----------------------------------------------------------------------------------


def test_the_kinds_of_1_5() -> None:
    kinds = {t.name: t.kind for t in golden("v1.5").header.tensors if isinstance(t, IndexedTensor)}
    assert kinds == {
        "groups.weight": "quaternary",
        "mlx.weight": "quaternary",
        "quinary.weight": "quinary",
        "reduce.weight": "quaternary",
    }


def test_the_words_of_1_5() -> None:
    """Ranks are 4 (d0 + 1) + (d1 + 1); those of row 0 are 3, 9, 3, 9, 3 and 10; padding is 5."""
    words = golden("v1.5").index_arrays(indexed("v1.5", "groups.weight"))["ranks"]
    padding = 5 | 5 << 5 | 5 << 10
    # "-2+0-2+0-2+", "00000000000", "-0+2-0+2-0+", "02020202020": two blocks a group, then "-2", "+"
    assert words[:4].tolist() == [3 | 9 << 5 | 3 << 10, padding, 1 | 11 << 5 | 1 << 10, 0x1CE7]
    assert words[64:68].tolist() == [9 | 3 << 5 | 9 << 10, padding, 11 | 1 << 5 | 9 << 10, 0x14E7]
    assert (words[37:64] == padding).all()


def test_the_restored_source_of_1_5() -> None:
    """Codes are digits, biases are minus two scales."""
    source = {t.name: t for t in FORMS["source"](golden("v1.5"), None).tensors}
    words = "6c6c6c6c 55555555 e4e4e4e4"  # codes 0 3 2 1 ..., 1 ..., 0 1 2 3 ...
    assert source["mlx.weight"].read().tobytes() == bytes.fromhex(words)
    assert source["mlx.scales"].read().tobytes() == struct.pack("<3e", 1, -0.5, 0.25)
    assert source["mlx.biases"].read().tobytes() == struct.pack("<3e", -2, 1, -0.5)


# --- version 1.5, rotations -----------------------------------------------------------------------


def test_the_rotations_of_1_5() -> None:
    header = golden("v1.5-rotation").header
    assert header.rotations == (
        Rotation(32, b"\x01\x02\x04\x80"),
        Rotation(16, b"\x00\xff"),
    )
    assert [(t.name, t.rotation) for t in header.tensors] == [
        ("rotated.weight", 0),
        ("embedding.weight", 1),
        ("head.weight", 1),
        ("head.weight_scale", None),
    ]


def test_the_matrix_of_the_model_in_1_5() -> None:
    """Entry [r, c] of W Q is the sum over j of W[r, j] H[j, c] s[c] (SPEC.md section 9.1)."""
    with rsr_runtime.load(golden_path("v1.5-rotation")) as model:
        found = model.dense("embedding.weight")
        assert found.rotation is not None
        rows = found.rotation.undo(found.data)
    signs = [1] * 8 + [-1] * 8
    for r in range(2):
        for c in range(16):
            terms = ((r * 16 + j) / 8 * (-1) ** (j & c).bit_count() / 4 for j in range(16))
            assert rows[r, c] == sum(terms) * signs[c]
