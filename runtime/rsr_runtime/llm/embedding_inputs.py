"""From a request for vectors to the tokens that are computed."""

from __future__ import annotations

from collections.abc import Callable

from rsr_formats.text import counted, quoted

from ..errors import OptionError
from .arguments import check_vocabulary, prompt_list, token_ids, whole_number
from .config import Config
from .embedding import Embeddings, EmbeddingText, EmbedJob
from .errors import NO_POOLING, NoPoolingError, PromptError, TextTooLongError
from .pooling import EmbeddingConfig, asked_pooling
from .tokenizer import Tokenizer
from .tokenizer.library import check_text


class EmbeddingInputs:
    """Checks the requests to one model, and encodes their texts.

    Args:
        config: the model's settings.
        embedding: how it embeds texts, None if its files do not say.
        context: number of positions.
        tokenizer: returns the tokenizer, which texts need and tokens do not.
    """

    def __init__(
        self,
        config: Config,
        embedding: EmbeddingConfig | None,
        context: int,
        tokenizer: Callable[[], Tokenizer],
    ) -> None:
        self._config = config
        self._embedding = embedding
        self._context = context
        self._tokenizer = tokenizer

    def prepared(self, job: EmbedJob) -> Embeddings:
        """Return the texts of a job as tokens; errors as for `LanguageModel.embed`."""
        pooling = asked_pooling(job.pooling, self._embedding)
        if pooling is None:
            raise NoPoolingError(NO_POOLING)
        dimension = len(pooling.modes) * self._config.hidden_size
        if job.dimensions is not None:
            whole_number("dimensions", job.dimensions, 1, dimension, "the dimensions of the model")
        prompt = self._prompt(job)
        skipped = 0 if pooling.includes_prompt or not prompt else self._prompt_tokens(prompt)
        texts: list[EmbeddingText] = []
        truncated: dict[int, int] = {}
        for number, text in enumerate(prompt_list(job.texts, "give [text], a list with one text")):
            if isinstance(text, str):
                tokens, before = self._tokenizer().encode(prompt + text), skipped
                if job.truncate and self._embedding is not None and len(tokens) > self._longest:
                    truncated[number] = len(tokens)
                    tokens = self._tokenizer().cut(prompt + text, self._longest)
            else:
                tokens, before = token_ids(text), 0
            if number in truncated and len(tokens) <= before:
                raise PromptError(
                    f"text {number} has no room after a prompt of {counted(before, 'token')}, "
                    f"expected at most {self._longest:,} of both: give a shorter prompt"
                )
            if not len(text) or len(tokens) <= before:
                raise PromptError(f"text {number} is empty: it has no tokens to embed")
            check_vocabulary(tokens, self._config.vocab_size)
            self._check_length(number, len(tokens))
            texts.append(EmbeddingText(tokens, pooling, before))
        normalizes = pooling.normalizes if job.normalize is None else job.normalize
        return Embeddings(texts, job.dimensions or dimension, normalizes, truncated)

    def _prompt(self, job: EmbedJob) -> str:
        """Return what precedes each text, "" for nothing."""
        if job.prompt is not None:
            return check_text(job.prompt)
        found = self._embedding
        prompts = {} if found is None else found.prompts
        name = job.prompt_name
        if name is None:
            name = None if found is None else found.default_prompt
        if name is None:
            return ""
        if name not in prompts:
            known = f"has {quoted(list(prompts))}" if prompts else "has no prompts"
            raise OptionError(f"prompt_name: found {name!r:.80}, but the model {known}")
        return prompts[name]

    def _prompt_tokens(self, prompt: str) -> int:
        """Return how many tokens the prompt is, without a special one that ends a text."""
        tokens = self._tokenizer().encode(prompt)
        return len(tokens) - bool(tokens and self._tokenizer().is_special(tokens[-1]))

    @property
    def _longest(self) -> int:
        """The most tokens of a text that the model was made for."""
        own = None if self._embedding is None else self._embedding.max_tokens
        limit = self._config.max_position_embeddings
        return limit if own is None else min(own, limit)

    def _check_length(self, number: int, tokens: int) -> None:
        """Check that a text fits the context, and what the model was made for."""
        most = min(self._longest, self._context)
        if tokens > most:
            raise TextTooLongError(number, tokens, most, self._longest)
