"""A language model that generates text from a `.rsr` file of a whole model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rsr_formats import __version__
from rsr_formats.pages import available_memory
from rsr_formats.text import counted, listed, quoted, shown

from ..cpu import cpu_info
from ..errors import OptionError
from ..matrix import Matrix
from ..model import Model
from ..model import load as load_tensors
from . import perplexity
from .adapters.adapter import attached, named_paths
from .arguments import (
    check_vocabulary,
    checked_sampling,
    is_speculating,
    prompt_list,
    stop_strings,
    token_ids,
    whole_number,
)
from .batch import Batch
from .config import Config, read_config
from .decoder import LOGIT_ROWS, Adapters, Decoder
from .embedding import EmbeddingPasses, Embeddings, EmbedJob
from .embedding_inputs import EmbeddingInputs
from .end_of_turn import end_of_turn_tokens
from .errors import (
    NO_HEAD,
    ContextFullError,
    NoHeadError,
    NoTemplateError,
    PromptError,
    TruncatedTextWarning,
)
from .generate import EncodedPrompt, Generation, StopCriteria, Stream, generate_all
from .kv_cache import KVCache
from .layers.attention import LANES
from .likelihood import LogLikelihood, log_likelihoods
from .pooling import EmbeddingConfig, read_embedding_config
from .prefix_cache import PrefixCache
from .sampling import Sampling
from .scarce_memory import default_context, warn_if_mapped_exceed_memory
from .session import Progress, Session, SessionPool
from .speculation import PassTimes, Speculation
from .template import ChatTemplate
from .tokenizer import Tokenizer
from .turns import Turns
from .untrusted import encode_untrusted
from .weights import Weights, collect

DEFAULT_CONTEXT = 4096  # positions, or the model's limit if that is lower
DEFAULT_WINDOW = 512  # tokens in a window of `perplexity`
_BATCH_BYTES = 1 << 30  # of the keys and values of `log_likelihoods`, unless one text needs more
_MAX_LISTED = 5  # texts that a warning names

# What a further row of a pass costs, in passes of one row, where speculation must not measure it.
_ASSUMED_COST = 0.6

AdapterChoice = str | Sequence[str] | None
AdapterPaths = Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
Prompt = str | Sequence[int] | npt.NDArray[np.integer]  # or tokens as an array of another library


class ChatPrompt(list[int]):
    """The tokens of a conversation; a text after them is an answer and ends as a turn does."""


class LanguageModel:
    """Generates text; made by `load`. Several threads may use it at the same time.

    They take turns, pass by pass, and each gets the text that it would get alone. Texts that are
    generated at the same time have a KV cache each.

    A model is pickled as the path of its file, see `rsr_runtime.Model`.

    Layers of a BitNet take int8 activations with one scale per token, other layers take float32, as
    in training, unless `load` was asked for others. A BitNet with its trained activations
    gives the same text for the same prompt and options on any number of threads and in a batch with
    any other prompts.

    Attributes:
        config: the model's settings.
        context: number of positions for prompt and text.
        adapters: names of the LoRA adapters, in the order in which they were given.
    """

    def __init__(
        self,
        model: Model,
        context: int | None,
        kv: str,
        activations: str = "trained",
        adapters: AdapterPaths = (),
    ) -> None:
        if activations not in ("trained", "float32", "int8-group"):
            raise OptionError(
                f"activations: found {activations!r}, expected 'trained', 'float32' or 'int8-group'"
            )
        self._model = model
        self.config: Config = read_config(model.files, model.metadata)
        self._kv = kv
        self._activations = activations
        self._adapter_paths = named_paths(adapters)
        weights = collect(model, self.config, activations)
        mapped = 0 if model.mapped_bytes() == 0 else sum(w.weight.nbytes for w in weights.linear)
        warn_if_mapped_exceed_memory(mapped)
        self.context = self._checked_context(context, mapped)
        weights, self._adapters = attached(weights, self._adapter_paths)
        self.adapters = tuple(self._adapter_paths)
        self._decoder = Decoder(self.config, weights, self.context)
        timer = self._decoder.phase_timer
        # Experts stay mapped: moving all takes as long as it would for a dense model of their size,
        # a token reads few of them, and the system can drop the pages of those that are not chosen.
        moved = (layer.weight.name for layer in weights.linear if layer.share == 1)
        model.move_by(moved, timer.product_seconds)
        self._sessions = SessionPool(self._decoder, self.new_session)
        self._sessions.give_back(self.new_session())
        self._pass_times = PassTimes(None if self._has_exact_rows() else _ASSUMED_COST)
        self._reading = Turns("the model")
        self._tokenizer: Tokenizer | None = None
        self._template: ChatTemplate | None = None

    def _checked_context(self, context: int | None, mapped: int) -> int:
        limit = self.config.max_position_embeddings
        if context is None:
            most = min(limit, DEFAULT_CONTEXT)
            position_bytes = KVCache(self.config, LANES, self._kv).position_bytes
            return default_context(most, position_bytes, mapped, self._kv)
        return whole_number("context", context, 1, limit, "the model's limit")

    def _has_exact_rows(self) -> bool:
        """Return whether a token has the same logits in a pass of any number of rows.

        Else a text may depend on the lengths of its drafts, so measured times must not decide them.
        """
        return all(
            layer.activations == "int8" or not isinstance(layer.weight, Matrix)
            for layer in self.weights.linear
        )

    def check_generates(self) -> None:
        """Raise NoHeadError if the model has no output head: it embeds texts only."""
        if self.weights.lm_head is None:
            raise NoHeadError(NO_HEAD)

    def chosen_adapters(self, adapter: AdapterChoice) -> Adapters:
        """Return names of adapters, each once and in the order of `adapters`.

        Args:
            adapter: a name, or several; None: none.

        Raises:
            OptionError: one is not the name of an adapter.
        """
        if isinstance(adapter, (str, bytes)):
            adapter = (adapter,)
        names = () if adapter is None else adapter
        known = self.adapters
        if isinstance(names, Sequence) and all(name in known for name in names):
            return tuple(name for name in known if name in names)
        expected = quoted(known) if known else "none: the model was loaded without adapters"
        raise OptionError(f"adapter: found {shown(adapter)}, expected {expected}")

    def new_session(self) -> Session:
        """Return an empty sequence with its own KV cache.

        Raises:
            OptionError: there is not enough memory for the cache.
        """
        return Session(self._decoder, KVCache(self.config, self.context, self._kv))

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read on first access.

        Raises:
            ModelError: the file has none, or it is damaged.
            DependencyError: the package tokenizers is missing.
        """
        if self._tokenizer is None:
            with self._reading.turn():
                self._tokenizer = self._tokenizer or Tokenizer(self._model.files)
        return self._tokenizer

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template, read on first access.

        Raises:
            ModelError: the file has none.
            TemplateError: it is damaged.
            DependencyError: the package jinja2 is missing.
        """
        if self._template is None:
            with self._reading.turn():
                self._template = self._template or ChatTemplate.find(self._model.files)
        if self._template is None:
            raise NoTemplateError(
                "the file has no chat template, so the model is not made for chat: "
                "give it a text to continue (rsrc run)"
            )
        return self._template

    @property
    def sampling(self) -> Sampling:
        """The sampling of generation_config.json; greedy unless it sets do_sample.

        Raises:
            ModelError: a value in the file has the wrong type or is out of range.
        """
        return Sampling.from_generation_config(self.config.generation_config)

    @cached_property
    def embedding(self) -> EmbeddingConfig | None:
        """How the model embeds texts; None if its files do not say.

        Raises:
            ModelError: one of the files is damaged, or asks for what is not supported.
        """
        return read_embedding_config(self._model.files, self.config.hidden_size)

    @property
    def weights(self) -> Weights:
        """The model's tensors.

        Raises:
            ClosedError: the model was closed.
        """
        return self._decoder.weights

    def check_weights(self) -> None:
        """Check the scales of all matrices, and permuted indexes, before their first use does.

        Raises:
            FormatError: one is damaged.
            ClosedError: the model was closed.
        """
        for matrix in self._model.matrices():
            _ = matrix.arrays

    def phase_seconds(self) -> dict[str, float]:
        """Return the seconds spent since the model was loaded.

        The keys are "products" (linear layers), "head", "attention" and "rest".
        """
        return self._decoder.phase_timer.seconds

    def use_huge_pages(self) -> None:
        """Move a model with memory "auto" into huge pages now, see `Model.use_huge_pages`.

        Raises:
            ClosedError: the model was closed.
        """
        self._model.use_huge_pages()

    def huge_page_bytes(self) -> int:
        """Return how many bytes of the file lie in huge pages; 0 if the system does not say.

        Raises:
            ClosedError: the model was closed.
        """
        return self._model.huge_page_bytes()

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, including those that the tokenizer adds to a text.

        Raises:
            PromptError: the prompt is empty, has a token outside the vocabulary, or leaves no room
                in the context (`ContextFullError`).
            ClosedError: the model was closed.
        """
        tokens = self._tokens(prompt)
        if len(tokens) == self.context:
            raise self._too_long(tokens)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without special tokens; see `Tokenizer.decode`."""
        return self.tokenizer.decode(token_ids(tokens))

    def new_batch(
        self,
        slots: int,
        kept: int = 0,
        longest_pass: float | None = None,
        longest_alone: float | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Batch[Any]:
        """Return a `Batch` of this model's texts, without any.

        Raises:
            OptionError: `cache_dir`, the folder of a `PrefixCache`, cannot be used.
        """
        stored = None
        if cache_dir is not None:
            stored = PrefixCache(cache_dir, self._cache_keys(), self.context)
        return Batch(
            self._decoder, self.new_session, slots, kept, longest_pass, longest_alone, stored
        )

    def _cache_keys(self) -> dict[Adapters, bytes]:
        """Return, without adapters, for each and for all, a hash of what keys and values depend on.

        Instruction sets may differ in the last bits of floats.
        """
        settings = self.context, self._kv, self._activations, cpu_info()["isa"], __version__
        base = hashlib.sha256(self._model.digest + repr(settings).encode()).digest()
        keys: dict[Adapters, bytes] = {(): base}
        for some in (*([one] for one in self._adapters), self._adapters):
            if some:
                digests = b"".join(one.digest for one in some)
                keys[tuple(one.name for one in some)] = hashlib.sha256(base + digests).digest()
        return keys

    def new_embedding_passes(self, most: int) -> EmbeddingPasses:
        """Return what computes the texts of `Embeddings`, without any.

        Args:
            most: requests that are computed side by side.
        """

        def create(positions: int) -> KVCache:
            cache = KVCache(self.config, positions, self._kv)
            cache.check_room(positions)
            return cache

        return EmbeddingPasses(self._decoder, create, most)

    def prepared_embeddings(self, job: EmbedJob) -> Embeddings:
        """Return the texts of a job as tokens; errors as for `embed`."""
        self._decoder.check_open()
        inputs = EmbeddingInputs(self.config, self.embedding, self.context, lambda: self.tokenizer)
        return inputs.prepared(job)

    def new_speculation(self, speculate: str) -> Speculation | None:
        """Return the drafts of a text, None if `speculate` is "off".

        Raises:
            OptionError: it is neither "ngram" nor "off".
        """
        return Speculation(self._pass_times) if is_speculating(speculate) else None

    def prepared(
        self,
        prompt: Prompt,
        max_tokens: int | None,
        sampling: Sampling | None,
        stop: Sequence[str],
    ) -> tuple[EncodedPrompt, Sampling, StopCriteria]:
        """Return what a `Text` is made of; options and errors as for `stream`.

        With 0 as `max_tokens`, which is for prompts that are only read, the prompt may fill the
        context.
        """
        if max_tokens == 0:
            tokens = EncodedPrompt(self._tokens(prompt), isinstance(prompt, str))
            return (tokens, *self._settings(1, sampling, stop))
        return (self._prompt(prompt), *self._settings(max_tokens, sampling, stop))

    def _prompt(self, prompt: Prompt) -> EncodedPrompt:
        is_chat = isinstance(prompt, ChatPrompt)
        ends = end_of_turn_tokens(self.tokenizer) if is_chat else frozenset()
        return EncodedPrompt(self.encode(prompt), isinstance(prompt, str), ends)

    def _tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, which may fill the context."""
        self._decoder.check_open()
        if isinstance(prompt, str):
            tokens = self.tokenizer.encode(prompt) if prompt else []
        else:
            tokens = token_ids(prompt)
        if not tokens:
            raise PromptError("the prompt is empty: give a text to continue")
        check_vocabulary(tokens, self.config.vocab_size)
        if len(tokens) > self.context:
            raise self._too_long(tokens)
        return tokens

    def _too_long(self, tokens: Sequence[int]) -> ContextFullError:
        limit = self.config.max_position_embeddings
        return ContextFullError(len(tokens), self.context, limit)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
        speculate: Literal["ngram", "off"] = "off",
        adapter: AdapterChoice = None,
    ) -> Stream:
        """Return the text that continues `prompt`, piece by piece.

        The prefix that a prompt shares with a previous prompt and its text is not computed again.
        Several streams may be read in turns or by several threads; each then has its own KV cache.

        Args:
            prompt: text to continue, or tokens, after which a new text begins. After a `ChatPrompt`
                an answer begins, which also ends at the tokenizer's eos token and at other tokens
                known to end a turn.
            max_tokens: maximum tokens of the text; None: as `sampling` says, else until it ends or
                the context is full.
            sampling: the settings; None: those of generation_config.json. They may hold a maximum
                of tokens and stop strings too, which `max_tokens` and `stop` replace.
            stop: strings that end the text and are not part of it. One that is a special token
                stops at that token.
            progress: called while the prompt is read, with the number of its tokens read so far
                and the number of all. If it raises an exception, the stream can be read on.
            speculate: "ngram": guess that the text repeats a part of itself or of the prompt, and
                compute several tokens in one pass where that pays. The text of a BitNet is the same
                with and without it; with float32 activations, the last bits of a logit depend on
                the number of tokens in a pass.
            adapter: which of `adapters` the text takes, a name or several names; None: none.

        Raises:
            PromptError: as for `encode`, the prompt is longer than a `max_length` in the settings
                allows, or a stop string is empty.
            OptionError: max_tokens is below 1, speculate has another value, a setting names a
                token that the model lacks, or `adapter` an adapter that it lacks.
            ModelError: a setting in generation_config.json is invalid.
        """
        tokens, settings = self._prompt(prompt), self._settings(max_tokens, sampling, stop)
        speculation, adapters = self.new_speculation(speculate), self.chosen_adapters(adapter)
        return Stream(
            self._sessions, tokens, self.tokenizer, *settings, progress, speculation, adapters
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        speculate: Literal["ngram", "off"] = "off",
        adapter: AdapterChoice = None,
    ) -> Generation:
        """Return the text that continues `prompt`, as a whole; options as for `stream`."""
        stream = self.stream(
            prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            speculate=speculate,
            adapter=adapter,
        )
        for _ in stream:
            pass
        return stream.result

    def generate_all(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = None,
        sampling: Sampling | Sequence[Sampling] | None = None,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
        adapter: str | Sequence[AdapterChoice] | None = None,
    ) -> list[Generation]:
        """Return a text for each prompt, computed side by side; options as for `stream`.

        Each prompt has its own KV cache, and each step reads the weights once for all prompts. With
        a seed, each text is the one that its prompt would yield alone. `sampling` may be a list
        with the settings of each prompt, and `adapter` one with what each takes.

        Raises:
            PromptError: as for `encode`, or `prompts` is a single text.
            OptionError: as for `stream`, there is not enough memory for the caches, or a list of
                settings or adapters has another length.
            ModelError: as for `stream`.
        """
        tokens = [self._prompt(prompt) for prompt in prompt_list(prompts)]
        if isinstance(sampling, Sequence):
            if len(sampling) != len(tokens):
                raise OptionError(
                    f"sampling: found settings for {counted(len(sampling), 'prompt')}, expected "
                    f"{len(tokens):,}: one for each prompt"
                )
            settings = [self._settings(max_tokens, one, stop) for one in sampling]
        else:
            settings = [self._settings(max_tokens, sampling, stop)] * len(tokens)
        if isinstance(adapter, Sequence) and not isinstance(adapter, (str, bytes)):
            if len(adapter) != len(tokens):
                raise OptionError(
                    f"adapter: found those of {counted(len(adapter), 'prompt')}, expected "
                    f"{len(tokens):,}: one for each prompt"
                )
            adapters = [self.chosen_adapters(one) for one in adapter]
        else:
            adapters = [self.chosen_adapters(adapter)] * len(tokens)
        batch = self.new_batch(LOGIT_ROWS)
        try:
            return generate_all(batch, tokens, self.tokenizer, settings, adapters, progress)
        finally:
            for session in batch.sessions:
                self._decoder.forget(session.cache)

    def chat_prompt(
        self,
        /,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        allow_special_tokens: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the tokens of a conversation up to the answer, by the model's chat template.

        Args:
            messages: each with "role" ("system", "user", "assistant" or "tool") and "content".
            tools: descriptions of functions that the model may call, for the template.
            allow_special_tokens: special tokens spelled out in a message become those tokens, as
                in transformers. False: only in messages of the assistant; in all others, in tools
                and in variables they are plain text, so that a message cannot pretend to be
                several.
            variables: further variables for the template, of types that JSON has
                (enable_thinking=False).

        Raises:
            ModelError: the model has no chat template.
            PromptError: the template rejects the messages, or they are malformed.
            TemplateError: the template is damaged, or fails.
            ClosedError: the model was closed.
        """
        self._decoder.check_open()
        variables = {"tools": tools, **variables}
        try:
            if allow_special_tokens:
                text = self.template.render(messages, **variables)
                return ChatPrompt(self.tokenizer.encode(text, special=False))
            return ChatPrompt(encode_untrusted(self.template, self.tokenizer, messages, variables))
        finally:
            if self._decoder.is_closed and self._template is not None:  # meanwhile
                self._template.close()

    def next_logits(
        self, tokens: Prompt, *, adapter: AdapterChoice = None
    ) -> npt.NDArray[np.float32]:
        """Return the logits of the token after `tokens`, float32 (vocab_size,).

        The prefix that `tokens` shares with a previous call is not computed again. `adapter` is as
        for `stream`.

        Raises:
            PromptError: `tokens` is empty, has a token outside the vocabulary, or does not fit the
                context.
            OptionError: the model lacks an adapter.
            ClosedError: the model was closed.
        """
        self.check_generates()
        tokens = self._tokens(tokens)
        with self._sessions.taken(tokens, self.chosen_adapters(adapter)) as session:
            return session.follow(tokens)

    def embed(
        self,
        texts: Sequence[Prompt],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        pooling: str | None = None,
        truncate: bool = True,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return a vector for each text, as sentence-transformers computes them.

        The model's modules.json and 1_Pooling/config.json say how the states of a text's tokens
        become one vector. Passes compute several texts at once. What many texts begin with, such as
        an instruction, is computed once.

        Args:
            texts: texts, or the tokens of each, which include those that the tokenizer adds.
            prompt: what precedes each text, such as an instruction; tokens have none. None: as
                `prompt_name` says.
            prompt_name: one of `embedding.prompts`; None: the model's default prompt, if it has
                one.
            dimensions: how many of the dimensions to keep, the first ones, as models allow that
                were trained for it; None: all.
            normalize: whether vectors get length 1, after they were cut; None: as the model says.
            pooling: "lasttoken", "mean", "cls", "max", "mean_sqrt_len_tokens" or "weightedmean";
                None: as the model says.
            truncate: cut texts that have more tokens than the model was made for, as
                sentence-transformers does, and warn (`TruncatedTextWarning`). False, and for
                tokens, and if the model does not say how it embeds texts: refuse them.
            progress: called with the number of tokens computed so far and the number of all.

        Returns:
            float32 (texts, dimensions).

        Raises:
            NoPoolingError: the model does not say how it pools, and `pooling` is None.
            PromptError: `texts` is a single text, or one is empty, has a token outside the
                vocabulary or does not fit the context.
            OptionError: another argument has a value that it cannot have, or there is not enough
                memory.
            ClosedError: the model was closed.
        """
        job = EmbedJob(texts, prompt, prompt_name, dimensions, normalize, pooling, truncate)
        embeddings = self.prepared_embeddings(job)
        if embeddings.truncated:
            warnings.warn(_cut(embeddings), TruncatedTextWarning, stacklevel=2)
        passes = self.new_embedding_passes(1)
        if embeddings.texts:
            passes.add(embeddings)
        try:
            while passes:
                for _, error in passes.step().failed:
                    raise error
                if progress is not None:
                    progress(embeddings.done, embeddings.tokens)
        finally:
            passes.remove(embeddings)
        return embeddings.vectors()

    def bytes_per_token(self, positions: int) -> int:
        """Return the number of bytes that a token reads: all weights and `positions` of the cache.

        Of the experts of a layer those count that a token takes.
        The embedding does not count, because a token reads one row of it. The time to read these
        bytes is a lower bound on the time of a token.
        """
        return sum(array.nbytes for array in self.arrays_per_token(positions))

    def arrays_per_token(self, positions: int) -> list[npt.NDArray[np.uint8]]:
        """Return views, uint8, of the bytes that `bytes_per_token` counts."""
        positions = whole_number("positions", positions, 0, self.context, "the context")
        weights = [array for layer in self.weights.linear_of_a_token for array in layer.arrays]
        views = [array.reshape(-1).view(np.uint8) for array in weights]
        with self._sessions.taken([]) as session:
            return views + session.cache.arrays_at(positions)

    def logits(self, tokens: Prompt, *, adapter: AdapterChoice = None) -> npt.NDArray[np.float32]:
        """Return the logits after each of `tokens`, float32 (len(tokens), vocab_size).

        Raises:
            PromptError, OptionError, ClosedError: as for `next_logits`.
        """
        self.check_generates()
        tokens = self._tokens(tokens)
        result = np.empty((len(tokens), self.config.vocab_size), np.float32)
        done = 0
        with self._sessions.taken([], self.chosen_adapters(adapter)) as session:
            for logits in session.logits(tokens):
                result[done : done + len(logits)] = logits
                done += len(logits)
        return result

    def log_likelihoods(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        progress: Progress | None = None,
        adapter: AdapterChoice = None,
    ) -> list[LogLikelihood]:
        """Return the log-likelihood of each continuation after its context.

        Requests are computed side by side, and what they share at their beginning only once.

        Args:
            requests: pairs of context and continuation, the tokens of each. The context predicts
                the first token of the continuation, whose last token predicts nothing.
            progress: called with the number of requests that are done, and the number of all.
            adapter: as for `stream`.

        Raises:
            PromptError: a context or continuation has no tokens, or one outside the vocabulary, or
                both have more tokens than the context has positions, but for the last one.
            OptionError: there is not enough memory, or the model lacks an adapter.
            ModelError: a logit is NaN or infinite.
            ClosedError: the model was closed.
        """
        self.check_generates()
        adapters = self.chosen_adapters(adapter)
        pairs = [(token_ids(context), token_ids(tokens)) for context, tokens in requests]
        for number, (context, tokens) in enumerate(pairs):
            if not context or not tokens:
                empty = "continuation" if context else "context"
                raise PromptError(f"request {number} has an empty {empty}, expected tokens in both")
            check_vocabulary([*context, *tokens], self.config.vocab_size)
            if len(context) + len(tokens) - 1 > self.context:
                raise self._too_long([*context, *tokens[:-1]])
        longest = max((len(context) + len(tokens) - 1 for context, tokens in pairs), default=1)
        batch = self._batch_of(longest)
        try:
            return log_likelihoods(batch, pairs, progress, adapters)
        finally:
            for session in batch.sessions:
                self._decoder.forget(session.cache)

    def _batch_of(self, positions: int) -> Batch[Any]:
        """Return a batch of sequences of up to `positions` tokens, as many as memory suggests."""

        def create() -> Session:
            return Session(self._decoder, KVCache(self.config, positions, self._kv))

        cache = create().cache
        nbytes = sum(array.nbytes for array in [*cache.prefix(positions), *cache.summed(0)])
        available = available_memory()
        most = _BATCH_BYTES if available is None else min(_BATCH_BYTES, available.nbytes // 4)
        return Batch(self._decoder, create, max(1, min(LOGIT_ROWS, most // nbytes)))

    def perplexity(
        self,
        text: str,
        window: int | None = None,
        progress: Progress | None = None,
        adapter: AdapterChoice = None,
    ) -> perplexity.Perplexity:
        """Return the perplexity of a text.

        Args:
            text: of any length. It is cut into windows that are predicted one after the other.
            window: maximum tokens that a prediction sees; None: 512, or the context if smaller.
            progress: called with the number of tokens predicted so far and the number of all.
            adapter: as for `stream`.

        Raises:
            PromptError: the text has fewer than two tokens, or one outside the vocabulary.
            OptionError: the window is not 1 to the context, or the model lacks an adapter.
            ModelError: a logit is NaN or infinite.
            ClosedError: the model was closed.
        """
        self.check_generates()
        window = min(DEFAULT_WINDOW, self.context) if window is None else window
        window = whole_number("window", window, 1, self.context, "the context")
        tokens = self.tokenizer.encode(text)
        if len(tokens) < 2:
            raise PromptError(f"the text has {counted(len(tokens), 'token')}, expected at least 2")
        check_vocabulary(tokens, self.config.vocab_size)
        with self._sessions.taken([], self.chosen_adapters(adapter)) as session:
            return perplexity.measure(session, tokens, window, progress)

    def _settings(
        self, max_tokens: int | None, sampling: Sampling | None, stop: Sequence[str]
    ) -> tuple[Sampling, StopCriteria]:
        """Return what the options and generation_config.json ask for; the options win.

        Raises:
            NoHeadError: the model has no output head.
        """
        self.check_generates()
        given: dict[str, Any] = {}
        if max_tokens is not None:
            given["max_new_tokens"] = whole_number("max_tokens", max_tokens, 1)
        if stop := stop_strings(stop):
            given["stop_strings"] = ()
        if sampling is None:
            sampling = Sampling.from_generation_config(self.config.generation_config, **given)
        else:
            sampling = dataclasses.replace(checked_sampling(sampling), **given)
        sampling.check_tokens(self.config.vocab_size)
        stop = stop or tuple(sampling.stop_strings)
        until = StopCriteria(
            self.context,
            self._end_tokens(),
            stop,
            sampling.max_new_tokens,
            sampling.max_length,
            sampling.max_time,
            self._stop_tokens(stop),
        )
        return sampling, until

    def _end_tokens(self) -> frozenset[int]:
        """Return the tokens that end a text."""
        ends = self.config.eos_token_ids
        if not ends and self.tokenizer.eos_id is not None:
            ends = (self.tokenizer.eos_id,)
        return frozenset(ends)

    def _stop_tokens(self, stop: Sequence[str]) -> frozenset[int]:
        """Return the special tokens in `stop`: they have no text that could be searched."""
        named = [self.tokenizer.token_id(text) for text in stop if isinstance(text, str)]
        return frozenset(i for i in named if i is not None and self.tokenizer.is_special(i))

    def close(self) -> None:
        """Release the file and end the template process; later calls raise `ClosedError`.

        So do the calls of other threads, after the pass that they are in; the file is released
        then.
        """
        self._decoder.close()
        self._model.close()
        self._sessions.trim()
        if self._template is not None:
            self._template.close()

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<rsr_runtime.llm.LanguageModel: {c.architecture.name}, "
            f"{c.num_hidden_layers} layers of {c.hidden_size}, context {self.context}>"
        )

    def __reduce__(self) -> tuple[type[LanguageModel], tuple[Any, ...]]:
        settings = self.context, self._kv, self._activations, self._adapter_paths
        return LanguageModel, (self._model, *settings)

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cut(embeddings: Embeddings) -> str:
    """Say which texts were cut."""
    texts = [f"text {i} has {tokens:,}" for i, tokens in embeddings.truncated.items()]
    most = len(embeddings.texts[next(iter(embeddings.truncated))].ids)
    return (
        f"{counted(len(texts), 'text')} cut to {most:,} tokens, the most that the model was made "
        f"for: {listed(texts, _MAX_LISTED)}"
    )


def load(
    path: str | os.PathLike[str],
    *,
    memory: str = "auto",
    context: int | None = None,
    kv: Literal["float16", "float32", "int8"] = "float16",
    activations: Literal["trained", "float32", "int8-group"] = "trained",
    adapters: AdapterPaths = (),
) -> LanguageModel:
    """Open a `.rsr` file of a whole model.

    Args:
        path: the file, see `rsr_runtime.load`.
        memory: "auto", "map" or "huge", see `rsr_runtime.load`. "auto" moves what tokens read into
            huge pages once products have taken so long that this pays, which a short text does not
            reach.
        context: positions for prompt and text; None: the model's limit, but at most 4096, and
            fewer if keys and values of so many may take more than half of the memory that the file
            leaves (`ScarceMemoryWarning`).
        kv: dtype of the KV cache: "float16", "float32", or "int8" with one scale for each position
            of a head, which reads half the bytes of float16.
        activations: what layers with indexed weights take: "trained", what the model was trained
            with; "float32"; or "int8-group", int8 with a scale per token and group of columns (see
            `Matrix.linear`) where layers were not trained with int8. Other layers ignore it.
        adapters: LoRA adapters of PEFT, directories with adapter_config.json and
            adapter_model.safetensors, which are named like their directories; or a map of names to
            directories. Each text chooses those that it takes, see `LanguageModel.stream`.

    Raises:
        ModelError: the file is not a language model that can be run; the message says why.
        AdapterError: an adapter is damaged, of a kind that is not supported, or made for another
            model.
        OptionError: `context` exceeds the model's limit, `memory`, `kv` or `activations` has
            another value, two adapters have the same name, or there is not enough memory.
        FormatError, IsaError, OSError: as for `rsr_runtime.load`.
    """
    model = load_tensors(path, memory=memory)
    try:
        return LanguageModel(model, context, kv, activations, adapters)
    except BaseException:
        model.close()
        raise
