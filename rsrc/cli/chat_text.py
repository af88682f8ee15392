"""Decode text from arguments, files and stdin."""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path

from rsr_formats.contents import HEAD, identify

from ..common.errors import SourceError

MAX_INPUT = 64 << 20  # bytes of a text


def read_argument(path: Path) -> str:
    """Return the text in a file, or on stdin if `path` is "-".

    Raises:
        SourceError, OSError: as for `read_file`.
    """
    if str(path) == "-":
        return checked(sys.stdin.buffer.read(MAX_INPUT + 1), "stdin")
    return read_file(path)


def read_file(path: Path) -> str:
    """Return the text in a file.

    Raises:
        SourceError: it is a directory, not UTF-8, or larger than 64 MiB.
        OSError: the file cannot be read.
    """
    if path.is_dir():
        raise SourceError(f"{path}: a directory, expected a file with text")
    with path.open("rb") as file:
        return checked(file.read(MAX_INPUT + 1), str(path))


def checked(data: bytes, where: str) -> str:
    """Return `data` as text.

    Raises:
        SourceError: it is not UTF-8, or larger than 64 MiB.
    """
    if len(data) > MAX_INPUT:
        _refuse_binary(data, where)
        raise SourceError(f"{where}: more than {MAX_INPUT:,} bytes")
    return decoded(data, where)


def decoded(data: bytes, where: str) -> str:
    """Return `data` as text.

    Raises:
        SourceError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_binary(data, where)
        raise SourceError(
            f"{where}: not UTF-8: byte {data[error.start]:#04x} at offset {error.start:,}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def _refuse_binary(data: bytes, where: str) -> None:
    """Raise a SourceError if `data` is of no encoding of text."""
    head = data[:HEAD]
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = identify(head)
        what = "binary data" if found is None else found.what
        raise SourceError(f"{where}: expected text, found {what}")


def typed(text: str, where: str) -> str:
    """Return an argument or a typed line, decoded as UTF-8 if the locale could not decode it.

    Raises:
        SourceError: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return decoded(os.fsencode(text), where)
    return text
