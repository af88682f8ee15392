"""A conversation with a model that has a chat template."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .generate import Generation
from .model import LanguageModel


class Chat:
    """Messages of a conversation; every answer sees all before it."""

    def __init__(self, model: LanguageModel, system: str | None = None) -> None:
        """Begin a conversation.

        Args:
            model: which answers.
            system: what it is told first; None: nothing but what its template says by itself.

        Raises:
            ModelError: the model has no chat template.
            PromptError: its template takes no system message, where one is given.
            TemplateError: it fails.
        """
        self._model = model
        self._system = system
        self.messages: list[dict[str, str]] = []  # "role" and "content" of each
        self.result: Generation | None = None  # of the last answer
        self.reset()
        model.chat_prompt([*self.messages, {"role": "user", "content": "?"}])  # fails now or never

    def reset(self) -> None:
        """Forget what was said."""
        self.messages = []
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})

    def say(self, text: str, **options: Any) -> Generator[str, None, None]:
        """Return the answer to `text`, piece by piece.

        What was said of it stays in the conversation, also where the loop that reads it ends
        early. Where it cannot be given at all, `text` is taken back.

        Args:
            text: of the user.
            options: as for `LanguageModel.stream`.

        Raises:
            PromptError: the conversation does not fit the context any more: `reset` it.
            TemplateError: the template fails on it.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            stream = self._model.stream(self._model.chat_prompt(self.messages), **options)
        except BaseException:
            self.messages.pop()
            raise
        try:
            yield from stream
        finally:
            self.result = stream.result
            self.messages.append({"role": "assistant", "content": self.result.text})
