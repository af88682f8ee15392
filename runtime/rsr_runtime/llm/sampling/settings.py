"""The settings of text generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

from rsr_formats.text import shown

from ...errors import OptionError
from ...inputs import kind_of
from ..errors import ModelError
from . import checks

Tokens = tuple[int, ...]

_DEFAULT_TOP_K = 50  # transformers' default if do_sample is true

# Only used where tokens are drawn.
_FILTERS = {
    "temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
}  # fmt: skip
# Not settings of transformers.
_OWN = {"seed", "presence_penalty", "frequency_penalty", "logit_bias"}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when a text ends.

    All but `seed`, `presence_penalty`, `frequency_penalty` and `logit_bias` are settings of
    generation_config.json and do what they do in ``transformers``, to which the prompt is the
    encoder's input. Lists are kept as tuples, and mappings as tuples of pairs.

    Args:
        temperature: divisor of the logits; 0 always takes the most likely token (greedy).
        top_k: draw from the k most likely tokens, and any as likely as the k-th; 0 is off.
        top_p: draw from the smallest set of most likely tokens whose probabilities sum to at least
            this much; 1 is off.
        min_p: draw from tokens at least this fraction as likely as the most likely; 0 is off.
        repetition_penalty: positive logits of tokens seen before are divided by it, negative ones
            multiplied, for greedy sampling too; 1 is off.
        seed: seed of the draws; None takes a new one each time.
        typical_p: draw from the tokens whose information is nearest to the expected one and whose
            probabilities sum to this much; 1 is off.
        top_h: draw from the most likely tokens whose share of the entropy of the 100 most likely
            ones is at most this much; None is off.
        epsilon_cutoff: draw from tokens at least this likely; 0 and 1 are off.
        eta_cutoff: the same, with a limit that adapts to the entropy; 0 and 1 are off.
        presence_penalty: subtracted from the logit of each token of the text so far, without the
            prompt; -2 to 2.
        frequency_penalty: the same, as often as the token occurs; -2 to 2.
        logit_bias: what to add to the logit of a token: {token: bias}; -inf forbids it.
        sequence_bias: the same for the last token of a sequence, where the others precede it:
            {(token, ...): bias}, or a list of pairs.
        bad_words_ids: sequences of tokens that must not occur.
        suppress_tokens: tokens that must not occur; those outside the vocabulary are ignored.
        begin_suppress_tokens: tokens that must not begin the text.
        no_repeat_ngram_size: so many tokens in a row occur only once in prompt and text; 0 is off.
        encoder_no_repeat_ngram_size: so many tokens in a row of the prompt do not occur in the
            text; 0 is off.
        encoder_repetition_penalty: positive logits of tokens of the prompt are multiplied by it,
            negative ones divided; 1 is off.
        min_new_tokens: no end token before the text has so many tokens; None: as min_length says.
        min_length: no end token before prompt and text have so many tokens; 0 is off.
        max_new_tokens: maximum tokens of the text; None: no maximum.
        max_length: maximum tokens of prompt and text, unless max_new_tokens is set.
        max_time: seconds after which the text ends; None: no limit.
        forced_bos_token_id: the first token of a text after a prompt of one token.
        forced_eos_token_id: the last token of a text that reaches a limit, one of these tokens.
        exponential_decay_length_penalty: (start, factor): end tokens become more likely once the
            text has more than `start` tokens: their logits grow by |logit| (factor^n - 1).
        stop_strings: strings that end the text and are not part of it.
        remove_invalid_values: take NaN as 0, and infinity as the largest float32.
        renormalize_logits: turn the logits into logarithms of probabilities in the end.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    _: KW_ONLY
    typical_p: float = 1.0
    top_h: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    sequence_bias: Mapping[Tokens, float] | Sequence[tuple[Tokens, float]] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0
    min_new_tokens: int | None = None
    min_length: int = 0
    max_new_tokens: int | None = None
    max_length: int | None = None
    max_time: float | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Sequence[int] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    stop_strings: Sequence[str] = ()
    remove_invalid_values: bool = False
    renormalize_logits: bool = False

    def __post_init__(self) -> None:
        for name, kept in checks.KEPT.items():
            object.__setattr__(self, name, kept(name, getattr(self, name)))  # it is frozen

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], **given: Any) -> Sampling:
        """Return the sampling of a generation_config.json, with the defaults of ``transformers``.

        Args:
            config: the object in the file; null is the same as absent. Unless `do_sample` is true,
                sampling is greedy, and filters such as `top_k` are not read. If it is, `top_k` is
                50 by default. Keys that this class does not have are ignored.
            given: fields of this class, which replace what the file says: it is not even read, so
                an invalid value there does not matter.

        Raises:
            ModelError: a value in the file has the wrong type or is out of range.
            OptionError: a value in `given` has, or is.
        """
        if not isinstance(config, Mapping):
            raise OptionError(
                f"the settings are {kind_of(config)}, expected the object in "
                "generation_config.json: json.loads(path.read_text())"
            )
        found = {key: value for key, value in config.items() if value is not None}
        names = {field.name for field in fields(cls)} - _OWN - _FILTERS
        defaults: dict[str, Any] = {}
        if given.get("temperature") != 0 and _samples(found):
            names |= _FILTERS
            defaults = {"temperature": 1.0, "top_k": _DEFAULT_TOP_K}
        if "max_new_tokens" in given:
            names.discard("max_length")
        names &= {*found} - {*given}
        try:
            sampling = cls(**defaults | {name: found[name] for name in names})
        except OptionError as error:
            raise ModelError(
                f"generation_config.json: {error}; a setting of your own replaces it"
            ) from error
        return replace(sampling, **given)

    @classmethod
    def asked(cls, config: Mapping[str, Any], **given: Any) -> Sampling:
        """Return what `from_generation_config` does, for settings that a user asks for.

        A filter that is given asks for draws: then the temperature is 1 where greedy sampling would
        ignore the filter.
        """
        sampling = cls.from_generation_config(config, **given)
        if sampling.temperature or "temperature" in given or not given.keys() & _FILTERS:
            return sampling
        return replace(sampling, temperature=1.0)

    def check_tokens(self, vocab_size: int) -> None:
        """Check that the model has the tokens of the settings, but for suppressed ones.

        Raises:
            OptionError: it lacks one.
        """
        for name, tokens in (
            ("logit_bias", [*dict(self.logit_bias)]),
            ("sequence_bias", [token for ids in dict(self.sequence_bias) for token in ids]),
            ("bad_words_ids", [token for ids in self.bad_words_ids for token in ids]),
            ("forced_bos_token_id", [self.forced_bos_token_id or 0]),
            ("forced_eos_token_id", self.forced_eos_token_id),
        ):
            if tokens and max(tokens) >= vocab_size:
                raise OptionError(
                    f"{name} has token {max(tokens)}, expected tokens below the model's "
                    f"vocab_size, {vocab_size}"
                )


def _samples(config: Mapping[str, Any]) -> bool:
    """Return whether a generation_config.json asks for drawn tokens."""
    do_sample = config.get("do_sample", False)
    if not isinstance(do_sample, bool):
        raise ModelError(
            f"generation_config.json: do_sample is {shown(do_sample)}, expected true or false"
        )
    return do_sample
