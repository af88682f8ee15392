"""Stream texts and answers of a language model to a terminal or a pipe."""

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

from rsr_formats.text import counted, printable
from rsr_runtime.llm import Chat, Generation, LanguageModel, PromptError, TemplateError

from ..common.errors import SourceError

_HELP = """\
/reset  start a new conversation
/help   show this help
/exit   leave (or Ctrl-D)
Ctrl-C  clear the line, or end an answer"""

_MAX_INPUT = 64 << 20  # bytes of a text on stdin
INTERRUPTED = 130  # exit code
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def run(model: LanguageModel, prompt: str, options: dict[str, Any]) -> Generation:
    """Stream the continuation of `prompt` to stdout, then report its speed on stderr."""
    stream = model.stream(prompt, **options)
    _write(stream)
    click.echo()
    result = stream.result
    _report(f"{_prompt_read([result])}, {_written([result])} ({_REASONS[result.finish_reason]})")
    return result


def run_all(model: LanguageModel, prompts: Sequence[str], options: dict[str, Any]) -> None:
    """Write each text below a line with its prompt, then report the speed on stderr."""
    _take_any_character()
    results = model.generate_all(prompts, **options)
    texts = zip(prompts, results, strict=True)
    _put("\n".join(f"==> {prompt} <==\n{result.text}\n" for prompt, result in texts))
    _report(f"{_prompt_read(results)}, {_written(results)}")


def chat(model: LanguageModel, system: str | None, options: dict[str, Any]) -> bool:
    """Answer line by line.

    Ctrl-C ends an answer on a terminal, and everything in a pipe.

    Returns:
        False if Ctrl-C ended it, else True.

    Raises:
        PromptError, TemplateError: a message in a pipe cannot be answered. On a terminal the error
            is shown, and the next message is read.
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
            click.echo(f"unknown command {printable(text)}; /help lists all", err=True)
        elif text:
            try:
                is_whole = _answer(conversation, text, options)
            except (PromptError, TemplateError) as error:
                if not is_typed:
                    raise
                click.echo(
                    f"rsrc: {printable(str(error))}; /reset starts a new conversation", err=True
                )
            else:
                if not is_whole and not is_typed:
                    return False
    return True


def _answer(conversation: Chat, text: str, options: dict[str, Any]) -> bool:
    """Stream the answer to `text`; on a terminal, report its speed.

    Returns:
        False if Ctrl-C ended it.
    """
    is_whole = _write(conversation.say(text, **options))
    click.echo()
    result = conversation.result
    if sys.stderr.isatty() and result is not None:
        # Prompt tokens are not reported: most of them are in the KV cache already.
        first = f"first token after {_duration(result.prompt_seconds)}"
        _report(f"{first}, {_written([result])} ({_REASONS[result.finish_reason]})")
    return is_whole


def _write(pieces: Iterator[str]) -> bool:
    """Write pieces as they come; return False if Ctrl-C ended them."""
    _take_any_character()
    try:
        with _interrupts():
            for piece in pieces:
                _put(piece)
    except KeyboardInterrupt:
        return False
    finally:
        if isinstance(pieces, Generator):
            pieces.close()  # the conversation keeps the partial answer
    return True


def _typed_lines() -> Iterator[str]:
    """Yield lines typed on a terminal, until Ctrl-D."""
    line_so_far: Callable[[], str] = str  # without readline, the line counts as empty
    with suppress(ImportError):
        import readline  # gives input() line editing and history

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
    """Yield each line of stdin as soon as it arrives."""
    while line := sys.stdin.buffer.readline(_MAX_INPUT + 1):
        yield _checked(line)


def read_stdin() -> str:
    """Return the text on stdin.

    Raises:
        SourceError: it is not UTF-8, or larger than 64 MiB.
    """
    return _checked(sys.stdin.buffer.read(_MAX_INPUT + 1))


def _checked(data: bytes) -> str:
    if len(data) > _MAX_INPUT:
        raise SourceError(f"stdin: more than {_MAX_INPUT:,} bytes")
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
    """Return an argument or a typed line, decoded as UTF-8 if the locale could not decode it.

    Raises:
        SourceError: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return decoded(os.fsencode(text), where)
    return text


def _take_any_character() -> None:
    """Make stdout write "?" for characters that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _put(text: str) -> None:
    """Write text; control characters are dropped on a terminal."""
    text = _CONTROL.sub("", text) if sys.stdout.isatty() else text
    click.echo(text, nl=False, color=True)  # otherwise click strips escape sequences in a pipe


def _report(summary: str) -> None:
    click.echo(click.style(summary, dim=True), err=True)  # click strips the style in a pipe


def _prompt_read(results: Sequence[Generation]) -> str:
    count = sum(result.prompt_tokens for result in results)
    # Prompts of one batch share their time.
    return f"{counted(count, 'prompt token')} in {_duration(results[0].prompt_seconds)}"


def _written(results: Sequence[Generation]) -> str:
    """Say how many tokens were generated, and the rate of those after the first of each text."""
    count = sum(len(result.tokens) for result in results)
    further = sum(max(0, len(result.tokens) - 1) for result in results)
    rate = f" at {further / results[0].seconds:.1f} tokens/s" if further else ""
    return f"{counted(count, 'token')}{rate}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


_REASONS = {
    "stop": "ended",
    "length": "-n reached",
    "context": "the context is full",
    "interrupted": "interrupted",
}


@contextmanager
def _interrupts() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt within the block, instead of ending the process."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup, a job with "&"
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
