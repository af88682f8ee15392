"""Errors of language models: all are `RsrError`s and also built-in errors."""

from __future__ import annotations

from rsr_formats.errors import RsrError
from rsr_formats.text import counted

from ..errors import OptionError

NO_HEAD = (
    "the model has no output head: it embeds texts (rsrc embed, LanguageModel.embed, "
    "/v1/embeddings) and generates none"
)
NO_POOLING = (
    "the model does not say how to pool the states of a text's tokens (modules.json and "
    "1_Pooling/config.json of sentence-transformers): choose a pooling, such as lasttoken or mean"
)


class ModelError(RsrError, ValueError):
    """A `.rsr` file cannot be run as a language model."""


class NoTemplateError(ModelError):
    """A model without a chat template was asked for an answer in a conversation."""


class NoHeadError(ModelError):
    """A model without an output head was asked for text."""


class NoPoolingError(ModelError):
    """A model that does not say how it pools was asked to embed."""


class PromptError(RsrError, ValueError):
    """A prompt or conversation does not fit the model."""


class ContextFullError(PromptError):
    """A prompt or conversation leaves no room in the context.

    Attributes:
        tokens: number of tokens of the prompt.
        context: number of positions for prompt and text.
        limit: the largest context of the model.
    """

    def __init__(self, tokens: int, context: int, limit: int) -> None:
        wider = f"load with a larger context (the model's limit is {limit:,})"
        super().__init__(
            f"the prompt has {counted(tokens, 'token')} and leaves no room in a context of "
            f"{context:,}: {wider if context < limit else 'shorten it'}"
        )
        self.tokens = tokens
        self.context = context
        self.limit = limit

    def __reduce__(self) -> tuple[type[ContextFullError], tuple[int, int, int]]:
        return type(self), (self.tokens, self.context, self.limit)


class TextTooLongError(PromptError):
    """A text to embed does not fit the context.

    Attributes:
        number: of the text, from 0.
        tokens: number of tokens of the text, with its prompt.
        most: number of tokens that fit.
        limit: the most that the model was made for.
    """

    def __init__(self, number: int, tokens: int, most: int, limit: int) -> None:
        wider = f"load with a larger context (the model's limit is {limit:,})"
        super().__init__(
            f"text {number} has {counted(tokens, 'token')}, expected at most {most:,}: "
            f"{wider if most < limit else 'shorten or split it'}"
        )
        self.number = number
        self.tokens = tokens
        self.most = most
        self.limit = limit

    def __reduce__(self) -> tuple[type[TextTooLongError], tuple[int, int, int, int]]:
        return type(self), (self.number, self.tokens, self.most, self.limit)


class TruncatedTextWarning(UserWarning):
    """Texts to embed were cut to the most tokens that the model takes."""


class ScarceMemoryWarning(UserWarning):
    """A model runs slowly, or with a smaller context, because memory is scarce."""


class CacheMemoryError(OptionError):
    """There is not enough memory for a KV cache."""


class TemplateError(RsrError, ValueError):
    """A model's chat template is damaged, fails, or exceeds its limits of time or memory."""


class BusyError(RsrError, RuntimeError):
    """A callback wants what its own thread is using, or a conversation is being answered."""


class QueueFullError(RsrError, RuntimeError):
    """An engine has as many waiting jobs as its queue holds.

    Attributes:
        retry_after: seconds after which a place may be free, an estimate.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(
            f"{counted(waiting, 'request')} wait already, as many as the queue holds: try again in "
            f"{counted(retry_after, 'second')}"
        )
        self.waiting = waiting
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFullError], tuple[int, int]]:
        return type(self), (self.waiting, self.retry_after)


class DependencyError(RsrError, ImportError):
    """A package of an extra is not installed."""

    def __init__(self, package: str, why: str, extra: str = "llm") -> None:
        super().__init__(
            f"{why} needs the package {package}: pip install 'rsr-ternary[{extra}]'", name=package
        )
