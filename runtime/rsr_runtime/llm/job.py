"""What an `Engine` takes and what it returns: a job, and the events of its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .constraint import Constraint
from .generate import Generation
from .sampling import Sampling


@dataclass(frozen=True)
class Job:
    """A request for one or several texts after one prompt.

    Attributes:
        prompt: text to continue, or tokens, after which a new text begins; after a `ChatPrompt` an
            answer begins.
        max_tokens: maximum tokens of a text; 0: only read the prompt; None: as `sampling` says,
            else until it ends or the context is full.
        sampling: the settings; None: those of generation_config.json. Text i of several has the
            seed `sampling.seed` + i.
        stop: strings that end a text and are not part of it.
        texts: number of texts. The prompt is read once for all of them.
        logprobs: None, or how many of the most likely tokens to report with each token, 0 for the
            token alone.
        prompt_logprobs: the same for the tokens of the prompt. The prompt is then computed anew.
        shown_special: special tokens that have a text, which is their own spelling, such as markers
            of tool calls.
        constraint: makes a `Constraint` for each text.
        speculate: "ngram" or "off", see `LanguageModel.stream`. Tokens are drafted while no other
            text is computed.
        adapter: which adapters the texts take, see `LanguageModel.stream`.
    """

    prompt: str | Sequence[int]
    max_tokens: int | None = None
    sampling: Sampling | None = None
    stop: Sequence[str] = ()
    texts: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    shown_special: frozenset[int] = frozenset()
    constraint: Callable[[], Constraint] | None = None
    speculate: Literal["ngram", "off"] = "off"
    adapter: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Logprob:
    """The logarithm of a token's probability by the model's logits, before any setting.

    Attributes:
        token: the token.
        logprob: its log-probability.
        top: the most likely tokens with theirs, the most likely first.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Started:
    """The first event: the job left the queue.

    Attributes:
        prompt_tokens: number of tokens of the prompt.
        cached_tokens: how many of these were not computed again.
        queue_seconds: seconds in the queue.
    """

    prompt_tokens: int
    cached_tokens: int
    queue_seconds: float


@dataclass(frozen=True)
class PromptScored:
    """Log-probabilities of the prompt's tokens, if the job asked for them.

    Attributes:
        logprobs: one for each token; None for the first.
    """

    logprobs: Sequence[Logprob | None]


@dataclass(frozen=True)
class TokenAdded:
    """A token was chosen.

    Attributes:
        text_index: of the text, from 0.
        token: the token, also one that ends the text.
        text: text that is final now; may be "", as a character or a possible stop string waits for
            its end.
        logprob: if the job asked for it.
    """

    text_index: int
    token: int
    text: str
    logprob: Logprob | None = None


@dataclass(frozen=True)
class TextFinished:
    """A text ended; the last event of a text.

    Attributes:
        text_index: of the text, from 0.
        generation: the text as a whole. Its `text` is that of all `TokenAdded`.
    """

    text_index: int
    generation: Generation


@dataclass(frozen=True)
class Embedded:
    """All texts of an `EmbedJob` were embedded.

    Attributes:
        vectors: float32 (texts, dimensions).
        seconds: of the passes that computed them, together with texts of other jobs.
    """

    vectors: npt.NDArray[np.float32]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; the last event.

    Attributes:
        error: why.
    """

    error: Exception


@dataclass(frozen=True)
class Finished:
    """The job ended; the last event, also of one that was canceled.

    Attributes:
        canceled: whether it ended because of `cancel`.
    """

    canceled: bool = False


Event = Started | PromptScored | TokenAdded | TextFinished | Embedded | Failed | Finished
