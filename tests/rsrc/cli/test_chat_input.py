"""Messages of one line and of several."""

from __future__ import annotations

import io

import pytest

from rsrc.cli.chat_input import piped_entries


@pytest.mark.parametrize(
    ("stdin", "entries"),
    [
        ("one\n two \r\nthree", [("one", True), ("two", True), ("three", True)]),
        ("one\\\n  two\\\r\nthree\n", [("one\n  two\nthree", False)]),
        ("one\\\n/reset\n", [("one\n/reset", False)]),
        ("one\\", [("one", True)]),
        ("\\\n/exit\n", [("/exit", True)]),
        ("C:\\\\\ntwo\n", [("C:\\\\", True), ("two", True)]),  # two backslashes stay two
        ("a\\ \ntwo\n", [("a\\", True), ("two", True)]),
        ('"""one\n\n  two\n"""\n/exit', [("one\n\n  two", False), ("/exit", True)]),
        (' """\none\\\n/exit\ntwo"""  \n', [("one\\\n/exit\ntwo", False)]),
        ('"""/exit"""\n', [("/exit", False)]),
        ('""" a """\n""""""\n', [(" a ", False), ("", False)]),
        ('say """x"""\n', [('say """x"""', True)]),
        ("", []),
    ],
)
def test_piped(
    monkeypatch: pytest.MonkeyPatch, stdin: str, entries: list[tuple[str, bool]]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    assert list(piped_entries()) == entries
