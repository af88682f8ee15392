"""The processors of scores that settings ask for, in the order of ``transformers``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from . import processors as p
from .processors import Processor, Scores, Tokens
from .settings import Sampling


def chain_of(
    s: Sampling, prompt: Sequence[int], end_tokens: Sequence[int], limit: int | None
) -> list[Processor]:
    """Return the processors of a text.

    Args:
        s: the settings.
        prompt: tokens of the prompt.
        end_tokens: tokens that end the text.
        limit: number of tokens, prompt and text, at which the text ends in any case, or None.
    """
    chain: list[Processor] = []
    start = len(prompt)
    prompt_array, suppressed = np.array(prompt, np.int64), np.array(s.suppress_tokens, np.int64)
    if s.sequence_bias:
        chain.append(partial(p.add_biases, biases=p.Biases(dict(s.sequence_bias).items())))
    if s.logit_bias:
        singles = (((token,), bias) for token, bias in dict(s.logit_bias).items())
        chain.append(partial(p.add_biases, biases=p.Biases(singles)))
    if s.encoder_repetition_penalty != 1:
        reward = 1 / s.encoder_repetition_penalty
        chain.append(lambda scores, _: p.penalize(scores, prompt_array, reward))
    if s.repetition_penalty != 1:
        chain.append(partial(p.penalize, penalty=s.repetition_penalty))
    if s.presence_penalty or s.frequency_penalty:
        chain.append(
            partial(
                p.penalize_occurrence,
                start=start,
                presence=s.presence_penalty,
                frequency=s.frequency_penalty,
            )
        )
    if size := s.no_repeat_ngram_size:
        chain.append(lambda scores, tokens: p.forbid_ngrams(scores, tokens, tokens, size))
    if encoder_size := s.encoder_no_repeat_ngram_size:
        chain.append(
            lambda scores, tokens: p.forbid_ngrams(scores, tokens, prompt_array, encoder_size)
        )
    ends = {(token,) for token in end_tokens}
    if words := [ids for ids in s.bad_words_ids if ids not in ends]:
        forbidden = p.Biases((ids, -math.inf) for ids in words)
        chain.append(partial(p.add_biases, biases=forbidden))
    shortest = s.min_length if s.min_new_tokens is None else start + s.min_new_tokens
    if shortest > start and end_tokens:
        chain.append(_where(lambda n: n < shortest, lambda scores: p.forbid(scores, end_tokens)))
    if (first := s.forced_bos_token_id) is not None and start == 1:
        chain.append(_where(lambda n: n == 1, lambda scores: p.force(scores, [first])))
    if s.forced_eos_token_id and limit is not None:
        last = s.forced_eos_token_id
        chain.append(_where(lambda n: n == limit - 1, lambda scores: p.force(scores, last)))
    if s.remove_invalid_values:
        chain.append(lambda scores, _: p.remove_invalid(scores))
    if s.exponential_decay_length_penalty is not None and end_tokens:
        chain.append(_decay(start, end_tokens, *s.exponential_decay_length_penalty))
    if s.suppress_tokens:
        chain.append(lambda scores, _: p.forbid(scores, suppressed))
    if s.begin_suppress_tokens:
        # A forced first token is not yet the beginning.
        begin = start + 1 if start == 1 and s.forced_bos_token_id is not None else start
        chain.append(
            _where(lambda n: n == begin, lambda scores: p.forbid(scores, s.begin_suppress_tokens))
        )
    if s.renormalize_logits and s.temperature == 0:  # probabilities of drawn tokens sum to 1 anyway
        chain.append(lambda scores, _: p.normalize(scores))
    return chain


def _where(is_place: Callable[[int], bool], process: Callable[[Scores], None]) -> Processor:
    """Return a processor that acts after certain numbers of tokens only."""

    def processor(scores: Scores, tokens: Tokens) -> None:
        if is_place(len(tokens)):
            process(scores)

    return processor


def _decay(start: int, ends: Sequence[int], after: int, factor: float) -> Processor:
    def processor(scores: Scores, tokens: Tokens) -> None:
        if (n := len(tokens) - start - after) > 0:
            p.favor_ends(scores, ends, factor, n)

    return processor
