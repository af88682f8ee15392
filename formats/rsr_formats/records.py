"""The constants and records of the `.rsr` format, version 1.5 (formats/SPEC.md is normative)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from .packing import RANK_BITS, n4s1_size, w16_size

MAGIC = b"\x89RSR\r\n\x1a\n"
VERSION = (1, 5)
ALIGNMENT = 4096

# magic, major, minor, flags, header offset, header size, SHA-256 of the header
PREAMBLE = struct.Struct("<8sHHIQQ32s")

# Limits (SPEC.md section 10). Readers check them before they allocate.
MAX_HEADER_SIZE = 16 << 20
MAX_ENTRIES = 1 << 17  # per list; a header of MAX_HEADER_SIZE has no room for more tensors
MAX_RECORD = 1 << 18  # bytes of a list entry; parsing needs up to 70x its size
MAX_METADATA = 1 << 19  # bytes
REUSE = "rsr.reuse"  # key of the metadata: what a compiler needs to reuse sections of the file
MAX_AUXILIARY = 4  # per tensor
MAX_STACKED = 4  # tensors that are one matrix of a stack
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 8
MAX_DIMENSION = (1 << 48) - 1
MAX_ELEMENTS = (1 << 60) - 1  # product of the nonzero dimensions; 8 bytes each fit 63 bits
MAX_K = 16
MAX_OUT_FEATURES = (1 << 31) - 1
MAX_IN_FEATURES = (1 << 24) - 1  # |sum| <= 128 * in_features fits int32
MAX_IN_FEATURES_OF_2 = (1 << 23) - 1  # the same if a digit is 2 or -2
MAX_PATTERNS = 1 << 16  # B^k, encoding permuted
MAX_RANKED_PATTERNS = 1 << RANK_BITS  # B^k or listed patterns, encoding ranked
MAX_LISTED_K = 5  # columns of a listed pattern: at most 3^5 = 243 patterns can occur
MAX_EXPANSION = 256  # size / stored_size of a compressed section
MAX_ZSTD_WINDOW = 1 << 27  # bytes that a decompressor keeps
MAX_INLINE_BYTES = 1 << 16  # data of one auxiliary tensor
MAX_QUANTIZED_COLUMNS = (1 << 17) - 1  # |sum| <= 128 * 128 * columns fits int32
MIN_ROTATION_BLOCK, MAX_ROTATION_BLOCK = 1 << 4, 1 << 16  # columns of a block of a rotation

CODECS = ("raw", "zstd")
ENCODINGS = ("ranked", "permuted")
DIRECTIONS = ("expand", "reduce")
PACKINGS = {"ranked": ("w16", "n4s1"), "permuted": ("u16", "u32")}
PARTS = {"ranked": ("ranks",), "permuted": ("permutation", "segments")}

# Layouts: how a source stores an indexed tensor.
QUANTIZED = ("absmean", "absmedian", "twn", "paretoq")  # lossy: the source tensor is not restored
LAYOUTS = ("int8", "float", "bitnet", "bitnet-unpacked", "mlx", "mlx-1bit", *QUANTIZED)
LAYOUTS_1_2 = ("mlx", "absmedian", "twn", "paretoq")  # added by version 1.2
LAYOUTS_1_4 = ("mlx-1bit",)  # added by version 1.4
MLX_WORD = 32  # bits of a word of codes
MLX_BITS = {"mlx": 2, "mlx-1bit": 1}  # of a code, by layout
SIGNED_ZEROS = ("float", "bitnet-unpacked")  # layouts that may have a negative_zeros bitmap
ROW_RULES = ("absmax",)  # how the rows of a dense tensor are quantized

# Digit alphabets: the values of the digits 0, 1, ...
TERNARY = (-1, 0, 1)
BINARY_SIGNS = (-1, 1)
BINARY_BITS = (0, 1)
QUINARY = (-2, -1, 0, 1, 2)
QUATERNARIES = tuple(combinations(QUINARY, 4))  # added, as QUINARY, by version 1.5
DIGITS = (TERNARY, BINARY_SIGNS, BINARY_BITS, *QUATERNARIES, QUINARY)
KINDS = {3: "ternary", 2: "binary", 4: "quaternary", 5: "quinary"}  # by the number of digits

LISTED_DIGITS = DIGITS[:3]  # of matrices that may list their patterns

# The alphabets of layouts that do not take all; of MLX, code c has the value digits[c].
LAYOUT_DIGITS = {
    "bitnet": (TERNARY,),
    "mlx": (TERNARY, (-1, 0, 1, 2), (-2, -1, 0, 1)),
    "mlx-1bit": (BINARY_SIGNS,),
}

# Bits per element of the dense dtypes, which are named as in safetensors.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

# NumPy's names of the dtypes that it supports.
NUMPY_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
FLOAT_DTYPES = ("F16", "BF16", "F32")  # of the float tensors that are indexed or quantized


def align(offset: int) -> int:
    """Return `offset` rounded up to a multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def largest_digit(digits: tuple[int, ...]) -> int:
    """Return the largest magnitude of the values of an alphabet: 1 or 2."""
    return max(map(abs, digits))


