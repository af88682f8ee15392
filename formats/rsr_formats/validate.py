"""The rules of formats/SPEC.md section 11 that the types of the header do not express."""

from __future__ import annotations

import hashlib
from collections import Counter
from math import prod
from operator import ge
from typing import Any

import numpy as np
import numpy.typing as npt

from .contents import identify
from .decode import PIECE, digit_windows, strips
from .errors import (
    CodecError,
    DuplicateNameError,
    FlagsError,
    HeaderFieldError,
    HeaderHashError,
    IndexDataError,
    InvalidNameError,
    LimitError,
    MisalignedSectionError,
    NotRsrError,
    OverlappingSectionError,
    SectionBoundsError,
    SectionGapError,
    SectionSizeError,
    SectionUseError,
    TrailingDataError,
    TruncatedError,
    VersionError,
)
from .packing import (
    RANK_BITS,
    RANK_MASK,
    RANKS_PER_WORD,
    ZERO_RANK,
    n4s1_bytes,
    n4s1_places,
    padding_rank,
    pattern_digits,
    pattern_values,
)
from .records import (
    ALIGNMENT,
    CODECS,
    FLOAT_DTYPES,
    LAYOUT_DIGITS,
    LISTED_DIGITS,
    MAGIC,
    MAX_ELEMENTS,
    MAX_EXPANSION,
    MAX_HEADER_SIZE,
    MAX_LISTED_K,
    MAX_NAME_BYTES,
    MAX_OUT_FEATURES,
    MAX_PATTERNS,
    MAX_QUANTIZED_COLUMNS,
    MAX_RANKED_PATTERNS,
    MLX_BITS,
    MLX_WORD,
    PREAMBLE,
    SIGNED_ZEROS,
    VERSION,
    AuxiliaryTensor,
    DenseTensor,
    Header,
    IndexedTensor,
    align,
    max_in_features,
    row_scales_name,
    section_uses,
)

_AGAIN = "download it again, or compile the model again"

Indices = npt.NDArray[np.unsignedinteger[Any]]


def check_preamble(preamble: bytes, file_size: int) -> tuple[tuple[int, int], int, int, bytes]:
    """Check the preamble (rules P1 to P8).

    Args:
        preamble: the first 64 bytes of the file, or all of a shorter one.
        file_size: bytes of the file.

    Returns:
        (major, minor), header offset, header size, SHA-256 of the header.

    Raises:
        FormatError: the subclass says which rule is broken.
    """
    if not MAGIC.startswith(preamble[: len(MAGIC)]):
        if (contents := identify(preamble)) is not None:
            raise NotRsrError(f"not a .rsr file, but {contents}")
        raise NotRsrError(
            f"not a .rsr file: it begins with {preamble[:8].hex(' ')}, expected {MAGIC.hex(' ')}"
        )
    if len(preamble) < PREAMBLE.size:
        raise TruncatedError(
            f"truncated: the file has {file_size} bytes, but a preamble has "
            f"{PREAMBLE.size}: {_AGAIN}"
        )
    _, major, minor, flags, offset, size, digest = PREAMBLE.unpack(preamble)
    if (major, minor) > VERSION or major < 1:
        raise VersionError(
            f"preamble: format version {major}.{minor}, expected 1.0 to {VERSION[0]}.{VERSION[1]}: "
            "upgrade rsr-ternary or compile the model again"
        )
    if flags:
        raise FlagsError(f"preamble: flags {flags:#010x}, expected 0")
    if offset % ALIGNMENT or offset < ALIGNMENT:
        raise MisalignedSectionError(
            f"preamble: header offset {offset}, expected a positive multiple of {ALIGNMENT}"
        )
    if not 0 < size <= MAX_HEADER_SIZE:
        raise LimitError(f"preamble: header size {size}, expected 1 to {MAX_HEADER_SIZE}")
    if file_size < offset + size:
        raise TruncatedError(
            f"truncated: the file has {file_size} bytes, but its preamble says {offset + size}: "
            f"{_AGAIN}"
        )
    if file_size > offset + size:
        raise TrailingDataError(
            f"the file has {file_size} bytes, but its preamble says {offset + size}: "
            "data was appended, or the preamble is damaged"
        )
    return (major, minor), offset, size, digest


