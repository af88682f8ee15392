"""The tensor types of GGUF: plain elements, and the block types of ggml and its forks.

Type numbers are not unique, as forks assigned the same numbers independently. A number therefore
has candidates, and the sizes of a file's tensors decide between them.

Blocks are laid out as ggml's quantize_row_* functions do, or the code of the fork that added the
type: bitnet.cpp (I2_S), ik_llama.cpp (IQ1_BN, IQ2_BN), PrismML's llama.cpp (PQ2_0, PTQ1_0),
Tencent's llama.cpp (STQ1_0). A code is a digit: 0, 1, 2 for -1, 0, +1; in Q2_0 and PQ2_0, 3 for +2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

from rsr_formats.records import BINARY_SIGNS, TERNARY

from ...common.arrays import ByteArray
from ...common.errors import SourceError
from .reader import Header, TensorInfo

Scales = npt.NDArray[np.float32]

_BYTES = np.arange(256, dtype=np.uint32)
# By byte: its four codes, lowest bits first, as the bytes of a uint32.
_NEIGHBORS = np.stack([_BYTES >> 2 * i & 3 for i in range(4)], 1).astype(np.uint8).view(np.uint32)
# [n, byte]: the n-th of its five trits, most significant first. A byte stores the number v of these
# trits as ceil(256 v / 243), which is v / 243 as a fraction of 256. Multiplied by 3^n modulo 256,
# the fraction begins with trit n; multiplied by 3, its integer part is trit n.
_TRITS = np.stack([(_BYTES * 3**n & 255) * 3 >> 8 for n in range(5)]).astype(np.uint8)


@dataclass(frozen=True)
class Codec:
    """How blocks store digits and their scale: weight = digit value * scale."""

    # (blocks, block bytes) -> codes (blocks, weights). Not in the repr, which `Checkpoint.digest`
    # hashes: the repr of a function differs between processes.
    decode: Callable[[ByteArray], ByteArray] = field(repr=False)
    scale: slice  # its bytes in the block, in the row header, or in the tail
    scale_dtype: str = "<f2"
    two_bits: slice | None = None  # bytes of a block with two-bit codes, which can be 3
    digits: tuple[int, ...] = TERNARY
    digits_with_3: tuple[int, ...] | None = None  # if code 3 occurs; None: it is damage

    def holds_code_3(self, blocks: ByteArray) -> bool:
        """Return whether any code is 3; `blocks` is (blocks, block bytes)."""
        if self.two_bits is None:
            return False
        codes = blocks[:, self.two_bits]
        return bool((codes & codes >> 1 & 0x55).any())

    def scales(self, raw: ByteArray) -> Scales:
        """Return the scale in each row of `raw`: one block, one row header or one tail per row."""
        found = np.ascontiguousarray(raw[:, self.scale]).view(self.scale_dtype)
        return found.astype(np.float32).reshape(-1)


@dataclass(frozen=True)
class GgmlType:
    """A tensor type: its name in ggml or the fork that added it, and its sizes."""

    name: str
    block: int  # weights in a block; a row consists of whole blocks
    block_bytes: int
    row_header: int = 0  # bytes before the blocks of every row
    tail: int = 0  # bytes after the last block of the tensor
    dtype: str | None = None  # of plain elements, as safetensors spells it
    codec: Codec | None = None  # of ternary and binary types
    assumed: str = ""  # an assumption that files cannot confirm; for reports

    @property
    def is_flat(self) -> bool:
        """Whether blocks cover the tensor as one sequence, so that they can straddle rows."""
        return self.tail > 0

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of a row of whole blocks."""
        return self.row_header + columns // self.block * self.block_bytes

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor; `fits(shape)` must hold."""
        if self.is_flat:
            return prod(shape) // self.block * self.block_bytes + self.tail
        return prod(shape[:-1]) * self.row_bytes(shape[-1] if shape else 1)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether each row (or a flat tensor) consists of whole blocks."""
        return (prod(shape) if self.is_flat else shape[-1] if shape else 1) % self.block == 0


def _planes(codes: ByteArray, shifts: Sequence[int] = (0, 2, 4, 6)) -> ByteArray:
    """Unpack four codes per byte: plane i is the codes at bit shifts[i] of all bytes."""
    result = np.empty((len(codes), 4, codes.shape[1]), np.uint8)
    for i, shift in enumerate(shifts):
        np.right_shift(codes, shift, out=result[:, i])
    result &= 3
    return result.reshape(len(codes), -1)


def _neighbors(codes: ByteArray) -> ByteArray:
    """Unpack four neighboring codes per byte, lowest bits first."""
    return np.take(_NEIGHBORS, codes).view(np.uint8)


