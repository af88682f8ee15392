"""zstd sections: reproducible frames in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from rsr_formats import DenseTensor, RsrFile, create
from rsr_formats.writer import pack


@pytest.mark.parametrize("level", [1, 3, 9, 19])
def test_zstd_frames_do_not_depend_on_the_pieces(level: int) -> None:
    data = np.random.default_rng(4).integers(0, 27, 700_000, np.uint8).tobytes()
    whole = b"".join(pack([data], level).pieces)
    for size in (1, 4093, 131_072, 300_001):
        if size == 1:
            pieces = [data[:1], data[1:2], data[2:]]
        else:
            pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert b"".join(pack(pieces, level).pieces) == whole


COMPRESS = """
import sys
from rsr_formats import DenseTensor, create
data = open(sys.argv[1], "rb").read()
with create(sys.argv[2]) as writer:
    section = writer.add([data], int(sys.argv[3]))
    tensors = [DenseTensor("d", "U8", (len(data),), section)]
    writer.finish(producer="", metadata={}, files=[], tensors=tensors)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_highest_zstd_levels_need_little_memory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(np.random.default_rng(2).integers(0, 27, 1 << 19, np.uint8).tobytes())
    for level in (19, 22):
        arguments = [COMPRESS, data, tmp_path / f"{level}.rsr", level]
        done = subprocess.run(
            [sys.executable, "-c", *map(str, arguments)], capture_output=True, check=True
        )
        assert int(done.stdout) < 200 << 10, f"level {level}: {int(done.stdout) >> 10} MiB"
        RsrFile(tmp_path / f"{level}.rsr").verify()


@pytest.mark.parametrize("level", range(1, 20))
def test_zstd_levels_up_to_19_are_those_of_the_library(tmp_path: Path, level: int) -> None:
    """The memory bound changes only the levels above 19."""
    data = np.random.default_rng(3).integers(0, 27, 1 << 15, np.uint8).tobytes()
    with create(tmp_path / "a.rsr") as writer:
        section = writer.add([data], level)
        tensors = [DenseTensor("d", "U8", (len(data),), section)]
        writer.finish(producer="", metadata={}, files=[], tensors=tensors)
    stored = writer.sections[section]
    expected = zstandard.ZstdCompressor(level=level).compressobj()
    frame = expected.compress(data) + expected.flush()
    assert (tmp_path / "a.rsr").read_bytes()[stored.offset :][: stored.stored_size] == frame
