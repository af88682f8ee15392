"""A language model: a `.rsr` file that holds a whole model, ready to generate text."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from numbers import Integral
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..model import Model
from ..model import load as load_tensors
from . import generate, perplexity
from .config import Config, read_config
from .decoder import LOGIT_ROWS, Decoder
from .errors import ModelError, PromptError
from .generate import Generation, Limits, Stream, Tokens
from .kv_cache import KVCache
from .sampling import Sampling
from .session import Session
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .weights import Weights, collect

DEFAULT_CONTEXT = 4096  # positions, unless the model has fewer
DEFAULT_WINDOW = 512  # tokens of context of a perplexity

Prompt = str | Sequence[int]


class LanguageModel:
    """Generates text from a `.rsr` file alone; made by `load`. One thread at a time may use it.

    Activations are what the model was trained with: int8, one scale per token, where its layers are
    BitNet's, float32 elsewhere. Of a BitNet the same prompt and options give the same text on any
    number of threads, and whichever prompts are beside it.
    """

    def __init__(self, model: Model, context: int | None, kv: str) -> None:
        self._model = model
        self.config: Config = read_config(model.files)
        self.context = self._checked_context(context)
        self._kv = kv
        self._decoder = Decoder(self.config, collect(model, self.config), self.context)
        self._sequence = self._new_sequence()

    def _checked_context(self, context: int | None) -> int:
        most = self.config.max_positions
        if context is None:
            return min(most, DEFAULT_CONTEXT)
        if not isinstance(context, Integral) or not 1 <= context <= most:
            raise OptionError(f"context: found {context}, expected 1 to {most}, the model's limit")
        return context

    def _new_sequence(self) -> Session:
        return Session(self._decoder, KVCache(self.config, self.context, self._kv))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read when it is first asked for.

        Raises:
            ModelError: the file holds none, or it is damaged.
            DependencyError: the package tokenizers is missing.
        """
        return Tokenizer(self._model.files)

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template, read when it is first asked for.

        Raises:
            ModelError: the file holds none, or it is damaged.
            DependencyError: the package jinja2 is missing.
        """
        found = ChatTemplate.find(self._model.files)
        if found is None:
            raise ModelError(
                "the file holds no chat template, so the model was not made to chat: "
                "give it a text to go on from instead (rsrc run, or stream)"
            )
        return found

    @property
    def sampling(self) -> Sampling:
        """What generation_config.json asks for; greedy where it does not sample."""
        return Sampling.from_generation_config(dict(self.config.generation))

    @property
    def weights(self) -> Weights:
        """The tensors that it multiplies by.

        Raises:
            ClosedError: the model was closed.
        """
        return self._decoder.weights

    def phase_seconds(self) -> dict[str, float]:
        """Return the seconds spent since the model was loaded.

        The keys are "products" (linear layers), "head", "attention" and "rest".
        """
        return self._decoder.clock.seconds

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, with those that the tokenizer puts before a text.

        Raises:
            PromptError: it is empty, has a token that the model does not know, or leaves no room
                in the context.
            ClosedError: the model was closed.
        """
        tokens = self._tokens(prompt)
        if len(tokens) == self.context:
            raise self._too_long(tokens)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out; see `Tokenizer.decode`."""
        return self.tokenizer.decode(tokens)

    def _prompt(self, prompt: Prompt) -> Tokens:
        return Tokens(self.encode(prompt), isinstance(prompt, str))

    def _tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt that fits the context, be it full."""
        self._decoder.check_open()
        if isinstance(prompt, str):
            tokens = self.tokenizer.encode(prompt) if prompt else []
        else:
            try:
                if isinstance(prompt, bytes):  # whole numbers, but meant to be text
                    raise TypeError
                tokens = [operator.index(token) for token in prompt]
            except TypeError:
                raise PromptError(
                    f"found a prompt of type {type(prompt).__name__}, expected a string or tokens, "
                    "which are whole numbers"
                ) from None
        if not tokens:
            raise PromptError("the prompt is empty: give some text to go on from")
        self._check_vocabulary(tokens)
        if len(tokens) > self.context:
            raise self._too_long(tokens)
        return tokens

    def _check_vocabulary(self, tokens: Sequence[int]) -> None:
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self.config.vocab_size:
                raise PromptError(
                    f"found token {token}, and the model knows those below "
                    f"{self.config.vocab_size}: is the tokenizer another model's?"
                )

    def _too_long(self, tokens: Sequence[int]) -> PromptError:
        most = self.config.max_positions
        wider = f"load with a larger context (the model's limit is {most:,})"
        return PromptError(
            f"the prompt has {_tokens_in_words(tokens)} and leaves no room in a context of "
            f"{self.context:,}: {wider if self.context < most else 'shorten it'}"
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Stream:
        """Return the text that goes on from `prompt`, piece by piece.

        What a prompt has in common with the text before, and its answer, is not computed again.
        Several streams may be read in turns; each then computes again what another overwrote.

        Args:
            prompt: text, or tokens as they are; behind tokens a text of its own begins, as an
                answer does.
            max_tokens: of the text; None: until it ends or the context is full.
            sampling: how tokens are chosen; None: as the model's generation_config.json says.
            stop: strings that end the text, and are not part of it.

        Raises:
            PromptError: as `encode` does, or a stop string is empty.
            OptionError: max_tokens is below 1.
        """
        tokens, limits = self._prompt(prompt), self._limits(max_tokens, stop)
        return Stream(self._sequence, tokens, self.tokenizer, sampling or self.sampling, limits)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Return the whole text that goes on from `prompt`; options as for `stream`."""
        stream = self.stream(prompt, max_tokens=max_tokens, sampling=sampling, stop=stop)
        for _ in stream:
            pass
        return stream.result

    def generate_all(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Return a text for each prompt, computed side by side; options as for `stream`.

        Each has a cache of its own; the index is read once for all of them. With a seed every text
        is what its prompt would have alone.

        Raises:
            PromptError: as `encode` does; or `prompts` is one text, not several.
            OptionError: max_tokens is below 1.
        """
        if isinstance(prompts, str):
            raise PromptError("found one prompt, expected a list of them: use generate")
        tokens = [self._prompt(prompt) for prompt in prompts]
        sequences = [self._new_sequence() for _ in tokens]
        limits = self._limits(max_tokens, stop)
        try:
            return generate.generate_all(
                self._decoder, sequences, tokens, self.tokenizer, sampling or self.sampling, limits
            )
        finally:
            self._decoder.forget()  # or it would hold their caches

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation, by the model's chat template, up to the answer.

        Args:
            messages: each with "role" ("system", "user" or "assistant") and "content".

        Raises:
            ModelError: the model has no chat template.
            PromptError: its template refuses these messages.
            TemplateError: it is damaged, or fails.
            ClosedError: the model was closed.
        """
        self._decoder.check_open()
        return self.tokenizer.encode(self.template.render(messages), special=False)

    def next_logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits of what comes after `tokens`, float32 (vocab_size,).

        Of tokens that begin as those of the call before, only the others are computed.

        Raises:
            PromptError: there are none, one is not in the vocabulary, or they do not fit the
                context.
        """
        return self._sequence.follow(self._tokens(tokens)).copy()  # it was a buffer

    def bytes_per_token(self, positions: int) -> int:
        """Return the bytes that a token has to read: weights once, keys and values of `positions`.

        Reading them is what the time of a token cannot fall below.
        """
        return self.weights.nbytes + self._sequence.cache.bytes_at(positions)

    def arrays_per_token(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return views of the bytes that `bytes_per_token` counts, where a token reads them."""
        weights = [array for one in self.weights.linear for array in one.weight.arrays]
        views = [array.reshape(-1).view(np.uint8) for array in weights]
        return views + self._sequence.cache.arrays_at(positions)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits after each of `tokens`, float32 (len(tokens), vocab_size).

        Raises:
            PromptError: as `next_logits` does.
        """
        tokens = self._tokens(tokens)
        self._sequence.tokens.clear()
        result = np.empty((len(tokens), self.config.vocab_size), np.float32)
        row = 0
        for hidden in self._sequence.hidden(tokens):
            for first in range(0, len(hidden), LOGIT_ROWS):
                logits = self._decoder.logits(hidden[first : first + LOGIT_ROWS])
                result[row : row + len(logits)] = logits
                row += len(logits)
        return result

    def perplexity(
        self,
        text: str,
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> perplexity.Perplexity:
        """Return the perplexity of a text.

        Args:
            text: any length; windows of it are predicted one after the other.
            window: tokens that a prediction looks back on, at most; None: 512, or the context.
            progress: called with the tokens predicted so far, and of all.

        Raises:
            PromptError: the text has fewer than two tokens, or one that the model does not know.
            OptionError: the window is larger than the context.
            ModelError: logits are NaN or infinite, so that nothing is predicted.
            ClosedError: the model was closed.
        """
        self._decoder.check_open()
        window = min(DEFAULT_WINDOW, self.context) if window is None else window
        if not isinstance(window, Integral) or not 1 <= window <= self.context:
            raise OptionError(f"window: found {window}, expected 1 to {self.context}, the context")
        tokens = self.tokenizer.encode(text)
        if len(tokens) < 2:
            raise PromptError(f"the text has {_tokens_in_words(tokens)}, expected at least 2")
        self._check_vocabulary(tokens)
        return perplexity.measure(self._decoder, self._sequence, tokens, window, progress)

    def _limits(self, max_tokens: int | None, stop: Sequence[str]) -> Limits:
        if max_tokens is not None and (not isinstance(max_tokens, Integral) or max_tokens < 1):
            raise OptionError(f"max_tokens: found {max_tokens}, expected a number from 1 on")
        ends = set(self.config.eos_token_ids)
        if not ends and self.tokenizer.eos_id is not None:
            ends = {self.tokenizer.eos_id}
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        return Limits(self.context, max_tokens, frozenset(ends), stop)

    def close(self) -> None:
        """Let go of the file, and end what renders templates; later calls raise `ClosedError`."""
        self._decoder.close()
        self._model.close()
        if "template" in vars(self):  # was asked for
            self.template.close()

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<rsr_runtime.llm.LanguageModel: {c.architecture.name}, {c.layers} layers of "
            f"{c.hidden_size}, context {self.context}>"
        )

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _tokens_in_words(tokens: Sequence[int]) -> str:
    return "1 token" if len(tokens) == 1 else f"{len(tokens):,} tokens"


def load(
    path: str | os.PathLike[str],
    *,
    memory: str = "map",
    context: int | None = None,
    kv: Literal["float16", "float32"] = "float16",
) -> LanguageModel:
    """Open a `.rsr` file that holds a whole model.

    Args:
        path: the file, as `rsr_runtime.load` takes it.
        memory: "map" or "huge", as there.
        context: positions of prompt and text together; None: the model's limit, at most 4096.
        kv: how keys and values are kept: "float16", half the memory to read, or "float32".

    Raises:
        ModelError: it is no language model that can be run; the message says what is missing.
        DependencyError: a package of the extra `llm` is missing.
        OptionError: the context is not one the model can have, or another value of memory or kv.
        FormatError, IsaError, OSError: as `rsr_runtime.load` does.
    """
    model = load_tensors(path, memory=memory)
    try:
        return LanguageModel(model, context, kv)
    except BaseException:
        model.close()
        raise
