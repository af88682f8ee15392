"""Damage valid files so that the damage passes the first checks: lengths and hashes are corrected.

A sample maps file names to contents; it is a checkpoint or a `.rsr` file. All damage is determined
by the random generator. A mutator takes (rng, data) and returns new data; `MUTATORS` has one for
each file name extension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import msgpack

from rsr_formats.records import CODECS, DIRECTIONS, DTYPE_BITS, ENCODINGS, PACKINGS, PREAMBLE, align
from rsrc.layouts import BY_NAME

Sample = dict[str, bytes]
Mutator = Callable[[Random, bytes], bytes]
Place = tuple[Any, Any]  # a list and an index, or a dict and a key

NUMBERS = (
    -1, 0, 1, 2, 3, 5, 7, 31, 32, 33, 127, 128, 255, 256, 4095, 4096, 8192, (1 << 15) - 1, 1 << 15,
    (1 << 16) - 1, 1 << 16, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 48) - 1,
    1 << 48, 1 << 53, (1 << 60) - 1, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
WORDS = (
    "", ".", "..", "../x", "/etc/passwd", "C:\\x", "\0", "\x1b[2J", "é" * 600, "\U0001f600",
    "__metadata__", "weight_map", "weight", "weight_scale", "dense", "ternary", "binary", "bitnet",
    "bitlinear", "autobitlinear", "online", "offline", *DTYPE_BITS, *BY_NAME, *CODECS, *DIRECTIONS,
    *ENCODINGS, *PACKINGS["ranked"], *PACKINGS["permuted"],
)  # fmt: skip
_DELTA_HEAD = 128  # bytes of the preamble of a delta
# Errors caused by earlier damage, or by a number of more than 64 bits.
_DAMAGED = (ValueError, LookupError, TypeError, OverflowError, msgpack.UnpackException)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    [],
    {},
    [[]],
    {"": None},
)


def mutate(rng: Random, sample: Sample) -> Sample:
    """Return `sample` with one to four changes, usually one."""
    result = dict(sample)
    for _ in range(1 + (rng.random() < 0.4) + (rng.random() < 0.2) + (rng.random() < 0.1)):
        name = rng.choice(sorted(result))
        kind = name.rpartition(".")[2]
        result[name] = MUTATORS.get(kind, any_bytes)(rng, result[name])
        if len(result) > 1 and rng.random() < 0.02:
            del result[rng.choice(sorted(result))]
    return result


def any_bytes(rng: Random, data: bytes) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes."""
    changed = bytearray(data)
    at = rng.randrange(len(changed) + 1)
    count = min(1 << rng.randrange(8), len(changed) - at)
    match rng.randrange(7):
        case 0 if changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        case 1:
            changed[at : at + count] = rng.randbytes(count)
        case 2:
            value = rng.choice(NUMBERS) & ((1 << 64) - 1)
            size = rng.choice((1, 2, 4, 8))
            changed[at : at + size] = value.to_bytes(8, "little")[:size]
        case 3:
            del changed[at:]
        case 4:
            del changed[at : at + count]
        case 5:
            changed[at:at] = changed[at : at + count]
        case _:
            other = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + count]
    return bytes(changed)


def document(rng: Random, value: Any) -> Any:
    """Change one node of a document of lists, maps and scalars in place; return the document."""
    root = [value]
    places: list[Place] = [(root, 0)]
    for node, key in places:
        inner = node[key]
        if isinstance(inner, dict):
            places += [(inner, k) for k in inner]
        elif isinstance(inner, list):
            places += [(inner, i) for i in range(len(inner))]
    node, key = rng.choice(places[1:] or places)
    old = node[key]
    match rng.randrange(8):
        case 0 if node is not root:
            del node[key]
        case 1 if isinstance(node, list):
            node.insert(key, deepcopy(old))
        case 1 | 2 if isinstance(node, dict):
            node[rng.choice(WORDS)] = node.pop(key) if rng.random() < 0.5 else deepcopy(old)
        case 3 | 4:  # a value from elsewhere, if possible of the same type
            others = [n[k] for n, k in places if type(n[k]) is type(old) and n[k] != old]
            node[key] = deepcopy(rng.choice(others)) if others else rng.choice(OTHERS)
        case 5:
            node[key] = rng.choice(OTHERS)
        case _:
            node[key] = _similar(rng, old)
    return root[0]


