"""What all endpoints share: the model, the engine and the figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from ..llm.engine import Engine
from ..llm.errors import PromptError, TemplateError
from ..llm.model import ChatPrompt, LanguageModel
from .answer import Answers
from .conversation import template_messages, template_variables
from .errors import prompt_error, unknown_model
from .grammar import Grammars
from .mailbox import Mailbox
from .metrics import Metrics
from .schema import Json, Message
from .token_texts import TokenTexts


@dataclass
class Server:
    """A model that is served.

    Attributes:
        model: the model.
        engine: what generates its texts.
        name: the model's name in responses.
        variables: for the chat template, unless a request has others.
        speculate: of all texts, see `Job`.
        embeddings: embed texts even if the model does not say how it pools.
        mailbox: takes events from the engine.
        metrics: the figures of /metrics.
        created: when it was started, in seconds since 1970.
        fingerprint: of the model and this version, for `system_fingerprint`.
        token_texts: the texts of single tokens.
        grammars: makes constraints for texts.
        answers: what answers look like.
    """

    model: LanguageModel
    engine: Engine
    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    speculate: Literal["ngram", "off"] = "off"
    embeddings: bool = False
    mailbox: Mailbox = field(default_factory=Mailbox)
    metrics: Metrics = field(default_factory=Metrics)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.fingerprint = f"rsr-{version('rsr-ternary')}"
        self.token_texts = TokenTexts(self.model.tokenizer)
        self.grammars = Grammars(self.model, self.token_texts)
        self.answers = Answers(self.model, self.grammars)

    @property
    def names(self) -> Sequence[str]:
        """What requests may name as their model: the model itself, then its adapters."""
        return (self.name, *self.model.adapters)

    def adapter_of(self, asked: str | None) -> str | None:
        """Return the adapter that a request names as its model; None: the model alone.

        Without adapters there is one model, whatever clients call it.

        Raises:
            ApiError: there are adapters, and it names neither one of them nor the model.
        """
        if asked is None or asked == self.name or not self.model.adapters:
            return None
        if asked not in self.model.adapters:
            raise unknown_model(asked, self.names)
        return asked

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Json] | None = None,
        variables: Json | None = None,
        reasoning_effort: str | None = None,
    ) -> ChatPrompt:
        """Return the tokens of a conversation up to the answer; arguments as in a `ChatRequest`.

        Raises:
            ApiError: the messages or a variable are refused.
            ModelError: the model has no chat template.
        """
        found = template_messages(messages)
        variables = template_variables(self.variables, variables, reasoning_effort)
        try:
            return self.model.chat_prompt(found, tools, allow_special_tokens=False, **variables)
        except (PromptError, TemplateError) as error:
            raise prompt_error(error, "messages") from error
