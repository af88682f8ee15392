"""A conversation with a model that has a chat template."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rsr_formats.text import counted, shown

from ..inputs import kind_of
from .end_of_turn import end_of_turn_tokens
from .errors import BusyError, ContextFullError, PromptError
from .generate import Generation
from .model import ChatPrompt, LanguageModel
from .tokenizer import Tokenizer

Message = dict[str, Any]

_SYSTEM = ("system", "developer")
_TAKEN = ("messages", "allow_special_tokens")  # arguments of `chat_prompt`


class Chat:
    """A conversation, all of which the model sees for each answer.

    Attributes:
        messages: "role" and "content" of each message so far. An answer keeps its special tokens
            (</think>), so that the next prompt begins as the model saw and wrote it.
        result: the last answer, None if there is none yet or the last one could not begin. Its text
            lacks special tokens.
    """

    def __init__(
        self,
        model: LanguageModel,
        system: str | None = None,
        *,
        variables: Mapping[str, Any] | None = None,
        allow_special_tokens: bool = True,
    ) -> None:
        """Start a conversation.

        Args:
            model: the model that answers.
            system: system message; None: only what the template adds.
            variables: variables for the template, see `LanguageModel.chat_prompt`.
            allow_special_tokens: whether messages other than answers may have special tokens, see
                `LanguageModel.chat_prompt`.

        Raises:
            ModelError: the model has no chat template.
            PromptError: the system message is not a string, or the template rejects it or the
                variables.
            TemplateError: the template fails.
        """
        self._model = model
        self._options = {**_checked(variables or {}), "allow_special_tokens": allow_special_tokens}
        self.messages: list[Message] = []
        if system is not None:
            self.messages.append({"role": "system", "content": _text("system", system)})
        self.result: Generation | None = None
        self._free = [None]  # empty while an answer is read
        self._prompt([*self.messages, _user("?")])  # to fail early

    def __repr__(self) -> str:
        return f"<rsr_runtime.llm.Chat: {counted(len(self.messages), 'message')}, {self._model!r}>"

    def reset(self) -> None:
        """Remove all messages but the system message."""
        del self.messages[_system_messages(self.messages) :]

    def restore(self, messages: Sequence[Message]) -> None:
        """Continue another conversation, such as a saved one.

        Args:
            messages: they replace `messages`, system messages included.

        Raises:
            PromptError: the template rejects them, or they are malformed; nothing is replaced.
            TemplateError: the template fails.
        """
        self._prompt(messages)
        self.messages[:] = [dict(message) for message in messages]
        self.result = None

    def say(self, text: str, **options: Any) -> Generator[str, None, None]:
        """Return the answer to `text`, piece by piece.

        If the loop over it ends early, the answer so far stays in the conversation. If it ends
        before the first token, `text` is removed again.

        Args:
            text: the user's message.
            options: as for `LanguageModel.stream`.

        Raises:
            ContextFullError: the conversation no longer fits the context: see `make_room`.
            BusyError: another answer is being read.
            PromptError: it is not a string, or the template rejects it.
            TemplateError: the template fails.
        """
        return self._answer([_user(text)], options)

    def again(self, **options: Any) -> Generator[str, None, None]:
        """Return another answer to the last message, piece by piece.

        It replaces the last answer, which stays if the new one ends before its first token.

        Args:
            options: as for `LanguageModel.stream`.

        Raises:
            PromptError: there is no message to answer; also as for `say`.
            TemplateError: the template fails.
        """
        return self._answer([], options)

    def undo(self) -> int:
        """Remove the last message of the user and its answer.

        Returns:
            The number of messages removed, 0 without a message of the user.
        """
        last = max(
            (i for i, message in enumerate(self.messages) if message["role"] == "user"), default=-1
        )
        if last < 0:
            return 0
        removed = len(self.messages) - last
        del self.messages[last:]
        return removed

    def make_room(self, text: str | None, room: int = 1) -> int:
        """Remove the oldest messages until the conversation and a new message fit the context.

        System messages stay. A message goes together with its answer.

        Args:
            text: the message that `say` will get; None: `again` will be called.
            room: tokens to leave for the answer. Fewer are left if the last message is too long.

        Returns:
            The number of messages removed.

        Raises:
            ContextFullError: the last message does not fit even alone; nothing was removed.
            PromptError, TemplateError: as for `say`.
        """
        kept = self._unanswered() if text is None else [*self.messages, _user(text)]
        removed = 0
        while True:
            tokens = len(self._prompt(kept))
            oldest = _oldest_exchange(kept)
            if tokens + room <= self._model.context or not oldest:
                break
            del kept[oldest]
            removed += oldest.stop - oldest.start
        if tokens >= self._model.context:
            limit = self._model.config.max_position_embeddings
            raise ContextFullError(tokens, self._model.context, limit)
        first = _system_messages(self.messages)
        del self.messages[first : first + removed]
        return removed

    def _answer(
        self, new: Sequence[Message], options: dict[str, Any]
    ) -> Generator[str, None, None]:
        """Answer `new` messages, or the last message again if there are none."""
        try:
            self._free.pop()  # which one of several threads can do
        except IndexError:
            raise BusyError(
                "the conversation has an answer that was not read to its end: read it, or close "
                "its generator, before the next message"
            ) from None
        try:
            yield from self._write(new, options)
        finally:
            self._free.append(None)

    def _write(self, new: Sequence[Message], options: dict[str, Any]) -> Generator[str, None, None]:
        before = list(self.messages)
        self.messages[:] = [*before, *new] if new else self._unanswered()
        result = self.result = None
        try:
            stream = self._model.stream(self._prompt(self.messages), **options)
            try:
                yield from stream
            finally:
                result = stream.result
                stream.close()  # other texts can use its cache now
        finally:
            if result is None or not result.tokens:
                self.messages[:] = before
            else:
                said = _with_special_tokens(self._model, result)
                self.messages.append({"role": "assistant", "content": said})
            self.result = result

    def _prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        return self._model.chat_prompt(messages, **self._options)

    def _unanswered(self) -> list[Message]:
        """Return the conversation without the answer at its end."""
        kept = list(self.messages)
        while kept and kept[-1]["role"] == "assistant":
            del kept[-1]
        if len(kept) == _system_messages(kept):
            raise PromptError("there is no message to answer again")
        return kept


def _checked(variables: object) -> Mapping[str, Any]:
    """Return variables that have names."""
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise PromptError(f"variables is {shown(variables)}, expected a mapping of names to values")
    for name in _TAKEN:
        if name in variables:
            raise PromptError(f"variables has {name}, which is part of the conversation")
    return variables


def _user(text: str) -> Message:
    return {"role": "user", "content": _text("text", text)}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise PromptError(
            f"{name} is {kind_of(value)}, expected a string: restore takes whole messages"
        )
    return value


def _system_messages(messages: Sequence[Message]) -> int:
    """Return the number of system messages at the beginning."""
    others = (i for i, message in enumerate(messages) if message["role"] not in _SYSTEM)
    return next(others, len(messages))


def _oldest_exchange(messages: Sequence[Message]) -> slice | None:
    """Return the positions of the first message of the user and of all up to the next."""
    first = _system_messages(messages)
    later = range(first + 1, len(messages))
    end = next((i for i in later if messages[i]["role"] == "user"), None)
    return None if end is None else slice(first, end)


def _with_special_tokens(model: LanguageModel, result: Generation) -> str:
    """Return an answer with its special tokens, except one that ended it."""
    tokenizer = model.tokenizer
    tokens = list(result.tokens)
    is_cut = result.finish_reason == "stop"  # by a stop string, unless a token ended it
    ends = end_of_turn_tokens(tokenizer) | set(model.config.eos_token_ids)
    # Stop strings end at text, which special tokens lack: such a token was one of the ends.
    if is_cut and (tokens[-1] in ends or tokenizer.is_special(tokens[-1])):
        del tokens[-1]
        is_cut = False
    if not any(map(tokenizer.is_special, tokens)):
        return result.text
    if is_cut:
        return _cut(tokenizer, tokens, result.text)
    return tokenizer.decode(tokens, skip_special=False)


def _cut(tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> str:
    """Put special tokens back into `text`, which is the beginning of the text of `tokens`."""
    parts = []
    for is_special, group in groupby(tokens, tokenizer.is_special):
        part = tokenizer.decode(group, skip_special=False)
        if is_special:
            parts.append(part)
        elif text.startswith(part):
            parts.append(part)
            text = text[len(part) :]
        else:
            break
    return "".join(parts) + text
