"""Constraints on a text: JSON, JSON schemas and grammars, by masks of tokens (llguidance)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence

import llguidance
import numpy as np
import numpy.typing as npt

from ..llm.constraint import Constraint
from ..llm.errors import ModelError
from ..llm.model import LanguageModel, Prompt
from .errors import ApiError, refused
from .schema import Json
from .token_texts import TokenTexts

MAX_GRAMMAR = 1 << 18  # characters of a schema or grammar
_MAX_REASON = 300  # characters of what llguidance says

# What llguidance says, and what it means for who wrote the schema.
_PLACE = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")
_SHOWN_LINE = re.compile(r"^ *\d+ \| (.*)$", re.MULTILINE)  # the last is the wrong one
_REASONS = (
    (re.compile(r'^Unimplemented keys: \["(.*)"\]$'), r'no support for "\1"'),
    (re.compile("^Unsatisfiable schema: "), "no value fits: "),
    (re.compile(r"^oneOf constraints are not supported\..*"),
     "oneOf is supported only if its schemas exclude each other: use anyOf"),
    (re.compile("^Resource '(.*)' is not present .*"),
     r"found a reference to '\1', expected one within the schema"),
    (re.compile("^Expected f64 for '(.*)', got (.*)"), r"\1: found \2, expected a number"),
)  # fmt: skip

# One space, or a new line and its indentation: unlimited white space would let a model that is
# unsure write nothing else.
_JSON = {"whitespace_pattern": r" |\n {0,20}"}

# About a second of work for a whole grammar, and tens of milliseconds for a token.
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


def json_grammar(schema: Json | None = None) -> str:
    """Return the grammar of JSON values.

    Args:
        schema: a JSON schema; None: of any object.
    """
    return f"start: {json_rule(schema)}"


def json_rule(schema: Json | None = None) -> str:
    """Return the expression of a grammar that stands for a JSON value, see `json_grammar`."""
    value = {"type": "object"} if schema is None else schema
    return f"%json {json.dumps({**value, 'x-guidance': _JSON})}"


def joined(grammar: str, name: str, other: str) -> str:
    """Return a grammar that refers to another one by a name."""
    named, *further = _parts(other)
    return json.dumps({"grammars": [{"lark_grammar": grammar}, {**named, "name": name}, *further]})


def _parts(grammar: str) -> list[Json]:
    """Return the grammars that a grammar consists of."""
    if not grammar.startswith("{"):
        return [{"lark_grammar": grammar}]
    parts: list[Json] = json.loads(grammar)["grammars"]
    return parts


def _unforced(grammar: str) -> str:
    """Return a grammar without forced tokens.

    Where a grammar leaves no choice, llguidance would allow only the token that the tokenizer makes
    of the text there. Tokenizers make other tokens of a text alone than of the same text in a
    context, such as SentencePiece, which puts a space before it.
    """
    first, *further = _parts(grammar)
    lark = '%llguidance {"no_forcing": true}\n' + first["lark_grammar"]
    return json.dumps({"grammars": [{**first, "lark_grammar": lark}, *further]})


class Grammars:
    """Makes constraints for the texts of one model.

    Args:
        model: the model.
        texts: the texts of its tokens.
    """

    def __init__(self, model: LanguageModel, texts: TokenTexts) -> None:
        self._model = model
        self._texts = texts
        self._reading = threading.Lock()
        self._tokenizers: dict[tuple[frozenset[int], frozenset[int]], llguidance.LLTokenizer] = {}

    def constraint(
        self, grammar: str, prompt: Prompt, shown: frozenset[int], param: str
    ) -> Callable[[], Constraint]:
        """Return what makes a constraint for each text after a prompt.

        Args:
            grammar: in Lark's syntax, as llguidance reads it.
            prompt: decides which tokens end the text.
            shown: special tokens that are part of the text.
            param: the field of the request that asked for the grammar, for errors.

        Raises:
            ApiError: the grammar is damaged, too large, or has parts that are not supported.
            ModelError: the model has no token that ends a text.
        """
        if len(grammar) > MAX_GRAMMAR:
            raise refused(
                param,
                f"found a grammar of {len(grammar):,} characters, expected at most {MAX_GRAMMAR:,}",
            )
        encoded, _, until = self._model.prepared(prompt, None, None, ())
        ends = encoded.end_tokens | until.end_tokens
        if not ends:
            raise ModelError("the model has no token that ends a text, so none can be constrained")
        tokenizer = self._tokenizer(ends, shown)
        matcher = llguidance.LLMatcher(tokenizer, _unforced(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            reason, line = _reason(matcher)
            if param == "grammar":
                raise refused(param, f"the grammar is not usable: {reason}{line}")
            raise refused(param, f"the JSON schema is not usable: {reason}")
        return lambda: _TokenMask(matcher.deep_copy(), ends)

    def _tokenizer(self, ends: frozenset[int], shown: frozenset[int]) -> llguidance.LLTokenizer:
        with self._reading:
            known = self._tokenizers.get((ends, shown))
            if known is None:
                known = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(_Vocabulary(self._model, self._texts, ends, shown)),
                    eos_token=sorted(ends),
                )
                self._tokenizers[ends, shown] = known
            return known


class _Vocabulary:
    """The bytes of a model's tokens, as llguidance asks for them.

    They are those that the text gets, whatever kind the model's tokenizer is of.
    """

    bos_token_id = None

    def __init__(
        self,
        model: LanguageModel,
        texts: TokenTexts,
        ends: frozenset[int],
        shown: frozenset[int],
    ) -> None:
        tokenizer = model.tokenizer
        size = model.config.vocab_size
        self._tokenizer = tokenizer
        self.eos_token_id = min(ends)
        self.special_token_ids = [
            i for i in range(size) if i in ends or (tokenizer.is_special(i) and i not in shown)
        ]
        self.tokens = [texts.bytes(i) for i in range(size)]  # b"" is never a part of a text

    def __call__(self, text: str) -> Sequence[int]:
        return self._tokenizer.encode(text, special=False)


class _TokenMask(Constraint):
    """The constraint of one text."""

    def __init__(self, matcher: llguidance.LLMatcher, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """See `Constraint.mask`.

        Raises:
            ApiError: the grammar needs too much work here.
        """
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(words, count=len(logits), bitorder="little")
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> None:
        """See `Constraint.accept`.

        Raises:
            ApiError: the grammar does not allow the token, which a setting forced.
        """
        if token not in self._ends:
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ApiError(
                400, f"the text cannot go on by its grammar: {_reason(self._matcher)[0]}",
                code="grammar_failed",
            )  # fmt: skip


def _reason(matcher: llguidance.LLMatcher) -> tuple[str, str]:
    """Return what is wrong with a grammar, and " in ..." with the line where it is."""
    text = _PLACE.sub("", matcher.get_error().strip())
    what, *further = text.split("\n")
    details = [line.removeprefix("error: ") for line in further if line.startswith("error: ")]
    if details:
        what = f"a regular expression is not valid: {details[0]}"
    for pattern, better in _REASONS:
        what = pattern.sub(better, what)
    shown = _SHOWN_LINE.findall(text)
    where = f" in {shown[-1].strip()[:80]!r}" if shown else ""
    return what[:1].lower() + what[1:_MAX_REASON], where
