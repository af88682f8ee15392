"""Each rule of SPEC.md section 11 is broken once: the reader raises its error, and in time."""

from __future__ import annotations

import os
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from rsr_formats import DenseTensor, IndexedTensor, RsrError, RsrFile, errors
from rsr_formats.decode import decode_digits
from rsr_testing.drafts import (
    CONFIG,
    DENSE,
    NEGATIVE_ZEROS,
    PACKED,
    PERMUTATION,
    RANKS,
    SCALE,
    SEGMENTS,
    Draft,
)
from rsr_testing.paths import ROOT

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

    Damage = Callable[[Draft], object]

# The matrix of SPEC.md section 13 in packing n4s1 (section 7.2).
N4S1 = bytes.fromhex("980d9d") + bytes(125) + bytes.fromhex("008040") + bytes(29)
# The same matrix in groups of two columns, each a short unit of one block.
N4S1_GROUPS = bytes.fromhex("098c0c") + bytes(29) + bytes.fromhex("868906") + bytes(29)
# The same matrix with listed patterns: with k = 4, one pattern per row (ranks 1, 0, 2; padding 0),
# and with k = 2 and stride 2, columns 0 and 2, 1 and 3 (ranks 4, 0, 5 and 3, 1, 4; padding 2, which
# is all-zero).
PATTERNS = bytes.fromhex("00000001 02010002 02020200")
LISTED = struct.pack("<32H", 1, 0, 2, *[0] * 29)
PAIRS = bytes.fromhex("0000 0001 0101 0102 0200 0202")
# The same matrix of digits -1, 0, 1, 2 with k = 2: ranks 9, 2 and 0, 1 and 10, 8; padding 5.
QUATERNARY = struct.pack("<32H", 0x1449, 0x1420, 0x150A, *[0x14A5] * 29)
STRIDED = struct.pack("<32H", 0x0864, 0x0820, 0x0885, *[0x0842] * 29)
Case = tuple[str, str, type[RsrError], "Damage"]


def preamble(**claims: object) -> Damage:
    return lambda d: d.preamble.update(claims)


def entry(index: int, **claims: object) -> Damage:
    return lambda d: d.sections[index].update(claims)


def ranked(**claims: object) -> Damage:
    return lambda d: d.ranked.update(claims)


def permuted(**claims: object) -> Damage:
    return lambda d: d.permuted.update(claims)


def source(name: str, **claims: object) -> Damage:
    return lambda d: d.tensors[name]["source"].update(claims)


def auxiliary(**claims: object) -> Damage:
    return lambda d: d.ranked["source"]["companions"][0].update(claims)


def mlx(layout: str = "mlx", **claims: object) -> Damage:
    """Store the matrix in a layout of MLX; its scales are an auxiliary tensor without data."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 2 if layout == "mlx" else 4} | d.preamble
        scales = {"name": "scales", "dtype": "F16", "shape": [3, 1], "data": None} | claims
        t = d.ranked
        t.update(name="weight")
        t["source"].update(layout=layout, dtype="U32", shape=[3, 1], companions=[scales])

    return damage


def quantized(
    weight: dict[str, object] | None = None,
    scale: dict[str, object] | None = None,
    source: dict[str, object] | None = None,
    **claims: object,
) -> Damage:
    """Add three dense tensors: "of", BF16 [2, 3]; "head", quantized from it; and its row scales."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 3} | d.preamble
        made = {"rule": "absmax", "of": "of", "dtype": "BF16"} | claims
        tensors: list[dict[str, object]] = [
            {"name": "of", "dtype": "BF16", "shape": [2, 3], "size": 12} | (source or {}),
            {"name": "head", "dtype": "I8", "shape": [2, 3], "size": 6, "quantised": made}
            | (weight or {}),
            {"name": "head_scale", "dtype": "F32", "shape": [2], "size": 8} | (scale or {}),
        ]
        for t in tensors:
            size = t.pop("size")
            assert isinstance(size, int)
            d.doc["tensors"].append({"kind": "dense", "section": d.add(bytes(size)), **t})

    return damage


def rotated(
    name: str = "packed",
    rotation: object = 0,
    changes: dict[str, object] | None = None,
    **claims: object,
) -> Damage:
    """Store a matrix in a rotated basis: by default "packed", F32 [16, 16]."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 5} | d.preamble
        d.doc["rotations"] = [{"block": 16, "signs": b"\x01\x80"} | claims]
        d.tensors[name].update({"rotation": rotation} | (changes or {}))

    return damage


def stacked(
    parts: dict[str, dict[str, object]] | None = None, times: int = 1, **claims: object
) -> Damage:
    """Add tensors "e0.a", "e0.b", "e1.a", "e1.b", F16 [2, 3], and the stack that they form."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 5} | d.preamble
        for name in ("e0.a", "e0.b", "e1.a", "e1.b"):
            t: dict[str, object] = {"name": name, "kind": "dense", "dtype": "F16"}
            t |= {"shape": [2, 3], "size": 12} | (parts or {}).get(name, {})
            size = t.pop("size")
            assert isinstance(size, int)
            d.doc["tensors"].append({"section": d.add(bytes(size)), **t})
        stack = {"name": "e", "shape": [2, 4, 3], "prefix": "e", "suffixes": [".a", ".b"]} | claims
        d.doc["stacks"] = [stack] * times

    return damage


def rename(name: str, to: str) -> Damage:
    return lambda d: d.tensors[name].update(name=to)


def rename_file(to: str) -> Damage:
    return lambda d: d.doc["files"][0].update(name=to)


def store(index: int, data: bytes) -> Damage:
    return lambda d: d.store(index, data)


def edit(index: int, at: int, data: bytes) -> Damage:
    return lambda d: d.edit(index, at, data)