def max_in_features(digits: tuple[int, ...]) -> int:
    """Return how many columns a matrix of these digits may have."""
    return MAX_IN_FEATURES if largest_digit(digits) == 1 else MAX_IN_FEATURES_OF_2


def largest_k(base: int, encoding: str) -> int:
    """Return the largest k whose base^k patterns the encoding allows."""
    limit = MAX_RANKED_PATTERNS if encoding == "ranked" else MAX_PATTERNS
    k = 1
    while base ** (k + 1) <= limit:
        k += 1
    return k


def dense_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a dense tensor: contiguous, rounded up to whole bytes."""
    return -(-DTYPE_BITS[dtype] * prod(shape) // 8)


@dataclass(frozen=True, slots=True)
class Section:
    """A run of bytes in the file; all sizes are in bytes."""

    offset: int
    stored_size: int
    size: int  # decompressed
    codec: str  # one of CODECS
    sha256: bytes  # of the stored bytes


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A small file that belongs to the model (config.json, tokenizer.json, ...)."""

    name: str
    section: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """How an int8 tensor was quantized; its row scales are the dense tensor `<name>_scale`.

    If `of` is the tensor's own name, the int8 tensor replaces the source tensor. Otherwise the
    file keeps that tensor too, and the source has neither the int8 tensor nor its scales.
    """

    rule: str  # one of ROW_RULES
    of: str  # name of the source tensor
    dtype: str  # of the source tensor, one of FLOAT_DTYPES


@dataclass(frozen=True, slots=True)
class Rotation:
    """The basis that the columns of some matrices are stored in.

    With H the normalized Walsh-Hadamard matrix of `block` rows on the diagonal blocks of a matrix,
    and diag(s) the diagonal matrix of the signs, a stored matrix W stands for W H diag(s).
    """

    block: int  # a power of two
    signs: bytes  # a bit for each column, least significant first, set where the sign is -1

    @property
    def columns(self) -> int:
        """Columns of a matrix in this basis."""
        return 8 * len(self.signs)


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """A tensor stored as in the source, or quantized to int8."""

    name: str
    dtype: str  # a key of DTYPE_BITS
    shape: tuple[int, ...]
    section: int
    quantized: Quantized | None = None
    rotation: int | None = None  # number of an entry of `Header.rotations`

    @property
    def is_added(self) -> bool:
        """Whether the source has no tensor of this name."""
        return self.quantized is not None and self.quantized.of != self.name

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return dense_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Scale:
    """The scales of an indexed tensor.

    Entry [c // `columns`, r // `rows`] multiplies the weight in row r and column c.
    """

    rows: int  # output rows per scale
    section: int
    columns: int | None = None  # columns per scale; None: all
    dtype: str = "F32"  # or "F16"


@dataclass(frozen=True, slots=True)
class AuxiliaryTensor:
    """A small source tensor that is stored in the record of another, such as a weight_scale."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None  # None: the layout derives it from the scales of the indexed tensor

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes, whether its data is stored or derived."""
        return dense_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """How the source stored an indexed tensor, in enough detail to restore it.

    The restored tensor equals the source byte for byte unless the layout is one of `QUANTIZED`.
    Section `negative_zeros` is a bitmap: one bit per zero weight, row-major, least significant bit
    first, set where the source has -0.0.
    """

    layout: str  # one of LAYOUTS
    dtype: str
    shape: tuple[int, ...]
    negative_zeros: int | None = None
    auxiliary: tuple[AuxiliaryTensor, ...] = ()  # key `companions` in the file


