"""JSON objects from untrusted files."""

from __future__ import annotations

import pytest

from rsr_formats.errors import RsrError
from rsr_formats.model_files import MAX_CONFIG, parse_object


class RefusedError(RsrError):
    """What the caller asks for."""


def test_an_object() -> None:
    assert parse_object(b' {"a": [1, null]} ', "x", MAX_CONFIG, RefusedError) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "x.json: expected a JSON object, found an empty list"),
        (b"null", "x.json: expected a JSON object, found null"),
        (b'{"a": 1', "x.json: not valid JSON: "),
        (b"\xff\xfe{", "x.json: not valid JSON: "),
        (b"[" * 90_000, "x.json: not valid JSON: "),
        (b"{}" + b" " * 99_999, "x.json: 100,001 bytes, the limit is 100,000"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_object(data, "x.json", 100_000, RefusedError)
    assert str(caught.value).startswith(message)
