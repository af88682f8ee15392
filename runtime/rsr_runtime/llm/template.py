"""Render conversations into prompts with a model's chat template.

A template is a program, and a `.rsr` may come from anyone. Jinja's sandbox keeps a template away
from files and Python, but does not limit time or memory, and a single filter call can use up
either. So templates run in a separate process (`template_worker.py`), which is killed when it
exceeds its limits. Time is limited everywhere, memory on Linux; elsewhere only the results of
multiplications and the length of the text are limited.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsr_formats.text import printable

from .config import read_json
from .errors import DependencyError, PromptError, TemplateError
from .tokenizer import special_tokens
from .turns import Turns

MAX_SOURCE = 1 << 20  # bytes of a template; the largest known has some 20,000
MAX_TEXT = 16 << 20  # characters of a prompt, and items that one operation makes
MAX_MEMORY = 512 << 20  # bytes of address space; Python and Jinja take 25 MB of it
MAX_CPU = 2.0  # seconds of processor time for a prompt; milliseconds are usual
MAX_WAIT = 10.0  # seconds of wall time, for systems that do not limit processor time
_MAX_START = 60.0  # seconds until the process is ready; no template runs before that
_MAX_REASON = 300  # characters of a message that the template wrote
_MAX_ANSWER = 12 * MAX_TEXT + 4096  # bytes: JSON takes up to 12 per character

_GOES_ON = "\N{OBJECT REPLACEMENT CHARACTER}goes on here "  # after a message that is not finished

# Keys under which messages carry reasoning; templates read the first or the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A chat template, rendered as ``transformers`` does.

    The first `render` starts a process that later ones reuse; it ends with this object.

    Args:
        source: the Jinja template.
        special_tokens: variables for the template, such as {"bos_token": "<s>"}.

    Raises:
        TemplateError: the source has more than 1 MiB.
        DependencyError: the package `jinja2` is not installed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(
                f"the chat template has {len(source):,} characters, expected at most {MAX_SOURCE:,}"
            )
        if importlib.util.find_spec("jinja2") is None:  # not an import, which would take 0.1 s
            raise DependencyError("jinja2", "the model's chat template")
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        self._turns = Turns("the chat template")
        self._worker: _Worker | None = None

    @classmethod
    def find(cls, files: Mapping[str, bytes]) -> ChatTemplate | None:
        """Return a model's chat template, or None.

        It is chat_template.jinja, else `chat_template` of tokenizer_config.json (if that is a list,
        the one named "default"), else `chat_template` of chat_template.json.

        Raises:
            TemplateError: the template is not text, is too large, or a list has no default.
            ModelError: a file is damaged.
            DependencyError: the package `jinja2` is not installed.
        """
        source = _source(files)
        return None if source is None else cls(source, special_tokens(files))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Return the prompt for a conversation, with special tokens spelled out.

        Args:
            messages: at least one {"role": ..., "content": ...}; further keys are passed on to the
                template.
            add_generation_prompt: end with the beginning of an answer.
            variables: further variables for the template (`enable_thinking`, `tools`, ...), of
                types that JSON has.

        Raises:
            PromptError: the messages are malformed, or the template rejects them.
            TemplateError: the template is damaged, fails, or exceeds 2 seconds of processor time,
                10 seconds of wall time, 512 MiB of memory or 16 Mi characters.
        """
        request: dict[str, Any] = {"tools": None, "documents": None, **self._special_tokens}
        request |= variables
        request |= {
            "messages": [_message(message) for message in _conversation(messages)],
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            line = json.dumps(request).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError(
                f"messages and variables must be of types that JSON has: {error}"
            ) from error
        with self._turns.turn():
            answer = self._ask(line)
        text = answer.get("text")
        if isinstance(text, str):
            return text
        if "refusal" in answer:
            reason = printable(str(answer["refusal"])[:_MAX_REASON])
            raise PromptError(f"the model's chat template rejects the messages: {reason}")
        reason = printable(str(answer.get("error"))[:_MAX_REASON])
        raise TemplateError(f"the model's chat template fails: {reason}")

    def render_unfinished(self, messages: Sequence[Mapping[str, Any]], /) -> str:
        """Return the prompt for a conversation whose last message, an answer, goes on.

        Args:
            messages: as for `render`; the content of the last one is text.

        Raises:
            PromptError, TemplateError: as for `render`, or the template leaves out the end of the
                last message.
        """
        *before, last = _conversation(messages)
        content = last.get("content") if isinstance(last, Mapping) else None
        if not isinstance(content, str):
            raise PromptError(f"found last message {last!r:.80}, expected one with text as content")
        text = self.render([*before, {**last, "content": content + _GOES_ON}], False)
        found = text.rfind(_GOES_ON.rstrip())
        if found < 0:
            raise PromptError(
                "the model's chat template leaves out the end of the last message, so an answer "
                "cannot go on from there"
            )
        is_kept = text.startswith(_GOES_ON, found)
        return text[:found] if is_kept else text[:found].rstrip()  # the template strips messages

    def close(self) -> None:
        """End the process, if any, unless it is rendering; a later `render` starts another."""
        self._turns.if_free(self._end)

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, line: bytes) -> dict[str, Any]:
        if self._worker is None or not self._worker.usable():
            self._worker = _Worker(self.source)
        try:
            return self._worker.ask(line, MAX_WAIT)
        except BaseException:  # also Ctrl-C: a late answer would be taken for the next one
            self._worker.close()
            self._worker = None
            raise


