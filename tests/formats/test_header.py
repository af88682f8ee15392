"""Hostile headers: every field with every wrong type, and malicious msgpack."""

from __future__ import annotations

import copy
import time
import tracemalloc
from typing import Any

import msgpack
import pytest

from rsr_formats.errors import FormatError, HeaderFieldError, HeaderSyntaxError, LimitError
from rsr_formats.header import decode_header, encode_header
from rsr_testing.drafts import Draft

MAP5, ARRAY32, MAP32 = b"\x85", b"\xdd", b"\xdf"
DELETED = object()


def packed(doc: Any) -> bytes:
    return bytes(msgpack.packb(doc))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every node in a document."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    if isinstance(value, list):
        children = list(enumerate(value))
    return [path] * bool(path) + [p for k, v in children for p in places(v, (*path, k))]


def changed(doc: Any, path: tuple[Any, ...], value: Any) -> Any:
    doc = copy.deepcopy(doc)
    inner = doc
    for step in path[:-1]:
        inner = inner[step]
    if value is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return doc


def test_decode_is_the_inverse_of_encode(draft: Draft) -> None:
    data = packed(draft.doc)
    header = decode_header(data)
    assert decode_header(encode_header(header)) == header
    assert encode_header(decode_header(encode_header(header))) == encode_header(header)


WRONG = [None, True, -1, 1 << 63, (1 << 64) - 1, 0.5, "", "x" * 99, b"", b"x" * 32, [], [[]], {},
         {"a": {}}, {b"k": b"v"}, msgpack.Timestamp(1)]  # fmt: skip


def refusal(data: bytes) -> FormatError | None:
    """Decode a header; if it is accepted, check that encoding is the inverse."""
    try:
        header = decode_header(data)
    except FormatError as error:
        return error
    assert decode_header(encode_header(header)) == header
    return None


# Values in WRONG that are valid for the key.
MAY_BE: dict[Any, Any] = {
    **dict.fromkeys(("producer", "codec", "name"), ""),
    **{key: [] for key in ("files", "tensors", "sections", "companions", "shape")},
    **dict.fromkeys(("scale", "negative_zeros")),
    "metadata": {},
    "data": b"",
}


def test_every_field_refuses_every_wrong_type(draft: Draft) -> None:
    for path in places(draft.doc):
        for value in WRONG:
            error = refusal(packed(changed(draft.doc, path, value)))
            if error is not None:
                assert type(error) in (HeaderFieldError, LimitError)
                assert len(str(error)) < 500
                continue
            key = path[-1]
            right = [MAY_BE.get(key, DELETED)]
            right += [-1] if path[-2:] == ("digits", 0) else []
            right += ["", "x" * 99] if key in ("a", "name", "producer", "codec") else []
            right += [b"", b"x" * 32] if key in ("sha256", "data") else []
            right += [None] if key == "data" else []
            assert value in right


def test_every_field_is_required(draft: Draft) -> None:
    required = [p for p in places(draft.doc) if isinstance(p[-1], str) and p[0] != "metadata"]
    assert len(required) > 90
    for path in required:
        with pytest.raises(HeaderFieldError, match="missing"):
            decode_header(packed(changed(draft.doc, path, DELETED)))


def test_every_map_refuses_an_unknown_key(draft: Draft) -> None:
    keys = [p for p in places(draft.doc) if isinstance(p[-1], str) and p[0] != "metadata"]
    for path in {p[:-1]: p for p in keys}.values():
        with pytest.raises(HeaderFieldError, match="unknown field 'surprise'"):
            decode_header(packed(changed(draft.doc, (*path[:-1], "surprise"), 1)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "quaternary"),
        ("kind", "binary"),
        ("digits", [0, 1]),
        ("digits", [1, 0, -1]),
        ("digits", [-1, False, True]),
        ("digits", [[], [], []]),
        ("k", 0),
        ("k", 17),
        ("k", True),
        ("direction", "Expand"),
        ("encoding", "dense"),
        ("packing", "u16"),
        ("packing", "n4s2"),
        ("shape", [3]),
        ("shape", [3, 4, 1]),
        ("shape", [-3, 4]),
        ("shape", [3, 1 << 48]),
        ("shape", [True, 4]),
        ("sections", {}),
        ("sections", {"ranks": -1}),
        ("sections", {"ranks": False}),
        ("sections", {"permutation": 0, "segments": 1}),
        ("sections", {b"ranks": 0}),
        ("scale", {"rows": 0, "section": 1}),
    ],
)
def test_indexed_tensor_refuses(draft: Draft, key: str, value: Any) -> None:
    draft.ranked[key] = value
    with pytest.raises(HeaderFieldError):
        decode_header(packed(draft.doc))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x80", id="two_values"),
        pytest.param(b"\xc1", id="never_used_byte"),
        pytest.param(b"\x81\xa1a", id="value_missing"),
        pytest.param(b"\x81\xa5a", id="string_too_short"),
        pytest.param(b"\x81\xdb\xff\xff\xff\xffa", id="string_of_4_gib"),
        pytest.param(b"\x81\xa1a\xc6\xff\xff\xff\xff", id="bytes_of_4_gib"),
        pytest.param(b"\x81\xa1a" + ARRAY32 + b"\xff\xff\xff\xff", id="array_of_4_g"),
        pytest.param(MAP32 + b"\xff\xff\xff\xff", id="map_of_4_g"),
        pytest.param(b"\x81\xa1\xff\xc0", id="key_not_utf8"),
        pytest.param(b"\x81\xa1a\xa3\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\x82\xa1a\xc0\xa1a\xc0", id="key_twice"),
        pytest.param(b"\x81\xa1a\x82\xa1b\xc0\xa1b\xc0", id="inner_key_twice"),
        pytest.param(b"\x81\x01\xc0", id="integer_key"),
        pytest.param(b"\x81\x90\xc0", id="list_key"),
        pytest.param(b"\x81\xd6\xff\0\0\0\0\xc0", id="timestamp_key"),
        pytest.param(b"\x81\xa1a\xd4\x05\0", id="extension"),
        pytest.param(b"\x81\xa1a\xc7\0\x05", id="empty_extension"),
        pytest.param(b"\x81\xa1a\xc9\xff\xff\xff\xff\x05", id="extension_of_4_gib"),
        pytest.param(b"\x81\xa1a\xc7\x03\xff\0\0\0", id="malformed_timestamp"),
        pytest.param(b"\x91" * 100_000 + b"\xc0", id="nested_100000_deep"),
        pytest.param(b"\x81\xa1a" * 100_000 + b"\xc0", id="maps_100000_deep"),
    ],
)
def test_malformed_msgpack(data: bytes) -> None:
    with pytest.raises((HeaderSyntaxError, LimitError)):  # a claimed length may exceed one
        decode_header(data)