def check_header_hash(data: bytes, digest: bytes) -> None:
    """Check the header against the preamble's SHA-256 (rule P9)."""
    if hashlib.sha256(data).digest() != digest:
        raise HeaderHashError(
            "the header is damaged: its SHA-256 differs from the one in the preamble; "
            "download or compile the file again"
        )


def check_version(header: Header, version: tuple[int, int]) -> None:
    """Check that the version is the lowest one that describes the header (rule P10)."""
    lowest = header.version()
    if version != lowest:
        raise VersionError(
            f"preamble: format version {version[0]}.{version[1]}, but the header needs "
            f"{lowest[0]}.{lowest[1]}: the preamble is damaged"
        )


def check_header(header: Header, header_offset: int) -> None:
    """Check names, the section table and every tensor (rules N1 to N3, S1 to S10, T1 to T20).

    Args:
        header: the decoded header.
        header_offset: its first byte in the file.

    Raises:
        FormatError: the subclass says which rule is broken.
    """
    indexed = [t for t in header.tensors if isinstance(t, IndexedTensor)]
    auxiliary = [c.name for t in indexed for c in t.source.auxiliary]
    # Names first, because the other messages quote them.
    stacks = [s.name for s in header.stacks]
    _check_names([t.name for t in header.tensors] + auxiliary + stacks, "tensor")
    _check_names([f.name for f in header.files], "file")
    for f in header.files:
        if f.name in (".", "..") or any(c in "/\\:" or _is_control(c) for c in f.name):
            raise InvalidNameError(
                f"file name {f.name!r}: expected a plain name without path or control characters"
            )
    _check_sections(header, header_offset)
    _check_section_uses(header)
    for t in header.tensors:
        if isinstance(t, DenseTensor):
            _check_size(header, t.section, t.nbytes, f"tensor {t.name!r}")
            _check_elements(t.shape, f"tensor {t.name!r}")
        else:
            _check_indexed(header, t)
    _check_quantized(header)
    _check_stacks(header)
    _check_rotations(header)


