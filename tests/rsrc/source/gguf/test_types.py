"""Block types of GGUF: literal bytes, and encoders of the gguf package or of this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from rsrc.source.gguf.types import TYPES, GgmlType

Array = npt.NDArray[Any]

BY_NAME = {t.name: t for types in TYPES.values() for t in types}

# Weight i is (i % 3) - 1, the scale is 0.5. TQ1_0 and TQ2_0 are the gguf package's output.
GOLDEN = {
    "TQ1_0": "456ccf" * 10 + "456c" + "94bb31" * 5 + "94" + "3092bb30" + "0038",
    "TQ2_0": "186186" * 21 + "18" + "0038",
    "PTQ1_0": "3194bb" * 5 + "31" + "cf456c" * 2 + "cf45" + "436c" + "0038",
    "Q2_0": "0038" + "244992" * 5 + "24",
    "PQ2_0": "0038" + "244992" * 10 + "2449",
    "I2_S": "244992" * 10 + "2449",
    "IQ2_BN": "0000003f" + "244992" * 5 + "24",
    "IQ1_BN": "0038" + "6c45cf" + "cf6c45" + "45cf6c" + "6c45cf" + "17",
}


def codes(kind: GgmlType, data: bytes) -> Array:
    """Decode one block, after the row header."""
    assert kind.codec is not None
    block = np.frombuffer(data, np.uint8)[kind.row_header :]
    assert block.size == kind.block_bytes
    decoded = kind.codec.decode(block[None])
    assert decoded.dtype == np.uint8
    assert decoded.shape == (1, kind.block)
    found: Array = decoded[0]
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    kind, data = BY_NAME[name], bytes.fromhex(GOLDEN[name])
    assert codes(kind, data).tolist() == [i % 3 for i in range(kind.block)]
    assert kind.codec is not None
    if not kind.tail:
        assert kind.codec.scales(np.frombuffer(data, np.uint8)[None]).tolist() == [0.5]


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_any_bytes_decode_as_the_gguf_package_does(name: str) -> None:
    kind = BY_NAME[name]
    assert kind.codec is not None
    blocks = np.random.default_rng(5).integers(0, 256, (200, kind.block_bytes), np.uint8)
    blocks[:, kind.codec.scale] = np.float16(0.75).reshape(1).view(np.uint8)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    decoded = (kind.codec.decode(blocks).astype(np.float32) - 1) * np.float32(0.75)
    assert np.array_equal(decoded, expected)


def test_sizes_are_those_of_the_gguf_package() -> None:
    known = {t.name: int(t) for t in gguf.GGMLQuantizationType}
    checked = 0
    for number, types in TYPES.items():
        for kind in types:
            if known.get(kind.name) == number:
                found = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)]
                assert found == (kind.block, kind.block_bytes), kind.name
                checked += 1
    assert checked >= 30  # older packages know fewer types


# Encoders of types that the package lacks, weight by weight. Each takes digits 0, 1, 2.


def put(data: bytearray, byte: int, shift: int, code: int) -> None:
    data[byte] |= int(code) << shift


def encode_i2_s(t: Array) -> bytes:
    data = bytearray(32)
    for j, code in enumerate(t):
        put(data, j % 32, 6 - 2 * (j // 32), code)
    return bytes(data)


def encode_q2(t: Array) -> bytes:
    data = bytearray(len(t) // 4)
    for j, code in enumerate(t):
        put(data, j // 4, 2 * (j % 4), code)
    return b"\x00\x38" + bytes(data)


def encode_iq2_bn(t: Array) -> bytes:
    data = bytearray(16)
    for j, code in enumerate(t):
        put(data, j % 16, 2 * (j // 16), code)
    return bytes(data)


def trit_byte(trits: Any) -> int:
    """Pack trits, most significant first."""
    value = 0
    for trit in trits:
        value = 3 * value + int(trit)
    return -(-256 * value // 243)


def encode_iq1_bn(t: Array) -> bytes:
    data = [
        trit_byte(t[16 * g + 5 * i : 16 * g + 5 * i + 5][::-1]) for g in range(4) for i in range(3)
    ]
    return bytes([*data, trit_byte(t[15::16][::-1])])


def encode_ptq1_0(t: Array) -> bytes:
    data = [trit_byte(t[m:80:16]) for m in range(16)]
    data += [trit_byte(t[80 + m : 120 : 8]) for m in range(8)]
    data += [trit_byte([*t[120 + m : 128 : 2], 0]) for m in range(2)]
    return bytes(data) + b"\x00\x38"


def encode_stq1_0(t: Array) -> bytes:
    book = [
        0xA9,
        0x89,
        0x29,
        0x09,
        0xA6,
        0x86,
        0x26,
        0x06,
        0x9A,
        0x92,
        0x1A,
        0x12,
        0x6A,
        0x62,
        0x4A,
    ]
    book = [*book, 0x42]
    book += [0xAA - pattern for pattern in book]
    data = bytearray(40)
    for g in range(64):
        lanes = [int(t[g // 16 * 64 + 16 * p + g % 16]) for p in range(4)]
        number = book.index(sum(lane << 2 * p for p, lane in enumerate(lanes)))
        put(data, g // 2, 4 * (g % 2), number & 15)
        put(data, 32 + g // 8, g % 8, number >> 4)
    return bytes(data) + b"\x00\x38"


def encode_q1_0(t: Array) -> bytes:
    data = bytearray(16)
    for j, bit in enumerate(t):
        put(data, j // 8, j % 8, bit)
    return b"\x00\x38" + bytes(data)


def any_digits(rng: np.random.Generator, kind: GgmlType) -> Array:
    return rng.integers(0, 3, kind.block)


def one_zero_in_four(rng: np.random.Generator, kind: GgmlType) -> Array:
    """Return digits like Sherry's: one zero (digit 1) in every four weights 16 apart."""
    lanes = 2 * rng.integers(0, 2, (4, 4, 16))
    zero = rng.integers(0, 4, (4, 16))
    for run in range(4):
        for i in range(16):
            lanes[run, zero[run, i], i] = 1
    return lanes.reshape(-1)


