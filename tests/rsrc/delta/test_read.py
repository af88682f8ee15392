"""Every way in which a `.rsrd` file can be wrong, byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

import rsrc
from rsr_formats import IndexedTensor, RsrError, RsrFile, Scale, SourceRecord, create
from rsr_formats.errors import (
    FlagsError,
    HeaderHashError,
    LimitError,
    TrailingDataError,
    TruncatedError,
    VersionError,
)
from rsr_formats.packing import pack_w16, padding_digit, padding_rank, ranks_of
from rsr_testing.matrices import SPARSE, Spec
from rsrc.delta.read import stored_header

from .conftest import Changed

W = np.array([[2, 1, 0, 2], [0, 0, 0, 1], [2, 2, 2, 0]], np.uint8)  # section 13 of SPEC.md

# W[1, 1] becomes 1: digit 10 of the words, the second of the two others. The scale is copied.
ONE = bytes.fromhex("01000000 03 01000000 01000000 01000000 01 02 01")
RANKS = bytes.fromhex("02 00 00000000") + ONE
SCALE = bytes.fromhex("00 00 01000000")


def write(path: Path, digits: np.ndarray, alphabet: tuple[int, ...] = (-1, 0, 1)) -> RsrFile:
    """Write a file with one matrix."""
    base, k = len(alphabet), 3 if len(alphabet) == 3 else 2
    ranks = ranks_of(digits, base, k, padding_digit(alphabet))
    words = pack_w16(ranks, padding_rank(alphabet, k)).astype("<u2").tobytes()
    with create(path) as writer:
        tensor = IndexedTensor(
            "w", (3, 4), alphabet, k, "expand", "ranked", "w16", {"ranks": writer.add([words])},
            SourceRecord("float", "BF16", (3, 4)), Scale(3, writer.add([b"\0\0\0\x3f"])),
        )  # fmt: skip
        writer.finish(producer="example", metadata={}, files=[], tensors=[tensor])
    return RsrFile(path)


class Example:
    """An old file, and deltas of it."""

    def __init__(self, folder: Path, alphabet: tuple[int, ...] = (-1, 0, 1)) -> None:
        self.folder = folder
        self.old = write(folder / "old.rsr", W, alphabet)
        changed = W.copy()
        changed[1, 1] = len(alphabet) - 1
        self.new = write(folder / "new.rsr", changed, alphabet)
        self.header = stored_header(self.new)

    def body(self, *records: bytes) -> bytes:
        """Return a body with the new header as it is."""
        return b"".join([len(self.header).to_bytes(4, "little"), self.header, *records])

    def delta(self, body: bytes, **fields: int | bytes) -> bytes:
        """Return a file with that body and a preamble that fits, but for `fields`."""
        size = len(self.header).to_bytes(8, "little")
        values: dict[str, int | bytes] = {
            "magic": bytes.fromhex("89 52 53 44 0D 0A 1A 0A"),
            "version": bytes.fromhex("0100 0000"),
            "flags": bytes(4),
            "size": len(body).to_bytes(8, "little"),
            "header": size,
            "base": self.old.digest,
            "result": self.new.digest,
            "hash": hashlib.sha256(body).digest(),
            **fields,
        }
        return b"".join(v for v in values.values() if isinstance(v, bytes)) + body

    def patch(self, data: bytes) -> bytes:
        """Apply a delta; return the new file."""
        path, out = self.folder / "d.rsrd", self.folder / "out.rsr"
        path.write_bytes(data)
        rsrc.patch(self.old.path, path, out, threads=1, force=True)
        made = out.read_bytes()
        out.unlink()
        return made


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    yield Example(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {
        "old.rsr",
        "new.rsr",
        "d.rsrd",
    }  # no output of a refused delta, no temporary file


def test_the_literal_delta_is_applied(example: Example) -> None:
    made = example.patch(example.delta(example.body(RANKS, SCALE)))
    assert made == example.new.path.read_bytes()


def test_the_writer_writes_the_literal_records(example: Example) -> None:
    path = example.folder / "d.rsrd"
    rsrc.diff(example.old.path, example.new.path, path)
    assert path.read_bytes().endswith(RANKS + SCALE)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"magic": b"\x89RSR\r\n\x1a\n"}, rsrc.DeltaError, "not a .rsrd file, but a .rsr file"),
        (
            {"magic": b"\x89RST\r\n\x1a\n"},
            rsrc.DeltaError,
            "not a .rsrd file: it begins",
        ),
        ({"magic": b"GGUF\3\0\0\0"}, rsrc.DeltaError, "not a .rsrd file, but a GGUF file"),
        ({"version": b"\2\0\0\0"}, VersionError, "format version 2.0, expected 1.0"),
        ({"version": b"\1\0\1\0"}, VersionError, "format version 1.1"),
        ({"version": b"\0\0\0\0"}, VersionError, "format version 0.0"),
        ({"flags": b"\1\0\0\0"}, FlagsError, "flags 0x00000001, expected 0"),
        ({"size": b"\xff" * 8}, TruncatedError, "truncated"),
        ({"size": bytes(8)}, TrailingDataError, "its preamble says 128"),
        ({"header": bytes(8)}, LimitError, "header size 0"),
        ({"header": (1 << 24 | 1).to_bytes(8, "little")}, LimitError, "header size 16777217"),
        ({"base": bytes(32)}, rsrc.WrongBaseError, "made for the .rsr file with header hash 000"),
        ({"hash": bytes(32)}, rsrc.DeltaError, "the SHA-256 of its body is not the recorded one"),
        ({"result": bytes(32)}, HeaderHashError, "the header of the new file has another SHA-256"),
    ],
)
def test_preamble(
    example: Example, fields: dict[str, bytes], error: type[RsrError], message: str
) -> None:
    with pytest.raises(error, match=message):
        example.patch(example.delta(example.body(RANKS, SCALE), **fields))


def changes(count: int, low: int, symbols: int, gaps: int, digits: int, data: str) -> bytes:
    """Return a record of changes of section 0 with any numbers."""
    numbers = b"".join(n.to_bytes(4, "little") for n in (symbols, gaps, digits))
    return (
        b"\2\0\0\0\0\0" + count.to_bytes(4, "little") + bytes([low]) + numbers + bytes.fromhex(data)
    )


BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 23))
LONG = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 23))


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        ((b"\4\0\0\0\0\0", SCALE), rsrc.DeltaError, "method 4, expected 0 to 3"),
        ((b"\2\1\0\0\0\0", SCALE), rsrc.DeltaError, "level 1 of codec raw by method 2"),
        ((b"\0\1\0\0\0\0", SCALE), rsrc.DeltaError, "level 1 of codec raw by method 0"),
        ((b"\2\0\xff\xff\xff\xff", SCALE), rsrc.DeltaError, "method 2 without a section"),
        ((RANKS, b"\0\0\xff\xff\xff\xff"), rsrc.DeltaError, "method 0 without a section"),
        ((RANKS, b"\0\0\2\0\0\0"), rsrc.DeltaError, "section 2 of the old file, which has 2"),
        ((RANKS, b"\0\0\0\0\0\0"), rsrc.DeltaError, "section 0 of the old file is another one"),
        ((RANKS, b"\2\0\1\0\0\0"), rsrc.DeltaError, "no index of the same shape and encoding"),
        ((b"\2\0\1\0\0\0", SCALE), rsrc.DeltaError, "no index of the same shape and encoding"),
        ((RANKS, b"\3\0\xff\xff\xff\xff"), rsrc.DeltaError, "segments must follow the changes"),
        ((b"\3\0\0\0\0\0", SCALE), rsrc.DeltaError, "section 0 of the old file, which has 2"),
        ((changes(289, 0, 1, 1, 1, ""),), rsrc.DeltaError, "289 changes of 288 digits"),
        ((changes(0xFFFFFFFF, 0, 1, 1, 1, ""),), rsrc.DeltaError, "4294967295 changes"),
        ((changes(1, 25, 1, 1, 1, ""),), rsrc.DeltaError, "25 low bits"),
        ((changes(2, 0, 1, 1, 1, ""),), rsrc.DeltaError, "2 gaps in 1 symbols"),
        ((changes(1, 0, 3, 1, 1, ""),), rsrc.DeltaError, "1 gaps in 3 symbols"),
        ((changes(1, 0, 1, 0, 1, ""),), rsrc.DeltaError, "1 gaps in 1 symbols of 0 bytes"),
        ((changes(1, 0, 1, 2, 1, ""),), rsrc.DeltaError, "1 gaps in 1 symbols of 2 bytes"),
        ((changes(1, 0, 1, 1, 5, ""),), rsrc.DeltaError, "5 bytes for 1 digits"),
        ((changes(1, 0, 1, 1, 1, "ff 01"), SCALE), rsrc.DeltaError, "gaps: 0 end, expected 1"),
        ((changes(1, 0, 2, 2, 1, "01 ff 01"), SCALE), rsrc.DeltaError, "1 end, expected 1, the la"),
        ((changes(1, 0, 2, 2, 1, "ff fe 01"), SCALE), rsrc.DeltaError, "change of digit 509, but"),
        ((changes(1, 3, 1, 1, 1, "fe 07 01"), SCALE), rsrc.DeltaError, "change of digit 2039, but"),
        ((changes(1, 0, 1, 1, 0, "0a"), SCALE), rsrc.DeltaError, "digits: not a zstd frame"),
        ((changes(1, 0, 1, 1, 1, "0a 00"), SCALE), rsrc.DeltaError, "ranks of tensor 'w': the re"),
        ((changes(1, 0, 1, 1, 1, "0b 01"), SCALE), rsrc.DeltaError, "the result has another SHA-"),
        ((changes(2, 0, 2, 2, 1, "01 00"),), TruncatedError, "1 bytes expected, 0 are left"),
        ((RANKS, SCALE, b"\0"), TrailingDataError, "1 bytes follow the last record"),
        ((RANKS[:6],), TruncatedError, "4 bytes expected, 0 are left"),
        ((b"\1\0\0\0\0\0" + bytes(4),), rsrc.DeltaError, "a piece of 0 bytes, expected 1 to 64"),
        ((b"\1\0\0\0\0\0A\0\0\0",), rsrc.DeltaError, "a piece of 65 bytes, expected 1 to 64"),
        ((b"\1\0\2\0\0\0",), rsrc.DeltaError, "section 2 of the old file, which has 2"),
        ((b"\1\0\0\0\0\0\3\0\0\0abc", SCALE), rsrc.DeltaError, "not a zstd frame"),
    ],
)
def test_body(
    example: Example, records: tuple[bytes, ...], error: type[RsrError], message: str
) -> None:
    with pytest.raises(error, match=message):
        example.patch(example.delta(example.body(*records)))


@pytest.mark.parametrize("bomb", [BOMB, LONG], ids=["stated", "unstated"])
def test_bombs(example: Example, bomb: bytes) -> None:
    """A frame that grows beyond its piece is not decompressed."""
    assert len(bomb) < len(example.header)
    with pytest.raises(rsrc.DeltaError, match=r"8388608 bytes, expected 413|not one zstd frame"):
        example.patch(example.delta(len(bomb).to_bytes(4, "little") + bomb))


def test_every_truncation(example: Example) -> None:
    """With a preamble that fits what is left, and without."""
    whole = example.delta(body := example.body(RANKS, SCALE))
    for end in range(0, len(whole), 7):
        with pytest.raises((TruncatedError, rsrc.DeltaError)):
            example.patch(whole[:end])
    for end in range(len(body) - len(RANKS) - len(SCALE), len(body)):
        with pytest.raises((TruncatedError, rsrc.DeltaError)):
            example.patch(example.delta(body[:end]))


def test_every_byte_counts(example: Example) -> None:
    """A changed byte of the records is refused, or it means the same."""
    body = example.body(RANKS, SCALE)
    for at in range(len(body) - len(RANKS) - len(SCALE), len(body)):
        for value in (0, 1, 0x7F, 0xFF):
            other = body[:at] + bytes([value]) + body[at + 1 :]
            try:
                assert example.patch(example.delta(other)) == example.new.path.read_bytes()
            except RsrError:
                continue


def test_a_digit_that_does_not_exist(tmp_path: Path) -> None:
    """Two bits say which of three digits; the fourth value means nothing."""
    example = Example(tmp_path, (-1, 0, 1, 2))
    record = changes(1, 0, 1, 1, 1, "07 03")
    with pytest.raises(rsrc.DeltaError, match="digits: found number 3 of 3 other digits"):
        example.patch(example.delta(example.body(record, SCALE)))


def test_a_pattern_that_is_not_listed(tmp_path: Path) -> None:
    spec = Spec((40, 16), name="w", k=4, patterns=SPARSE)
    example = Example(tmp_path)
    Changed(tmp_path, 0).write(example.old.path, [spec])
    Changed(tmp_path, 0.5).write(example.new.path, [spec])
    example.old, example.new = RsrFile(example.old.path), RsrFile(example.new.path)
    example.header = stored_header(example.new)
    errors = []
    for which in ("00", "01"):  # whatever the weight is, one of them makes a second zero, or none
        record = changes(1, 0, 1, 1, 1, f"00 {which}")
        with pytest.raises(rsrc.DeltaError) as refused:
            example.patch(example.delta(example.body(record)))
        errors.append(str(refused.value))
    assert any("'w': changes make a pattern that is not listed" in error for error in errors)


@pytest.mark.parametrize("records", [(), (b"\0\0\1\0\0\0",)])
def test_segments_are_missing(tmp_path: Path, records: tuple[bytes, ...]) -> None:
    spec = Spec((3, 2), name="w", encoding="permuted", k=2)
    example = Example(tmp_path)
    for path, share in ((example.old.path, 0.0), (example.new.path, 0.5)):
        Changed(tmp_path, share).write(path, [spec, Spec((0, 4), name="v")])
    example.old, example.new = RsrFile(example.old.path), RsrFile(example.new.path)
    example.header = stored_header(example.new)
    permutation = b"\2\0\0\0\0\0" + bytes(4)
    error = "segments must follow" if records else "record of segments"
    with pytest.raises((rsrc.DeltaError, TruncatedError), match=error):
        example.patch(example.delta(example.body(permutation, *records)))


def test_a_small_delta_does_not_fill_the_disk(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FREE_BYTES", "DELTA_SHARE", "OLD_SHARE"):
        monkeypatch.setattr(f"rsrc.delta.records.{name}", 0)
    with pytest.raises(LimitError, match="it makes 12701 bytes, and may make 0 from 12701 old"):
        example.patch(example.delta(example.body(RANKS, SCALE)))


def test_no_file_and_empty_file(example: Example) -> None:
    with pytest.raises(rsrc.DeltaError, match=r"not a \.rsrd file, but empty"):
        example.patch(b"")
    with pytest.raises(FileNotFoundError):
        rsrc.patch(example.old.path, example.folder / "no", example.folder / "out")