@pytest.mark.parametrize("depth", [100, 500, 1000])
def test_deep_nesting_anywhere(draft: Draft, depth: int) -> None:
    deep: Any = 0
    for _ in range(depth):
        deep = [deep]
    for path in places(draft.doc):
        data = packed(changed(draft.doc, path, "PLACE")).replace(
            packed("PLACE"), b"\x91" * depth + b"\xc0"
        )
        with pytest.raises(FormatError):
            decode_header(data)


@pytest.mark.parametrize("prefix", [ARRAY32, MAP32, b"\x81\xa1a" + ARRAY32])
def test_nested_lengths_are_not_allocated(prefix: bytes) -> None:
    """A thousand nested lists that claim a million entries each would take 8 GiB."""
    data = (prefix + b"\x00\x0f\x42\x40") * 1000 + bytes(1 << 20)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(FormatError):
            decode_header(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 1


@pytest.mark.parametrize("key", ["files", "tensors", "sections"])
def test_a_list_beyond_the_limit(key: str) -> None:
    entries = (1 << 17) + 1
    data = b"\x81" + packed(key) + ARRAY32 + entries.to_bytes(4, "big") + b"\xc0" * entries
    with pytest.raises(LimitError, match="131073 entries"):
        decode_header(data)


def test_metadata_beyond_the_limit(draft: Draft) -> None:
    draft.doc["metadata"] = {"a": "x" * (1 << 19)}
    with pytest.raises(LimitError, match=r"header\.'metadata': an entry of 524296 bytes"):
        decode_header(packed(draft.doc))


def test_a_record_beyond_the_limit(draft: Draft) -> None:
    draft.tensors["dense"]["name"] = "x" * (1 << 18)
    with pytest.raises(LimitError, match="the limit is 262144"):
        decode_header(packed(draft.doc))


def test_auxiliary_tensors_beyond_the_limit(draft: Draft) -> None:
    draft.ranked["source"]["companions"] *= 5
    with pytest.raises(LimitError, match=r"companions: 5 entries, the limit is 4"):
        decode_header(packed(draft.doc))


def list_of(key: str, item: bytes, size: int) -> bytes:
    """Return a header with one list: `item` repeated up to `size` bytes."""
    count = min(1 << 17, size // len(item))
    return b"\x81" + packed(key) + ARRAY32 + count.to_bytes(4, "big") + item * count


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(list_of("tensors", b"\x93\x90\x90\x90", 4 << 20), id="lists"),
        pytest.param(list_of("tensors", b"\x91\x81\xa2ab\0", 4 << 20), id="maps"),
        pytest.param(
            b"\x81\xa8metadata"
            + ARRAY32
            + ((1 << 19) - 5).to_bytes(4, "big")
            + b"\x80" * ((1 << 19) - 5),
            id="metadata of maps",
        ),
        pytest.param(list_of("tensors", packed(["ab"] * 40), 4 << 20), id="strings"),
        pytest.param(b"\x81\xa1a" + packed([["ab"] * 99] * 9999), id="unknown field"),
        pytest.param(
            b"\x81\xa8metadata" + packed({f"{i:x}": "" for i in range(1 << 17)}),
            id="metadata strings",
        ),
        pytest.param(packed([{f"{i:x}": 0 for i in range(1 << 17)}] * 9), id="list, not a map"),
        pytest.param(packed({f"{i:x}": 0 for i in range(1 << 17)}), id="unknown fields"),
    ],
)
def test_what_is_refused_is_not_built(data: bytes) -> None:
    """A list or map of one byte takes 64 or 72 bytes in memory."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode_header(data)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_messages_quote_little_of_the_input(draft: Draft) -> None:
    long = "\x1b" * 100_000
    for path in places(draft.doc):
        if isinstance(path[-1], int) or path[0] == "metadata":
            continue
        for value in (long, {long: 1}, [long] * 9):
            message = str(refusal(packed(changed(draft.doc, path, value))))
            assert len(message) < 1000
            assert "\x1b" not in message