def two_digits(rng: np.random.Generator, kind: GgmlType) -> Array:
    return rng.integers(0, 2, kind.block)


Digits = Callable[[np.random.Generator, GgmlType], Array]


@pytest.mark.parametrize(
    ("name", "encode", "draw"),
    [
        ("I2_S", encode_i2_s, any_digits),
        ("Q2_0", encode_q2, any_digits),
        ("PQ2_0", encode_q2, any_digits),
        ("IQ2_BN", lambda t: bytes(4) + encode_iq2_bn(t), any_digits),
        ("IQ1_BN", lambda t: bytes(2) + encode_iq1_bn(t), any_digits),
        ("PTQ1_0", encode_ptq1_0, any_digits),
        ("STQ1_0", encode_stq1_0, one_zero_in_four),
        ("Q1_0", encode_q1_0, two_digits),
    ],
)
def test_against_an_encoder(name: str, encode: Callable[[Array], bytes], draw: Digits) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        t = draw(rng, BY_NAME[name])
        assert codes(BY_NAME[name], encode(t)).tolist() == t.tolist()


@pytest.mark.parametrize("name", ["TQ2_0", "Q2_0", "PQ2_0", "I2_S", "IQ2_BN"])
def test_code_3_is_seen_wherever_it_stands(name: str) -> None:
    kind = BY_NAME[name]
    codec = kind.codec
    assert codec is not None
    clean = np.zeros((3, kind.block_bytes), np.uint8)
    clean[:, codec.two_bits] = 0b10011000
    assert not codec.holds_code_3(clean)
    first, stop, _ = codec.two_bits.indices(kind.block_bytes)  # type: ignore[union-attr]
    for byte in (first, stop - 1):
        for shift in (0, 2, 4, 6):
            wrong = clean.copy()
            wrong[1, byte] |= 3 << shift
            assert codec.holds_code_3(wrong)


def test_code_3_in_the_bytes_of_a_scale_is_none() -> None:
    for name in ("TQ2_0", "Q2_0", "PQ2_0"):
        kind = BY_NAME[name]
        assert kind.codec is not None
        block = np.zeros((1, kind.block_bytes), np.uint8)
        block[:, kind.codec.scale] = 0xFF
        assert not kind.codec.holds_code_3(block)
