"""`rsrc.unpack` writes the file that compiling without compression writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit

RNG = np.random.default_rng(41)
T = RNG.integers(-1, 2, (90, 70))


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}" + " " * 999)
    zeros = np.where(T == 0, np.where(RNG.random(T.shape) < 0.5, 0.0, -0.0), T).astype(np.float32)
    tensors: dict[str, Any] = {
        "w": T.astype(np.int8),
        "negative": zeros,
        "zeros": np.zeros((9000, 9), np.int8),
        "dense": np.ones(999, np.float32),
        "empty": np.ones(0, np.float32),
    }
    kit.save(folder / "model.safetensors", tensors, {"format": "pt"})
    return folder


@pytest.mark.parametrize("level", [1, 19])
@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
def test_byte_for_byte(source: Path, tmp_path: Path, level: int, encoding: str) -> None:
    raw, small, back = (tmp_path / name for name in ("raw.rsr", "small.rsr", "back.rsr"))
    rsrc.compile(source, raw, encoding=encoding)
    rsrc.compile(source, small, encoding=encoding, zstd=level)
    assert {s.codec for s in RsrFile(small).header.sections} == {"raw", "zstd"}
    seen: list[tuple[str, int, int]] = []
    rsrc.unpack(small, back, progress=lambda *call: seen.append(call))
    assert back.read_bytes() == raw.read_bytes()
    total = sum(s.size for s in RsrFile(raw).header.sections)
    assert [call[1] for call in seen] == sorted(call[1] for call in seen)
    assert seen[-1][1:] == (total, total)
    rsrc.unpack(raw, back, force=True)  # a file without compression is copied
    assert back.read_bytes() == raw.read_bytes()


def test_refused(source: Path, tmp_path: Path) -> None:
    small, back = tmp_path / "small.rsr", tmp_path / "back.rsr"
    rsrc.compile(source, small, zstd=3)
    with pytest.raises(rsrc.OptionError, match="is part of the source"):
        rsrc.unpack(small, small, force=True)
    back.write_bytes(b"precious")
    with pytest.raises(rsrc.OutputExistsError):
        rsrc.unpack(small, back)
    data = bytearray(small.read_bytes())
    section = max(RsrFile(small).header.sections, key=lambda s: s.stored_size)
    data[section.offset + section.stored_size // 2] ^= 1
    small.write_bytes(data)
    with pytest.raises(rsrc.FormatError, match=r"small\.rsr: .* is damaged"):
        rsrc.unpack(small, back, force=True)
    assert back.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.rsr", "small.rsr", "source"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(kit: Kit, tmp_path: Path) -> None:
    """Sections are decompressed in pieces, however long they are."""
    data = RNG.integers(0, 4, 1_000_000, np.uint8).tobytes() * 120
    tensors: dict[str, Any] = {"w": T.astype(np.int8), "d": kit.literal("U8", (len(data),), data)}
    source = kit.save(tmp_path / "s.safetensors", tensors)
    rsrc.compile(source, tmp_path / "small.rsr", zstd=1)
    source.unlink()
    code = """
import sys, rsrc
rsrc.unpack(*sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = kit.python(code, tmp_path / "small.rsr", tmp_path / "back.rsr")
    assert done.returncode == 0, done.stderr
    stored = (tmp_path / "small.rsr").stat().st_size  # mapped, so it does not count
    (tmp_path / "back.rsr").unlink()
    assert int(done.stdout) * 1024 - stored < 100 << 20
