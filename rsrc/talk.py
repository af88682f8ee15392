"""A language model on a terminal or in a pipe: texts and answers as they come."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from rsr_runtime.llm import Chat, Generation, LanguageModel, PromptError, TemplateError

from .errors import SourceError

_HELP = """\
/reset  forget the conversation
/help   show this
/exit   leave (so do Ctrl-D, and Ctrl-C at the prompt; Ctrl-C in an answer ends the answer)"""

_MOST_INPUT = 64 << 20  # bytes of a text on stdin
INTERRUPTED = 130  # exit code


def run(model: LanguageModel, prompt: str, options: dict[str, Any]) -> Generation:
    """Write the text that goes on from `prompt` as it comes, and how fast it was on stderr."""
    stream = model.stream(prompt, **options)
    _write(stream)
    click.echo()
    click.echo(_summary(stream.result), err=True)
    return stream.result


def run_all(model: LanguageModel, prompts: Sequence[str], options: dict[str, Any]) -> None:
    """Write the text of each prompt below a line with the prompt."""
    start = True
    for prompt, result in zip(prompts, model.generate_all(prompts, **options), strict=True):
        click.echo(("" if start else "\n") + f"==> {_shown(prompt)} <==")
        click.echo(_shown(result.text))
        start = False


def chat(model: LanguageModel, system: str | None, options: dict[str, Any]) -> None:
    """Answer line by line until there are no more."""
    conversation = Chat(model, system)
    if sys.stdin.isatty():
        click.echo("/help lists commands", err=True)
    for line in _lines():
        text = line.strip()
        if text == "/exit":
            return
        if text == "/reset":
            conversation.reset()
        elif text == "/help":
            click.echo(_HELP)
        elif text.startswith("/") and " " not in text:
            click.echo(f"no command {_shown(text)}; /help lists them", err=True)
        elif text:
            _answer(conversation, text, options)


def _answer(conversation: Chat, text: str, options: dict[str, Any]) -> None:
    answer = conversation.say(text, **options)
    try:
        _write(answer)
    except (PromptError, TemplateError) as error:
        click.echo(f"rsrc: {_shown(str(error))}; /reset begins afresh", err=True)
        return
    click.echo()
    if sys.stderr.isatty() and conversation.result is not None:
        click.echo(click.style(_summary(conversation.result), dim=True), err=True)


def _write(pieces: Iterable[str]) -> None:
    """Write pieces as they come; Ctrl-C ends them."""
    try:
        with _interrupts():
            for piece in pieces:
                click.echo(_shown(piece), nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    finally:
        if isinstance(pieces, Iterator) and hasattr(pieces, "close"):
            pieces.close()  # a conversation keeps what was said


def _lines() -> Iterator[str]:
    """Yield what is typed, or the lines of a pipe."""
    if not sys.stdin.isatty():
        yield from read_stdin().splitlines()
        return
    with suppress(ImportError):
        import readline  # noqa: F401  input() then knows arrows and history
    while True:
        try:
            with _interrupts():
                line = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        yield line


def read_stdin() -> str:
    """Return the text on stdin.

    Raises:
        SourceError: it is no UTF-8, or huge.
    """
    data = sys.stdin.buffer.read(_MOST_INPUT + 1)
    if len(data) > _MOST_INPUT:
        raise SourceError(f"stdin: more than {_MOST_INPUT:,} bytes")
    return decoded(data, "stdin")


def decoded(data: bytes, where: str) -> str:
    """Return `data` as text.

    Raises:
        SourceError: it is no UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: no UTF-8: byte {data[error.start]:#04x} at offset {error.start:,}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def _shown(text: str) -> str:
    """Return text as it may go to a terminal: a model must not steer it. A pipe gets all of it."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _summary(result: Generation) -> str:
    rate = result.tokens_per_second
    return (
        f"{result.prompt_tokens} prompt tokens in {result.prompt_seconds:.2f} s, "
        f"{len(result.tokens)} tokens{f' at {rate:.1f} tokens/s' if rate else ''} "
        f"({_REASONS[result.finish_reason]})"
    )


_REASONS = {
    "stop": "ended",
    "length": "as many as asked for",
    "context": "the context is full",
    "interrupted": "interrupted",
}


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt here, and not end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
