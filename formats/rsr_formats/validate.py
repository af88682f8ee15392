"""The rules of formats/SPEC.md that go beyond types: one function per group of rules."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt

from .encoding import LANES, RANK_BITS, STRIP, padding_digit, w16_words
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
from .layout import (
    ALIGNMENT,
    CODECS,
    MAGIC,
    MAX_EXPANSION,
    MAX_HEADER_SIZE,
    MAX_IN_FEATURES,
    MAX_NAME_BYTES,
    MAX_OUT_FEATURES,
    MAX_PATTERNS,
    MAX_RANKED_PATTERNS,
    PREAMBLE,
    VERSION,
    DenseTensor,
    Header,
    IndexedTensor,
    align,
    dense_nbytes,
    section_uses,
)


def check_preamble(preamble: bytes, file_size: int) -> tuple[int, int, bytes]:
    """Check the first 64 bytes against the file's size (rules P1 to P6).

    Returns:
        Header offset, header size and the header's SHA-256.
    """
    if not MAGIC.startswith(preamble[: len(MAGIC)]):
        raise NotRsrError(
            f"not a .rsr file: it begins with {preamble[:8].hex(' ')}, expected {MAGIC.hex(' ')}"
        )
    if len(preamble) < PREAMBLE.size:
        raise TruncatedError(
            f"truncated: the file has {file_size} bytes, its preamble alone takes {PREAMBLE.size}"
        )
    _, major, minor, flags, offset, size, digest = PREAMBLE.unpack(preamble)
    if (major, minor) > VERSION or major < 1:
        raise VersionError(
            f"preamble: the file has format version {major}.{minor}, this reader knows "
            f"{VERSION[0]}.{VERSION[1]}: upgrade rsr-ternary or compile the model again"
        )
    if flags:
        raise FlagsError(f"preamble: flags are {flags:#010x}, version 1 defines none")
    if offset % ALIGNMENT or offset < ALIGNMENT:
        raise MisalignedSectionError(
            f"preamble: the header offset {offset} is not a positive multiple of {ALIGNMENT}"
        )
    if not 0 < size <= MAX_HEADER_SIZE:
        raise LimitError(f"preamble: header size {size}, expected 1 to {MAX_HEADER_SIZE}")
    if file_size < offset + size:
        raise TruncatedError(
            f"truncated: the file has {file_size} bytes, its preamble says {offset + size}"
        )
    if file_size > offset + size:
        raise TrailingDataError(
            f"the file has {file_size} bytes, its preamble says {offset + size}: "
            "something was appended, or the preamble is damaged"
        )
    return offset, size, digest


def check_header_hash(data: bytes, digest: bytes) -> None:
    """Check the header against the preamble's SHA-256 (rule P7)."""
    if hashlib.sha256(data).digest() != digest:
        raise HeaderHashError(
            "the header is damaged: its SHA-256 is not the one in the preamble; "
            "get or compile the file again"
        )


def check_header(header: Header, header_offset: int) -> None:
    """Check the section table, names and every tensor (rules S1 to T9)."""
    _check_sections(header, header_offset)
    _check_section_uses(header)
    _check_names([t.name for t in header.tensors], "tensor")
    _check_names([f.name for f in header.files], "file")
    for f in header.files:
        if f.name in (".", "..") or any(c in f.name for c in "/\\\0:"):
            raise InvalidNameError(f"file name {f.name!r} is not a plain name")
    for t in header.tensors:
        if isinstance(t, DenseTensor):
            _check_size(header, t.section, t.nbytes, f"tensor {t.name!r}")
        else:
            _check_indexed(header, t)


def _check_sections(header: Header, header_offset: int) -> None:
    owners = header.owners()
    end = PREAMBLE.size
    for i, s in enumerate(header.sections):
        what = f"section {i} ({owners[i]})"
        if s.offset % ALIGNMENT:
            raise MisalignedSectionError(
                f"{what} begins at {s.offset}, which is no multiple of {ALIGNMENT}"
            )
        if s.offset < align(end):
            raise OverlappingSectionError(
                f"{what} begins at {s.offset}, but what lies before it ends at {end}"
            )
        if s.offset > align(end):
            raise SectionGapError(f"{what} begins at {s.offset}, expected {align(end)}")
        end = s.offset + s.stored_size
        if end > header_offset:
            raise SectionBoundsError(
                f"{what} ends at {end}, but the header begins at {header_offset}"
            )
        if s.codec not in CODECS:
            raise CodecError(f"{what} has codec {s.codec[:32]!r}, expected {' or '.join(CODECS)}")
        if s.codec == "raw" and s.size != s.stored_size:
            raise SectionSizeError(f"{what}: raw, but size {s.size} != stored size {s.stored_size}")
        if s.size > MAX_EXPANSION * s.stored_size:
            raise LimitError(
                f"{what}: {s.stored_size} stored bytes claim to hold {s.size}, more than "
                f"{MAX_EXPANSION} times as many"
            )
    if align(end) != header_offset:
        raise SectionGapError(f"the header begins at {header_offset}, expected {align(end)}")


