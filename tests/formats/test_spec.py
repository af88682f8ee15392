"""SPEC.md matches the code: its examples are real, its tables equal the constants."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from rsr_formats import IndexedTensor, RsrFile, create, records
from rsr_formats.packing import pack_n4s1, pack_w16, ranks_of
from rsr_formats.records import Scale, SourceRecord
from rsr_testing.paths import ROOT

SPEC = (ROOT / "formats" / "SPEC.md").read_text("utf-8")
W = np.array([[1, 0, -1, 1], [-1, -1, -1, 0], [1, 1, 1, -1]])
SIZE = 12_701


def example() -> bytes:
    """Return the file of section 13: the hexdump shows all bytes that are not zero."""
    data = bytearray(SIZE)
    for offset, dump in re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} ?)+)(?:  |$)", SPEC, re.M):
        at, shown = int(offset, 16), bytes.fromhex(dump)
        assert not any(data[at : at + len(shown)])
        data[at : at + len(shown)] = shown
    assert len(data) == SIZE
    return bytes(data)


def test_the_writer_writes_the_example(tmp_path: Path) -> None:
    path = tmp_path / "example.rsr"
    with create(path) as writer:
        ranks = pack_w16(ranks_of((W + 1).astype(np.uint8), 3, 3, 1), 13)
        tensor = IndexedTensor(
            name="w",
            shape=(3, 4),
            digits=(-1, 0, 1),
            k=3,
            direction="expand",
            encoding="ranked",
            packing="w16",
            sections={"ranks": writer.add([ranks.astype("<u2").tobytes()])},
            scale=Scale(3, writer.add([np.array([0.5], "<f4").tobytes()])),
            source=SourceRecord("float", "BF16", (3, 4)),
        )
        writer.finish(producer="example", metadata={}, files=[], tensors=[tensor])
    assert path.read_bytes() == example()


def test_the_reader_reads_the_example(tmp_path: Path) -> None:
    path = tmp_path / "example.rsr"
    path.write_bytes(example())
    file = RsrFile(path)
    file.verify()
    (tensor,) = file.header.tensors
    assert isinstance(tensor, IndexedTensor)
    arrays = file.index_arrays(tensor)
    assert arrays["ranks"].tolist() == [0x36D5, 0x35A0, 0x349A] + [0x35AD] * 29
    assert arrays["scale"].tolist() == [0.5]


def test_the_example_by_hand() -> None:
    """Check every number in the prose of section 13 against literal bytes."""
    data = example()
    assert data[:8] == b"\x89RSR\r\n\x1a\n"
    assert data[8:32] == bytes.fromhex("01000000 00000000 0030000000000000 9d01000000000000")
    assert data[32:64] == hashlib.sha256(data[12288:]).digest()
    assert data[4096:4102] == bytes([0xD5, 0x36, 0xA0, 0x35, 0x9A, 0x34])
    assert [21 + (22 << 5) + (13 << 10), 0 + (13 << 5) + (13 << 10)] == [0x36D5, 0x35A0]
    assert data[8192:8196] == b"\0\0\0\x3f"
    assert f"The file has {SIZE:,} bytes" in SPEC


def test_the_n4s1_examples() -> None:
    """The bytes in section 7.2 equal those of `pack_n4s1`."""
    dumps = re.findall(r"^    (0[0-9A-F]{2}): ((?:[0-9A-F]{2} )+)\.\.\.", SPEC, re.M)
    assert len(dumps) == 4
    digits = (W + 1).astype(np.uint8)
    ranks = ranks_of(digits, 3, 3, 1)
    halves = np.concatenate([ranks_of(digits[:, c : c + 2], 3, 3, 1) for c in (0, 2)])
    for lines, packed in ((dumps[:2], pack_n4s1(ranks)), (dumps[2:], pack_n4s1(halves, 1))):
        data = bytearray(len(packed))
        for offset, dump in lines:
            shown = bytes.fromhex(dump)
            data[int(offset, 16) : int(offset, 16) + len(shown)] = shown
        assert data == packed.tobytes()
    assert dumps[0][1].startswith("98 0D 9D 00")
    assert dumps[2][1].startswith("09 8C 0C 00")


def table(title: str) -> list[list[str]]:
    """Return the rows of the table whose heading contains `title`."""
    body = SPEC[SPEC.index(f"| {title} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in body]


def test_limits_are_those_of_the_code() -> None:
    stated = {row[0].strip("` "): int(row[1].replace(",", "")) for row in table("name | value")}
    limits = ("MAX_", "MIN_")
    code = {name: value for name, value in vars(records).items() if name.startswith(limits)}
    assert stated == code


def test_dtypes_are_those_of_the_code() -> None:
    stated = {d: int(row[0]) for row in table("bits | dtype") for d in re.findall(r"\w+", row[1])}
    assert stated == records.DTYPE_BITS


def test_numpy_dtypes_have_the_bits_of_their_dtypes() -> None:
    bits = {name: 8 * np.dtype(dtype).itemsize for name, dtype in records.NUMPY_DTYPES.items()}
    assert bits.items() <= records.DTYPE_BITS.items()
    assert set(records.DTYPE_BITS) - set(bits) == {"BF16"} | {
        name for name in records.DTYPE_BITS if re.match("F[468]", name) and name != "F64"
    }


def test_schema_names_are_those_of_the_code() -> None:
    section = SPEC[SPEC.index("## 5.") : SPEC.index("## 6.")]

    def words(key: str) -> tuple[str, ...]:
        (row,) = re.findall(rf"^\| [^|]*\| `{key}` \| string \| (`.*) \|$", section, re.M)[-1:]
        return tuple(re.findall(r"`([\w-]+)`", row))

    assert words("codec") == records.CODECS
    assert words("direction") == records.DIRECTIONS
    assert words("encoding") == records.ENCODINGS
    assert words("layout") == records.LAYOUTS
    assert words("rule") == records.ROW_RULES
    assert words("packing") == records.PACKINGS["ranked"] + records.PACKINGS["permuted"]
    assert f"multiple of {records.ALIGNMENT}" in SPEC
    assert "version {}.{}".format(*records.VERSION) in SPEC.splitlines()[0]


def test_links_have_targets() -> None:
    headings = re.findall(r"^#+ (.*)$", SPEC, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\(#([^)]*)\)", SPEC)) <= anchors


@pytest.mark.parametrize("number", re.findall(r"section (\d+)", SPEC))
def test_referenced_sections_exist(number: str) -> None:
    assert number == "0" or f"\n## {number}. " in SPEC
