"""Decompiling and comparing, also what strangers wrote and what was changed on purpose."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats.errors import (
    DuplicateNameError,
    FormatError,
    HeaderFieldError,
    IndexDataError,
    SectionHashError,
    SectionSizeError,
)
from rsr_formats.records import LAYOUTS
from rsr_testing.checkpoints import Kit
from rsrc.export.decompile import compare, decompile
from rsrc.layouts import BY_NAME

RNG = np.random.default_rng(12)
T = np.array([[1, 0, -1], [0, 0, 1], [-1, 1, 0], [1, 1, 1], [0, -1, 1]], np.int8)
TENSORS: dict[str, Any] = {
    "int8": T,
    "float": np.where(T == 0, np.float32(-0.0), T * np.float32(0.5)).astype(np.float32),
    "bits": np.where(T == 0, np.float16(-0.0), np.float16(2)),
    "packed": np.array([[0xA1, 0x18], [0x90, 0x0A]], np.uint8),
    "packed_scale": np.full(1, 3, np.float16),
    "dense": np.arange(7, dtype=np.int64),
}


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    return kit.save(tmp_path / "s.safetensors", TENSORS)


@pytest.fixture
def rsr(source: Path, tmp_path: Path) -> Path:
    rsrc.compile(source, tmp_path / "x.rsr")
    return tmp_path / "x.rsr"


def record(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(t for t in document["tensors"] if t["name"] == name)
    return found


def rehash(kit: Kit, rsr: Path) -> None:
    """Record the hashes that the sections of a damaged file have now."""
    data = rsr.read_bytes()

    def change(document: dict[str, Any]) -> None:
        for s in document["sections"]:
            stored = data[s["offset"] : s["offset"] + s["stored_size"]]
            s["sha256"] = hashlib.sha256(stored).digest()

    kit.tamper(rsr, change)


def edit(name: str, path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes one field of a tensor's record."""

    def change(document: dict[str, Any]) -> None:
        at: Any = record(document, name)
        *parents, last = path.split(".")
        for key in parents:
            at = at[int(key) if key.isdigit() else key]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (edit("int8", "source.shape", [3, 5]), HeaderFieldError, "'int8'"),
        (edit("int8", "source.shape", [15]), HeaderFieldError, "'int8'"),
        (edit("int8", "source.dtype", "F32"), HeaderFieldError, "'int8'"),
        (edit("int8", "source.layout", "gguf"), HeaderFieldError, "layout: found 'gguf'"),
        (edit("packed", "source.shape", [3, 2]), HeaderFieldError, "'packed'"),
        (edit("packed", "source.layout", "absmean"), HeaderFieldError, "'packed'"),
        (edit("float", "source.dtype", "U8"), HeaderFieldError, "'float'"),
        (edit("int8", "name", "dense"), DuplicateNameError, "'dense'"),
        (edit("packed", "source.companions.0.name", "dense"), DuplicateNameError, "'dense'"),
        (edit("packed", "source.companions.0.name", "packed"), DuplicateNameError, "'packed'"),
        (edit("packed", "source.companions.0.shape", [9]), SectionSizeError, "'packed_scale'"),
        (edit("packed", "source.companions.0.name", "__metadata__"), HeaderFieldError, "reserves"),
        (edit("dense", "name", "__metadata__"), HeaderFieldError, "reserves"),
        # The alphabet {-1, 1} has no zeros that could be negative.
        (edit("bits", "digits", [-1, 1]), HeaderFieldError, "'bits'"),
        (edit("float", "source.layout", "int8"), HeaderFieldError, "'float'"),
    ],
)
def test_contradictions_are_refused(
    kit: Kit, tmp_path: Path, source: Path, rsr: Path, change: Any, error: type, message: str
) -> None:
    kit.tamper(rsr, change)
    with pytest.raises(error, match=message):
        decompile(rsr, tmp_path / "back.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.safetensors", "x.rsr"]
    with pytest.raises(FormatError):
        compare(rsr, source)


def test_damaged_indexes_are_refused(kit: Kit, tmp_path: Path) -> None:
    """Even where the hash was made to fit, what is handed to a layout is digits."""
    source = kit.save(tmp_path / "s.safetensors", {"w": T})
    for encoding in ("ranked", "permuted"):
        rsr = tmp_path / f"{encoding}.rsr"
        rsrc.compile(source, rsr, encoding=encoding)
        data = bytearray(rsr.read_bytes())
        data[4096:4098] = b"\xff\xff"
        rsr.write_bytes(data)
        with pytest.raises(SectionHashError, match="'w'"):
            decompile(rsr, tmp_path / "back.safetensors")
        rehash(kit, rsr)
        with pytest.raises(IndexDataError, match="'w'"):
            decompile(rsr, tmp_path / "back.safetensors")
        with pytest.raises(IndexDataError, match="'w'"):
            compare(rsr, source)
    assert not (tmp_path / "back.safetensors").exists()


def test_packed_rows_that_are_no_multiple_of_four(kit: Kit, tmp_path: Path) -> None:
    """No source gives this, but the format allows it: missing codes are 0."""
    source = kit.save(tmp_path / "s.safetensors", {"w": T})
    for encoding in ("ranked", "permuted"):
        rsr = tmp_path / f"{encoding}.rsr"
        rsrc.compile(source, rsr, encoding=encoding)

        def repack(document: dict[str, Any]) -> None:
            record(document, "w")["source"] |= {"layout": "bitnet", "dtype": "U8", "shape": [2, 3]}

        kit.tamper(rsr, repack)
        decompile(rsr, tmp_path / "back.safetensors", force=True)
        packed = np.array([[18, 9, 36], [9, 9, 10]], np.uint8)
        assert kit.judge(tmp_path / "back.safetensors") == {"w": kit.raw(packed)}


