"""The header of GGUF files: values of every type, and every way a file can be wrong."""

from __future__ import annotations

import random
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rsr_testing.gguf_files import GgufKit
from rsrc.common.errors import SourceError
from rsrc.source.gguf import reader
from rsrc.source.gguf.reader import Strings, read_header
from rsrc.source.open import open_checkpoint

F32, F16, I8, TQ2_0 = 0, 1, 24, 35
HUGE = 1 << 63


@pytest.fixture
def small(gguf_kit: GgufKit) -> bytes:
    """Return a small file with values of all types."""
    return gguf_kit.file_bytes(
        {
            "general.architecture": "llama",
            "general.alignment": 32,
            "llama.attention.head_count": 2,
            "llama.rope.freq_base": 1e4,
            "tokenizer.ggml.tokens": ["a", "", "wörd"],
            "tokenizer.ggml.token_type": [1, 2, 3],
        },
        {
            "token_embd.weight": ((3, 5), F32, np.arange(15, dtype="<f4").tobytes()),
            "blk.0.attn_q.weight": ((4, 256), TQ2_0, (b"\x55" * 64 + b"\x00\x38") * 4),
            "empty": ((0, 4), F16, b""),
        },
    )


def refused(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(SourceError, match=match) as caught:
        open_checkpoint(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values: dict[str, tuple[Callable[..., None], Any]] = {
        "uint8": (writer.add_uint8, 200),
        "int8": (writer.add_int8, -100),
        "uint16": (writer.add_uint16, 60000),
        "int16": (writer.add_int16, -30000),
        "uint32": (writer.add_uint32, 1 << 31),
        "int32": (writer.add_int32, -5),
        "uint64": (writer.add_uint64, HUGE),
        "int64": (writer.add_int64, -HUGE),
        "float32": (writer.add_float32, 0.5),
        "float64": (writer.add_float64, 0.1),
        "yes": (writer.add_bool, True),
        "no": (writer.add_bool, False),
        "string": (writer.add_string, "Füße"),
    }
    for key, (add, value) in values.items():
        add(key, value)
    writer.add_array("strings", ["a", "bc", "ß"])
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("flags", [True, False])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_tensor("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    for key, (_, value) in values.items():
        assert header.metadata[key] == value, key
        assert type(header.metadata[key]) is type(value)
    assert list(header.metadata["strings"]) == ["a", "bc", "ß"]
    assert header.metadata["integers"].tolist() == [1, -2, 3]
    assert header.metadata["floats"].tolist() == [0.5, 2]
    assert header.metadata["flags"].tolist() == [True, False]
    assert [a.tolist() for a in header.metadata["nested"]] == [[1, 2], [3]]
    (tensor,) = header.tensors
    assert (tensor.name, tensor.shape, tensor.type_id) == ("w", (2, 3), F32)
    judged = gguf.GGUFReader(path).tensors[0]
    assert tensor.offset == judged.data_offset


def test_the_package_reads_what_the_tests_write(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small)
    judged = gguf.GGUFReader(path)
    ours = {t.name: t for t in read_header(path).tensors}
    assert len(ours) == len(judged.tensors)
    for t in judged.tensors:
        assert ours[t.name].offset == t.data_offset
        assert ours[t.name].shape == tuple(reversed(t.shape.tolist()))


def test_version_2(tmp_path: Path, gguf_kit: GgufKit) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_kit.file_bytes({}, {"w": ((2,), I8, b"ab")}, version=2))
    assert open_checkpoint(path).tensors["w"].read().tobytes() == b"ab"


class TestStrings:
    def strings(self, tmp_path: Path, gguf_kit: GgufKit, items: list[Any]) -> Strings:
        path = tmp_path / "m.gguf"
        path.write_bytes(gguf_kit.file_bytes({"s": self.array(gguf_kit, items)}, {}))
        found = read_header(path).metadata["s"]
        assert isinstance(found, Strings)
        return found

    @staticmethod
    def array(gguf_kit: GgufKit, items: list[Any]) -> bytes:
        return struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(gguf_kit.string, items))

    def test_sequence(self, tmp_path: Path, gguf_kit: GgufKit) -> None:
        items = ["zero", "", "zwölf", "x"]
        found = self.strings(tmp_path, gguf_kit, items)
        assert list(found) == items
        assert [found[i] for i in range(-4, 4)] == items * 2
        assert found[1:3] == items[1:3]
        assert found[::-1] == items[::-1]
        for index in (4, -5):
            with pytest.raises(IndexError):
                found[index]
        assert list(self.strings(tmp_path, gguf_kit, [])) == []

    def test_invalid_utf_8_is_found_when_it_is_read(
        self, tmp_path: Path, gguf_kit: GgufKit
    ) -> None:
        found = self.strings(tmp_path, gguf_kit, [b"good", b"\xff"])
        assert found[0] == "good"
        for read in (lambda: found[1], lambda: list(found)):
            with pytest.raises(SourceError, match=r"'s'\[1\] is not valid UTF-8"):
                read()

    def test_a_large_tokenizer_opens_at_once(self, tmp_path: Path, gguf_kit: GgufKit) -> None:
        items = [b"token%d" % i for i in range(400_000)]
        start = time.perf_counter()
        found = self.strings(tmp_path, gguf_kit, items)
        assert time.perf_counter() - start < 10  # takes about 0.5 s, mostly in the tests' writer
        assert len(found) == 400_000
        assert found[399_999] == "token399999"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty: download it again"),
        (b"GGUF", "4 bytes are too few"),
        (b"GGML" + bytes(40), "begins with b'GGML'"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "GGUF version 1, expected 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 4, 0, 0), "GGUF version 4, expected 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 0, 0, 0), "GGUF version 0"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 3, HUGE, 0), f"tensor count is {HUGE}, the limit is"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, HUGE), f"key count is {HUGE}, the limit is"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 30000, 0), "length of name of tensor 0.* file ends"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 60000), "length of key 0.* file ends"),
    ],
)
def test_bad_beginnings(tmp_path: Path, data: bytes, match: str) -> None:
    refused(tmp_path / "m.gguf", data, match)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (struct.pack("<I", 13), "value type 13, expected 0 to 12"),
        (struct.pack("<IQ", 8, HUGE), rf"length of value of 'k' is {HUGE}, the limit is"),
        (struct.pack("<IQ", 8, 1 << 20), "needs 1048576 bytes, but the file ends after"),
        (struct.pack("<IQ", 8, 1) + b"\xff", "value of 'k' is not valid UTF-8"),
        (struct.pack("<IIQ", 9, 5, HUGE), f"length of value of 'k' is {HUGE}"),
        (struct.pack("<IIQ", 9, 12, 1 << 22), "needs 33554432 bytes"),
        (struct.pack("<IIQ", 9, 8, 1 << 22), "lists 4194304 strings"),
        (struct.pack("<IIQQ", 9, 8, 1, HUGE) + bytes(64), "ends in string 0"),
        (struct.pack("<IIQQQ", 9, 8, 2, 0, 1 << 20) + bytes(64), "ends in string 1"),
        (struct.pack("<IIQ", 9, 13, 1), "value type 13"),
        (struct.pack("<IIQ", 9, 9, 1 << 20), "length of value of 'k' is 1048576, the limit is"),
        (struct.pack("<IIQIQIQ", 9, 9, 1, 9, 1, 9, 1), "three deep"),
    ],
)
def test_bad_values(tmp_path: Path, gguf_kit: GgufKit, value: bytes, match: str) -> None:
    refused(tmp_path / "m.gguf", gguf_kit.file_bytes({"k": value}, {}), match)


