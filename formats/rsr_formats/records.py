"""The constants and the records of the `.rsr` format, version 1.3; formats/SPEC.md is normative."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod

from .packing import n4s1_size, w16_rows, w16_words

MAGIC = b"\x89RSR\r\n\x1a\n"
VERSION = (1, 3)
ALIGNMENT = 4096

# magic, major, minor, flags, header offset, header size, SHA-256 of the header
PREAMBLE = struct.Struct("<8sHHIQQ32s")

# Limits: a reader may refuse what exceeds them before it allocates anything.
MAX_HEADER_SIZE = 16 << 20
MAX_ENTRIES = 1 << 17  # of any one list in the header: of tensors there is no room for more
MAX_RECORD = 1 << 18  # bytes of an entry of one: up to seventy times as many while it is read
MAX_METADATA = 1 << 19  # bytes of the metadata in the header
MAX_AUXILIARY = 4  # of a tensor
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 8
MAX_DIMENSION = (1 << 48) - 1
MAX_ELEMENTS = (1 << 60) - 1  # product of the dimensions but 0: times 8 bytes, it fits 63 bits
MAX_K = 16
MAX_OUT_FEATURES = (1 << 31) - 1
MAX_IN_FEATURES = (1 << 24) - 1  # |sum| <= 128 * in_features stays inside int32
MAX_PATTERNS = 1 << 16  # B^k, permuted encoding
MAX_RANKED_PATTERNS = 32  # B^k or as many as are listed, ranked encoding: five bits
MAX_LISTED_K = 5  # where patterns are listed: B^k of them could still occur
MAX_EXPANSION = 256  # size / stored_size of a compressed section
MAX_ZSTD_WINDOW = 1 << 27  # bytes a decompressor keeps
MAX_INLINE_BYTES = 1 << 16  # of one tensor kept inside another's record
MAX_QUANTIZED_COLUMNS = (1 << 17) - 1  # |sum| <= 128 * 128 * columns stays inside int32

CODECS = ("raw", "zstd")
ENCODINGS = ("ranked", "permuted")
DIRECTIONS = ("expand", "reduce")
PACKINGS = {"ranked": ("w16", "n4s1"), "permuted": ("u16", "u32")}
PARTS = {"ranked": ("ranks",), "permuted": ("permutation", "segments")}
QUANTIZED = ("absmean", "absmedian", "twn", "paretoq")  # what they restore is not the source
LAYOUTS = ("int8", "float", "bitnet", "bitnet-unpacked", "mlx", *QUANTIZED)
LAYOUTS_1_2 = ("mlx", "absmedian", "twn", "paretoq")  # those that version 1.2 added
MLX_CODES = 16  # two-bit codes of a U32 word
SIGNED_ZEROS = ("float", "bitnet-unpacked")  # the layouts that may have a negative_zeros bitmap
SCALE_DTYPES = {"F32": "<f4", "F16": "<f2"}  # and their NumPy types
ROW_RULES = ("absmax",)  # how the rows of a dense tensor are quantized
FLOATS = ("F16", "BF16", "F32")  # what the other layouts than "int8" and "bitnet" restore

# The digit alphabets: the values that the digits 0, 1, .. stand for.
TERNARY = (-1, 0, 1)
BINARY_SIGNS = (-1, 1)
BINARY_BITS = (0, 1)
DIGITS = (TERNARY, BINARY_SIGNS, BINARY_BITS)

# Bits per element of the dense data types, named as safetensors names them.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


def align(offset: int) -> int:
    """Return the first multiple of `ALIGNMENT` that is not below `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def dense_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes a dense tensor takes, rows contiguous, little-endian."""
    return -(-DTYPE_BITS[dtype] * prod(shape) // 8)


@dataclass(frozen=True, slots=True)
class Section:
    """One run of bytes in the file; `size` is its length once decompressed."""

    offset: int
    stored_size: int
    size: int
    codec: str
    sha256: bytes  # of the stored bytes


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A small file that belongs to the model (config.json, tokenizer.json, ...)."""

    name: str
    section: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """What an int8 tensor, with a scale for each row in `<name>_scale`, was made of.

    Where `of`, a source tensor of `dtype`, is the tensor's own name, it stands for that one.
    Otherwise `of` is kept beside it, and neither the tensor nor its scale is of the source.
    """

    rule: str  # "absmax"
    of: str
    dtype: str


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """A tensor kept as the source had it, or quantized to int8."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    section: int
    quantized: Quantized | None = None

    @property
    def is_added(self) -> bool:
        """Whether the source has no such tensor."""
        return self.quantized is not None and self.quantized.of != self.name

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return dense_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Scale:
    """Multipliers: entry [c // `columns`][r // `rows`] belongs to the weight in row r, column c.

    Without `columns` there is one for all columns. `dtype` is "F32" or "F16".
    """

    rows: int
    section: int
    columns: int | None = None
    dtype: str = "F32"


@dataclass(frozen=True, slots=True)
class InlineTensor:
    """A source tensor kept inside the record it belongs to: a weight_scale.

    Without data it is derived: the layout says how from the tensor's own scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, also where they are not kept."""
        return dense_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """How the source stored an indexed tensor: enough to write it again byte for byte.

    `negative_zeros` names a bitmap section: one bit per zero weight, row-major, least significant
    bit first, set where the source had -0.0. `companions` are source tensors kept inside this one.
    """

    layout: str
    dtype: str
    shape: tuple[int, ...]
    negative_zeros: int | None = None
    auxiliary: tuple[InlineTensor, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexedTensor:
    """A ternary or binary matrix [out_features, in_features], kept as its RSR index.

    The indexed matrix A is W for direction "expand" (y = A x) and W transposed for "reduce"
    (y = x A); its columns are cut into column blocks of `k`, `stride` apart. `pattern_list` has the
    digits of the patterns that a row of a block may have, in the order of their ranks; without one
    they are all B^k.
    """

    name: str
    shape: tuple[int, int]
    digits: tuple[int, ...]
    k: int
    direction: str
    encoding: str
    packing: str
    sections: dict[str, int]
    source: SourceRecord
    scale: Scale | None = None
    pattern_list: bytes | None = None
    stride: int = 1

    @property
    def base(self) -> int:
        """B: 3 for a ternary, 2 for a binary matrix."""
        return len(self.digits)

    @property
    def kind(self) -> str:
        """Return "ternary" or "binary"."""
        return "ternary" if self.base == 3 else "binary"

    @property
    def patterns(self) -> int:
        """The number of segments of a column block: B^k, or as many as are listed."""
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
        """Whether the scale differs between groups of columns."""
        return self.scale is not None and self.scale.columns is not None

    @property
    def group_columns(self) -> int:
        """Columns of A that column blocks are cut from together: none straddles two groups."""
        if self.scale is not None and self.scale.columns is not None:
            return self.scale.columns
        return max(1, self.columns)

    @property
    def groups(self) -> int:
        """Groups of columns; the last may be shorter."""
        return -(-self.columns // self.group_columns)

    @property
    def blocks(self) -> int:
        """Column blocks of A; the last of each group may be padded."""
        whole, rest = divmod(self.columns, self.group_columns)
        return whole * self._group_blocks + -(-rest // self.k)

    @property
    def _group_blocks(self) -> int:
        return -(-self.group_columns // self.k)

    def block_columns(self, j: int) -> range:
        """Return the columns of column block `j`, without padding."""
        group, i = divmod(j, self._group_blocks)
        run, place = divmod(i, self.stride)
        first = group * self.group_columns + run * self.k * self.stride + place
        end = min((group + 1) * self.group_columns, self.columns)
        return range(first, min(first + (self.k - 1) * self.stride + 1, end), self.stride)

    @property
    def scales(self) -> int:
        """Number of scales (0 without a scale section: the multiplier is 1)."""
        if self.scale is None:
            return 0
        rows = -(-self.shape[0] // self.scale.rows)
        return rows * self.groups if self.is_grouped else rows

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scale section."""
        return 0 if self.scale is None else DTYPE_BITS[self.scale.dtype] // 8 * self.scales

    def section_sizes(self) -> dict[str, int]:
        """Return the size in bytes that each section of the index must have."""
        if self.packing == "n4s1":
            return {"ranks": n4s1_size(self.rows, self.blocks)}
        if self.packing == "w16":
            return {"ranks": 2 * w16_words(self.blocks) * w16_rows(self.rows)}
        item = 2 if self.packing == "u16" else 4
        return {
            "permutation": item * self.blocks * self.rows,
            "segments": item * self.blocks * (self.patterns + 1),
        }

    def all_sections(self) -> dict[str, int]:
        """Return the number of every section of the tensor: index, scale and negative zeros."""
        numbers = dict(self.sections)
        if self.scale is not None:
            numbers["scale"] = self.scale.section
        if self.source.negative_zeros is not None:
            numbers["negative_zeros"] = self.source.negative_zeros
        return numbers

    @property
    def nbytes(self) -> int:
        """Bytes a product reads: the index and the scales."""
        return sum(self.section_sizes().values()) + self.scale_bytes

    @property
    def bits_per_weight(self) -> float:
        """`nbytes` in bits per weight (0 for an empty matrix)."""
        weights = self.shape[0] * self.shape[1]
        return 8 * self.nbytes / weights if weights else 0.0


Tensor = DenseTensor | IndexedTensor


@dataclass(frozen=True)
class Header:
    """Everything a `.rsr` file says about itself."""

    producer: str
    metadata: dict[str, str]
    files: tuple[FileEntry, ...]
    tensors: tuple[Tensor, ...]
    sections: tuple[Section, ...] = field(repr=False)

    def version(self) -> tuple[int, int]:
        """Return the lowest version of the format that describes the file."""
        if any(isinstance(t, DenseTensor) and t.quantized for t in self.tensors):
            return (1, 3)
        if any(map(_is_new_in_1_2, self.tensors)):
            return (1, 2)
        return (1, 1) if any(map(_is_new_in_1_1, self.tensors)) else (1, 0)

    def owners(self) -> list[str]:
        """Return for each section, in words, what it holds ("" where nothing refers to it)."""
        names = [""] * len(self.sections)
        for index, words in section_uses(self):
            if index < len(names):
                names[index] = words
        return names


def _is_new_in_1_1(t: Tensor) -> bool:
    if isinstance(t, DenseTensor):
        return False
    return t.packing == "n4s1" or t.is_grouped or (t.scale is not None and t.scale.dtype != "F32")


def _is_new_in_1_2(t: Tensor) -> bool:
    if isinstance(t, DenseTensor):
        return False
    return t.source.layout in LAYOUTS_1_2 or t.pattern_list is not None or t.stride != 1


def row_scales_name(name: str) -> str:
    """Return the name of the scales of a quantized dense tensor."""
    return f"{name}_scale"


def section_uses(header: Header) -> list[tuple[int, str]]:
    """List (section index, what it holds in words) for every reference in the header."""
    uses = [(f.section, f"file {f.name!r}") for f in header.files]
    for t in header.tensors:
        if isinstance(t, DenseTensor):
            uses.append((t.section, f"tensor {t.name!r}"))
            continue
        for role, index in t.all_sections().items():
            uses.append((index, f"{role.replace('_', ' ')} of tensor {t.name!r}"))
    return uses
