"""A language model on a terminal or in a pipe: texts and answers as they come."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from rsr_formats.text import printable
from rsr_runtime.llm import Chat, Generation, LanguageModel, PromptError, TemplateError

from ..common.errors import SourceError

_HELP = """\
/reset  forget the conversation
/help   show this
/exit   leave (so does Ctrl-D)
Ctrl-C  clears the line, and ends an answer"""

_MOST_INPUT = 64 << 20  # bytes of a text on stdin
INTERRUPTED = 130  # exit code
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def run(model: LanguageModel, prompt: str, options: dict[str, Any]) -> Generation:
    """Write the text that goes on from `prompt` as it comes, and how fast it was on stderr."""
    stream = model.stream(prompt, **options)
    _write(stream)
    click.echo()
    result = stream.result
    _report(f"{_prompt_read([result])}, {_written([result])} ({_REASONS[result.finish_reason]})")
    return result


def run_all(model: LanguageModel, prompts: Sequence[str], options: dict[str, Any]) -> None:
    """Write the text of each prompt below a line with the prompt; on stderr how fast all were."""
    start = True
    _take_any_character()
    results = model.generate_all(prompts, **options)
    for prompt, result in zip(prompts, results, strict=True):
        _put(("" if start else "\n") + f"==> {prompt} <==\n")
        _put(f"{result.text}\n")
        start = False
    _report(f"{_prompt_read(results)}, {_written(results)}")


def chat(model: LanguageModel, system: str | None, options: dict[str, Any]) -> bool:
    """Answer line by line; return whether that was until there were no more.

    On a terminal Ctrl-C ends an answer, in a pipe everything.

    Raises:
        PromptError, TemplateError: a message in a pipe cannot be answered. On a terminal that is
            said, and the next one awaited.
    """
    conversation = Chat(model, system)
    is_typed = sys.stdin.isatty()
    if is_typed:
        click.echo("/help lists commands", err=True)
    for line in _typed_lines() if is_typed else _piped_lines():
        text = line.strip()
        if text == "/exit":
            break
        if text == "/reset":
            conversation.reset()
            if is_typed:
                click.echo("a new conversation", err=True)
        elif text == "/help":
            click.echo(_HELP, err=True)
        elif text.startswith("/") and text[1:].isalpha():
            click.echo(f"no command {printable(text)}; /help lists them", err=True)
        elif text:
            try:
                is_whole = _answer(conversation, text, options)
            except (PromptError, TemplateError) as error:
                if not is_typed:
                    raise
                click.echo(f"rsrc: {printable(str(error))}; /reset begins afresh", err=True)
            else:
                if not is_whole and not is_typed:
                    return False
    return True


def _answer(conversation: Chat, text: str, options: dict[str, Any]) -> bool:
    """Write the answer to `text`, and how fast it was where someone looks on.

    Returns:
        Whether it ended by itself.
    """
    is_whole = _write(conversation.say(text, **options))
    click.echo()
    result = conversation.result
    if sys.stderr.isatty() and result is not None:
        # Without the tokens of the prompt: most of a conversation is not computed again.
        first = f"first token after {_duration(result.prompt_seconds)}"
        _report(f"{first}, {_written([result])} ({_REASONS[result.finish_reason]})")
    return is_whole


def _write(pieces: Iterator[str]) -> bool:
    """Write pieces as they come; return False where Ctrl-C ended them."""
    _take_any_character()
    try:
        with _interrupts():
            for piece in pieces:
                _put(piece)
    except KeyboardInterrupt:
        return False
    finally:
        if isinstance(pieces, Generator):
            pieces.close()  # a conversation keeps what was said
    return True


def _typed_lines() -> Iterator[str]:
    """Yield what is typed on a terminal, until Ctrl-D."""
    line_so_far: Callable[[], str] = str  # unknown
    with suppress(ImportError):
        import readline  # input() then knows arrows and history

        line_so_far = readline.get_line_buffer
    while True:
        try:
            with _interrupts():
                line = input("> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            if not line_so_far():
                click.echo("Ctrl-D or /exit leaves", err=True)
            continue
        yield typed(line, "stdin")


def _piped_lines() -> Iterator[str]:
    """Yield each line of stdin as soon as it is there."""
    while line := sys.stdin.buffer.readline(_MOST_INPUT + 1):
        yield _checked(line)


def read_stdin() -> str:
    """Return the text on stdin.

    Raises:
        SourceError: it is not UTF-8, or huge.
    """
    return _checked(sys.stdin.buffer.read(_MOST_INPUT + 1))


def _checked(data: bytes) -> str:
    if len(data) > _MOST_INPUT:
        raise SourceError(f"stdin: more than {_MOST_INPUT:,} bytes")
    return decoded(data, "stdin")


def decoded(data: bytes, where: str) -> str:
    """Return `data` as text.

    Raises:
        SourceError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: not UTF-8: byte {data[error.start]:#04x} at offset {error.start:,}; "
            "convert it first (iconv -t utf-8)"
        ) from None


def typed(text: str, where: str) -> str:
    """Return an argument or what was typed: as UTF-8 where the locale has no letter for a byte.

    Raises:
        SourceError: it is not UTF-8 either.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return decoded(os.fsencode(text), where)
    return text


def _take_any_character() -> None:
    """Let stdout write "?" for what its encoding lacks, and not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _put(text: str) -> None:
    """Write text: to a terminal what cannot steer it, to anything else all of it."""
    text = _CONTROL.sub("", text) if sys.stdout.isatty() else text
    click.echo(text, nl=False, color=True)  # else click takes colors out of what goes to a pipe


def _report(summary: str) -> None:
    click.echo(click.style(summary, dim=True), err=True)  # dim on a terminal alone


def _prompt_read(results: Sequence[Generation]) -> str:
    count = sum(result.prompt_tokens for result in results)
    # What was computed side by side took all of them the same time.
    return f"{counted(count, 'prompt token')} in {_duration(results[0].prompt_seconds)}"


def _written(results: Sequence[Generation]) -> str:
    """Say how many tokens came, and how fast those after the first of each text did."""
    count = sum(len(result.tokens) for result in results)
    further = sum(max(0, len(result.tokens) - 1) for result in results)
    rate = f" at {further / results[0].seconds:.1f} tokens/s" if further else ""
    return f"{counted(count, 'token')}{rate}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def counted(count: int, noun: str) -> str:
    """Return "1 token", "2 tokens"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


_REASONS = {
    "stop": "ended",
    "length": "-n reached",
    "context": "the context is full",
    "interrupted": "interrupted",
}


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt here, and not end the process."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup, a job with "&"
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