def _is_control(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f"


def _check_elements(shape: tuple[int, ...], what: str) -> None:
    """Refuse shapes that NumPy cannot hold: it multiplies the nonzero dimensions in 63 bits."""
    if prod(n for n in shape if n) > MAX_ELEMENTS:
        raise LimitError(
            f"{what}: shape {list(shape)} exceeds the limit of {MAX_ELEMENTS} elements"
        )


def _check_sections(header: Header, header_offset: int) -> None:
    owners = header.owners()
    end = PREAMBLE.size
    for i, s in enumerate(header.sections):
        what = f"section {i} ({owners[i] or 'unused'})"
        if s.offset % ALIGNMENT:
            raise MisalignedSectionError(
                f"{what} begins at byte {s.offset}, expected a multiple of {ALIGNMENT}"
            )
        if s.offset < align(end):
            raise OverlappingSectionError(
                f"{what} begins at byte {s.offset}, before the end of the preceding data at {end}"
            )
        if s.offset > align(end):
            raise SectionGapError(f"{what} begins at byte {s.offset}, expected {align(end)}")
        end = s.offset + s.stored_size
        if end > header_offset:
            raise SectionBoundsError(
                f"{what} ends at byte {end}, in the header, which begins at {header_offset}"
            )
        if s.codec not in CODECS:
            raise CodecError(f"{what}: codec {s.codec[:32]!r}, expected {' or '.join(CODECS)}")
        if s.codec == "raw" and s.size != s.stored_size:
            raise SectionSizeError(f"{what}: raw with size {s.size}, expected {s.stored_size}")
        if s.codec != "raw" and s.size == 0:
            raise SectionSizeError(f"{what}: empty with codec {s.codec}, expected raw")
        if s.size > MAX_EXPANSION * s.stored_size:
            raise LimitError(
                f"{what}: {s.size} bytes compressed to {s.stored_size}, "
                f"the limit is a ratio of {MAX_EXPANSION}"
            )
    if align(end) != header_offset:
        raise SectionGapError(f"the header begins at byte {header_offset}, expected {align(end)}")


def _check_section_uses(header: Header) -> None:
    used: dict[int, str] = {}
    for index, what in section_uses(header):
        if index >= len(header.sections):
            raise SectionUseError(
                f"{what} refers to section {index}, but there are {len(header.sections)} sections"
            )
        if index in used:
            raise SectionUseError(f"section {index} belongs to both {used[index]} and {what}")
        used[index] = what
    if len(used) != len(header.sections):
        unused = next(i for i in range(len(header.sections)) if i not in used)
        raise SectionUseError(f"section {unused} is unused")


def _check_names(names: list[str], what: str) -> None:
    for name in names:
        size = len(name.encode(errors="surrogatepass"))
        if not 1 <= size <= MAX_NAME_BYTES:
            raise InvalidNameError(
                f"a {what} name has {size} bytes, expected 1 to {MAX_NAME_BYTES}"
            )
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DuplicateNameError(f"two {what}s have the name {twice!r}")


def _check_size(header: Header, index: int, expected: int, what: str) -> None:
    found = header.sections[index].size
    if found != expected:
        raise SectionSizeError(f"{what}: its section has {found} bytes, expected {expected}")


def _check_quantized(header: Header) -> None:
    """Check quantized dense tensors, their scales and their source tensors (rule T17)."""
    dense = {t.name: t for t in header.tensors if isinstance(t, DenseTensor)}
    plain = {name: (t.dtype, t.shape) for name, t in dense.items() if t.quantized is None}
    for t in dense.values():
        if t.quantized is None:
            continue
        what = f"tensor {t.name!r}"
        if t.dtype != "I8" or len(t.shape) != 2 or t.shape[1] > MAX_QUANTIZED_COLUMNS:
            raise HeaderFieldError(
                f"{what}: quantized, but {t.dtype} {list(t.shape)}, expected I8 and two "
                f"dimensions, the second at most {MAX_QUANTIZED_COLUMNS}"
            )
        scale, expected = row_scales_name(t.name), ("F32", t.shape[:1])
        if plain.get(scale) != expected:
            raise HeaderFieldError(
                f"{what}: quantized without scales, expected a dense tensor {scale!r}, "
                f"F32 [{t.shape[0]}]"
            )
        of = t.quantized.of
        if t.is_added and plain.get(of) != (t.quantized.dtype, t.shape):
            raise HeaderFieldError(
                f"{what}: quantized from {of[:64]!r}, expected a dense tensor of that name, "
                f"{t.quantized.dtype} {list(t.shape)}"
            )


def _check_stacks(header: Header) -> None:
    """Check that the parts of every stack are source tensors that form it (rule T18)."""
    if not header.stacks:
        return
    found: dict[str, tuple[str, tuple[int, ...]]] = {}  # dtype and shape in the source
    for t in header.tensors:
        if isinstance(t, IndexedTensor):
            found[t.name] = t.source.dtype, t.source.shape
            found |= {c.name: (c.dtype, c.shape) for c in t.source.auxiliary}
        elif t.quantized is None:
            found[t.name] = t.dtype, t.shape
    taken: set[str] = set()
    for stack in header.stacks:
        what = f"stack {stack.name!r}"
        matrices, rows, _ = stack.shape
        count = matrices * len(stack.suffixes)
        if not 0 < count <= len(found) or rows % len(stack.suffixes):
            raise HeaderFieldError(
                f"{what}: shape {list(stack.shape)} of {count} tensors, expected 1 to "
                f"{len(found)}, and {len(stack.suffixes)} equal parts of the rows"
            )
        first = found.get(next(stack.parts()))
        for name in stack.parts():
            of = found.get(name)
            if of is None or of[1] != stack.part_shape or of != first:
                held = "no such tensor" if of is None else f"{of[0]} {list(of[1])}"
                raise HeaderFieldError(
                    f"{what}: its part {name[:64]!r} is {held}, expected "
                    f"{list(stack.part_shape)} and the dtype of the other parts"
                )
            if name in taken:
                raise HeaderFieldError(f"{what}: its part {name[:64]!r} belongs to a stack already")
            taken.add(name)


def _check_rotations(header: Header) -> None:
    """Check rotations and the tensors that have them (rules T19 and T20)."""
    for i, r in enumerate(header.rotations):
        if r.block & (r.block - 1):
            raise HeaderFieldError(f"rotation {i}: block {r.block}, expected a power of two")
        if not r.signs or r.columns % r.block:
            raise HeaderFieldError(
                f"rotation {i}: {r.columns} signs, expected a positive multiple of {r.block}"
            )
    used = set()
    rotation_of = {t.name: t.rotation for t in header.tensors}
    for t in header.tensors:
        if isinstance(t, DenseTensor) and t.is_added:
            assert t.quantized is not None
            if t.rotation != rotation_of[t.quantized.of]:
                raise HeaderFieldError(
                    f"tensor {t.name!r}: another rotation than that of {t.quantized.of!r}, from "
                    "which it was quantized"
                )
        if t.rotation is None:
            continue
        if t.rotation >= len(header.rotations):
            raise HeaderFieldError(
                f"tensor {t.name!r}: rotation {t.rotation}, but there are {len(header.rotations)}"
            )
        used.add(t.rotation)
        columns = header.rotations[t.rotation].columns
        is_matrix = not isinstance(t, DenseTensor) or t.dtype in (*FLOAT_DTYPES, "I8")
        if not is_matrix or len(t.shape) != 2 or t.shape[1] != columns:
            raise HeaderFieldError(
                f"tensor {t.name!r}: a rotation of {columns} columns, but its shape is "
                f"{list(t.shape)}, expected a matrix of numbers with as many columns"
            )
    if len(used) != len(header.rotations):
        unused = next(i for i in range(len(header.rotations)) if i not in used)
        raise HeaderFieldError(f"rotation {unused} is that of no tensor")


def _check_indexed(header: Header, t: IndexedTensor) -> None:
    what = f"tensor {t.name!r}"
    widest = max_in_features(t.digits)
    if t.shape[0] > MAX_OUT_FEATURES or t.shape[1] > widest:
        raise LimitError(
            f"{what}: shape {list(t.shape)}, the limit is [{MAX_OUT_FEATURES}, {widest}]"
        )
    if t.pattern_list is not None or t.stride != 1:
        _check_patterns(t)
    limit = MAX_RANKED_PATTERNS if t.encoding == "ranked" else MAX_PATTERNS
    if t.patterns > limit:
        raise LimitError(
            f"{what}: k = {t.k} gives {t.patterns} patterns, the limit of encoding {t.encoding} "
            f"is {limit}"
        )
    if t.encoding == "ranked" and t.direction != "expand":
        raise HeaderFieldError(
            f"{what}: encoding ranked with direction {t.direction}, expected expand"
        )
    entry = "u16" if t.rows <= 0xFFFF else "u32"
    if t.encoding == "permuted" and t.packing != entry:
        raise HeaderFieldError(f"{what}: packing {t.packing} for {t.rows} rows, expected {entry}")
    if t.packing == "n4s1" and (t.base, t.k) != (3, 3):
        raise HeaderFieldError(
            f"{what}: packing n4s1 of a {t.kind} matrix with k = {t.k}, expected ternary and k = 3"
        )
    if t.is_grouped and (t.encoding != "ranked" or t.group_columns >= t.shape[1]):
        raise HeaderFieldError(
            f"{what}: one scale per {t.group_columns} of {t.shape[1]} columns in encoding "
            f"{t.encoding}, expected fewer than all columns and encoding ranked"
        )
    sizes = t.section_sizes()
    if t.sections.keys() != sizes.keys():
        raise HeaderFieldError(f"{what}: sections {sorted(t.sections)}, expected {sorted(sizes)}")
    for part, size in sizes.items():
        _check_size(header, t.sections[part], size, f"{part} of {what}")
    if t.scale is not None:
        _check_size(header, t.scale.section, t.scale_bytes, f"scale of {what}")
    _check_source(header, t)


def _check_patterns(t: IndexedTensor) -> None:
    """Check a list of patterns and its stride (rules T3, T14 to T16)."""
    what = f"tensor {t.name!r}"
    if t.pattern_list is None:
        raise HeaderFieldError(f"{what}: stride {t.stride} without listed patterns")
    if t.packing != "w16" or t.digits not in LISTED_DIGITS:
        raise HeaderFieldError(
            f"{what}: listed patterns of a {t.kind} matrix in packing {t.packing}, expected w16 "
            "and ternary or binary"
        )
    if t.k > MAX_LISTED_K:
        raise LimitError(f"{what}: listed patterns with k = {t.k}, the limit is {MAX_LISTED_K}")
    size = len(t.pattern_list)
    if size == 0 or size % t.k:
        raise HeaderFieldError(
            f"{what}: {size} digits in its patterns, expected a positive multiple of {t.k}"
        )
    if size // t.k > MAX_RANKED_PATTERNS:
        raise LimitError(
            f"{what}: {size // t.k} listed patterns, the limit is {MAX_RANKED_PATTERNS}"
        )
    patterns = pattern_digits(t.base, t.k, t.pattern_list).tolist()
    if max(t.pattern_list) >= t.base or any(map(ge, patterns, patterns[1:])):
        raise HeaderFieldError(
            f"{what}: its patterns are not digits 0 to {t.base - 1} in ascending order"
        )
    if len(patterns) == t.base**t.k:
        raise HeaderFieldError(f"{what}: lists all {len(patterns)} patterns, expected no list")
    run = t.k * t.stride
    if t.columns % run or (t.is_grouped and t.group_columns % run):
        raise HeaderFieldError(
            f"{what}: {t.columns} columns in groups of {t.group_columns} with k = {t.k} and stride "
            f"{t.stride}, expected multiples of {run}"
        )


_SOURCE_DTYPES = {"int8": ("I8",), "bitnet": ("U8",), **dict.fromkeys(MLX_BITS, ("U32",))}


def _check_source(header: Header, t: IndexedTensor) -> None:
    what, source = f"source of tensor {t.name!r}", t.source
    shape: tuple[int, ...] = t.shape
    if source.layout == "bitnet":
        shape = (-(-t.shape[0] // 4), t.shape[1])
    elif source.layout in MLX_BITS:
        shape = (t.shape[0], -(-t.shape[1] * MLX_BITS[source.layout] // MLX_WORD))
    dtypes = _SOURCE_DTYPES.get(source.layout, FLOAT_DTYPES)
    if source.dtype not in dtypes or source.shape != shape:
        raise HeaderFieldError(
            f"{what}: {source.dtype} {list(source.shape)}, expected {' or '.join(dtypes)} "
            f"{list(shape)} for layout {source.layout}"
        )
    allowed = LAYOUT_DIGITS.get(source.layout, (t.digits,))
    if t.digits not in allowed:
        raise HeaderFieldError(
            f"{what}: digits {list(t.digits)} in layout {source.layout}, expected "
            f"{' or '.join(str(list(digits)) for digits in allowed)}"
        )
    if source.negative_zeros is not None:
        if source.layout not in SIGNED_ZEROS or 0 not in t.digits:
            raise HeaderFieldError(
                f"{what}: negative zeros with layout {source.layout} and digits {list(t.digits)}"
            )
        found = header.sections[source.negative_zeros].size
        if found > -(-t.shape[0] * t.shape[1] // 8):
            raise SectionSizeError(
                f"{what}: {found} bytes of negative zeros, the limit is 1 per 8 weights"
            )
    for c in source.auxiliary:
        if c.data is None:
            _check_derived(t, c)
        elif len(c.data) != c.nbytes:
            raise SectionSizeError(
                f"{what}: auxiliary tensor {c.name!r} has {len(c.data)} bytes, expected {c.nbytes}"
            )
        _check_elements(c.shape, f"auxiliary tensor {c.name!r}")


def _check_derived(t: IndexedTensor, c: AuxiliaryTensor) -> None:
    """Check an auxiliary tensor without data (rule T13)."""
    base = t.name.removesuffix("weight")
    if t.source.layout not in MLX_BITS or c.name not in (f"{base}scales", f"{base}biases"):
        raise HeaderFieldError(
            f"auxiliary tensor {c.name!r} of tensor {t.name!r} has no data, and layout "
            f"{t.source.layout} does not derive it"
        )
    shape = (t.shape[0], t.groups if t.is_grouped else min(1, t.shape[1]))
    if c.dtype not in FLOAT_DTYPES or c.shape != shape:
        raise HeaderFieldError(
            f"auxiliary tensor {c.name!r}: {c.dtype} {list(c.shape)}, expected "
            f"{' or '.join(FLOAT_DTYPES)} {list(shape)}, the scales of tensor {t.name!r}"
        )


def check_scale(t: IndexedTensor, scale: npt.NDArray[Any]) -> None:
    """Check that every scale is finite (rule D1)."""
    # By their bits: models have hundreds of millions of scales in float16, of which isfinite takes
    # ten times as long as a maximum. Only negative scales need their sign bit dropped.
    kind = np.dtype(f"u{scale.itemsize}")
    infinity = int(np.array(np.inf, scale.dtype).view(kind))
    bits = np.ascontiguousarray(scale).reshape(-1).view(kind)
    for first in range(0, len(bits), PIECE):
        piece = bits[first : first + PIECE]
        if piece.max() >= infinity and (piece << 1).max() >= 2 * infinity:
            raise IndexDataError(f"scale of tensor {t.name!r} is not finite")


def check_permuted(t: IndexedTensor, permutation: Indices, segments: Indices) -> None:
    """Check the segment list and the permutation of every block (rules D3 and D4).

    Args:
        t: the tensor's record.
        permutation: uint16 or uint32, (blocks, rows).
        segments: uint16 or uint32, (blocks, B^k + 1).

    Raises:
        IndexDataError: a block breaks a rule.
    """
    step = max(1, PIECE // max(t.rows, t.patterns + 1))
    for first in range(0, t.blocks, step):
        L, sigma = segments[first : first + step], permutation[first : first + step]
        bad = (L[:, 0] != 0) | (L[:, -1] != t.rows) | (L[:, 1:] < L[:, :-1]).any(axis=1)
        if bad.any():
            raise IndexDataError(
                f"segments of tensor {t.name!r}: block {first + int(bad.argmax())} "
                f"does not rise from 0 to {t.rows}"
            )
        if t.rows == 0:
            continue
        bad = (sigma >= t.rows).any(axis=1)
        if not bad.any():
            seen = np.zeros(sigma.shape, np.bool_)
            np.put_along_axis(seen, sigma, True, axis=1)
            bad = ~seen.all(axis=1)
        if bad.any():
            raise IndexDataError(
                f"permutation of tensor {t.name!r}: block {first + int(bad.argmax())} "
                f"does not contain each of 0 to {t.rows - 1} once"
            )


def check_ranks(t: IndexedTensor, packed: npt.NDArray[Any]) -> None:
    """Check ranks, padding and spare bits of an index in encoding ranked (rule D2).

    Products do not depend on this check: no bit pattern makes a lookup leave its table.

    Args:
        t: the tensor's record.
        packed: its ranks, uint16 (packing w16) or uint8 (n4s1), flat.

    Raises:
        IndexDataError: a rank, a sign or the padding is invalid.
    """
    if t.packing == "w16":
        _check_w16(t, packed)
    else:
        _check_n4s1(t, packed)


def _check_w16(t: IndexedTensor, words: npt.NDArray[np.uint16]) -> None:
    pad = padding_rank(t.digits, t.k, t.pattern_list)
    for r0, piece in strips(t, words):
        rows = f"rows from {r0}"
        if (piece >> 15).any():
            raise IndexDataError(f"ranks of tensor {t.name!r}: bit 15 is set in {rows}")
        for i in range(RANKS_PER_WORD):
            ranks = (piece >> (RANK_BITS * i)) & RANK_MASK
            if (ranks >= t.patterns).any():
                raise IndexDataError(
                    f"ranks of tensor {t.name!r}: a rank in {rows} exceeds {t.patterns - 1}"
                )
            if (_padding(t, ranks, r0, i, RANKS_PER_WORD) != pad).any():
                raise IndexDataError(
                    f"ranks of tensor {t.name!r}: padding in {rows} is not rank {pad}"
                )


def _check_n4s1(t: IndexedTensor, packed: npt.NDArray[np.uint8]) -> None:
    if not len(packed):  # no rows: the file has no bytes for its columns
        return
    at = n4s1_places(t.blocks, t.unit_blocks)
    used = np.zeros(n4s1_bytes(t.blocks, t.unit_blocks), np.uint8)  # bits of each byte of a row
    np.bitwise_or.at(used, at.magnitudes, (15 << at.places % 2 * 4).astype(np.uint8))
    np.bitwise_or.at(used, at.signs, (128 >> at.places).astype(np.uint8))
    nibbles = (at.places % 2 * 4).astype(np.uint8)[:, None]
    bits = (7 - at.places).astype(np.uint8)[:, None]
    for r0, piece in strips(t, packed):
        rows = f"rows from {r0}"
        step = max(1, PIECE // (len(piece) * piece.shape[2]))
        for first in range(0, t.blocks, step):
            some = slice(first, first + step)
            magnitudes = piece[:, at.magnitudes[some]] >> nibbles[some] & np.uint8(15)
            negative = piece[:, at.signs[some]] >> bits[some] & np.uint8(1)
            if (magnitudes > ZERO_RANK).any():
                raise IndexDataError(
                    f"ranks of tensor {t.name!r}: a magnitude in {rows} exceeds {ZERO_RANK}"
                )
            if (negative > magnitudes).any():
                raise IndexDataError(
                    f"ranks of tensor {t.name!r}: magnitude 0 has a sign in {rows}"
                )
        real = t.rows - r0 - (len(piece) - 1) * piece.shape[2]  # rows of the last strip
        if piece[-1, :, real:].any() or (piece & ~used[:, None]).any():
            raise IndexDataError(f"ranks of tensor {t.name!r}: padding in {rows} is not zero")


def _padding(
    t: IndexedTensor, ranks: npt.NDArray[Any], r0: int, i: int, unit: int
) -> npt.NDArray[Any]:
    """Return the padding among some ranks.

    Args:
        t: the tensor's record.
        ranks: of every `unit`-th column block from block `i` on, (strips, word columns, rows of a
            strip).
        r0: first row of the first strip.
        i: first column block.
        unit: column blocks per word column.
    """
    blocks = -(-(t.blocks - i) // unit)
    rows = t.rows - r0 - (len(ranks) - 1) * ranks.shape[2]  # in the last strip
    return np.concatenate([ranks[:, blocks:].ravel(), ranks[-1, :, rows:].ravel()])


def check_negative_zeros(
    t: IndexedTensor, arrays: dict[str, npt.NDArray[Any]], bitmap: npt.NDArray[np.uint8]
) -> None:
    """Check that the bitmap has one bit per zero weight and no spare bit set (rule D5).

    Args:
        t: the tensor's record.
        arrays: the result of `RsrFile.index_arrays`, with checked ranks.
        bitmap: the bytes of section `negative_zeros`.

    Raises:
        IndexDataError: the bitmap has another size, or a spare bit is set.
    """
    zeros = _count_zeros(t, arrays)
    if len(bitmap) != -(-zeros // 8):
        raise IndexDataError(
            f"negative zeros of tensor {t.name!r}: {len(bitmap)} bytes, "
            f"expected {-(-zeros // 8)} for {zeros} zero weights"
        )
    if zeros % 8 and bitmap[-1] >> (zeros % 8):
        raise IndexDataError(f"negative zeros of tensor {t.name!r}: a spare bit is set")


def _count_zeros(t: IndexedTensor, arrays: dict[str, npt.NDArray[Any]]) -> int:
    if t.encoding == "ranked":
        zero = t.digits.index(0)
        windows = digit_windows(t, arrays["ranks"])
        return sum(int(np.count_nonzero(digits == zero)) for _, _, digits in windows)
    if not t.blocks:
        return 0
    is_zero = pattern_values(t.digits, t.k) == 0
    inner = is_zero.sum(axis=1)
    outer = is_zero[:, : t.columns - (t.blocks - 1) * t.k].sum(axis=1)  # last block, unpadded
    lengths = np.diff(arrays["segments"].astype(np.int64))
    return int((lengths[:-1] @ inner).sum() + lengths[-1] @ outer)