def _trits(*parts: tuple[ByteArray, int]) -> ByteArray:
    """Unpack up to five trits per byte, in planes: plane i is trit i, most significant first.

    Args:
        parts: bytes, and how many trits each of them holds.
    """
    width = sum(planes * codes.shape[1] for codes, planes in parts)
    result = np.empty((len(parts[0][0]), width), np.uint8)
    start = 0
    for codes, planes in parts:
        index = codes.astype(np.intp)  # np.take would convert for every plane
        for i in range(planes):
            result[:, start : start + codes.shape[1]] = np.take(_TRITS[i], index)
            start += codes.shape[1]
    return result


def _tq1_0(b: ByteArray) -> ByteArray:
    return _trits((b[:, :32], 5), (b[:, 32:48], 5), (b[:, 48:52], 4))


def _tq2_0(b: ByteArray) -> ByteArray:
    return _planes(b[:, :64].reshape(-1, 32)).reshape(len(b), 256)


def _ptq1_0(b: ByteArray) -> ByteArray:
    return _trits((b[:, :16], 5), (b[:, 16:24], 5), (b[:, 24:26], 4))


def _q1_0(b: ByteArray) -> ByteArray:
    return np.unpackbits(b[:, 2:], axis=1, bitorder="little")


def _q2_0(b: ByteArray) -> ByteArray:
    return _neighbors(b[:, 2:])


def _i2_s(b: ByteArray) -> ByteArray:
    return _planes(b, (6, 4, 2, 0))


def _iq1_bn(b: ByteArray) -> ByteArray:
    """Unpack 64 weights from four runs of three bytes, five trits each, and one trit of byte 12."""
    codes = np.empty((len(b), 4, 16), np.uint8)
    for i in range(5):
        codes[:, :, i:15:5] = np.take(_TRITS[4 - i], b[:, :12]).reshape(-1, 4, 3)
    for i in range(4):
        codes[:, i, 15] = np.take(_TRITS[4 - i], b[:, 12])
    return codes.reshape(len(b), 64)


# Sherry: four trits with exactly one zero. 16 patterns, then their negations.
_POSITIVE = bytes.fromhex("a9892909 a6862606 9a921a12 6a624a42")
_STQ = np.array([*_POSITIVE, *(0xAA - pattern for pattern in _POSITIVE)], np.uint8)


def _stq1_0(b: ByteArray) -> ByteArray:
    """Unpack 64 groups of four weights: group g is weight g % 16 of four runs of 16."""
    number = np.stack([b[:, :32] & 15, b[:, :32] >> 4], axis=2).reshape(len(b), 64)
    number |= np.unpackbits(b[:, 32:40], axis=1, bitorder="little") << 4
    return _planes(_STQ[number].reshape(-1, 16)).reshape(len(b), 256)


_Q2 = Codec(_q2_0, slice(0, 2), two_bits=slice(2, None), digits_with_3=(-1, 0, 1, 2))
_PQ2_0 = GgmlType("PQ2_0", 128, 34, codec=_Q2)
_STQ1_0 = GgmlType("STQ1_0", 256, 42, codec=Codec(_stq1_0, slice(40, 42)))
# The order of x86, 128 weights in 32 bytes, which the official files and the converters use. If
# built for ARM or without ACT_PARALLEL, bitnet.cpp writes other orders under the same number: the
# same codes in other places, so neither code 3 nor the share of zeros reveals them. i2_s.py detects
# the order without ACT_PARALLEL; that of ARM cannot be detected.
_I2_S = GgmlType(
    "I2_S",
    128,
    32,
    tail=32,
    codec=Codec(_i2_s, slice(0, 4), "<f4", two_bits=slice(None)),
    assumed=" (order of x86 assumed)",
)
_IQ2_BN = Codec(_planes, slice(0, 4), "<f4", two_bits=slice(None))

