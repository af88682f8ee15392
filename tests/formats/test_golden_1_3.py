"""What version 1.3 added is read for ever; decoded here from SPEC.md and the reader alone."""

from __future__ import annotations

import hashlib
import runpy
import struct
from pathlib import Path

import pytest

from rsr_formats import DenseTensor, RsrFile
from rsr_formats.records import Quantized
from rsr_testing.paths import GOLDEN
from rsrc.export.source import restorable

FOLDER = GOLDEN / "v1.3"
SHA256 = "ab77c899530e1afca61313d413dc1caecb4dfa15c6c82aa79e4cb3741c1ec2a8"

TIED = [[127, -64, 32, 0], [0, 0, 0, 0], [32, 64, -127, 16]]
EMBEDDING = "fe42 7ec2 fe41 0000 0000 0000 0000 0000 803e 003f 80bf 003e"  # BF16
HEAD = [63.5, -0.5, -254.0, 252.0]  # q * scale


@pytest.fixture(scope="module")
def golden() -> RsrFile:
    return RsrFile(FOLDER / "golden.rsr")


def record(golden: RsrFile, name: str) -> DenseTensor:
    (t,) = (t for t in golden.header.tensors if t.name == name)
    assert isinstance(t, DenseTensor)
    return t


def test_the_file_is_the_one_written_then() -> None:
    assert hashlib.sha256((FOLDER / "golden.rsr").read_bytes()).hexdigest() == SHA256


def test_it_is_valid(golden: RsrFile) -> None:
    golden.verify()
    assert golden.version == (1, 3)


def test_a_tied_head_and_its_source(golden: RsrFile) -> None:
    t = record(golden, "tied.weight")
    assert t.quantized == Quantized("absmax", "embedding.weight", "BF16")
    assert t.is_added
    assert golden.section(t.section).view("i1").reshape(3, 4).tolist() == TIED
    scale = golden.section(record(golden, "tied.weight_scale").section)
    assert scale.tobytes() == struct.pack("<3f", 1, 0, 1 / 127)
    embedding = record(golden, "embedding.weight")
    assert embedding.quantized is None
    assert golden.section(embedding.section).tobytes() == bytes.fromhex(EMBEDDING)


def test_a_head_that_stands_for_its_source(golden: RsrFile) -> None:
    t = record(golden, "head.weight")
    assert t.quantized == Quantized("absmax", "head.weight", "F16")
    assert not t.is_added
    assert golden.section(t.section).tobytes() == bytes([127, 255, 129, 126])
    scale = golden.section(record(golden, "head.weight_scale").section)
    assert scale.tobytes() == struct.pack("<2f", 0.5, 2)


def test_the_source_has_neither_scales_nor_the_tied_head(golden: RsrFile) -> None:
    source = restorable(golden)
    assert list(source) == ["embedding.weight", "head.weight"]
    assert source["embedding.weight"].data().tobytes() == bytes.fromhex(EMBEDDING)
    head = source["head.weight"]
    assert (head.dtype, head.shape) == ("F16", (2, 2))
    assert head.data().tobytes() == struct.pack("<4e", *HEAD)


def test_todays_writer_makes_the_same_file(golden: RsrFile, tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "make_golden_1_3.py"))["write"](tmp_path / "golden.rsr")
    assert (tmp_path / "golden.rsr").read_bytes() == golden.path.read_bytes()