def shift(first: int, by: int) -> Damage:
    def damage(d: Draft) -> None:
        for s in d.sections[first:]:
            s["offset"] += by

    return damage


def two_files_of_one_name(d: Draft) -> None:
    d.doc["files"].append({"name": "config.json", "section": d.add(b"twice")})


def file_in_the_section_of(index: int) -> Damage:
    return lambda d: d.doc["files"].append({"name": "other", "section": index})


def one_byte_too_many(index: int) -> Damage:
    return lambda d: d.store(index, d.stored[index] + b"\0")


def frame(data: bytes, size: int) -> Damage:
    def damage(d: Draft) -> None:
        d.store(PACKED, data)
        d.sections[PACKED]["size"] = size
        d.tensors["packed"].update(dtype="U8", shape=[size])

    return damage


def empty_dense(shape: list[int]) -> Damage:
    def damage(d: Draft) -> None:
        d.store(DENSE, b"")
        d.tensors["dense"].update(dtype="BF16", shape=shape)

    return damage


def bad_hash(index: int) -> Damage:
    return lambda d: d.sections[index].update(sha256=bytes(32))


def many_rows(**claims: object) -> Damage:
    """Give the permuted matrix 65,536 rows and no columns, hence an empty index."""

    def damage(d: Draft) -> None:
        d.permuted.update(shape=[65536, 0], **claims)
        d.permuted["source"].update(shape=[65536, 0], negative_zeros=None)
        d.doc["files"].append({"name": "other", "section": NEGATIVE_ZEROS})
        d.store(PERMUTATION, b"")
        d.store(SEGMENTS, b"")

    return damage


def n4s1(data: bytes = N4S1, **claims: object) -> Damage:
    """Store the ranks in packing n4s1."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 1} | d.preamble
        d.ranked.update({"packing": "n4s1"} | claims)
        d.store(RANKS, data)

    return damage


def grouped(data: bytes = bytes(24), **claims: object) -> Damage:
    """Give each row one scale per two columns; the blocks have columns 0 and 1, 2 and 3."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 1} | d.preamble
        d.ranked.update({"scale": {"rows": 1, "section": SCALE, "columns": 2} | claims})
        d.store(SCALE, data)

    return damage


def n4s1_groups(data: bytes = N4S1_GROUPS, **claims: Any) -> Damage:
    """Store the ranks in packing n4s1, with one scale per row and two columns."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 4} | d.preamble
        all_of(n4s1(data), grouped(**claims))(d)

    return damage


def quaternary(data: bytes = QUATERNARY, **claims: object) -> Damage:
    """Store the matrix with digits up to 2."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 5} | d.preamble
        d.ranked.update({"kind": "quaternary", "digits": [-1, 0, 1, 2], "k": 2} | claims)
        d.store(RANKS, data)

    return damage


def listed(data: bytes = LISTED, **claims: object) -> Damage:
    """Store the matrix with listed patterns."""

    def damage(d: Draft) -> None:
        d.preamble = {"minor": 2} | d.preamble
        d.ranked.update({"k": 4, "patterns": PATTERNS} | claims)
        d.store(RANKS, data)

    return damage


def strided(data: bytes = STRIDED, **claims: object) -> Damage:
    return listed(data, **{"k": 2, "patterns": PAIRS, "stride": 2} | claims)


