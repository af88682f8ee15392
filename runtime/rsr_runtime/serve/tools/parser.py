"""Reads the calls in an answer that comes in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..held import held_marker
from .formats import CallFormat

_QUOTE_OR_BRACKET = re.compile(r'["\\{}\[\]]')
_CUT_CALL = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(.*)', re.DOTALL)
_CUT_ARGUMENTS = re.compile(r',\s*"(?:arguments|parameters)"\s*:\s*(\{.*)', re.DOTALL)
_BEFORE_ARGUMENTS = (',"arguments":', ',"parameters":')
_IN_STRING = re.compile(r'["\\]')


@dataclass(frozen=True)
class Call:
    """A call of a tool.

    Attributes:
        name: of the tool.
        arguments: a JSON object as text, or its beginning if the answer was cut.
    """

    name: str
    arguments: str


Piece = str | Call


class CallParser:
    """Parts an answer into text and calls.

    The parts are the same however the answer is cut into pieces. Text that is no call of a known
    tool stays text, its markers included. White space beside a call belongs to neither.

    Args:
        written: how the model writes calls.
        names: of the known tools.
        is_required: whether the answer can be nothing but calls.
    """

    def __init__(
        self, written: CallFormat, names: Collection[str], is_required: bool = False
    ) -> None:
        self._format = written
        self._names = names
        self._is_required = is_required
        # "text": outside of calls; "body": the JSON of calls, whose beginning is in `_opened`;
        # "after": behind such JSON.
        self._state: Literal["text", "body", "after"] = "text"
        self._rest = ""  # text that was not read yet
        self._opened = ""  # marker and white space before the JSON
        self._json = _JsonEnd()
        self._is_start = written.is_bare  # nothing but white space so far, and a call may begin
        self._after_call = False  # nothing but white space since a call
        self._has_called = False

    def push(self, text: str) -> list[Piece]:
        """Return the text and the calls that a piece completes."""
        self._rest += text
        found: list[Piece] = []
        while self._step(found, is_last=False):
            pass
        return found

    def finish(self, is_cut: bool) -> list[Piece]:
        """Return what was held back.

        Args:
            is_cut: whether the answer would have gone on. Then a call may be incomplete.
        """
        found: list[Piece] = []
        if is_cut and (self._state == "body" or (self._is_required and self._rest)):
            found += cut_calls(self._rest, self._names) or []
            if not found and self._is_required and len(self._names) == 1 and not self._has_called:
                found = [Call(name, "") for name in self._names]
            if found or self._is_required:
                self._rest = ""
                return found
        while self._step(found, is_last=True):
            pass
        return found

    def _step(self, found: list[Piece], is_last: bool) -> bool:
        """Read a part of `_rest`; return whether there may be more to read."""
        if self._state == "text":
            return self._text(found, is_last)
        if self._state == "body":
            return self._body(found, is_last)
        return self._after(is_last)

    def _text(self, found: list[Piece], is_last: bool) -> bool:
        text = self._rest
        if self._after_call:
            text = self._rest = text.lstrip()
        if self._is_start:
            begin = text.lstrip()
            if not begin and not is_last:
                return False
            self._is_start = False
            if begin[:1] == "{":
                self._open(text[: len(text) - len(begin)], begin)
                return True
        before, marker, after = text.partition(self._format.begin)
        if marker:
            body = after.lstrip()
            if body or is_last:
                if body[:1] in ("{", "["):
                    self._emit(found, before.rstrip())
                    space = before[len(before.rstrip()) :]
                    self._open(space + marker + after[: len(after) - len(body)], body)
                else:
                    self._emit(found, before + marker)
                    self._rest = after
                return True
            start = len(before.rstrip())
        else:
            start = len(text) if is_last else held_marker(text, (self._format.begin,))
        self._emit(found, text[:start])
        self._rest = text[start:]
        return False

    def _open(self, opened: str, body: str) -> None:
        """Go on with the JSON of calls."""
        self._state, self._opened, self._rest = "body", opened, body
        self._json = _JsonEnd()

    def _body(self, found: list[Piece], is_last: bool) -> bool:
        end = self._json.find(self._rest)
        if end is None and not is_last:
            return False
        body, self._rest = self._rest[:end], "" if end is None else self._rest[end:]
        calls = calls_in(body, self._names)
        if calls:
            found += calls
            self._state, self._after_call, self._has_called = "after", True, True
        else:
            self._emit(found, self._opened + body)
            self._state = "text"
        return True

    def _after(self, is_last: bool) -> bool:
        """Skip what may follow a call: the marker of its end, or another call."""
        rest, end = self._rest.lstrip(), self._format.end
        if not rest or (end.startswith(rest) and rest != end):  # cut short, if it is the last
            self._rest = "" if is_last else rest
            return False
        if rest[:1] in ("{", "["):
            self._open("", rest)
        else:
            self._rest = rest.removeprefix(end)
            self._state = "text"
        return True

    def _emit(self, found: list[Piece], text: str) -> None:
        if text:
            found.append(text)
            self._after_call = False


class _JsonEnd:
    """Finds the end of a JSON object or list in a text that grows."""

    def __init__(self) -> None:
        self._done = 0  # characters that were searched
        self._depth = 0
        self._in_string = False

    def find(self, text: str) -> int | None:
        """Return the end of the value with which the text begins; None if it is not there yet."""
        while True:
            match = (_IN_STRING if self._in_string else _QUOTE_OR_BRACKET).search(text, self._done)
            if match is None:
                self._done = len(text)
                return None
            if match[0] == "\\":
                if match.end() == len(text):
                    self._done = match.start()
                    return None
                self._done = match.end() + 1
                continue
            self._done = match.end()
            if match[0] == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if match[0] in "{[" else -1
                if not self._depth:
                    return self._done


class _CallText(Struct):
    name: str
    arguments: Raw | UnsetType = UNSET
    parameters: Raw | UnsetType = UNSET


def calls_in(text: str, names: Collection[str]) -> list[Call] | None:
    """Return the calls of known tools that a JSON text is; None if it is anything else."""
    try:
        data = text.encode()
        if text.startswith("["):
            calls = msgspec.json.decode(data, type=list[_CallText])
        else:
            calls = [msgspec.json.decode(data, type=_CallText)]
        return [_call(call, names) for call in calls] or None
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None


def cut_calls(text: str, names: Collection[str]) -> list[Call] | None:
    """Return the calls of known tools with which a cut JSON text begins.

    Returns:
        The calls, the last of which may be incomplete; None if the text may be anything else.
    """
    calls: list[Call] = []
    start, decoder = len(text) - len(text.removeprefix("[").lstrip()), json.JSONDecoder()
    while True:
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            break
        if (complete := calls_in(text[start:end], names)) is None:
            return None
        calls += complete
        start = end + len(text[end:]) - len(text[end:].lstrip(", \n\t\r"))
    return calls + _cut_call(text[start:], names) or None


def _cut_call(text: str, names: Collection[str]) -> list[Call]:
    """Return the call with which a cut JSON text begins, if its name is complete and known."""
    match = _CUT_CALL.fullmatch(text)
    if match is None or (name := _name(match[1])) not in names:
        return []
    if arguments := _CUT_ARGUMENTS.fullmatch(match[2]):
        return [Call(name, arguments[1])]
    rest = "".join(match[2].split())
    return [Call(name, "")] if any(each.startswith(rest) for each in _BEFORE_ARGUMENTS) else []


def _name(text: str) -> str:
    """Return a JSON string; "" if it is malformed."""
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        return ""


def _call(call: _CallText, names: Collection[str]) -> Call:
    """Return a call.

    Raises:
        ValueError: its tool is not known, or its arguments are no object.
    """
    if call.name not in names:
        raise ValueError
    raw = call.parameters if call.arguments is UNSET else call.arguments
    if raw is UNSET:
        return Call(call.name, "{}")
    text = bytes(raw)
    if text.startswith(b'"'):  # some models write the object as a string
        text = msgspec.json.decode(text, type=str).encode()
    msgspec.json.decode(text, type=dict)
    return Call(call.name, text.decode())
