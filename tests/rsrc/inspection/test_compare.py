"""`verify --against`: a `.rsr` file compared with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import SMALL_TENSORS
from rsrc.inspection.compare import compare

T = SMALL_TENSORS["int8"]


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    return kit.save(tmp_path / "s.safetensors", SMALL_TENSORS)


@pytest.fixture
def rsr(source: Path, tmp_path: Path) -> Path:
    rsrc.compile(source, tmp_path / "x.rsr")
    return tmp_path / "x.rsr"


def test_every_mismatch_is_named(kit: Kit, tmp_path: Path, rsr: Path) -> None:
    changed: dict[str, Any] = {**SMALL_TENSORS, "extra": T}
    del changed["packed"]
    changed["int8"] = -T
    changed["float"] = SMALL_TENSORS["float"] + np.float32(0)  # -0.0 becomes +0.0
    changed["packed_scale"] = np.full(1, 4, np.float16)
    changed["dense"] = SMALL_TENSORS["dense"].astype(np.int32)
    other = kit.save(tmp_path / "other.safetensors", changed)
    with pytest.raises(rsrc.MismatchError) as caught:
        compare(rsr, other)
    message = str(caught.value)
    assert message.startswith(f"{rsr} does not match {other}: packed: not in the source; ")
    for part in (
        "int8: first differs at byte 0 of 15",
        "float: first differs at byte 7 of 60",
        "packed_scale: first differs at byte 1 of 2",
        "dense: I32 [7] in the source, I64 [7] in the .rsr file",
        "extra: not in the .rsr file",
    ):
        assert part in message
    assert "bits" not in message


def test_many_mismatches_are_counted(kit: Kit, tmp_path: Path, rsr: Path) -> None:
    extra = {f"extra{i}": T for i in range(20)}
    other = kit.save(tmp_path / "other.safetensors", {**SMALL_TENSORS, **extra})
    with pytest.raises(rsrc.MismatchError, match=r"extra9: .*; and 10 more$"):
        compare(rsr, other)


def test_one_bit(kit: Kit, tmp_path: Path, source: Path, rsr: Path) -> None:
    whole = source.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for position in range(start, len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        source.write_bytes(data)
        with pytest.raises(rsrc.MismatchError, match="first differs at byte"):
            compare(rsr, source)


def test_progress(source: Path, rsr: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    assert compare(rsr, source, lambda *call: calls.append(call)) == len(SMALL_TENSORS)
    total = sum(t.nbytes for t in SMALL_TENSORS.values())
    assert calls[-1][1:] == (total, total)


def test_quantized_tensors_are_quantized_again(kit: Kit, tmp_path: Path) -> None:
    w = np.array([[0.5, -1, 0.2, 0], [1.5, -0.1, 0.75, -0.75]], np.float32)
    source = kit.save(tmp_path / "s.safetensors", {"w.weight": w})
    rsrc.compile(source, tmp_path / "x.rsr", quantize="absmean")
    assert compare(tmp_path / "x.rsr", source) == 1
    nothing_changes = w.copy()
    nothing_changes[0, :2] += np.float32(0.125)  # the mean stays, and so do the digits
    for values, message in (
        (nothing_changes, None),
        (w * 2, "w.weight: quantizes to another scale"),
        (-w, "w.weight: quantizes to other digits"),
        (w * np.float32(np.nan), "w.weight: cannot be quantized: F32 with NaN"),
    ):
        kit.save(source, {"w.weight": values})
        if message is None:
            assert compare(tmp_path / "x.rsr", source) == 1
        else:
            with pytest.raises(rsrc.MismatchError, match=message):
                compare(tmp_path / "x.rsr", source)
