"""Parts of a file that several threads read and copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsr_formats.errors import TruncatedError
from rsr_formats.parts import FileParts

DATA = bytes(range(256)) * 10_000  # more than two pieces


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[FileParts]:
    (tmp_path / "x").write_bytes(DATA)
    found = FileParts(tmp_path / "x")
    yield found
    found.close()


@pytest.mark.parametrize("kernel", ["whole", "some", "none", "refuses", "lacks"])
def test_copy(
    parts: FileParts, tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the system copies, all bytes arrive, and the position is behind them."""
    calls = 0

    def copy(source: int, target: int, count: int, read_at: int, write_at: int) -> int:
        nonlocal calls
        calls += 1
        if kernel == "refuses" or calls > 2:
            raise OSError(errno.EXDEV, "other file systems")
        if kernel == "none":
            return 0
        return os.pwrite(target, os.pread(source, min(count, 1000), read_at), write_at)

    if kernel == "lacks":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif kernel != "whole":
        monkeypatch.setattr(os, "copy_file_range", copy, raising=False)
    with (tmp_path / "y").open("x+b") as target:
        target.write(b"before ")
        parts.copy(300, 2_000_000, target)
        target.write(b" between ")
        parts.copy(0, 0, target)
        parts.copy(1, 5, target)
        target.write(b" after")
    expected = b"before " + DATA[300:2_000_300] + b" between " + DATA[1:6] + b" after"
    assert (tmp_path / "y").read_bytes() == expected


def test_threads_read_at_once(parts: FileParts) -> None:
    def read(start: int) -> bytes:
        return b"".join(map(bytes, parts.pieces(start, 1_500_000)))

    with ThreadPoolExecutor(4) as pool:
        for start, found in enumerate(pool.map(read, range(16))):
            assert found == DATA[start : start + 1_500_000]
    assert parts.part(7, 9).read() == DATA[7:16]


def test_the_file_ends_early(parts: FileParts, tmp_path: Path) -> None:
    pieces = parts.pieces(len(DATA) - 10, 11)
    assert bytes(next(pieces)) == DATA[-10:]
    with pytest.raises(TruncatedError, match="became shorter"):
        next(pieces)
    with (tmp_path / "y").open("x+b") as target, pytest.raises(TruncatedError):
        parts.copy(len(DATA) - 10, 11, target)