class _Worker:
    """The process that renders a template; any failure ends it."""

    def __init__(self, source: str) -> None:
        if not sys.executable:
            raise TemplateError(
                "found no Python interpreter to run the chat template: sys.executable is empty"
            )
        script = Path(__file__).with_name("template_worker.py")
        try:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own script)
                [sys.executable, "-I", "-S", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
            )
        except OSError as error:
            raise TemplateError(
                f"the process for the chat template cannot be started: {error}"
            ) from error
        self._owner = os.getpid()
        self.close = weakref.finalize(self, _end, self._process)
        settings = {
            "path": [str(entry) for entry in sys.path],
            "source": source,
            "memory": MAX_MEMORY,
            "seconds": MAX_CPU,
            "characters": MAX_TEXT,
        }
        self.ask(json.dumps(settings).encode(), _MAX_START)

    def usable(self) -> bool:
        """Return whether the process runs and was started by this process, not before a fork."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, line: bytes, seconds: float) -> dict[str, Any]:
        """Send a line and return the JSON object that comes back."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        answer = b""
        with self._killed_after(seconds) as late, contextlib.suppress(OSError):
            stdin.write(line + b"\n")
            stdin.flush()
            answer = stdout.readline(_MAX_ANSWER)
        try:
            value = json.loads(answer)
        except ValueError:
            value = None
        if not answer.endswith(b"\n") or not isinstance(value, dict):
            self.close()
            raise TemplateError(f"the model's chat template {self._why(late, seconds)}")
        return value

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[list[bool]]:
        """Kill the process after that many seconds; the yielded list is then not empty."""
        late: list[bool] = []
        process = self._process  # a reference to self in the timer would delay its finalizer

        def kill() -> None:
            late.append(True)
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _why(self, late: list[bool], seconds: float) -> str:
        """Return why the process ended."""
        code = self._process.returncode
        if late:
            return f"takes more than {seconds:g} seconds"
        if code == -getattr(signal, "SIGPROF", 0):
            return f"takes more than {MAX_CPU:g} seconds of processor time"
        return f"ends the process that runs it (exit status {code})"


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # closing flushes, which may fail
            pipe.close()
    # Without input the process ends by itself unless it is busy. It may also have ended already,
    # with a status that says why.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.kill()
    process.wait()


def _source(files: Mapping[str, bytes]) -> str | None:
    """Return the text of the chat template, or None."""
    name = "chat_template.jinja"
    if name in files:
        data = bytes(files[name])
        if len(data) > MAX_SOURCE:
            raise TemplateError(f"{name} has {len(data):,} bytes, expected at most {MAX_SOURCE:,}")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise TemplateError(f"{name} is not UTF-8: {error}") from error
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = read_json(files, name).get("chat_template")
        if isinstance(value, list):
            value = _default(name, value)
        if isinstance(value, str):
            return value
        if value is not None:
            raise TemplateError(
                f"{name}: chat_template is a {type(value).__name__}, expected text or a list"
            )
    return None


def _default(name: str, templates: list[Any]) -> Any:
    """Return the template named "default"."""
    named = {str(t.get("name")): t.get("template") for t in templates if isinstance(t, dict)}
    if "default" not in named:
        found = ", ".join(sorted(named)) or "nothing"
        raise TemplateError(
            f'{name}: found chat templates {found:.200}, expected one named "default"'
        )
    return named["default"]


def _conversation(messages: object) -> Sequence[Any]:
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise PromptError(f"found messages of type {type(messages).__name__}, expected a list")
    if not messages:
        raise PromptError("found no messages, expected at least one")
    return messages


def _message(message: object) -> dict[str, Any]:
    """Return a message without nulls and with its reasoning under the keys that templates read."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise PromptError(
            f'found message {message!r:.80}, expected {{"role": ..., "content": ...}}'
        )
    result = {key: value for key, value in message.items() if value is not None}
    reasoning = next((result[name] for name in _REASONING if name in result), None)
    if reasoning is not None:
        result = {"thinking": reasoning, **result, "reasoning_content": reasoning}
    return result