def test_arrays_in_arrays_are_counted_over_all_keys(tmp_path: Path, gguf_kit: GgufKit) -> None:
    half = struct.pack("<IIQ", 9, 9, 8193) + struct.pack("<IQ", 5, 0) * 8193
    read_header_of(tmp_path / "m.gguf", gguf_kit.file_bytes({"a": half}, {}))
    data = gguf_kit.file_bytes({"a": half, "b": half}, {})
    refused(tmp_path / "m.gguf", data, "length of value of 'b' is 8193, the limit is 8191")


@pytest.mark.parametrize("alignment", [0, 3, 48, 1 << 17, "32", 32.0, True])
def test_bad_alignments(tmp_path: Path, gguf_kit: GgufKit, alignment: Any) -> None:
    data = gguf_kit.file_bytes({"general.alignment": alignment}, {})
    refused(tmp_path / "m.gguf", data, "general.alignment is .*, expected a power of two")


def test_other_alignments(tmp_path: Path, gguf_kit: GgufKit) -> None:
    for alignment in (1, 8, 4096):
        tensors = {"a": ((3,), I8, b"abc"), "b": ((2,), I8, b"de")}
        path = tmp_path / "m.gguf"
        meta = {"general.alignment": alignment}
        path.write_bytes(gguf_kit.file_bytes(meta, tensors, alignment=alignment))
        found = open_checkpoint(path).tensors
        assert {n: t.read().tobytes() for n, t in found.items()} == {"a": b"abc", "b": b"de"}


@pytest.mark.parametrize("key", ["a" * 1025, b"\xff"])
def test_bad_keys(tmp_path: Path, gguf_kit: GgufKit, key: Any) -> None:
    refused(tmp_path / "m.gguf", gguf_kit.file_bytes({key: 1}, {}), "key 0")


