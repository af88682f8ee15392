"""A model of a `.rsr` file as lm-evaluation-harness sees it.

Tokens, windows and truncation are those of the harness's own model for transformers (HFLM), so that
results are comparable. Everything else is the runtime's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rsr_formats.text import counted

from .. import llm
from .errors import TaskError
from .generation import GenerationSettings

Progress = Callable[[str, int, int], None]
TokenRequest = tuple[Any, list[int], list[int]]  # what it is called, context, continuation
MAX_GEN_TOKS = 256  # tokens of a text, if the task does not say


def ignore(what: str, done: int, total: int) -> None:
    """Report nothing."""


@register_model("rsr")
class RsrLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers the requests of lm-evaluation-harness.

    Args:
        model: a loaded model, or the path of a `.rsr` file.
        progress: called with what is computed, how much of it is done, and how much there is.
        adapter: as for `LanguageModel.stream`.
        options: of `llm.load`, if `model` is a path.

    Attributes:
        truncated: number of requests so far that were longer than the context, and lost tokens at
            their beginning.

    Raises:
        NoHeadError: the model has no output head.
        ModelError: it has no tokenizer.
        PromptError, ...: as for `llm.load`.
    """

    def __init__(
        self,
        model: llm.LanguageModel | str | os.PathLike[str],
        progress: Progress = ignore,
        adapter: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        loaded = model if isinstance(model, llm.LanguageModel) else llm.load(model, **options)
        loaded.check_generates()
        self._model, self._tokens = loaded, loaded.tokenizer
        self._progress, self._adapter = progress, loaded.chosen_adapters(adapter)
        self.truncated = 0

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self._tokens.eos_id

    @cached_property
    def prefix_token_id(self) -> int:
        """The token that precedes a text without a context.

        Raises:
            ModelError: the tokenizer has neither a token that begins a text nor one that ends it.
        """
        for token in (self._tokens.bos_id, self._tokens.eos_id):
            if token is not None:
                return token
        raise llm.ModelError(
            "the tokenizer names neither a bos_token nor an eos_token, one of which must precede "
            "the first token that is predicted"
        )

    @property
    def max_length(self) -> int:
        """The most tokens that a prediction sees."""
        return self._model.context

    @cached_property
    def _prefix_text(self) -> str:
        return self._tokens.decode([self.prefix_token_id], skip_special=False)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Return the tokens of a text.

        Args:
            string: the text.
            add_special_tokens: add the tokens that the tokenizer puts around a text. None: unless
                the text has them already, as one of a chat template does.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._prefix_text)
        return self._tokens.encode(string, special=add_special_tokens)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], **_: object
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitting(context, tokens) for _, context, tokens in requests]
        return [*self._log_likelihoods(pairs, "log-likelihoods")]

    def _log_likelihoods(
        self, pairs: Sequence[tuple[list[int], list[int]]], what: str
    ) -> list[llm.LogLikelihood]:
        return self._model.log_likelihoods(pairs, progress=self._shown(what), adapter=self._adapter)

    def _fitting(self, context: list[int], tokens: list[int]) -> tuple[list[int], list[int]]:
        """Return a context without the tokens at its beginning that do not fit.

        Raises:
            TaskError: not even the continuation fits.
        """
        excess = len(context) + len(tokens) - 1 - self.max_length
        if excess <= 0:
            return context, tokens
        if excess >= len(context):
            raise TaskError(
                f"a continuation has {counted(len(tokens), 'token')}, expected at most "
                f"{self.max_length:,}; {self._wider}"
            )
        self.truncated += 1
        return context[excess:], tokens

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Return the log-likelihood of each text, in windows of `max_length` tokens."""
        pairs: list[tuple[list[int], list[int]]] = []
        counts = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            found = [make_disjoint_window(window) for window in windows]
            counts.append(len(found))
            pairs += found
        scores = iter(self._log_likelihoods(pairs, "windows of texts"))
        return [sum(next(scores).value for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return a text for each prompt, which ends before one of the strings of the request.

        Raises:
            TaskError: a request asks for what is not supported, or its text does not fit.
        """
        groups: dict[GenerationSettings, list[int]] = {}
        for number, request in enumerate(requests):
            settings = GenerationSettings.of(request.args[1], MAX_GEN_TOKS)
            groups.setdefault(settings, []).append(number)
        texts = [""] * len(requests)
        for settings, numbers in groups.items():
            prompts = [self._prompt(requests[i].args[0], settings.max_tokens) for i in numbers]
            found = self._model.generate_all(
                prompts,
                max_tokens=settings.max_tokens,
                sampling=settings.sampling(self._model.config.generation_config, len(prompts)),
                stop=[*settings.until, *self._end_text],
                progress=self._shown("tokens of prompts"),
                adapter=[self._adapter] * len(prompts),
            )
            for number, one in zip(numbers, found, strict=True):
                text = self._tokens.decode(one.tokens)
                texts[number] = postprocess_generated_text(text, [*settings.until], None)
        return texts

    @cached_property
    def _end_text(self) -> list[str]:
        """The token that ends a text, as a further string that does; [] if it has no text."""
        end = self.eot_token_id
        return [] if end is None else [self._tokens.decode([end], skip_special=False)]

    def _prompt(self, text: str, max_tokens: int) -> list[int]:
        """Return the tokens of a prompt that leaves room for a text."""
        room = self.max_length - max_tokens
        if room <= 0:
            raise TaskError(
                f"a task asks for texts of up to {counted(max_tokens, 'token')}, which leaves no "
                f"room for a prompt in a context of {self.max_length:,}; {self._wider}"
            )
        tokens = self.tok_encode(text)
        self.truncated += len(tokens) > room
        return tokens[-room:]

    @property
    def _wider(self) -> str:
        limit = self._model.config.max_position_embeddings
        return f"load the model with a larger context (its limit is {limit:,})"

    def _shown(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(what, done, total)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt for a conversation by the model's chat template.

        Args:
            chat_history: messages, each with "role" and "content".
            add_generation_prompt: end with the beginning of an answer; else the last message is an
                answer that goes on. A system message is left out if the template rejects it.

        Raises:
            ModelError: the model has no chat template.
            PromptError, TemplateError: as for `LanguageModel.chat_prompt`.
        """
        template = self._model.template
        render = template.render if add_generation_prompt else template.render_unfinished
        try:
            return render(chat_history)
        except llm.PromptError:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            return render(others)  # some templates have no place for a system message

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the source of the chat template; None if none is to be applied."""
        return self._model.template.source if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """A name for what the chat template makes of conversations."""
        return hashlib.sha256(self._model.template.source.encode()).hexdigest()
