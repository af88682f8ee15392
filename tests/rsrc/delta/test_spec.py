"""A reader of `.rsrd` files from section 14 of SPEC.md alone, in plain Python."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

import rsrc
from rsr_testing.paths import ROOT

from .conftest import SPECS, Pair
from .test_read import RANKS, SCALE

MIB = 1 << 20


class Reader:
    """Takes numbers and bytes from a body."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        assert len(taken) == size
        return taken

    def number(self, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0])

    def stored(self, stored: int, size: int, dictionary: bytes = b"") -> bytes:
        data = self.take(stored)
        if stored == size:
            return data
        given = zstandard.ZstdCompressionDict(dictionary, dict_type=1) if dictionary else None
        found = zstandard.ZstdDecompressor(dict_data=given).decompress(data)
        assert len(found) == size
        return found

    def carried(self, size: int, base: bytes) -> bytes:
        result = b""
        for start in range(0, size, 4 * MIB):
            end = min(size, start + 4 * MIB)
            near = base[max(0, start - MIB) : end + MIB]
            result += self.stored(self.number("I"), end - start, near if len(near) >= 8 else b"")
        return result


def header(file: bytes) -> bytes:
    offset, size = struct.unpack("<QQ", file[16:32])
    return file[offset : offset + size]


def contents(file: bytes, number: int) -> bytes:
    s = msgpack.unpackb(header(file))["sections"][number]
    stored = file[s["offset"] : s["offset"] + s["stored_size"]]
    return (
        zstandard.ZstdDecompressor().decompress(stored, s["size"])
        if s["codec"] == "zstd"
        else stored
    )


def patched(old: bytes, delta: bytes) -> bytes:
    """Return the new file."""
    body_size, header_size = struct.unpack("<QQ", delta[16:32])
    body = Reader(delta[128:])
    assert len(body.data) == body_size
    assert delta[96:128] == hashlib.sha256(body.data).digest()
    assert delta[32:64] == hashlib.sha256(header(old)).digest()
    new_header = body.carried(header_size, header(old))
    assert delta[64:96] == hashlib.sha256(new_header).digest()
    new = msgpack.unpackb(new_header)
    indexes = {n: t for t in new["tensors"] if t["kind"] != "dense" for n in t["sections"].values()}
    result, segments = bytearray(4096), b""
    for number, s in enumerate(new["sections"]):
        method, level, base = body.number("B"), body.number("B"), body.number("I")
        has_base = base != 0xFFFFFFFF
        result += bytes(s["offset"] - len(result))
        if method == 0:
            o = msgpack.unpackb(header(old))["sections"][base]
            result += old[o["offset"] : o["offset"] + o["stored_size"]]
            continue
        if method == 1:
            size = s["size"] if level else s["stored_size"]
            made = body.carried(size, contents(old, base) if has_base else b"")
        elif method == 2:
            made, segments = changed(body, indexes[number], old, base)
        else:
            made = segments
        assert not level  # the test compiles nothing compressed
        assert hashlib.sha256(made).digest() == s["sha256"]
        result += made
    assert not body.data
    result += bytes(-len(result) % 4096)
    version = old[:16]  # that of the new file in this test
    result[:64] = version + struct.pack("<QQ", len(result), header_size) + delta[64:96]
    return bytes(result + new_header)


def changed(body: Reader, t: dict[str, Any], old: bytes, base: int) -> tuple[bytes, bytes]:
    """Return the contents of an index, and its segments if it is permuted."""
    data = contents(old, base)
    if t["encoding"] == "permuted":
        return blocks(body, t, data, old, base)
    return (words if t["packing"] == "w16" else units)(body, t, data), b""


