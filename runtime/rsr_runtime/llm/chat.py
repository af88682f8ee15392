"""A conversation with a model that has a chat template."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .generate import Generation
from .model import LanguageModel


class Chat:
    """A conversation, all of which the model sees for each answer.

    Attributes:
        messages: "role" and "content" of each message so far.
        result: the last answer, None before the first.
    """

    def __init__(self, model: LanguageModel, system: str | None = None) -> None:
        """Start a conversation.

        Args:
            model: the model that answers.
            system: system message; None: only what the template adds.

        Raises:
            ModelError: the model has no chat template.
            PromptError: the template rejects the system message.
            TemplateError: the template fails.
        """
        self._model = model
        self._system = system
        self.messages: list[dict[str, str]] = []
        self.result: Generation | None = None
        self.reset()
        model.chat_prompt([*self.messages, {"role": "user", "content": "?"}])  # to fail early

    def reset(self) -> None:
        """Remove all messages but the system message."""
        self.messages = []
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})

    def say(self, text: str, **options: Any) -> Generator[str, None, None]:
        """Return the answer to `text`, piece by piece.

        If the loop over it ends early, the answer so far stays in the conversation. If generation
        cannot start, `text` is removed again.

        Args:
            text: the user's message.
            options: as for `LanguageModel.stream`.

        Raises:
            PromptError: the conversation no longer fits the context: `reset` it.
            TemplateError: the template fails.
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