@dataclass(frozen=True, slots=True)
class IndexedTensor:
    """A matrix W [out_features, in_features] of few values, stored as its RSR index.

    The indexed matrix A is W for direction "expand" (y = A x) and W transposed for "reduce"
    (y = x A). Its columns are cut into column blocks of `k` columns that lie `stride` apart.
    """

    name: str
    shape: tuple[int, int]
    digits: tuple[int, ...]  # the alphabet, one of DIGITS
    k: int
    direction: str  # one of DIRECTIONS
    encoding: str  # one of ENCODINGS
    packing: str  # one of PACKINGS[encoding]
    sections: dict[str, int]  # for each of PARTS[encoding]
    source: SourceRecord
    scale: Scale | None = None
    pattern_list: bytes | None = None  # digits of the patterns in rank order; None: all B^k
    stride: int = 1
    rotation: int | None = None  # number of an entry of `Header.rotations`

    @property
    def base(self) -> int:
        """B, the number of digits: 3 for a ternary matrix."""
        return len(self.digits)

    @property
    def kind(self) -> str:
        """The word for the number of digits, one of KINDS."""
        return KINDS[self.base]

    @property
    def largest_digit(self) -> int:
        """The largest magnitude of a digit: 1 or 2."""
        return largest_digit(self.digits)

    @property
    def patterns(self) -> int:
        """Number of segments of a column block: B^k or the number of listed patterns."""
        if self.pattern_list is not None:
            return len(self.pattern_list) // self.k
        return int(self.base**self.k)

    @property
    def rows(self) -> int:
        """Rows of the indexed matrix A."""
        return self.shape[0] if self.direction == "expand" else self.shape[1]

    @property
    def columns(self) -> int:
        """Columns of the indexed matrix A."""
        return self.shape[1] if self.direction == "expand" else self.shape[0]

    @property
    def is_grouped(self) -> bool:
        """Whether each group of columns has its own scales."""
        return self.scale is not None and self.scale.columns is not None

    @property
    def group_columns(self) -> int:
        """Columns per group. Each group is cut by itself: no column block straddles two."""
        if self.scale is not None and self.scale.columns is not None:
            return self.scale.columns
        return max(1, self.columns)

    @property
    def groups(self) -> int:
        """Number of groups; the last may have fewer columns."""
        return -(-self.columns // self.group_columns)

    @property
    def blocks(self) -> int:
        """Number of column blocks of A; the last block of each group may be padded."""
        whole, rest = divmod(self.columns, self.group_columns)
        return whole * self._group_blocks + -(-rest // self.k)

    @property
    def _group_blocks(self) -> int:
        return -(-self.group_columns // self.k)

    @property
    def unit_blocks(self) -> int | None:
        """Column blocks after which units of packing n4s1 begin anew; None without groups."""
        return self._group_blocks if self.is_grouped else None

    def block_columns(self, j: int) -> range:
        """Return the columns of A in column block `j`, without padding."""
        group, i = divmod(j, self._group_blocks)
        run, place = divmod(i, self.stride)
        first = group * self.group_columns + run * self.k * self.stride + place
        end = min((group + 1) * self.group_columns, self.columns)
        return range(first, min(first + (self.k - 1) * self.stride + 1, end), self.stride)

    @property
    def scales(self) -> int:
        """Number of scales; 0 without a scale section (the multiplier is 1)."""
        if self.scale is None:
            return 0
        rows = -(-self.shape[0] // self.scale.rows)
        return rows * self.groups if self.is_grouped else rows

    @property
    def scale_bytes(self) -> int:
        """Size of the scale section in bytes."""
        return 0 if self.scale is None else DTYPE_BITS[self.scale.dtype] // 8 * self.scales

    def section_sizes(self) -> dict[str, int]:
        """Return the required size in bytes of each section of the index."""
        if self.packing == "n4s1":
            return {"ranks": n4s1_size(self.rows, self.blocks, self.unit_blocks)}
        if self.packing == "w16":
            return {"ranks": w16_size(self.rows, self.blocks)}
        item = 2 if self.packing == "u16" else 4
        return {
            "permutation": item * self.blocks * self.rows,
            "segments": item * self.blocks * (self.patterns + 1),
        }

    def all_sections(self) -> dict[str, int]:
        """Return the number of each section of the tensor: index, scale and negative zeros."""
        numbers = dict(self.sections)
        if self.scale is not None:
            numbers["scale"] = self.scale.section
        if self.source.negative_zeros is not None:
            numbers["negative_zeros"] = self.source.negative_zeros
        return numbers

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads: the index and the scales."""
        return sum(self.section_sizes().values()) + self.scale_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits that a product reads per weight; 0 for an empty matrix."""
        weights = self.shape[0] * self.shape[1]
        return 8 * self.nbytes / weights if weights else 0.0


Tensor = DenseTensor | IndexedTensor


@dataclass(frozen=True, slots=True)
class Stack:
    """A three-dimensional source tensor, whose matrices the file holds as tensors of their own.

    Matrix number e of the tensor consists of the tensors `prefix` + str(e) + s, for each s of
    `suffixes`, one below the other. They have equal numbers of rows.
    """

    name: str  # of the source tensor
    shape: tuple[int, ...]  # (matrices, rows, columns) of the source tensor
    prefix: str
    suffixes: tuple[str, ...]

    def parts(self) -> Iterator[str]:
        """Yield the names of the tensors, in the order of their bytes in the source tensor."""
        for number in range(self.shape[0]):
            for suffix in self.suffixes:
                yield f"{self.prefix}{number}{suffix}"

    @property
    def part_shape(self) -> tuple[int, int]:
        """The shape of each part, as the source stores it."""
        return self.shape[1] // len(self.suffixes), self.shape[2]


@dataclass(frozen=True)
class Header:
    """The header of a `.rsr` file."""

    producer: str
    metadata: dict[str, str]
    files: tuple[FileEntry, ...]
    tensors: tuple[Tensor, ...]
    sections: tuple[Section, ...] = field(repr=False)
    stacks: tuple[Stack, ...] = ()
    rotations: tuple[Rotation, ...] = field(default=(), repr=False)
    reuse: str | None = field(default=None, repr=False)  # entry REUSE of `metadata` in the file

    def version(self) -> tuple[int, int]:
        """Return the lowest format version (major, minor) that describes the file."""
        if self.stacks or self.rotations:
            return (1, 5)
        return (1, max(map(_minor_version, self.tensors), default=0))

    def rotation_of(self, t: Tensor) -> Rotation | None:
        """Return the basis that a tensor is stored in, None if it is the model's."""
        return None if t.rotation is None else self.rotations[t.rotation]

    def owners(self) -> list[str]:
        """Describe the contents of each section; "" if nothing refers to it."""
        names = [""] * len(self.sections)
        for index, words in section_uses(self):
            if index < len(names):
                names[index] = words
        return names


def _minor_version(t: Tensor) -> int:
    if isinstance(t, DenseTensor):
        return 3 if t.quantized else 0
    if t.base > len(TERNARY):
        return 5
    if t.source.layout in LAYOUTS_1_4 or (t.packing == "n4s1" and t.is_grouped):
        return 4
    if t.source.layout in LAYOUTS_1_2 or t.pattern_list is not None or t.stride != 1:
        return 2
    has_new_scale = t.scale is not None and (t.is_grouped or t.scale.dtype != "F32")
    return 1 if t.packing == "n4s1" or has_new_scale else 0


def row_scales_name(name: str) -> str:
    """Return the name of the row scales of the quantized dense tensor `name`."""
    return f"{name}_scale"


def section_uses(header: Header) -> list[tuple[int, str]]:
    """Return (section index, description of its contents) for every reference in the header."""
    uses = [(f.section, f"file {f.name!r}") for f in header.files]
    for t in header.tensors:
        if isinstance(t, DenseTensor):
            uses.append((t.section, f"tensor {t.name!r}"))
            continue
        for role, index in t.all_sections().items():
            uses.append((index, f"{role.replace('_', ' ')} of tensor {t.name!r}"))
    return uses