def chunk(body: Reader, slots: list[int], base: int) -> Iterator[tuple[int, int]]:
    """Yield (slot, new digit) for the changes of a chunk whose old digits are `slots`."""
    count = body.number("I")
    if not count:
        return
    low, symbols, gaps_size, digits_size = struct.unpack("<BIII", body.take(13))
    gaps = body.stored(gaps_size, symbols)
    low_bits = int.from_bytes(body.take(-(-count * low // 8)), "little")
    found: list[int] = []
    at, high = -1, 0
    for symbol in gaps:
        high += symbol
        if symbol < 255:
            part = low_bits >> low * len(found) & (1 << low) - 1
            at += (high << low) + part + 1
            found.append(at)
            high = 0
    assert len(found) == count
    bits = {2: 0, 3: 1, 4: 2, 5: 2}[base]
    groups = [[s for s in found if slots[s] == d] for d in range(base)]
    sizes = [-(-len(g) * bits // 8) for g in groups]
    stream = Reader(body.stored(digits_size, sum(sizes)))
    for d, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        numbers = int.from_bytes(stream.take(size), "little")
        for i, slot in enumerate(group):
            w = numbers >> bits * i & (1 << bits) - 1
            yield slot, w if w < d else w + 1


def digits_of(number: int, base: int, k: int) -> list[int]:
    return [number // base ** (k - 1 - p) % base for p in range(k)]


def patterns(t: dict[str, Any]) -> list[list[int]]:
    base, k = len(t["digits"]), t["k"]
    if "patterns" in t:
        return [list(t["patterns"][i : i + k]) for i in range(0, len(t["patterns"]), k)]
    return [digits_of(n, base, k) for n in range(base**k)]


def words(body: Reader, t: dict[str, Any], data: bytes) -> bytes:
    known, k, result = patterns(t), t["k"], bytearray(data)
    count = len(data) // 2
    for first in range(0, count, MIB):
        entries = list(struct.unpack(f"<{count - first}H", data[2 * first :]))[:MIB]
        slots = [d for w in entries for i in range(3) for d in known[w >> 5 * i & 31]]
        changes = dict(chunk(body, slots, len(t["digits"])))
        for e in {slot // (3 * k) for slot in changes}:
            new = [changes.get(e * 3 * k + p, slots[e * 3 * k + p]) for p in range(3 * k)]
            ranks = [known.index(new[i * k : (i + 1) * k]) for i in range(3)]
            word = ranks[0] | ranks[1] << 5 | ranks[2] << 10
            result[2 * (first + e) : 2 * (first + e) + 2] = struct.pack("<H", word)
    return bytes(result)


def units(body: Reader, t: dict[str, Any], data: bytes) -> bytes:
    out, columns = t["shape"]
    group = (t["scale"] or {}).get("columns", columns) if t["scale"] else columns
    is_grouped = bool(t["scale"]) and "columns" in t["scale"]
    sizes = [min(group, columns - c) for c in range(0, columns, group)] if columns else []
    places: list[tuple[int, int, list[int]]] = []  # byte, byte of the signs, signs
    width = 0
    for size in sizes:
        left = -(-size // 3)
        if not is_grouped:
            left = -(-left // 8) * 8
        while left:
            m = min(8, left)
            unit = -(-5 * m // 8)
            for v in range(-(-m // 2)):
                pair = [7 - b for b in (2 * v, 2 * v + 1) if b < m]
                places.append((width + v, width + unit - 1, pair))
            width, left = width + unit, left - m
    rows, result = -(-out // 32) * 32, bytearray(data)
    full, step = rows // 64, max(1, MIB // (64 * max(1, len(places))))
    strips = [(64 * i, 64, i // step) for i in range(full)]
    strips += [(64 * full, 32, -1)] if rows % 64 else []
    for number in sorted({s[2] for s in strips}, key=lambda n: (n < 0, n)):
        entries = [
            (r0 * width + v * h + r, r0 * width + sign * h + r, pair)
            for r0, h, n in strips
            if n == number
            for v, sign, pair in places
            for r in range(h)
        ]
        slots: list[int] = []
        for at, sign, pair in entries:
            for i in range(2):
                m = data[at] >> 4 * i & 15 if i < len(pair) else 0
                s = data[sign] >> pair[i] & 1 if i < len(pair) else 0
                slots += digits_of(13 - m if s else 13 + m, 3, 3)
        changes = dict(chunk(body, slots, 3))
        for e in {slot // 6 for slot in changes}:
            at, sign, pair = entries[e]
            new = [changes.get(6 * e + p, slots[6 * e + p]) for p in range(6)]
            for i, bit in enumerate(pair):
                rank = 9 * new[3 * i] + 3 * new[3 * i + 1] + new[3 * i + 2]
                result[at] = result[at] & ~(15 << 4 * i) | abs(rank - 13) << 4 * i
                result[sign] = result[sign] & ~(1 << bit) | (rank < 13) << bit
    return bytes(result)


def blocks(
    body: Reader, t: dict[str, Any], data: bytes, old: bytes, base: int
) -> tuple[bytes, bytes]:
    k, radix = t["k"], len(t["digits"])
    rows, columns = t["shape"] if t["direction"] == "expand" else t["shape"][::-1]
    item, lists = "H" if t["packing"] == "u16" else "I", contents(old, base + 1)
    count, n = -(-columns // k), radix**k
    sigma = struct.unpack(f"<{count * rows}{item}", data)
    bounds = struct.unpack(f"<{count * (n + 1)}{item}", lists)
    ranks = [0] * (count * rows)
    for j in range(count):
        for s in range(n):
            for i in range(bounds[j * (n + 1) + s], bounds[j * (n + 1) + s + 1]):
                ranks[j * rows + sigma[j * rows + i]] = s
    step = max(1, MIB // max(rows, n + 1)) * rows
    for first in range(0, count * rows, step):
        part = ranks[first : first + step]
        slots = [d for rank in part for d in digits_of(rank, radix, k)]
        for slot, digit in chunk(body, slots, radix):
            ranks[first + slot // k] += (digit - slots[slot]) * radix ** (k - 1 - slot % k)
    new_sigma, new_bounds = [], []
    for j in range(count):
        block = ranks[j * rows : (j + 1) * rows]
        new_sigma += sorted(range(rows), key=lambda r: block[r])
        new_bounds += [sum(rank < s for rank in block) for s in range(n + 1)]
    return struct.pack(f"<{len(new_sigma)}{item}", *new_sigma), struct.pack(
        f"<{len(new_bounds)}{item}", *new_bounds
    )


@pytest.mark.parametrize("share", [0.003, 0.2])
def test_the_specification_suffices(pair: Pair, share: float) -> None:
    specs = [spec for spec in SPECS if spec.name != "u32"]  # sorting it takes a minute here
    old, new = pair(
        specs,
        share,
        old={"files": {"tokenizer.json": b"old, " * 3000}},
        new={"files": {"tokenizer.json": b"new, " + b"old, " * 3000, "merges.txt": b"a b"}},
    )
    delta = old.with_name("d.rsrd")
    rsrc.diff(old, new, delta)
    assert patched(old.read_bytes(), delta.read_bytes()) == new.read_bytes()


def test_the_example_is_that_of_the_tests() -> None:
    text = (ROOT / "formats" / "SPEC.md").read_text("utf-8")
    lines = text[text.index("Record and chunk of the ranks") :].split("\n\n")[1].splitlines()
    found = [re.match(r" +((?:[0-9a-f]{2,} ?)+)", line) for line in lines]
    assert bytes.fromhex("".join(m[1] for m in found if m)) == RANKS + SCALE


def test_a_new_version_of_the_rsr_file(pair: Pair, tmp_path: Path) -> None:
    """The preamble has the lowest version that describes the new header."""
    delta, out = tmp_path / "d.rsrd", tmp_path / "out.rsr"
    newest, _ = pair(SPECS)
    newest = newest.rename(tmp_path / "newest.rsr")
    _, new = pair(SPECS[:1])
    rsrc.diff(newest, new, delta)
    rsrc.patch(newest, delta, out)
    assert out.read_bytes() == new.read_bytes()
    assert out.read_bytes()[10] < newest.read_bytes()[10]