def groups_of(columns: int) -> Damage:
    """Give each row one scale per group of columns."""
    scale = {"rows": 1, "section": SCALE, "columns": columns}
    return all_of(ranked(scale=scale), store(SCALE, bytes(12 * -(-4 // columns))))


def all_of(*damages: Damage) -> Damage:
    return lambda d: [damage(d) for damage in damages]


def n4s1_byte(at: int, value: int) -> Damage:
    return n4s1(N4S1[:at] + bytes([value]) + N4S1[at + 1 :])


def n4s1_groups_byte(at: int, value: int) -> Damage:
    return n4s1_groups(N4S1_GROUPS[:at] + bytes([value]) + N4S1_GROUPS[at + 1 :])


def without_a_zero_digit(d: Draft) -> None:
    d.permuted.update(kind="binary", digits=[-1, 1])
    d.store(SEGMENTS, bytes(20))


def setting(name: str, value: object) -> Damage:
    def damage(d: Draft) -> None:
        setattr(d, name, value)

    return damage


CONTENT = bytes(range(256)) * 4
FRAME = zstandard.ZstdCompressor().compress(CONTENT)
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
# Magic; descriptor: no size, no checksum; window byte: 2^28; one raw block, the last, of one byte.
WIDE = b"\x28\xb5\x2f\xfd\x00" + bytes([18 << 3]) + b"\x09\x00\x00a"
# Blocks of one byte repeated 131,072 times: four bytes in, 128 KiB out.
BOMB = b"\x28\xb5\x2f\xfd\x00" + bytes([10 << 3]) + b"\x02\x00\x10a" * 4000 + b"\x03\x00\x10a"

OPEN: list[Case] = [
    ("P1", "magic", errors.NotRsrError, preamble(magic=b"\x89RSR\n\x1a\n\0")),
    ("P3", "minor_too_new", errors.VersionError, preamble(minor=2)),
    ("P3", "major_too_new", errors.VersionError, preamble(major=2)),
    ("P3", "major_zero", errors.VersionError, preamble(major=0)),
    ("P4", "flag", errors.FlagsError, preamble(flags=1 << 31)),
    ("P5", "header_misaligned", errors.MisalignedSectionError, preamble(offset=36865)),
    ("P5", "header_in_preamble", errors.MisalignedSectionError, preamble(offset=0)),
    ("P6", "header_empty", errors.LimitError, preamble(size=0)),
    ("P6", "header_size", errors.LimitError, preamble(size=(64 << 20) + 1)),
    ("P6", "header_size_u64", errors.LimitError, preamble(size=(1 << 64) - 1)),
    ("P7", "header_beyond_end", errors.TruncatedError, preamble(offset=40960)),
    ("P7", "header_offset_u64", errors.TruncatedError, preamble(offset=(1 << 64) - 4096)),
    ("P8", "byte_appended", errors.TrailingDataError, setting("tail", b"\0")),
    ("P9", "header_hash", errors.HeaderHashError, preamble(digest=bytes(32))),
    ("P10", "1.1_without_its_features", errors.VersionError, preamble(minor=1)),
    ("P10", "n4s1_in_1.0", errors.VersionError, all_of(preamble(minor=0), n4s1())),
    ("P10", "n4s1_groups_in_1.1", errors.VersionError, all_of(preamble(minor=1), n4s1_groups())),
    ("P10", "groups_in_1.0", errors.VersionError, all_of(preamble(minor=0), grouped())),
    ("P10", "float16_in_1.0", errors.VersionError,
     all_of(store(SCALE, b"\0\0"), ranked(scale={"rows": 3, "section": 1, "dtype": "F16"}))),
    ("H3", "dimensions", errors.LimitError, lambda d: d.tensors["dense"].update(shape=[1] * 9)),
    ("H3", "auxiliary_bytes", errors.LimitError, auxiliary(data=bytes(65537))),
    ("N1", "name_empty", errors.InvalidNameError, rename("dense", "")),
    ("N1", "name_long", errors.InvalidNameError, rename("dense", "é" * 513)),
    ("N1", "file_name_empty", errors.InvalidNameError, rename_file("")),
    ("N1", "auxiliary_name_empty", errors.InvalidNameError, auxiliary(name="")),
    ("N2", "duplicate_tensor", errors.DuplicateNameError, rename("dense", "ranked")),
    ("N2", "auxiliary_has_name_of_tensor", errors.DuplicateNameError, auxiliary(name="dense")),
    ("N2", "duplicate_file", errors.DuplicateNameError, two_files_of_one_name),
    ("N3", "file_dot_dot", errors.InvalidNameError, rename_file("..")),
    ("N3", "file_dot", errors.InvalidNameError, rename_file(".")),
    ("N3", "file_path", errors.InvalidNameError, rename_file("../x")),
    ("N3", "file_backslash", errors.InvalidNameError, rename_file("a\\b")),
    ("N3", "file_drive", errors.InvalidNameError, rename_file("C:x")),
    ("N3", "file_nul", errors.InvalidNameError, rename_file("a\0")),
    ("N3", "file_escape", errors.InvalidNameError, rename_file("\x1b[2J")),
    ("N3", "file_delete", errors.InvalidNameError, rename_file("\x7f")),
    ("N3", "file_csi", errors.InvalidNameError, rename_file("a\x9b2J")),
    ("N3", "file_last_control", errors.InvalidNameError, rename_file("\x9f")),
    ("S1", "misaligned", errors.MisalignedSectionError, shift(2, 64)),
    ("S2", "overlap", errors.OverlappingSectionError, shift(2, -4096)),
    ("S2", "over_preamble", errors.OverlappingSectionError, entry(0, offset=0)),
    ("S3", "gap", errors.SectionGapError, shift(2, 4096)),
    ("S3", "offset_2_63", errors.SectionGapError, entry(7, offset=(1 << 63) - 4096)),
    ("S4", "into_header", errors.SectionBoundsError, entry(7, stored_size=4097)),
    ("S4", "size_2_63", errors.SectionBoundsError, entry(7, stored_size=(1 << 63) - 1)),
    ("S5", "codec", errors.CodecError, entry(0, codec="lz4")),
    ("S6", "raw_sizes_differ", errors.SectionSizeError, entry(0, size=65)),
    ("S6", "zstd_empty", errors.SectionSizeError, entry(PACKED, size=0)),
    ("S7", "bomb", errors.LimitError, entry(PACKED, size=1 << 40)),
    ("S8", "header_far", errors.SectionGapError, lambda d: d.stored.append(b"hole")),
    ("S9", "no_such_section", errors.SectionUseError, ranked(sections={"ranks": 8})),
    ("S9", "section_2_63", errors.SectionUseError, ranked(sections={"ranks": (1 << 63) - 1})),
    ("S10", "used_twice", errors.SectionUseError, file_in_the_section_of(SCALE)),
    ("S10", "unused", errors.SectionUseError, lambda d: d.add(b"polyglot")),
    ("T1", "dense_size", errors.SectionSizeError, one_byte_too_many(DENSE)),
    ("T1", "dense_huge", errors.SectionSizeError,
     lambda d: d.tensors["dense"].update(shape=[(1 << 48) - 1] * 8)),
    ("T2", "out", errors.LimitError, ranked(shape=[1 << 31, 0])),
    ("T2", "in", errors.LimitError, ranked(shape=[0, 1 << 24])),
    ("T3", "ranked_k", errors.LimitError, ranked(k=4)),
    ("P10", "quaternary_in_1.4", errors.VersionError, all_of(preamble(minor=4), quaternary())),
    ("P10", "1.5_without_its_features", errors.VersionError, preamble(minor=5)),
    ("H2", "quaternary_of_three", errors.HeaderFieldError, quaternary(digits=[-1, 0, 1])),
    ("H2", "ternary_of_four", errors.HeaderFieldError, quaternary(kind="ternary")),
    ("H2", "quinary_of_four", errors.HeaderFieldError, quaternary(kind="quinary")),
    ("H2", "a_digit_of_3", errors.HeaderFieldError, quaternary(digits=[0, 1, 2, 3])),
    ("H2", "descending_digits", errors.HeaderFieldError, quaternary(digits=[2, 1, 0, -1])),
    ("H2", "equal_digits", errors.HeaderFieldError, quaternary(digits=[-1, 0, 0, 1])),
    ("H2", "six_digits", errors.HeaderFieldError, quaternary(digits=[-2, -1, 0, 1, 2, 3])),
    ("H2", "ternary_digits_of_2", errors.HeaderFieldError,
     quaternary(kind="ternary", digits=[-2, 0, 2])),
    ("H2", "a_digit_that_is_a_boolean", errors.HeaderFieldError,
     quaternary(digits=[-1, False, True, 2])),
    ("T2", "in_of_2", errors.LimitError, quaternary(shape=[0, 1 << 23])),
    ("T3", "quaternary_k", errors.LimitError, quaternary(k=3)),
    ("T3", "permuted_quinary_k", errors.LimitError,
     all_of(preamble(minor=5), permuted(kind="quinary", digits=[-2, -1, 0, 1, 2], k=7))),
    ("T14", "quaternary", errors.HeaderFieldError, quaternary(patterns=bytes(2))),
    ("T8", "bitnet_quaternary", errors.HeaderFieldError,
     all_of(quaternary(), source("ranked", layout="bitnet", dtype="U8", shape=[1, 4]))),
    ("T8", "mlx_without_minus_1", errors.HeaderFieldError,
     all_of(quaternary(digits=[-2, 0, 1, 2]), mlx())),
    ("T3", "permuted_k", errors.LimitError, permuted(k=11)),
    ("T4", "ranked_reduce", errors.HeaderFieldError, ranked(direction="reduce")),
    ("T5", "u16_with_many_rows", errors.HeaderFieldError, many_rows()),
    ("T5", "u32_with_few_rows", errors.HeaderFieldError, permuted(packing="u32")),
    ("T5", "n4s1_k", errors.HeaderFieldError, n4s1(k=2)),
    ("T5", "n4s1_binary", errors.HeaderFieldError, n4s1(kind="binary", digits=[-1, 1])),
    ("T6", "n4s1", errors.SectionSizeError, n4s1(N4S1 + bytes(160))),
    ("T6", "n4s1_whole_units", errors.SectionSizeError, n4s1_groups(N4S1)),
    ("T6", "n4s1_short_units", errors.SectionSizeError, n4s1_groups(N4S1_GROUPS + bytes(32))),
    ("T6", "ranks", errors.SectionSizeError, one_byte_too_many(RANKS)),
    ("T6", "permutation", errors.SectionSizeError, one_byte_too_many(PERMUTATION)),
    ("T6", "segments", errors.SectionSizeError, store(SEGMENTS, bytes(38))),
    ("T6", "larger_matrix", errors.SectionSizeError, ranked(shape=[33, 4])),
    ("T7", "scale", errors.SectionSizeError, ranked(scale={"rows": 2, "section": SCALE})),
    ("T7", "groups_short", errors.SectionSizeError, grouped(bytes(20))),
    ("T7", "groups_of_float32", errors.SectionSizeError, grouped(dtype="F16")),
    ("T7", "groups_of_row_blocks", errors.SectionSizeError, grouped(rows=2)),
    ("T7", "float16", errors.SectionSizeError,
     all_of(preamble(minor=1), ranked(scale={"rows": 3, "section": 1, "dtype": "F16"}))),
    ("T12", "all_columns", errors.HeaderFieldError, grouped(bytes(12), columns=4)),
    ("T12", "more_columns", errors.HeaderFieldError, grouped(bytes(12), columns=(1 << 24) - 1)),
    ("T12", "n4s1_all_columns", errors.HeaderFieldError, n4s1_groups(columns=4)),
    ("T13", "layout", errors.HeaderFieldError, auxiliary(data=None)),
    ("T13", "name", errors.HeaderFieldError, mlx(name="zeros")),
    ("T13", "dtype", errors.HeaderFieldError, mlx(dtype="U16")),
    ("T13", "shape", errors.HeaderFieldError, mlx(shape=[3, 2])),
    ("P10", "patterns_in_1.1", errors.VersionError, all_of(preamble(minor=1), listed())),
    ("T3", "33_patterns", errors.LimitError,
     listed(patterns=b"".join(bytes([n // 27, n // 9 % 3, n // 3 % 3, n % 3]) for n in range(33)))),
    ("T3", "listed_k", errors.LimitError, listed(k=6, patterns=bytes(6))),
    ("T14", "n4s1", errors.HeaderFieldError,
     all_of(preamble(minor=2), n4s1(), listed(N4S1, k=3, patterns=bytes(3)))),
    ("T14", "permuted", errors.HeaderFieldError,
     all_of(preamble(minor=2), permuted(patterns=PAIRS))),
    ("T15", "empty_list", errors.HeaderFieldError, listed(patterns=b"")),
    ("T15", "half_a_pattern", errors.HeaderFieldError, listed(patterns=PATTERNS[:-2])),
    ("T15", "invalid_digit", errors.HeaderFieldError, listed(patterns=PATTERNS[:-1] + b"\3")),
    ("T15", "invalid_digit_of_binary", errors.HeaderFieldError,
     listed(patterns=PATTERNS, kind="binary", digits=[0, 1])),
    ("T15", "duplicate", errors.HeaderFieldError, listed(patterns=PATTERNS[:4] * 2 + PATTERNS[8:])),
    ("T15", "descending", errors.HeaderFieldError, listed(patterns=PATTERNS[4:] + PATTERNS[:4])),
    ("T15", "all_patterns", errors.HeaderFieldError, listed(k=1, patterns=b"\0\1\2")),
    ("T16", "stride_without_list", errors.HeaderFieldError,
     all_of(preamble(minor=2), ranked(stride=2))),
    ("T16", "part_of_a_block", errors.HeaderFieldError, listed(k=3, patterns=bytes(3))),
    ("T16", "part_of_a_run", errors.HeaderFieldError, strided(stride=3)),
    ("T16", "enormous_stride", errors.HeaderFieldError, strided(stride=(1 << 24) - 1)),
    ("T16", "part_of_a_run_in_a_group", errors.HeaderFieldError, all_of(strided(), groups_of(2))),
    ("H2", "stride_1", errors.HeaderFieldError, strided(stride=1)),
    ("H2", "stride_too_large", errors.HeaderFieldError, strided(stride=1 << 24)),
    ("H2", "patterns_nil", errors.HeaderFieldError, listed(patterns=None)),
    ("H2", "patterns_array", errors.HeaderFieldError, listed(patterns=[0, 0, 0, 1])),
    ("T12", "permuted", errors.HeaderFieldError,
     all_of(grouped(), permuted(scale={"rows": 1, "section": 8, "columns": 2}),
              lambda d: d.add(bytes(24)))),
    ("T8", "layout_dtype", errors.HeaderFieldError, source("ranked", dtype="F64")),
    ("T8", "layout_shape", errors.HeaderFieldError, source("ranked", shape=[4, 3])),
    ("T8", "mlx_shape", errors.HeaderFieldError,
     all_of(mlx(), lambda d: d.tensors["weight"]["source"].update(shape=[3, 2]))),
    ("T8", "mlx_binary", errors.HeaderFieldError,
     all_of(mlx(), lambda d: d.tensors["weight"].update(kind="binary", digits=[-1, 1]))),
    ("T8", "mlx_1bit_ternary", errors.HeaderFieldError,
     mlx("mlx-1bit")),
    ("T8", "mlx_1bit_zero_and_one", errors.HeaderFieldError,
     all_of(mlx("mlx-1bit"),
            lambda d: d.tensors["weight"].update(kind="binary", digits=[0, 1]))),
    ("T8", "bitnet_shape", errors.HeaderFieldError, source("ranked", layout="bitnet", dtype="U8")),
    ("T8", "int8_dtype", errors.HeaderFieldError, source("ranked", layout="int8", dtype="U8")),
    ("T8", "absmean_negative_zeros", errors.HeaderFieldError, source("permuted", layout="absmean")),
    ("T8", "negative_zeros_without_zero", errors.HeaderFieldError,
     without_a_zero_digit),
    ("H2", "zero_columns", errors.HeaderFieldError, grouped(columns=0)),
    ("H2", "too_many_columns", errors.HeaderFieldError, grouped(columns=1 << 24)),
    ("H2", "columns_nil", errors.HeaderFieldError, grouped(columns=None)),
    ("H2", "scale_float32_written", errors.HeaderFieldError, grouped(dtype="F32")),
    ("H2", "scale_dtype", errors.HeaderFieldError, grouped(dtype="BF16")),
    ("H2", "scale_rows", errors.HeaderFieldError,
     ranked(scale={"rows": 1 << 31, "section": SCALE})),
    ("P10", "rotation_in_1.4", errors.VersionError, all_of(preamble(minor=4), rotated())),
    ("H2", "block_too_small", errors.HeaderFieldError, rotated(block=8)),
    ("H2", "block_too_large", errors.HeaderFieldError, rotated(block=1 << 17)),
    ("H2", "signs_as_text", errors.HeaderFieldError, rotated(signs="++")),
    ("H2", "rotation_nil", errors.HeaderFieldError, rotated(rotation=None)),
    ("H2", "no_rotations", errors.HeaderFieldError, lambda d: d.doc.update(rotations=[])),
    ("H2", "rotation_field", errors.HeaderFieldError, rotated(axis=0)),
    ("T19", "block", errors.HeaderFieldError, rotated(block=24, signs=bytes(3))),
    ("T19", "no_signs", errors.HeaderFieldError, rotated(signs=b"")),
    ("T19", "half_a_block", errors.HeaderFieldError, rotated(block=32)),
    ("T19", "unused", errors.HeaderFieldError,
     all_of(rotated(), lambda d: d.tensors["packed"].pop("rotation"))),
    ("T20", "no_such_rotation", errors.HeaderFieldError, rotated(rotation=1)),
    ("T20", "no_rotations", errors.HeaderFieldError, ranked(rotation=0)),
    ("T20", "columns", errors.HeaderFieldError, rotated("ranked")),
    ("T20", "dtype", errors.HeaderFieldError, rotated(changes={"dtype": "I32"})),
    ("T20", "dimensions", errors.HeaderFieldError, rotated(changes={"shape": [16, 4, 4]})),
    ("T20", "of_another_basis", errors.HeaderFieldError,
     all_of(
         preamble(minor=5),
         quantized({"shape": [2, 16], "size": 32}, source={"shape": [2, 16], "size": 64}),
         rotated("of"),
     )),
    ("T17", "dtype", errors.HeaderFieldError, quantized(weight={"dtype": "U8"})),
    ("T17", "dimensions", errors.HeaderFieldError, quantized(weight={"shape": [6]})),
    ("T17", "columns", errors.HeaderFieldError,
     quantized({"shape": [2, 1 << 17], "size": 1 << 18}, source={"shape": [2, 1 << 17],
                                                             "size": 1 << 19})),
    ("T17", "no_scale", errors.HeaderFieldError, quantized(scale={"name": "scale"})),
    ("T17", "scale_dtype", errors.HeaderFieldError,
     quantized(scale={"dtype": "F16", "size": 4})),
    ("T17", "scale_shape", errors.HeaderFieldError, quantized(scale={"shape": [2, 1]})),
    ("T17", "of_nothing", errors.HeaderFieldError, quantized(source={"name": "other"})),
    ("T17", "of_a_matrix", errors.HeaderFieldError, quantized(of="ranked")),
    ("T17", "of_another_dtype", errors.HeaderFieldError, quantized(dtype="F16")),
    ("T17", "of_another_shape", errors.HeaderFieldError, quantized(source={"shape": [3, 2]})),
    ("T17", "of_a_quantized_tensor", errors.HeaderFieldError,
     quantized(source={"quantised": {"rule": "absmax", "of": "of", "dtype": "BF16"}})),
    ("H2", "quantized_nil", errors.HeaderFieldError, quantized(weight={"quantised": None})),
    ("H2", "quantized_rule", errors.HeaderFieldError, quantized(rule="absmean")),
    ("H2", "quantized_dtype", errors.HeaderFieldError, quantized(dtype="F64")),
    ("H2", "quantized_unknown_key", errors.HeaderFieldError, quantized(scale_of="x")),
    ("P10", "quantized_in_1.2", errors.VersionError,
     all_of(quantized(), preamble(minor=2))),
    ("T18", "missing", errors.HeaderFieldError, stacked({"e1.b": {"name": "e1.c"}})),
    ("T18", "dtype", errors.HeaderFieldError, stacked({"e1.b": {"dtype": "BF16"}})),
    ("T18", "shape", errors.HeaderFieldError, stacked({"e1.b": {"shape": [3, 2]}})),
    ("T18", "none", errors.HeaderFieldError, stacked(shape=[0, 4, 3])),
    ("T18", "more_than_there_are", errors.HeaderFieldError, stacked(shape=[1 << 40, 4, 3])),
    ("T18", "odd_rows", errors.HeaderFieldError, stacked(shape=[2, 5, 3])),
    ("T18", "of_two", errors.HeaderFieldError,
     all_of(stacked(), lambda d: d.doc["stacks"].append({**d.doc["stacks"][0], "name": "f"}))),
    ("N2", "stack_of_a_tensor", errors.DuplicateNameError, stacked(name="e0.a")),
    ("N2", "stacks", errors.DuplicateNameError, stacked(times=2)),
    ("P10", "stacks_in_1.4", errors.VersionError, all_of(stacked(), preamble(minor=4))),
    ("H2", "no_stacks", errors.HeaderFieldError, stacked(times=0)),
    ("H2", "stack_dimensions", errors.HeaderFieldError, stacked(shape=[8, 3])),
    ("H2", "stack_suffix", errors.HeaderFieldError, stacked(suffixes=[".a", 1])),
    ("H2", "stack_key", errors.HeaderFieldError, stacked(dtype="F16")),
    ("H3", "stack_suffixes", errors.LimitError, stacked(suffixes=["."] * 5)),
    ("H3", "no_stack_suffixes", errors.LimitError, stacked(suffixes=[])),
    ("T9", "negative_zeros", errors.SectionSizeError, store(NEGATIVE_ZEROS, bytes(3))),
    ("T10", "auxiliary", errors.SectionSizeError, auxiliary(data=b"\0")),
    ("T11", "dense", errors.LimitError, empty_dense([1 << 30, 0, 1 << 30])),
    ("T11", "auxiliary", errors.LimitError, auxiliary(shape=[1 << 47, 0, 1 << 13], data=b"")),
]  # fmt: skip

USE: list[Case] = [
    ("S11", "garbage", errors.CodecError, frame(b"no zstd at all", 9)),
    ("S11", "shorter_than_a_frame", errors.CodecError, frame(b"\x28\xb5", 9)),
    ("S11", "frame_header_only", errors.CodecError, frame(FRAME[:5], 1024)),
    ("S11", "truncated", errors.CodecError, frame(FRAME[:-1], 1024)),
    ("S11", "size_too_small", errors.CodecError, frame(FRAME, 1023)),
    ("S11", "size_too_large", errors.CodecError, frame(FRAME, 1025)),
    ("S11", "unsized_too_small", errors.CodecError, frame(UNSIZED, 1023)),
    ("S11", "unsized_too_large", errors.CodecError, frame(UNSIZED, 1025)),
    ("S11", "trailing_data", errors.CodecError, frame(FRAME + b"\0", 1024)),
    ("S11", "two_frames", errors.CodecError, frame(FRAME + FRAME, 2048)),
    ("S11", "two_frames_first_fits", errors.CodecError, frame(FRAME + FRAME, 1024)),
    ("S11", "unsized_trailing_data", errors.CodecError, frame(UNSIZED + b"\0", 1024)),
    ("S11", "skippable_frame", errors.CodecError, frame(SKIPPABLE + FRAME, 1024)),
    ("S11", "window", errors.CodecError, frame(WIDE, 1)),
    ("S11", "bomb_inside", errors.CodecError, frame(BOMB, 100_000)),
    ("S11", "checksum", errors.CodecError, lambda d: edit(PACKED, len(d.stored[PACKED]) - 4,
                                                          b"\0\0\0\0")(d)),
    ("D1", "scale_nan", errors.IndexDataError, store(SCALE, struct.pack("<f", float("nan")))),
    ("D1", "scale_inf", errors.IndexDataError, store(SCALE, struct.pack("<f", float("-inf")))),
    ("D1", "float16_inf", errors.IndexDataError,
     grouped(bytes(10) + b"\0\x7c", dtype="F16")),
    ("D3", "first", errors.IndexDataError, edit(SEGMENTS, 20, b"\1")),
    ("D3", "decreases", errors.IndexDataError, edit(SEGMENTS, 4, b"\2")),
    ("D3", "last", errors.IndexDataError, edit(SEGMENTS, 38, b"\4")),
    ("D4", "duplicate", errors.IndexDataError, edit(PERMUTATION, 6, b"\0")),
    ("D4", "range", errors.IndexDataError, edit(PERMUTATION, 11, b"\xff")),
]  # fmt: skip

VERIFY: list[Case] = [
    ("D2", "rank_16_of_quaternary", errors.IndexDataError,
     quaternary(struct.pack("<H", 0x1450) + QUATERNARY[2:])),
    ("D2", "quaternary_padding", errors.IndexDataError,
     quaternary(struct.pack("<H", 0x1849) + QUATERNARY[2:])),
    ("S12", "raw", errors.SectionHashError, bad_hash(RANKS)),
    ("S12", "zstd", errors.SectionHashError, bad_hash(PACKED)),
    ("S12", "file", errors.SectionHashError, bad_hash(CONFIG)),
    ("S13", "padding", errors.PaddingError, setting("padding", b"\1")),
    ("D2", "bit_15", errors.IndexDataError, edit(RANKS, 1, b"\xb6")),
    ("D2", "rank", errors.IndexDataError, edit(RANKS, 2, b"\xbb\x35")),
    ("D2", "padding_block", errors.IndexDataError, edit(RANKS, 1, b"\x32")),
    ("D2", "padding_row", errors.IndexDataError, edit(RANKS, 62, b"\xac")),
    ("D2", "n4s1_magnitude_low", errors.IndexDataError, n4s1_byte(0, 0x9E)),
    ("D2", "n4s1_magnitude_high", errors.IndexDataError, n4s1_byte(0, 0xE8)),
    ("D2", "n4s1_sign_of_zero", errors.IndexDataError, n4s1_byte(129, 0xC0)),
    ("D2", "n4s1_padding_block", errors.IndexDataError, n4s1_byte(32, 0x01)),
    ("D2", "n4s1_sign_of_padding_block", errors.IndexDataError, n4s1_byte(128, 0x20)),
    ("D2", "n4s1_padding_row", errors.IndexDataError, n4s1_byte(3, 0x10)),
    ("D2", "n4s1_sign_of_padding_row", errors.IndexDataError, n4s1_byte(159, 0x80)),
    ("D2", "short_unit_magnitude", errors.IndexDataError, n4s1_groups_byte(0, 0x0E)),
    ("D2", "short_unit_sign_of_zero", errors.IndexDataError, n4s1_groups_byte(33, 0x80)),
    ("D2", "short_unit_spare_sign", errors.IndexDataError, n4s1_groups_byte(0, 0x49)),
    ("D2", "short_unit_spare_bit", errors.IndexDataError, n4s1_groups_byte(32, 0x96)),
    ("D2", "short_unit_padding_row", errors.IndexDataError, n4s1_groups_byte(3, 0x01)),
    ("D2", "listed_rank", errors.IndexDataError,
     listed(LISTED[:4] + b"\3\0" + LISTED[6:])),
    ("D2", "listed_padding_block", errors.IndexDataError, listed(b"\x21" + LISTED[1:])),
    ("D2", "listed_padding_row", errors.IndexDataError, listed(LISTED[:-2] + b"\1\0")),
    ("D2", "strided_padding_row", errors.IndexDataError, strided(STRIDED[:-2] + b"\x00\x08")),
    ("D5", "too_many", errors.IndexDataError, store(NEGATIVE_ZEROS, b"\0\0")),
    ("D5", "too_few", errors.IndexDataError, store(NEGATIVE_ZEROS, b"")),
    ("D5", "spare_bit", errors.IndexDataError, store(NEGATIVE_ZEROS, b"\4")),
]  # fmt: skip


def cases(table: list[Case]) -> list[ParameterSet]:
    return [pytest.param(error, damage, id=f"{rule}-{name}") for rule, name, error, damage in table]


def use(file: RsrFile) -> None:
    for t in file.header.tensors:
        if isinstance(t, DenseTensor):
            file.section(t.section)
        else:
            file.index_arrays(t)


def damaged(draft: Draft, damage: Damage) -> bytes:
    damage(draft)
    return draft.bytes()


Open = Callable[[bytes], RsrFile]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: None, id="no_change"),
        pytest.param(stacked(), id="stack"),
        pytest.param(n4s1(), id="n4s1"),
        pytest.param(grouped(), id="groups"),
        pytest.param(grouped(bytes(12), dtype="F16"), id="groups_of_float16"),
        pytest.param(n4s1_groups(), id="n4s1_groups"),
        pytest.param(mlx(), id="mlx"),
        pytest.param(quantized(of="of"), id="quantized_beside_its_source"),
        pytest.param(quantized(of="head"), id="quantized_in_place_of_its_source"),
        pytest.param(listed(), id="listed"),
        pytest.param(strided(), id="strided"),
    ],
)
def test_the_file_without_damage_is_valid(draft: Draft, opened: Open, change: Damage) -> None:
    file = opened(damaged(draft, change))
    use(file)
    file.verify()
    for t in file.header.tensors:
        # Groups have other column blocks: w16 was not packed anew.
        if isinstance(t, IndexedTensor) and (t.packing == "n4s1" or not t.is_grouped):
            W = [[1, 0, -1, 1], [-1, -1, -1, 0], [1, 1, 1, -1]]
            assert (decode_digits(t, file.index_arrays(t)) - 1).astype("i1").tolist() == W
        if isinstance(t, DenseTensor) and t.quantized is not None:
            assert t.is_added == (t.quantized.of == "of")


def test_listed_patterns_with_groups_are_valid(draft: Draft, opened: Open) -> None:
    change = all_of(listed(k=2, patterns=PAIRS, data=STRIDED), groups_of(2))
    opened(damaged(draft, change)).verify()


def rsr_spec() -> str:
    """Return SPEC.md without the section of deltas, whose rules are tested in tests/rsrc/delta."""
    spec = (ROOT / "formats" / "SPEC.md").read_text("utf-8")
    return spec[: spec.index("\n## 14. Deltas")]


def test_every_rule_is_broken_by_some_case() -> None:
    rules = [line.split(" | ") for line in rsr_spec().splitlines()]
    when = {r[0][2:]: r[2] for r in rules if re.fullmatch(r"\| [A-Z]\d+", r[0])}
    tables = {"open": OPEN, "use": USE, "verify": VERIFY}
    broken = {case[0]: name for name, table in tables.items() for case in table}
    elsewhere = {"P2": "open", "H1": "open"}  # test_truncated_anywhere, test_header.py
    assert broken | elsewhere == when


def test_error_classes_are_those_of_the_spec() -> None:
    named = dict(re.findall(r"^\| ([A-Z]\d+) \|.*`(\w+Error)` \|$", rsr_spec(), re.MULTILINE))
    for rule, _, error, _ in OPEN + USE + VERIFY:
        assert named[rule] == error.__name__
    every = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(named.values()) == every - {"RsrError", "FormatError", "OutputExistsError"}


@pytest.mark.parametrize(("error", "damage"), cases(OPEN))
def test_open_refuses(draft: Draft, opened: Open, error: type[RsrError], damage: Damage) -> None:
    with pytest.raises(RsrError) as caught:
        opened(damaged(draft, damage))
    assert type(caught.value) is error


@pytest.mark.parametrize(("error", "damage"), cases(USE))
def test_use_refuses(draft: Draft, opened: Open, error: type[RsrError], damage: Damage) -> None:
    file = opened(damaged(draft, damage))
    for _ in range(2):  # a failure is not cached
        with pytest.raises(RsrError) as caught:
            use(file)
        assert type(caught.value) is error
    with pytest.raises(RsrError) as caught:
        file.verify()
    assert type(caught.value) is error


@pytest.mark.parametrize(("error", "damage"), cases(VERIFY))
def test_verify_refuses(draft: Draft, opened: Open, error: type[RsrError], damage: Damage) -> None:
    file = opened(damaged(draft, damage))
    use(file)
    with pytest.raises(RsrError) as caught:
        file.verify()
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("error", "damage"), cases([case for case in USE + VERIFY if case[0] in ("S11", "S12")])
)
def test_reading_in_pieces_refuses(
    draft: Draft, opened: Open, error: type[RsrError], damage: Damage
) -> None:
    file = opened(damaged(draft, damage))
    with pytest.raises(RsrError) as caught:
        [list(file.pieces(number)) for number in range(len(file.header.sections))]
    assert type(caught.value) is error


def test_truncated_anywhere(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "test.rsr"
    path.write_bytes(small_file)
    for size in reversed(range(len(small_file))):
        os.truncate(path, size)
        with pytest.raises(errors.TruncatedError):
            RsrFile(path)


def test_any_flipped_bit_is_detected(draft: Draft, tmp_path: Path) -> None:
    draft.doc |= {"tensors": [draft.ranked, draft.tensors["packed"]], "files": []}
    draft.stored = [draft.stored[i] for i in (RANKS, SCALE, PACKED)]
    draft.doc["sections"] = [draft.sections[i] for i in (RANKS, SCALE, PACKED)]
    draft.tensors["packed"]["section"] = 2
    draft.describe()
    data = draft.bytes()
    path = tmp_path / "test.rsr"
    path.write_bytes(data)
    RsrFile(path).verify()
    # No file is mapped while it changes: each RsrFile is gone before the next write.
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            with pytest.raises(RsrError):
                RsrFile(path).verify()
            os.pwrite(file.fileno(), bytes([byte]), at)
    RsrFile(path).verify()


def test_a_zstd_bomb_is_not_decompressed(draft: Draft, opened: Open) -> None:
    frame(BOMB, 100_000)(draft)  # of 512 MiB
    file = opened(draft.bytes())
    tracemalloc.start()
    try:
        with pytest.raises(errors.CodecError):
            file.section(PACKED)
        with pytest.raises(errors.CodecError):
            for _ in file.pieces(PACKED):
                pass
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def empty_matrix(d: Draft, shape: list[int], **claims: object) -> None:
    """Make a file of one matrix without weights, whose sections are empty."""
    tensor = {**d.permuted, "shape": shape, **claims}
    tensor["source"] = {**tensor["source"], "shape": shape, "negative_zeros": None}
    d.doc |= {"tensors": [tensor], "files": [], "sections": []}
    d.stored = []
    tensor["sections"] = {part: d.add(b"") for part in tensor["sections"]}


@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
def test_huge_empty_matrices_are_verified_in_a_second(
    draft: Draft, opened: Open, encoding: str
) -> None:
    if encoding == "ranked":
        empty_matrix(draft, [(1 << 31) - 1, 0], encoding="ranked", packing="w16", k=3,
                     sections={"ranks": 0})  # fmt: skip
    else:
        empty_matrix(draft, [(1 << 31) - 1, 0], packing="u32")
    file = opened(draft.bytes())
    start = time.process_time()
    file.verify()
    assert time.process_time() - start < 1


def test_columns_without_rows_take_no_memory(draft: Draft, opened: Open) -> None:
    """No byte of the file pays for the places of 16 million blocks in packing n4s1."""
    draft.preamble = {"minor": 4} | draft.preamble
    empty_matrix(draft, [0, (1 << 24) - 1], encoding="ranked", packing="n4s1", k=3,
                 sections={"ranks": 0}, scale={"rows": 1, "section": 1, "columns": 1})  # fmt: skip
    draft.add(b"")
    file = opened(draft.bytes())
    tracemalloc.start()
    try:
        file.verify()
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_many_small_blocks_are_verified_in_a_second(draft: Draft, opened: Open) -> None:
    blocks = 200_000  # of one column and no row; NumPy calls for each would take seconds
    empty_matrix(draft, [0, blocks], k=1)
    draft.store(1, bytes(2 * 4 * blocks))
    file = opened(draft.bytes())
    start = time.process_time()
    file.verify()
    assert time.process_time() - start < 1
