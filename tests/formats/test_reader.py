"""An open file: its contents, lifetime and memory."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_formats import IndexedTensor, RsrFile, compression, create, errors, validate
from rsr_formats.records import DenseTensor, FileEntry, Scale, Section, SourceRecord
from rsr_testing.drafts import Draft

Open = Callable[[bytes], RsrFile]
MEMORY = pytest.mark.parametrize("memory", ["map", "huge"])


def arrays_of(file: RsrFile, name: str) -> dict[str, Any]:
    (t,) = (t for t in file.header.tensors if t.name == name)
    assert isinstance(t, IndexedTensor)
    return file.index_arrays(t)


@MEMORY
def test_contents(small_file: bytes, tmp_path: Path, memory: str) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    file = RsrFile(path, memory)
    file.verify()
    assert file.header.metadata == {"a": "b"}
    assert file.section(file.header.files[0].section).tobytes() == b"{}"
    ranked = arrays_of(file, "ranked")
    assert ranked["ranks"].tolist() == [0x36D5, 0x35A0, 0x349A] + [0x35AD] * 29
    assert ranked["scale"].tolist() == [0.5]
    permuted = arrays_of(file, "permuted")
    assert permuted["permutation"].tolist() == [[1, 0, 2], [1, 0, 2]]
    assert permuted["segments"].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 1, 2, 3],
        [0, 0, 1, 2, 2, 2, 2, 3, 3, 3],
    ]
    packed = file.header.tensors[3]
    assert isinstance(packed, DenseTensor)
    assert file.section(packed.section).tobytes() == bytes(range(256)) * 4


def test_small_scales_are_read_not_mapped(small_file: bytes, tmp_path: Path) -> None:
    """Touching a mapped page makes its neighbors resident: 64 KiB for four bytes."""
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    file = RsrFile(path)
    offset = small_file.index(np.float32(0.5).tobytes(), 4096)
    with path.open("r+b") as other:
        other.seek(offset)
        other.write(np.float32(7).tobytes())
    assert arrays_of(file, "ranked")["scale"].tolist() == [0.5]
    assert arrays_of(RsrFile(path), "ranked")["scale"].tolist() == [7]


@MEMORY
def test_arrays_are_read_only(small_file: bytes, tmp_path: Path, memory: str) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    file = RsrFile(path, memory)
    ranked, permuted = arrays_of(file, "ranked"), arrays_of(file, "permuted")
    del permuted["scale"]  # the permuted matrix has no scale section
    sections = [file.section(i) for i in range(len(file.header.sections))]
    for array in (*ranked.values(), *permuted.values(), *sections):
        assert not array.flags.writeable


@MEMORY
def test_arrays_outlive_the_file_and_its_name(
    small_file: bytes, tmp_path: Path, memory: str
) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    dense = RsrFile(path, memory).section(2)
    path.unlink()
    assert dense.tobytes() == b"dense"


def test_replacing_the_file_does_not_affect_readers(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    file = RsrFile(path)
    with create(path, force=True) as writer:
        writer.finish(producer="", metadata={}, files=[], tensors=[])
    assert len(RsrFile(path).header.tensors) == 0
    file.verify()


def test_an_unknown_memory_option(small_file: bytes, opened: Open) -> None:
    path = opened(small_file).path
    with pytest.raises(ValueError, match="'mmap'"):
        RsrFile(path, "mmap")


def test_verify_reports_progress(small_file: bytes, opened: Open) -> None:
    file, done = opened(small_file), list[int]()
    file.verify(done.append)
    assert sum(done) == sum(s.stored_size for s in file.header.sections)


def test_decompressed_sections_are_not_cached(tmp_path: Path) -> None:
    size = 8 << 20
    data = np.random.default_rng(1).integers(0, 16, size, np.uint8)
    path = tmp_path / "a.rsr"
    with create(path) as writer:
        tensors = [DenseTensor(f"{i}", "U8", (size,), writer.add([data.data], 1)) for i in range(4)]
        writer.finish(producer="", metadata={}, files=[], tensors=tensors)
    file = RsrFile(path)
    assert {s.codec for s in file.header.sections} == {"zstd"}
    tracemalloc.start()
    try:
        file.verify()
        for i in range(4):
            np.testing.assert_array_equal(file.section(i)[:100], data[:100])
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 1 << 20
    assert peak < 2 * size


def test_verify_decompresses_each_section_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.rsr"
    ranks = np.full(32, 0x35AD, "<u2").tobytes()
    with create(path) as writer:
        tensor = IndexedTensor(
            "w", (3, 4), (-1, 0, 1), 3, "expand", "ranked", "w16",
            {"ranks": writer.add([ranks], 1)},
            SourceRecord("float", "F32", (3, 4), writer.add([b"\xff\x0f"], 1)),
            Scale(1, writer.add([np.ones(3, "<f4").tobytes()], 1)),
        )  # fmt: skip
        dense = DenseTensor("d", "U8", (9,), writer.add([b"abcabcabc"], 1))
        entry = FileEntry("f", writer.add([b"text"], 1))
        writer.finish(producer="", metadata={}, files=[entry], tensors=[tensor, dense])
    seen: list[str] = []
    original = compression.decompress

    def decompress(stored: Any, s: Section, what: str) -> Any:
        seen.append(what)
        return original(stored, s, what)

    monkeypatch.setattr(compression, "decompress", decompress)
    file = RsrFile(path)
    file.verify()
    assert sorted(seen) == sorted(file.header.owners())


def test_a_system_without_huge_pages(
    small_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutHugePages(mmap.mmap):
        def madvise(self, *arguments: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(mmap, "mmap", WithoutHugePages)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    path = tmp_path / "a.rsr"
    path.write_bytes(small_file)
    file = RsrFile(path, "huge")
    file.verify()
    assert file.section(0).tobytes() == RsrFile(path).section(0).tobytes()


def test_the_version_is_that_of_the_file(
    draft: Draft, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "VERSION", (1, 7))
    assert opened(draft.bytes()).version == (1, 0)


def test_the_largest_shapes_fit_numpy(draft: Draft, opened: Open) -> None:
    for dtype in ("U8", "BF16", "C64"):
        draft.tensors["dense"].update(dtype=dtype, shape=[(1 << 30) - 1, 0, 1 << 30])
        draft.store(2, b"")
        (t,) = (t for t in opened(draft.bytes()).header.tensors if t.name == "dense")
        assert np.empty(0, np.complex64).reshape(t.shape).shape == t.shape


def test_a_file_without_sections(draft: Draft, opened: Open) -> None:
    draft.doc |= {"files": [], "tensors": [], "sections": []}
    draft.stored = []
    file = opened(draft.bytes())
    file.verify()
    assert file.header.tensors == ()


def test_an_empty_file_is_truncated(opened: Open) -> None:
    with pytest.raises(errors.TruncatedError, match="download it again, or compile the model"):
        opened(b"")


def test_other_files_are_not_rsr(opened: Open) -> None:
    for data in (b"{}", b"PK\3\4" * 100, b"\x89PNG\r\n\x1a\n", bytes(10_000)):
        with pytest.raises(errors.NotRsrError):
            opened(data)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RsrFile(tmp_path / "missing.rsr")


def test_invalid_ranks_are_found_by_verify(draft: Draft, opened: Open) -> None:
    draft.edit(0, 0, struct.pack("<H", 0x7FFF))
    file = opened(draft.bytes())
    assert arrays_of(file, "ranked")["ranks"][0] == 0x7FFF
    with pytest.raises(errors.IndexDataError, match="exceeds 26"):
        file.verify()


@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
def test_the_bits_of_negative_zeros_are_counted(draft: Draft, opened: Open, encoding: str) -> None:
    """Zeros in padding columns do not count: W has 2 zeros, hence 2 bits."""
    draft.doc["tensors"] = [draft.tensors[encoding]]
    tensor = draft.doc["tensors"][0]
    draft.doc["files"] = [
        {"name": f"f{i}", "section": i}
        for i in range(8)
        if i not in (6, *tensor["sections"].values())
    ]
    tensor |= {"scale": None, "source": {**tensor["source"], "negative_zeros": 6}}
    tensor["source"]["companions"] = []
    if encoding == "permuted":  # the last block is half padding: W = [[1, 0, -1], ...]
        tensor |= {"shape": [3, 3]}
        tensor["source"]["shape"] = [3, 3]
        # block 1 has column 2 and a padding zero: -1, -1, 1 give patterns 1, 1, 7
        draft.store(3, struct.pack("<6H", 1, 0, 2, 0, 1, 2))
        draft.store(
            4, struct.pack("<20H", *[0, 1, 1, 1, 1, 1, 1, 1, 2, 3], *[0, 0] + [2] * 6 + [3] * 2)
        )
    zeros = 1 if encoding == "permuted" else 2
    draft.store(6, bytes([(1 << zeros) - 1]))
    opened(draft.bytes()).verify()
    draft.store(6, bytes([1 << zeros]))
    with pytest.raises(errors.IndexDataError, match="spare"):
        opened(draft.bytes()).verify()


def test_scales_are_float32_of_any_number_of_rows(draft: Draft, opened: Open) -> None:
    draft.ranked["scale"]["rows"] = 2
    draft.store(1, struct.pack("<2f", 0.25, -3))
    scale = arrays_of(opened(draft.bytes()), "ranked")["scale"]
    assert scale.dtype == np.float32
    assert scale.tolist() == [0.25, -3]
