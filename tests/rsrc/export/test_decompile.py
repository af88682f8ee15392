"""`decompile`: its options and output, damaged and hostile files, and its memory."""

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
from rsr_testing.exports import SMALL_TENSORS
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts import BY_NAME

T = SMALL_TENSORS["int8"]


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    return kit.save(tmp_path / "s.safetensors", SMALL_TENSORS)


@pytest.fixture
def rsr(source: Path, tmp_path: Path) -> Path:
    rsrc.compile(source, tmp_path / "x.rsr")
    return tmp_path / "x.rsr"


def record(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(t for t in document["tensors"] if t["name"] == name)
    return found


def rehash(kit: Kit, rsr: Path) -> None:
    """Record the hashes of the damaged sections in the header."""
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
        # The alphabet {-1, 1} has no zeros to be negative.
        (edit("bits", "digits", [-1, 1]), HeaderFieldError, "'bits'"),
        (edit("float", "source.layout", "int8"), HeaderFieldError, "'float'"),
    ],
)
def test_contradictory_headers(
    kit: Kit, tmp_path: Path, source: Path, rsr: Path, change: Any, error: type, message: str
) -> None:
    kit.tamper(rsr, change)
    with pytest.raises(error, match=message):
        decompile(rsr, tmp_path / "back.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.safetensors", "x.rsr"]
    with pytest.raises(FormatError):
        compare(rsr, source)


def test_damaged_indexes(kit: Kit, tmp_path: Path) -> None:
    """Even if a hash was forged, layouts get only valid digits."""
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


def test_packed_rows_not_divisible_by_four(kit: Kit, tmp_path: Path) -> None:
    """No source has them, but the format allows it: missing codes are 0."""
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
    """A few kilobytes may claim 2^31 - 1 empty rows with one scale."""
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


def test_scales_beyond_the_source_dtype(kit: Kit, tmp_path: Path, rsr: Path) -> None:
    """A float32 scale beyond F16 becomes infinity, without a warning of NumPy."""
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
    assert found.quantized == []
    assert found.notes == []
    total = sum(t.nbytes for t in SMALL_TENSORS.values())
    assert calls[-1][1:] == (total, total)
    assert {name for name, _, _ in calls} == set(SMALL_TENSORS)
    before = back.read_bytes()
    decompile(rsr, back, force=True)
    assert back.read_bytes() == before


def test_the_input_cannot_be_the_output(kit: Kit, rsr: Path, tmp_path: Path) -> None:
    before = rsr.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(rsr)
    for output in (rsr, link, tmp_path / "." / rsr.name):
        for force in (False, True):
            with pytest.raises(rsrc.OptionError, match="is part of the source"):
                decompile(rsr, output, force=force)
    assert rsr.read_bytes() == before


def test_layouts_match_the_format() -> None:
    """Every layout that a valid header may name can be restored."""
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
        assert tracemalloc.get_traced_memory()[1] < 5 * size  # pieces to compare, too
    finally:
        tracemalloc.stop()


def test_options(rsr: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"to": "onnx"}, "found 'onnx', expected source, bitnet, int8, float, gguf"),
        ({"type": "TQ1_0"}, "which only form 'gguf' has"),
        ({"to": "float", "type": "TQ2_0"}, "which only form 'gguf' has"),
        ({"to": "gguf", "type": "Q4_0"}, "expected TQ1_0, TQ2_0, Q2_0, PQ2_0"),
    ]
    for options, message in wrong:
        with pytest.raises(rsrc.OptionError, match=message):
            decompile(rsr, out, **options)
        assert not out.exists()


def test_a_gguf_name_is_for_gguf(kit: Kit, tmp_path: Path) -> None:
    rsrc.compile(
        kit.save(tmp_path / "s.safetensors", {"w": np.eye(3, dtype=np.int8)}), tmp_path / "x.rsr"
    )
    for form in ("source", "bitnet", "int8", "float"):
        with pytest.raises(rsrc.OptionError, match=r"x\.gguf: only form gguf writes a \.gguf file"):
            decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to=form)
    assert not (tmp_path / "x.gguf").exists()
