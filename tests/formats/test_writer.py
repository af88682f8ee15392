"""The writer: reproducible bytes, bounded memory, and the checks of a reader."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsr_formats import DenseTensor, IndexedTensor, RsrFile, RsrWriter, create
from rsr_formats.errors import (
    FormatError,
    HeaderFieldError,
    InvalidNameError,
    LimitError,
    SectionSizeError,
)
from rsr_formats.records import TERNARY, SourceRecord
from rsr_formats.writer import pack


def finish(
    writer: RsrWriter, *tensors: DenseTensor | IndexedTensor, producer: str = "test"
) -> None:
    writer.finish(producer=producer, metadata={}, files=[], tensors=tensors)


def write(path: Path, level: int | None = None) -> bytes:
    with create(path) as writer:
        section = writer.add([b"abc", b"", b"abc" * 500], level)
        finish(writer, DenseTensor("d", "U8", (1503,), section))
    return path.read_bytes()


@pytest.mark.parametrize("level", [None, 1, 19])
def test_equal_input_gives_equal_bytes(tmp_path: Path, level: int | None) -> None:
    assert write(tmp_path / "a.rsr", level) == write(tmp_path / "b.rsr", level)


@pytest.mark.parametrize("level", [None, 1, 19])
@pytest.mark.parametrize(
    "pieces", [[], [b"abc", b"", b"abc" * 500], [bytes(9000)] * 300, [b"xyz" * 100_000] * 30]
)
def test_every_way_to_write_a_section_gives_the_same_bytes(
    tmp_path: Path, level: int | None, pieces: list[bytes]
) -> None:
    """Added, hashed on a thread, packed in memory, and packed in another process."""
    size = sum(map(len, pieces))

    def written(name: str, threaded: bool, add: Callable[[RsrWriter], int]) -> bytes:
        with create(tmp_path / name, threaded=threaded) as writer:
            first = writer.add([b"first"])
            section = add(writer)
            finish(
                writer,
                DenseTensor("a", "U8", (5,), first),
                DenseTensor("d", "U8", (size,), section),
            )
        return (tmp_path / name).read_bytes()

    packed = pack(pieces, level)
    sent = pickle.loads(pickle.dumps(pack(map(memoryview, pieces), level)))
    expected = written("added", False, lambda w: w.add(pieces, level))
    assert written("threaded", True, lambda w: w.add(pieces, level)) == expected
    assert written("packed", False, lambda w: w.append(packed)) == expected
    assert written("sent", True, lambda w: w.append(sent)) == expected
    file = RsrFile(tmp_path / "added")
    assert b"".join(file.pieces(1)) == b"".join(pieces)


@pytest.mark.parametrize("level", [None, 3])
def test_pieces_may_be_arrays_of_any_type(tmp_path: Path, level: int | None) -> None:
    array = np.arange(600, dtype=np.float32).reshape(20, 30)
    with create(tmp_path / "a.rsr") as writer:
        section = writer.add([array.data, array[:0].data, array.data], level)
        finish(writer, DenseTensor("d", "F32", (40, 30), section))
    file = RsrFile(tmp_path / "a.rsr")
    file.verify()
    assert file.section(0).tobytes() == array.tobytes() * 2


@pytest.mark.parametrize("size", [0, 1 << 20, 20 << 20])
def test_sections_that_compress_too_well_are_stored_raw(tmp_path: Path, size: int) -> None:
    pieces = [bytes(min(size, 1 << 20))] * max(1, size >> 20)
    with create(tmp_path / "a.rsr") as writer:
        first = writer.add([b"one"])
        section = writer.add(pieces, 3)
        last = writer.add([b"three"], 3)
        finish(
            writer,
            DenseTensor("first", "U8", (3,), first),
            DenseTensor("zeros", "U8", (size,), section),
            DenseTensor("last", "U8", (5,), last),
        )
    file = RsrFile(tmp_path / "a.rsr")
    file.verify()
    assert [s.codec for s in file.header.sections] == ["raw", "raw", "zstd"]
    assert file.section(section).tobytes() == bytes(size)


def test_a_file_without_a_header_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="finish"), create(tmp_path / "a.rsr") as writer:
        writer.add([b"abc"])
    assert list(tmp_path.iterdir()) == []


def indexed(**claims: object) -> IndexedTensor:
    fields = {
        "name": "w", "shape": (3, 4), "digits": TERNARY, "k": 3, "direction": "expand",
        "encoding": "ranked", "packing": "w16", "sections": {"ranks": 0},
        "source": SourceRecord("float", "F32", (3, 4)),
    }  # fmt: skip
    return IndexedTensor(**(fields | claims))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"shape": (33, 4)}, SectionSizeError),
        ({"k": 4}, LimitError),
        ({"k": 0}, FormatError),
        ({"digits": (-1, 1, 0)}, HeaderFieldError),
        ({"packing": "n4s1"}, SectionSizeError),
        ({"packing": "n4s1", "k": 2}, HeaderFieldError),
        ({"encoding": "permuted", "packing": "u16"}, HeaderFieldError),
        ({"direction": "sideways"}, HeaderFieldError),
        ({"source": SourceRecord("mystery", "F32", (3, 4))}, HeaderFieldError),
        ({"name": ""}, InvalidNameError),
        ({"name": "\ud800"}, HeaderFieldError),
        ({"sections": {"ranks": 0, "more": 1}}, FormatError),
        ({"sections": {"ranks": 1 << 70}}, FormatError),
    ],
)
def test_the_writer_refuses_an_invalid_record(
    tmp_path: Path, claims: dict[str, object], error: type[FormatError]
) -> None:
    with pytest.raises(error), create(tmp_path / "a.rsr") as writer:  # noqa: PT012
        writer.add([bytes(64)])
        finish(writer, indexed(**claims))
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_a_header_beyond_the_limit(tmp_path: Path) -> None:
    with pytest.raises(LimitError), create(tmp_path / "a.rsr") as writer:
        finish(writer, producer="x" * (64 << 20))
