"""I2_S: one type number for three orders of codes, of which two can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.gguf_files import GgufKit
from rsrc.source.gguf.i2_s import holds_four_rows_a_byte

Codes = npt.NDArray[np.uint8]

TAIL = np.float32(0.5).tobytes() + bytes(28)


def trained(rows: int, columns: int, spread: float) -> Codes:
    """Return codes whose columns have shares of zeros that differ by `spread`."""
    rng = np.random.default_rng(7)
    share = 0.4 + spread * rng.uniform(-1, 1, columns)
    zero = rng.random((rows, columns)) < share
    return np.where(zero, 1, 2 * rng.integers(0, 2, (rows, columns))).astype(np.uint8)


def x86(codes: Codes) -> bytes:
    """Pack blocks of 128: weight j is in byte j % 32, the first 32 weights in the highest bits."""
    blocks = codes.reshape(-1, 4, 32)
    return bytes(blocks[:, 0] << 6 | blocks[:, 1] << 4 | blocks[:, 2] << 2 | blocks[:, 3])


def four_rows(codes: Codes) -> bytes:
    """Pack rows 4r to 4r + 3 into the bytes of one row, the first row in the highest bits."""
    rows = codes.reshape(-1, 4, codes.shape[1])
    return bytes(rows[:, 0] << 6 | rows[:, 1] << 4 | rows[:, 2] << 2 | rows[:, 3])


def compiled(kit: GgufKit, folder: Path, codes: Codes, data: bytes) -> Any:
    tensors = {"w": (codes.shape, 36, data + TAIL)}
    source = kit.save(folder / "m.gguf", {"general.architecture": "none"}, tensors)
    rsrc.compile(source, folder / "x.rsr")
    return rsr_runtime.load(folder / "x.rsr")["w"]


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_x86_is_read(gguf_kit: GgufKit, tmp_path: Path, spread: float) -> None:
    codes = trained(256, 512, spread)
    w = compiled(gguf_kit, tmp_path, codes, x86(codes))
    assert np.array_equal(w.to_dense(np.int8), codes.astype(np.int8) - 1)


@pytest.mark.parametrize(("rows", "columns", "spread"), [(128, 128, 0.3), (2560, 640, 0.05)])
def test_four_rows_a_byte_are_refused(
    gguf_kit: GgufKit, tmp_path: Path, rows: int, columns: int, spread: float
) -> None:
    codes = trained(rows, columns, spread)
    with pytest.raises(rsrc.SourceError, match=r"^w: I2_S with four rows in each byte.*TQ2_0$"):
        compiled(gguf_kit, tmp_path, codes, four_rows(codes))


@pytest.mark.parametrize("shape", [(0, 128), (124, 128), (256, 64)])
def test_what_is_too_small_to_tell(shape: tuple[int, int]) -> None:
    """Fewer than 32 groups of rows, or rows that are not whole blocks."""
    codes = np.frombuffer(four_rows(trained(*shape, 0.3)), np.uint8)
    assert not holds_four_rows_a_byte(codes, shape[1])


def test_all_zeros_tell_nothing() -> None:
    assert not holds_four_rows_a_byte(np.full(128 * 64, 0x55, np.uint8), 128)