def _check_section_uses(header: Header) -> None:
    used: dict[int, str] = {}
    for index, what in section_uses(header):
        if index >= len(header.sections):
            raise SectionUseError(
                f"{what} is in section {index}, but there are {len(header.sections)}"
            )
        if index in used:
            raise SectionUseError(f"section {index} is both {used[index]} and {what}")
        used[index] = what
    if len(used) != len(header.sections):
        unused = next(i for i in range(len(header.sections)) if i not in used)
        raise SectionUseError(f"section {unused} belongs to nothing")


def _check_names(names: list[str], what: str) -> None:
    for name in names:
        if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            raise InvalidNameError(
                f"a {what} name has {len(name.encode())} bytes, expected 1 to {MAX_NAME_BYTES}"
            )
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DuplicateNameError(f"two {what}s are named {twice!r}")


def _check_size(header: Header, index: int, expected: int, what: str) -> None:
    found = header.sections[index].size
    if found != expected:
        raise SectionSizeError(f"{what}: its section has {found} bytes, expected {expected}")


def _check_indexed(header: Header, t: IndexedTensor) -> None:
    what = f"tensor {t.name!r}"
    if t.shape[0] > MAX_OUT_FEATURES or t.shape[1] > MAX_IN_FEATURES:
        raise LimitError(
            f"{what}: shape {list(t.shape)} exceeds [{MAX_OUT_FEATURES}, {MAX_IN_FEATURES}]"
        )
    most = MAX_RANKED_PATTERNS if t.encoding == "ranked" else MAX_PATTERNS
    if t.patterns > most:
        raise LimitError(
            f"{what}: k = {t.k} gives {t.patterns} patterns, {t.encoding} allows {most}"
        )
    if t.encoding == "ranked" and t.direction != "expand":
        raise HeaderFieldError(f"{what}: encoding ranked has direction expand only")
    if t.encoding == "permuted" and (t.packing == "u16") != (t.rows <= 0xFFFF):
        raise HeaderFieldError(f"{what}: packing {t.packing} does not suit {t.rows} rows")
    sizes = t.section_sizes()
    if t.sections.keys() != sizes.keys():
        raise HeaderFieldError(
            f"{what}: sections {sorted(t.sections)}, {t.encoding} has {sorted(sizes)}"
        )
    for part, size in sizes.items():
        _check_size(header, t.sections[part], size, f"{part} of {what}")
    if t.scale is not None:
        _check_size(header, t.scale.section, 4 * t.scales, f"scale of {what}")
    if t.source.negative_zeros is not None:
        found = header.sections[t.source.negative_zeros].size
        if found > -(-t.shape[0] * t.shape[1] // 8):
            raise SectionSizeError(f"negative zeros of {what}: {found} bytes exceed one per 8 weights")
    for c in t.source.companions:
        if len(c.data) != dense_nbytes(c.dtype, c.shape):
            raise SectionSizeError(f"{what}: companion {c.name!r} has {len(c.data)} bytes of data")


def check_scale(t: IndexedTensor, scale: npt.NDArray[np.float32]) -> None:
    """Check that every scale is finite (rule D1)."""
    if not np.isfinite(scale).all():
        raise IndexDataError(f"scale of tensor {t.name!r} is not finite")


def check_permuted(
    t: IndexedTensor,
    permutation: npt.NDArray[np.unsignedinteger],
    segments: npt.NDArray[np.unsignedinteger],
) -> None:
    """Check that each block has a segment list and a permutation (rules D3 and D4).

    Args:
        t: the tensor.
        permutation: (blocks, rows).
        segments: (blocks, B^k + 1).
    """
    for j in range(t.blocks):
        L, sigma = segments[j], permutation[j]
        if L[0] != 0 or L[-1] != t.rows or (L[1:] < L[:-1]).any():
            raise IndexDataError(
                f"segments of tensor {t.name!r}: block {j} does not rise from 0 to {t.rows}"
            )
        if t.rows and (sigma.max() >= t.rows or np.bincount(sigma, minlength=t.rows).max() > 1):
            raise IndexDataError(
                f"permutation of tensor {t.name!r}: block {j} does not hold 0 .. {t.rows - 1} once"
            )


def check_ranks(t: IndexedTensor, words: npt.NDArray[np.uint16]) -> None:
    """Check ranks, padding and spare bits of packing w16 (rule D2).

    Products need no such check: a rank above the last pattern looks up a zero.
    """
    columns, padded = w16_words(t.blocks), -(-t.rows // LANES) * LANES
    pad = 0
    for _ in range(t.k):
        pad = pad * t.base + padding_digit(t.digits)
    for r0 in range(0, padded, STRIP):
        height = min(STRIP, padded - r0)
        strip = words[r0 * columns : (r0 + height) * columns].reshape(columns, height)
        if (strip >> 15).any():
            raise IndexDataError(f"ranks of tensor {t.name!r}: bit 15 is set in rows from {r0}")
        for i in range(3):
            ranks = (strip >> (RANK_BITS * i)) & 31
            blocks = max(0, -(-(t.blocks - i) // 3))  # of this bit field that are no padding
            real = max(0, min(t.rows - r0, height))
            if (ranks >= t.patterns).any():
                raise IndexDataError(
                    f"ranks of tensor {t.name!r}: a rank in rows from {r0} exceeds {t.patterns - 1}"
                )
            if (ranks[blocks:] != pad).any() or (ranks[:, real:] != pad).any():
                raise IndexDataError(f"ranks of tensor {t.name!r}: padding is not rank {pad}")
