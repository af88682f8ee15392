"""Blocks of ternary types, compared with those of the package gguf and with known bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from rsrc.export.gguf.blocks import TYPES as BLOCKS
from rsrc.source.gguf.types import TYPES as READABLE

RNG = np.random.default_rng(41)
TYPES = ("TQ1_0", "TQ2_0")  # that the package knows

# Weights (i % 3) - 1 with scale 0.5. TQ1_0 and TQ2_0 are as the package gguf encodes them.
GOLDEN = {
    "TQ1_0": "456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456c"
    "94bb3194bb3194bb3194bb3194bb3194" + "3092bb30" + "0038",
    "TQ2_0": "186186" * 21 + "18" + "0038",
    "Q2_0": "0038" + "244992" * 5 + "24",
    "PQ2_0": "0038" + "244992" * 10 + "2449",
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_golden(kind: str) -> None:
    block = BLOCKS[kind]
    codes = (np.arange(block.weights) % 3).astype(np.uint8)[None]
    assert block.encode(codes, np.array([0.5], np.float16)).tobytes().hex() == GOLDEN[kind]


def test_numbers() -> None:
    """Those that the package knows; the reader knows them all."""
    for kind in TYPES:
        assert BLOCKS[kind].number == gguf.GGMLQuantizationType[kind]
        assert BLOCKS[kind].file_type == gguf.LlamaFileType[f"MOSTLY_{kind}"]
    for kind, block in BLOCKS.items():
        (found,) = (t for t in READABLE[block.number] if t.name == kind)
        assert (found.block, found.block_bytes) == (block.weights, block.nbytes)


@pytest.mark.parametrize("kind", ["Q2_0", "PQ2_0"])
def test_the_reader_decodes_the_same(kind: str) -> None:
    block = BLOCKS[kind]
    codes = RNG.integers(0, 3, (50, block.weights)).astype(np.uint8)
    scales = RNG.uniform(-9, 9, 50).astype(np.float16)
    blocks = block.encode(codes, scales)
    (found,) = (t for t in READABLE[block.number] if t.name == kind)
    assert found.codec is not None
    assert (found.codec.decode(blocks) == codes).all()
    assert (found.codec.scales(blocks) == scales).all()


@pytest.mark.parametrize("kind", TYPES)
def test_the_package_encodes_the_same(kind: str) -> None:
    """Its scale is the largest magnitude of a block, so every block has a weight that is not 0."""
    t = RNG.integers(-1, 2, (50, 256)).astype(np.int8)
    t[:, 0] = 1
    scales = RNG.uniform(0.001, 9, 50).astype(np.float16)
    blocks = BLOCKS[kind].encode((t + 1).astype(np.uint8), scales)
    wide = t * scales[:, None].astype(np.float32)
    want = gguf.quants.quantize(wide, gguf.GGMLQuantizationType[kind])
    assert blocks.tobytes() == want.tobytes()


@pytest.mark.parametrize("kind", TYPES)
def test_every_value_of_a_byte(kind: str) -> None:
    """Every byte takes all 243 combinations of five codes, or all 81 of four."""
    digits = np.arange(243)[:, None] // 3 ** np.arange(4, -1, -1) % 3
    block = np.empty((243, 256), np.uint8)
    for start, width in ((0, 32), (160, 16)):
        block[:, start : start + 5 * width] = np.repeat(digits, width, axis=1)
    block[:, 240:] = np.repeat(digits[:, :4], 4, axis=1)
    blocks = BLOCKS[kind].encode(block, np.ones(243, np.float16))
    back = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert (back == block.astype(np.float32) - 1).all()