def test_huge_shapes_cost_nothing(kit: Kit, tmp_path: Path) -> None:
    """Two thousand million rows of nothing, with one scale, in a few kilobytes."""
    shape = (2**31 - 1, 0)
    source = kit.save(tmp_path / "s.safetensors", {"w": kit.literal("F32", shape, b"")})
    rsrc.compile(source, tmp_path / "x.rsr", encoding="permuted", direction="expand")
    tracemalloc.start()
    try:
        decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors")
        assert compare(tmp_path / "x.rsr", source) == 1
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert kit.judge(tmp_path / "back.safetensors")["w"].shape == shape


def test_scales_that_a_type_cannot_hold(kit: Kit, tmp_path: Path, rsr: Path) -> None:
    """A float32 scale beyond F16 gives infinity, not a warning."""
    data = bytearray(rsr.read_bytes())
    (at,) = (i for i in range(4096, len(data), 4096) if data[i : i + 5] == b"\0\0\0\x40\0")
    data[at : at + 4] = np.float32(1e30).tobytes()
    rsr.write_bytes(data)
    rehash(kit, rsr)
    decompile(rsr, tmp_path / "back.safetensors")
    found = np.frombuffer(kit.judge(tmp_path / "back.safetensors")["bits"].data, np.float16)
    assert np.isinf(found).sum() == np.count_nonzero(T)


def test_output(rsr: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    back.write_bytes(b"precious")
    with pytest.raises(rsrc.OutputExistsError):
        decompile(rsr, back)
    assert back.read_bytes() == b"precious"
    with pytest.raises(OSError, match="no folder"):
        decompile(rsr, tmp_path / "no folder" / "back.safetensors")
    calls: list[tuple[str, int, int]] = []
    found = decompile(rsr, back, force=True, progress=lambda *call: calls.append(call))
    assert found == []
    total = sum(t.nbytes for t in TENSORS.values())
    assert calls[-1][1:] == (total, total)
    assert {name for name, _, _ in calls} == set(TENSORS)
    before = back.read_bytes()
    decompile(rsr, back, force=True)
    assert back.read_bytes() == before


def test_its_input_is_no_output(kit: Kit, rsr: Path, tmp_path: Path) -> None:
    before = rsr.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(rsr)
    for output in (rsr, link, tmp_path / "." / rsr.name):
        for force in (False, True):
            with pytest.raises(rsrc.OptionError, match="is part of the source"):
                decompile(rsr, output, force=force)
    assert rsr.read_bytes() == before


def test_layouts_are_those_of_the_format() -> None:
    """So that a header which was checked names a layout that is known."""
    assert set(BY_NAME) == set(LAYOUTS)


def test_one_tensor_in_memory_at_a_time(kit: Kit, tmp_path: Path) -> None:
    size = 8 << 20
    data = np.random.default_rng(4).integers(0, 16, (4, size), np.uint8)
    tensors: dict[str, Any] = {"w": T, **{f"d{i}": d for i, d in enumerate(data)}}
    source = kit.save(tmp_path / "s.safetensors", tensors)
    rsrc.compile(source, tmp_path / "x.rsr", zstd=1)
    tracemalloc.start()
    try:
        decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 2 * size
        tracemalloc.reset_peak()
        compare(tmp_path / "x.rsr", source)
        assert tracemalloc.get_traced_memory()[1] < 5 * size  # and pieces to compare with
    finally:
        tracemalloc.stop()


class TestCompare:
    def test_every_mismatch_is_named(self, kit: Kit, tmp_path: Path, rsr: Path) -> None:
        changed: dict[str, Any] = {**TENSORS, "extra": T}
        del changed["packed"]
        changed["int8"] = -T
        changed["float"] = TENSORS["float"] + np.float32(0)  # +0.0: only the signs of zeros
        changed["packed_scale"] = np.full(1, 4, np.float16)
        changed["dense"] = TENSORS["dense"].astype(np.int32)
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

    def test_many_mismatches_are_counted(self, kit: Kit, tmp_path: Path, rsr: Path) -> None:
        extra = {f"extra{i}": T for i in range(20)}
        other = kit.save(tmp_path / "other.safetensors", {**TENSORS, **extra})
        with pytest.raises(rsrc.MismatchError, match=r"extra9: .*; and 10 more$"):
            compare(rsr, other)

    def test_one_bit(self, kit: Kit, tmp_path: Path, source: Path, rsr: Path) -> None:
        whole = source.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        for position in range(start, len(whole)):
            data = bytearray(whole)
            data[position] ^= 1 << position % 8
            source.write_bytes(data)
            with pytest.raises(rsrc.MismatchError, match="first differs at byte"):
                compare(rsr, source)

    def test_progress(self, source: Path, rsr: Path) -> None:
        calls: list[tuple[str, int, int]] = []
        assert compare(rsr, source, lambda *call: calls.append(call)) == len(TENSORS)
        total = sum(t.nbytes for t in TENSORS.values())
        assert calls[-1][1:] == (total, total)

    def test_quantized_tensors_are_quantized_again(self, kit: Kit, tmp_path: Path) -> None:
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