def _similar(rng: Random, old: Any) -> Any:
    if type(old) is int:
        near = (old + 1, old - 1, 2 * old, old // 2, -old)
        return rng.choice(near if rng.random() < 0.5 else NUMBERS)
    if isinstance(old, bytes):
        return any_bytes(rng, old)
    if isinstance(old, list) and old and rng.random() < 0.5:
        return [rng.choice(NUMBERS) for _ in old]
    return rng.choice(WORDS)


def json_text(rng: Random, data: bytes) -> bytes:
    """Change a JSON text as a document or as bytes."""
    if rng.random() < 0.2:
        return any_bytes(rng, data)
    try:
        return json.dumps(document(rng, json.loads(data))).encode()
    except ValueError:  # damaged before
        return any_bytes(rng, data)


def safetensors_file(rng: Random, data: bytes) -> bytes:
    """Change the header or the data, and usually correct the length of the header."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = data[8:end], data[end:]
    match rng.randrange(10):
        case 0:
            return any_bytes(rng, data)
        case 1:
            return (rng.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little") + data[8:]
        case 2 | 3:
            changed = any_bytes(rng, body)
            body = changed if rng.random() < 0.2 else changed[: len(body)].ljust(len(body), b"\1")
        case _:
            header = json_text(rng, header)
    return len(header).to_bytes(8, "little") + header + body


def rsr_file(rng: Random, data: bytes) -> bytes:
    """Change the preamble, the header or a section, and usually correct the hashes."""
    fields = list(PREAMBLE.unpack(data[: PREAMBLE.size].ljust(PREAMBLE.size, b"\0")))
    offset, size = fields[4:6]
    header = data[offset : offset + size]
    try:
        match rng.randrange(10):
            case 0:
                return any_bytes(rng, data)
            case 1:
                at = rng.randrange(1, 6)
                fields[at] = rng.choice(NUMBERS) % (1 << (16, 16, 32, 64, 64)[at - 1])
                return PREAMBLE.pack(*fields) + data[PREAMBLE.size :]
            case 2:
                return _with_header(fields, data[:offset], any_bytes(rng, header))
            case 3 | 4 | 5:
                return _with_section(rng, fields, data, msgpack.unpackb(header))
            case _:
                doc = document(rng, msgpack.unpackb(header))
                return _with_header(fields, data[:offset], msgpack.packb(doc))
    except _DAMAGED:
        return any_bytes(rng, data)


def _with_section(rng: Random, fields: list[Any], data: bytes, doc: Any) -> bytes:
    """Change one section, and update the positions, sizes and hashes of all."""
    stored = [data[s["offset"] : s["offset"] + s["stored_size"]] for s in doc["sections"]]
    i = rng.randrange(len(stored))
    size = len(stored[i])
    stored[i] = any_bytes(rng, stored[i])
    if rng.random() < 0.8:  # keep the size that the tensor requires
        stored[i] = stored[i][:size].ljust(size, b"\0")
    body = bytearray(PREAMBLE.size)
    for entry, part in zip(doc["sections"], stored, strict=True):
        body += bytes(align(len(body)) - len(body))
        entry |= {"offset": len(body), "stored_size": len(part)}
        entry["sha256"] = hashlib.sha256(part).digest()
        if entry["codec"] == "raw":
            entry["size"] = len(part)
        body += part
    body += bytes(align(len(body)) - len(body))
    return _with_header(fields, bytes(body), msgpack.packb(doc))


def _with_header(fields: list[Any], body: bytes, header: bytes) -> bytes:
    """Append a header to `body` and update the preamble."""
    fields[4:] = [len(body), len(header), hashlib.sha256(header).digest()]
    return PREAMBLE.pack(*fields) + body[PREAMBLE.size :] + header


def rsrd_file(rng: Random, data: bytes) -> bytes:
    """Change the preamble or the body of a delta, and usually correct its size and hash."""
    head, body = bytearray(data[:_DELTA_HEAD]), data[_DELTA_HEAD:]
    match rng.randrange(10):
        case 0:
            return any_bytes(rng, data)
        case 1:
            at = rng.randrange(8, 32)
            head[at : at + 4] = (rng.choice(NUMBERS) % (1 << 32)).to_bytes(4, "little")
            return bytes(head) + body
        case 2:
            body = any_bytes(rng, body)
        case _:  # the records behind the new header
            end = 4 + int.from_bytes(body[:4], "little")
            body = body[:end] + any_bytes(rng, body[end:])
    head[16:24] = len(body).to_bytes(8, "little")
    head[96:] = hashlib.sha256(body).digest()
    return bytes(head) + body


MUTATORS: dict[str, Mutator] = {
    "json": json_text,
    "rsr": rsr_file,
    "rsrd": rsrd_file,
    "safetensors": safetensors_file,
}