def test_names_that_are_there_twice(tmp_path: Path, gguf_kit: GgufKit) -> None:
    def rename(data: bytes) -> bytes:
        assert data.count(b"twin2") == 1
        return data.replace(b"twin2", b"twin1")

    keys = gguf_kit.file_bytes({"twin1": 1, "twin2": 2}, {})
    refused(tmp_path / "m.gguf", rename(keys), "key 'twin1' occurs twice")
    tensors = {f"twin{i}": ((2,), I8, b"ab") for i in (1, 2)}
    data = gguf_kit.file_bytes({}, tensors)
    refused(tmp_path / "m.gguf", rename(data), "tensor 'twin1' occurs twice")


def tensor_file(shape: tuple[int, ...], number: int, offset: int, body: int = 64) -> bytes:
    """Return a file with one tensor, w."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + struct.pack("<Q", 1) + b"w"
    head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, offset)
    return head + bytes(-len(head) % 32) + bytes(body)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (tensor_file((1, 1, 1, 1, 1), I8, 0), "'w' has 5 dimensions, the limit is 4"),
        (tensor_file((HUGE,), I8, 0), f"dimension 0 of tensor 'w' is {HUGE}"),
        (tensor_file((1 << 30, 1 << 31), I8, 0), r"more than \d+ elements"),
        (tensor_file((1 << 40, 0, 1 << 40), I8, 0), r"more than \d+ elements"),
        (tensor_file((65,), I8, 0), r"I8 \[65\], takes 65 bytes, but only 64 remain"),
        (tensor_file((1 << 20, 1 << 20), F32, 0), r"takes 4398046511104 bytes, but only 64 remain"),
        (tensor_file((1,), I8, 4), "offset 4, which is not a multiple of 32"),
        (tensor_file((1,), I8, 1 << 32), "begins at byte .*, but the file has"),
        (tensor_file((1,), I8, HUGE), "begins at byte .*, but the file has"),
        (tensor_file((1,), 99, 0), "'w' has type 99, which is unknown"),
        (tensor_file((33,), 8, 0), r"Q8_0 \[33\], has rows that are not a multiple of 32"),
        (tensor_file((), 8, 0), r"Q8_0 \[\], has rows that are not a multiple of 32"),
    ],
)
def test_bad_tensors(tmp_path: Path, data: bytes, match: str) -> None:
    refused(tmp_path / "m.gguf", data, match)


def test_tensors_that_overlap(tmp_path: Path, gguf_kit: GgufKit) -> None:
    tensors = {"a": ((40,), I8, bytes(40)), "b": ((40,), I8, bytes(40))}
    data = gguf_kit.file_bytes({}, tensors)
    second = struct.pack("<IQ", I8, 64)
    assert data.count(second) == 1
    for offset in (0, 32):
        overlapping = data.replace(second, struct.pack("<IQ", I8, offset))
        refused(tmp_path / "m.gguf", overlapping, "takes 40 bytes, but only")


def test_without_tensors_there_is_nothing_to_do(tmp_path: Path, gguf_kit: GgufKit) -> None:
    path = gguf_kit.save(tmp_path / "m.gguf", {"general.name": "none"}, {})
    assert open_checkpoint(path).tensors == {}


def test_not_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises(SourceError, match="not a regular file"):
        read_header(tmp_path / "m.gguf")


def test_cut_anywhere(tmp_path: Path, small: bytes) -> None:
    """A truncated file is rejected wherever it ends, except in its final padding."""
    path = tmp_path / "m.gguf"
    path.write_bytes(small)
    whole = open_checkpoint(path)
    end = max(t.offset + t.nbytes for t in whole.tensors.values())
    for size in {*range(0, end, 5), end - 1}:
        path.write_bytes(small[:size])
        with pytest.raises(SourceError, match=re.escape(str(path))):
            open_checkpoint(path)


def test_changed_anywhere(tmp_path: Path, small: bytes) -> None:
    """A file with random changes opens as another checkpoint, or raises SourceError."""
    path = tmp_path / "m.gguf"
    drawn = random.Random(11)
    opened = 0
    header_size = min(t.offset for t in read_header_of(path, small).tensors)
    for _ in range(1500):
        data = bytearray(small)
        for _ in range(drawn.choice((1, 1, 2, 5))):
            value = drawn.choice((0, 1, 0x7F, 0x80, 0xFF, drawn.randrange(256)))
            data[drawn.randrange(header_size)] = value
        path.write_bytes(data)
        try:
            checkpoint = open_checkpoint(path)
        except SourceError:
            continue
        opened += 1
        for t in checkpoint.tensors.values():
            assert t.read().nbytes == t.nbytes <= 16 * len(data)
    assert opened > 50


def read_header_of(path: Path, data: bytes) -> reader.Header:
    path.write_bytes(data)
    return read_header(path)
