"""Stream texts and answers of a language model to a terminal or a pipe."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from rsr_formats.text import counted, printable
from rsr_runtime.llm import (
    Chat,
    ContextFullError,
    Generation,
    LanguageModel,
    PromptError,
    TemplateError,
)

from ..common.errors import SourceError, reason
from . import transcript
from .chat_input import QUOTES, Entry, piped_entries, typed_entries
from .prompt_progress import PromptProgress
from .signals import held_interrupts, interrupts

_HELP = f"""\
/reset      start a new conversation
/undo       remove the last message and its answer
/regen      answer the last message again
/save FILE  write the conversation to FILE, in JSON
/load FILE  continue the conversation in FILE
/help       show this help
/exit       leave (or Ctrl-D)
Ctrl-C      clear the line, or end an answer
\\           at the end of a line: the message continues on the next line
{QUOTES}         before and after several lines: they are one message"""

_COMMAND = re.compile(r"/([^\W\d_]+)(?:\s+(\S.*)?)?")
_COMMANDS = ("reset", "undo", "regen", "save", "load", "help", "exit")
_ROOM = 8  # an answer gets at least one of so many parts of the context on a terminal
INTERRUPTED = 130  # exit code
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline

_Answering = Callable[..., Generator[str, None, None]]


def run(model: LanguageModel, prompt: str, options: dict[str, Any]) -> Generation:
    """Stream the continuation of `prompt` to stdout, then report its speed on stderr."""
    progress = PromptProgress()
    stream = model.stream(prompt, progress=progress, **options)
    _write(stream, progress)
    click.echo()
    result = stream.result
    if result.tokens:
        end = _REASONS[result.finish_reason]
        _report(f"{_prompt_read([result])}, {_written([result])} ({end})")
    else:
        _report(_interrupted(progress))
    return result


def run_all(model: LanguageModel, prompts: Sequence[str], options: dict[str, Any]) -> None:
    """Write each text below a line with its prompt, then report the speed on stderr."""
    _take_any_character()
    results = model.generate_all(prompts, progress=PromptProgress(), **options)
    texts = zip(prompts, results, strict=True)
    _put("\n".join(f"==> {prompt} <==\n{result.text}\n" for prompt, result in texts))
    _report(f"{_prompt_read(results)}, {_written(results)}")


def chat(model: LanguageModel, conversation: Chat, options: dict[str, Any]) -> bool:
    """Answer message by message.

    Ctrl-C ends an answer on a terminal, and everything in a pipe.

    Args:
        model: the model that answers.
        conversation: what was said before.
        options: of `LanguageModel.stream`.

    Returns:
        False if Ctrl-C ended it, else True.

    Raises:
        PromptError, TemplateError, SourceError, OSError: an entry in a pipe fails, other than one
            that is no command. On a terminal the error is shown, and the next entry is read.
    """
    is_typed = sys.stdin.isatty()
    if is_typed:
        click.echo("/help lists commands", err=True)
    talk = _Talk(model, conversation, options, is_typed)
    if not is_typed:
        return _take_all(talk, _before_exit(piped_entries()))
    with held_interrupts():  # Ctrl-C between an answer and the next line must not end everything
        for entry in _before_exit(typed_entries()):
            try:
                talk.take(entry)
            except BrokenPipeError:
                raise
            except (PromptError, TemplateError, SourceError, OSError) as error:
                click.echo(f"rsrc: {printable(_sentence(error))}", err=True)
    return True


def _before_exit(entries: Iterator[Entry]) -> Iterator[Entry]:
    return takewhile(lambda entry: not (entry.is_line and entry.text.rstrip() == "/exit"), entries)


def _command(entry: Entry) -> tuple[str, str | None] | None:
    """Return the name and argument of a command, None of a message.

    A line such as "/usr/bin" or "/tmp is full" is a message.

    Raises:
        _CommandError: it looks like a command, but there is none of this form.
    """
    found = _COMMAND.fullmatch(entry.text) if entry.is_line else None
    if found is None:
        return None
    name, argument = found[1], found[2]
    if name in _COMMANDS:
        if argument is not None and name not in ("save", "load"):
            raise _CommandError(f"/{name} takes no argument; /help lists the commands")
        return name, argument
    if name.lower() in _COMMANDS:
        raise _CommandError(
            f"unknown command /{name}: commands are lowercase, /{name.lower()}; /help lists them"
        )
    if argument is not None:
        return None
    raise _CommandError(f"unknown command /{printable(name)}; /help lists all")


class _CommandError(SourceError):
    """A line that looks like a command, but is none."""


def _take_all(talk: _Talk, entries: Iterator[Entry]) -> bool:
    """Take what comes through a pipe, where a line that is no command is reported and passed over.

    Returns:
        False if Ctrl-C ended an answer.
    """
    for entry in entries:
        try:
            if not talk.take(entry):
                return False
        except _CommandError as error:
            click.echo(f"rsrc: {error}", err=True)
    return True


class _Talk:
    """A conversation on a terminal or in a pipe."""

    def __init__(
        self, model: LanguageModel, conversation: Chat, options: dict[str, Any], is_typed: bool
    ) -> None:
        self._model = model
        self._conversation = conversation
        self._options = options
        self._is_typed = is_typed
        self._own_files: set[Path] = set()  # they hold this conversation, and may be replaced

    def take(self, entry: Entry) -> bool:
        """Answer a message or obey a command; return False if Ctrl-C ended the answer."""
        text = entry.text
        name, argument = _command(entry) or ("", None)
        if name in ("save", "load"):
            self._save_or_load(name, argument)
        elif not name:
            return not text.strip() or self._answer(
                partial(self._conversation.say, text), self._room_for(text)
            )
        elif name == "reset":
            self._conversation.reset()
            self._own_files.clear()
            self._tell("a new conversation")
        elif name == "undo":
            removed = self._conversation.undo()
            self._tell("removed the last message" if removed else "there is nothing to undo")
        elif name == "regen":
            return self._answer(self._conversation.again, self._room_for(None))
        else:
            click.echo(_HELP, err=True)
        return True

    def _save_or_load(self, name: str, argument: str | None) -> None:
        if argument is None:
            raise SourceError(f"name a file: /{name} FILE")
        path = Path(argument).expanduser()
        if name == "save":
            is_own = path.absolute() in self._own_files
            transcript.save(path, self._conversation.messages, is_own)
            self._tell(f"saved {counted(len(self._conversation.messages), 'message')}")
        else:
            messages = transcript.load(path)
            try:
                self._conversation.restore(messages)
            except PromptError as error:
                raise PromptError(f"{path}: {error}") from error
            self._own_files.clear()
            self._tell(f"loaded {counted(len(messages), 'message')}")
        self._own_files.add(path.absolute())

    def _room_for(self, text: str | None) -> int:
        """On a terminal, drop the oldest messages that no longer fit; return their number."""
        if not self._is_typed:
            return 0
        room = self._model.context // _ROOM
        return self._conversation.make_room(
            text, min(room, self._options.get("max_tokens") or room)
        )

    def _answer(self, answering: _Answering, dropped: int) -> bool:
        """Stream an answer; on a terminal, report its speed.

        Returns:
            False if Ctrl-C ended it.
        """
        if dropped:
            self._own_files.clear()  # they have the messages that are dropped now
            click.echo(
                f"dropped the {counted(dropped, 'oldest message')}: the conversation no longer "
                f"fits the context of {self._model.context:,} tokens{self._wider()}",
                err=True,
            )
        progress = PromptProgress()
        is_whole = _write(answering(progress=progress, **self._options), progress)
        click.echo()
        result = self._conversation.result
        if not sys.stderr.isatty():
            return is_whole
        if result is None or not result.tokens:
            _report(f"{_interrupted(progress)}; the conversation is as before")
        else:
            # Prompt tokens are not reported: most of them are in the KV cache already.
            first = f"first token after {_duration(result.prompt_seconds)}"
            _report(f"{first}, {_written([result])} ({_REASONS[result.finish_reason]})")
        return is_whole

    def _wider(self) -> str:
        limit = self._model.config.max_position_embeddings
        return "; --context sets it" if self._model.context < limit else ""

    def _tell(self, what: str) -> None:
        if self._is_typed:
            click.echo(what, err=True)


def _sentence(error: Exception) -> str:
    return context_full(error) if isinstance(error, ContextFullError) else reason(error)


def context_full(error: ContextFullError) -> str:
    """Return the message of an error in terms of the command line."""
    wider = f"set a larger one with --context (the model's limit is {error.limit:,})"
    return (
        f"the prompt has {counted(error.tokens, 'token')} and leaves no room in a context of "
        f"{error.context:,}: {wider if error.context < error.limit else 'shorten it'}"
    )


def _write(pieces: Iterator[str], progress: PromptProgress) -> bool:
    """Write pieces as they come; return False if Ctrl-C ended them."""
    _take_any_character()
    try:
        with interrupts():
            for piece in pieces:
                _put(piece)
    except KeyboardInterrupt:
        return False
    finally:
        progress.erase()
        if isinstance(pieces, Generator):
            pieces.close()  # the conversation keeps the partial answer
    return True


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
    drafted = sum(result.drafted_tokens for result in results)
    accepted = sum(result.accepted_tokens for result in results)
    right = f", {accepted:,} of {counted(drafted, 'guessed token')} right" if drafted else ""
    return f"{counted(count, 'token')}{rate}{right}"


def _interrupted(progress: PromptProgress) -> str:
    """Say how much of a prompt was read before it was interrupted."""
    if not progress.total:
        return "interrupted"
    return f"interrupted after {progress.done:,} of {counted(progress.total, 'prompt token')}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


_REASONS = {
    "stop": "ended",
    "length": "-n reached",
    "context": "the context is full",
    "interrupted": "interrupted",
}