# Number: candidates.
TYPES: dict[int, tuple[GgmlType, ...]] = {
    0: (GgmlType("F32", 1, 4, dtype="F32"),),
    1: (GgmlType("F16", 1, 2, dtype="F16"),),
    2: (GgmlType("Q4_0", 32, 18),),
    3: (GgmlType("Q4_1", 32, 20),),
    6: (GgmlType("Q5_0", 32, 22),),
    7: (GgmlType("Q5_1", 32, 24),),
    8: (GgmlType("Q8_0", 32, 34),),
    10: (GgmlType("Q2_K", 256, 84),),
    11: (GgmlType("Q3_K", 256, 110),),
    12: (GgmlType("Q4_K", 256, 144),),
    13: (GgmlType("Q5_K", 256, 176),),
    14: (GgmlType("Q6_K", 256, 210),),
    16: (GgmlType("IQ2_XXS", 256, 66),),
    17: (GgmlType("IQ2_XS", 256, 74),),
    18: (GgmlType("IQ3_XXS", 256, 98),),
    19: (GgmlType("IQ1_S", 256, 50),),
    20: (GgmlType("IQ4_NL", 32, 18),),
    21: (GgmlType("IQ3_S", 256, 110),),
    22: (GgmlType("IQ2_S", 256, 82),),
    23: (GgmlType("IQ4_XS", 256, 136),),
    24: (GgmlType("I8", 1, 1, dtype="I8"),),
    25: (GgmlType("I16", 1, 2, dtype="I16"),),
    26: (GgmlType("I32", 1, 4, dtype="I32"),),
    27: (GgmlType("I64", 1, 8, dtype="I64"),),
    28: (GgmlType("F64", 1, 8, dtype="F64"),),
    29: (GgmlType("IQ1_M", 256, 56),),
    30: (GgmlType("BF16", 1, 2, dtype="BF16"),),
    34: (GgmlType("TQ1_0", 256, 54, codec=Codec(_tq1_0, slice(52, 54))),),
    35: (GgmlType("TQ2_0", 256, 66, codec=Codec(_tq2_0, slice(64, 66), two_bits=slice(0, 64))),),
    36: (_I2_S,),
    39: (GgmlType("MXFP4", 32, 17),),
    40: (GgmlType("NVFP4", 64, 36),),
    41: (GgmlType("Q1_0", 128, 18, codec=Codec(_q1_0, slice(0, 2), digits=BINARY_SIGNS)),),
    42: (GgmlType("Q2_0", 64, 18, codec=_Q2), _PQ2_0, _STQ1_0),
    43: (_STQ1_0,),
    134: (GgmlType("IQ1_BN", 64, 13, row_header=2, codec=Codec(_iq1_bn, slice(0, 2))),),
    135: (GgmlType("IQ2_BN", 64, 16, row_header=4, codec=_IQ2_BN),),
    142: (_PQ2_0,),
    143: (GgmlType("PTQ1_0", 128, 28, codec=Codec(_ptq1_0, slice(26, 28))),),
}
# Numbers that several projects assigned: the size must match exactly.
_SHARED = frozenset({36, 39, 41, 42, 43, 134, 135, 142, 143})

_TILED = "its order depends on how bitnet.cpp was built: convert the checkpoint again, "
_REFUSED = {
    38: f"type 38 (TL1 of bitnet.cpp): {_TILED}as I2_S or TQ2_0",
    39: f"type 39, but not the size of MXFP4 (TL2 of bitnet.cpp): {_TILED}as I2_S or TQ2_0",
    335: "type 335 (IQ2_BN_R4 of ik_llama.cpp): its rows are interleaved by four: convert it to "
    "IQ2_BN",
}


def resolve(header: Header) -> dict[str, GgmlType]:
    """Return the type of every tensor, by its GGUF name.

    Raises:
        SourceError: a type is unknown or unsupported, or a tensor exceeds its room.
    """
    by_number: dict[int, list[TensorInfo]] = {}
    for info in header.tensors:
        by_number.setdefault(info.type_id, []).append(info)
    types = {n: _resolve(header, n, infos) for n, infos in by_number.items()}
    for info in header.tensors:
        _check_room(info, types[info.type_id])
    return {info.name: types[info.type_id] for info in header.tensors}


def _resolve(header: Header, number: int, infos: Sequence[TensorInfo]) -> GgmlType:
    candidates = TYPES.get(number, ())
    if number in _SHARED:
        fitting = [
            t for t in candidates if all(_fills(t, info, header.alignment) for info in infos)
        ]
    else:
        fitting = list(candidates)
    if len(fitting) == 1:
        return fitting[0]
    where = f"{header.path}: tensor {infos[0].name[:80]!r}"
    if fitting:
        names = " and ".join(t.name for t in fitting)
        raise SourceError(f"{where} has type {number}, and its size fits both {names}")
    if number in _REFUSED:
        raise SourceError(f"{where} has {_REFUSED[number]}")
    if candidates:
        names = " or ".join(t.name for t in candidates)
        wrong = next(
            (i for i in infos if not any(_fills(t, i, header.alignment) for t in candidates)), None
        )
        if wrong is None:  # each tensor fits a candidate, but not all the same one
            raise SourceError(
                f"{where} and others have type {number}, but their sizes fit different types: "
                f"{names}"
            )
        raise SourceError(
            f"{header.path}: tensor {wrong.name[:80]!r} has type {number}, but {wrong.room} bytes "
            f"for shape {list(wrong.shape)}, which is not the size of {names}"
        )
    raise SourceError(
        f"{where} has type {number}, which is unknown: convert the model to TQ2_0 or F16"
    )


def _fills(t: GgmlType, info: TensorInfo, alignment: int) -> bool:
    return t.fits(info.shape) and 0 <= info.room - t.nbytes(info.shape) < alignment


def _check_room(info: TensorInfo, t: GgmlType) -> None:
    what = f"{info.path}: tensor {info.name[:80]!r}, {t.name} {list(info.shape)},"
    if not t.fits(info.shape):
        raise SourceError(f"{what} has rows that are not a multiple of {t.block}")
    if t.nbytes(info.shape) > info.room:
        raise SourceError(
            f"{what} takes {t.nbytes(info.shape)} bytes, but only {info.room} remain before the "
            "next tensor or the end of the file: download it again"
        )
