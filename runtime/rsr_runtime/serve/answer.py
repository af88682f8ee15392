"""How the answers to a request may go on, and what they consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import llguidance

from ..llm.constraint import Constraint
from ..llm.model import ChatPrompt, LanguageModel
from .errors import refused
from .grammar import Grammars, joined, json_rule
from .reasoning import BEGIN, END, ReasoningParser, State, reasoning_rules, state_after
from .schema import Generate, Json
from .tools import Call, CallFormat, CallParser, ToolOffer, call_format

_NOT_GBNF = "Failed to convert the grammar from GBNF to Lark: "
_END_TOKENS = 32  # of a prompt, which tell whether it opens a block of reasoning


@dataclass(frozen=True)
class Thought:
    """A piece of an answer's reasoning."""

    text: str


Piece = str | Thought | Call


class AnswerParser:
    """Parts one answer, which comes in pieces, into reasoning, content and calls of tools."""

    def __init__(
        self, reasoning: ReasoningParser | None, calls: CallParser | None, is_parallel: bool
    ) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self._most = None if is_parallel else 1
        self._count = 0

    def push(self, text: str) -> list[Piece]:
        """Return what a piece of the answer completes."""
        thought, content = self._reasoning.push(text) if self._reasoning else ("", text)
        return self._pieces(thought, content, None)

    def finish(self, is_cut: bool) -> list[Piece]:
        """Return what was held back; `is_cut` says whether the answer would have gone on."""
        thought, content = self._reasoning.finish() if self._reasoning else ("", "")
        return self._pieces(thought, content, is_cut)

    def _pieces(self, thought: str, content: str, is_cut: bool | None) -> list[Piece]:
        """Return what these texts complete; `is_cut` is None before the end."""
        found: list[Piece] = [Thought(thought)] if thought else []
        if self._calls is None:
            return [*found, content] if content else found
        read = self._calls.push(content)
        for piece in read if is_cut is None else read + self._calls.finish(is_cut):
            if isinstance(piece, Call):
                if self._count == self._most:
                    continue
                self._count += 1
            found.append(piece)
        return found


@dataclass(frozen=True)
class AnswerPlan:
    """How the answers to one prompt are constrained and read.

    Attributes:
        constraint: of each answer, or None.
        shown_special: special tokens that the parser needs to see.
        parser: makes what reads an answer.
        new_call_id: makes the id of a call.
    """

    constraint: Callable[[], Constraint] | None
    shown_special: frozenset[int]
    parser: Callable[[], AnswerParser]
    new_call_id: Callable[[], str]


class Answers:
    """What the answers of one model look like, by its chat template.

    Args:
        model: the model.
        grammars: makes constraints for its texts.
    """

    def __init__(self, model: LanguageModel, grammars: Grammars) -> None:
        self._model = model
        self._grammars = grammars

    @cached_property
    def _has_reasoning(self) -> bool:
        source = self._model.template.source
        return BEGIN in source or END in source

    @cached_property
    def _format(self) -> CallFormat | None:
        return call_format(self._model.template.source)

    def checked_offer(self, offer: ToolOffer | None) -> ToolOffer | None:
        """Return the tools of a request if the model can call them.

        Raises:
            ApiError: its chat template has no tools, or writes calls in an unknown way.
        """
        if offer is not None and self._format is None:
            raise refused(
                "tools",
                "the model's chat template has no tools, or writes calls of tools in a way that is "
                "not known: ask for JSON with response_format instead",
                "unsupported_parameter",
            )
        return offer

    def plan(self, prompt: ChatPrompt, request: Generate, offer: ToolOffer | None) -> AnswerPlan:
        """Return how the answers to a prompt are constrained and read.

        Raises:
            ApiError: the grammar or schema of the request is refused.
        """
        state = self._state(prompt)
        style = None if offer is None else self._format
        shown = self._shown(state, style)
        parallel = offer is None or offer.is_parallel

        def parser() -> AnswerParser:
            reasoning = None if state == "content" else ReasoningParser(state)
            calls = style and offer and CallParser(style, offer.names, offer.is_required)
            return AnswerParser(reasoning, calls or None, parallel)

        found = _grammar(request, offer, style)
        constraint = None
        if found is not None:
            body, param = found
            grammar = _after_reasoning(body, state)
            constraint = self._grammars.constraint(grammar, prompt, shown, param)
        new_id = (style or CallFormat("")).new_id
        return AnswerPlan(constraint, shown, parser, new_id)

    def _state(self, prompt: ChatPrompt) -> State:
        if not self._has_reasoning:
            return "content"
        return state_after(self._model.tokenizer.decode(prompt[-_END_TOKENS:], skip_special=False))

    def _shown(self, state: State, style: CallFormat | None) -> frozenset[int]:
        markers = [] if state == "content" else [BEGIN, END]
        if style is not None:
            markers += [style.begin, style.end]
        tokenizer = self._model.tokenizer
        tokens = [tokenizer.added_id(marker) for marker in markers]
        return frozenset(i for i in tokens if i is not None and tokenizer.is_special(i))


def text_grammar(request: Generate) -> tuple[str, str] | None:
    """Return the grammar of a text and the field that asks for it; None without one.

    Raises:
        ApiError: the field is malformed.
    """
    format_, grammar = request.response_format, request.grammar
    kind = "text" if format_ is None else format_.get("type")
    if grammar is not None:
        if kind != "text":
            raise refused("grammar", "found response_format too, expected one of them")
        try:
            return llguidance.grammar_from("grammar", grammar), "grammar"
        except ValueError as error:
            reason = str(error).removeprefix(_NOT_GBNF)
            raise refused("grammar", f"neither Lark nor GBNF: {reason[:300]}") from None
    if kind == "text":
        return None
    return f"start: {json_rule(_schema(format_ or {}))}", "response_format"


def _schema(format_: Json) -> Json | None:
    """Return the JSON schema that a response_format asks for; None: any object."""
    kind, name = format_.get("type"), "response_format"
    if kind == "json_object":
        schema = format_.get("schema")
    elif kind == "json_schema":
        named = format_.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        name += ".json_schema.schema"
        if schema is None:
            raise refused(name, "found nothing, expected a JSON schema")
    else:
        raise refused(
            f"{name}.type",
            f"found {kind!r:.40}, expected 'text', 'json_object' or 'json_schema'",
        )
    if schema is not None and not isinstance(schema, dict):
        raise refused(name, "expected a JSON schema, an object")
    return schema


def _grammar(
    request: Generate, offer: ToolOffer | None, style: CallFormat | None
) -> tuple[str, str] | None:
    """Return the grammar of an answer without its reasoning, and the field that asks for it."""
    text = text_grammar(request)
    if offer is None or style is None or (text is None and not offer.is_required):
        return text
    expression, rules = style.rules(offer.schemas, offer.is_parallel)
    if text is None or offer.is_required:
        return f"start: {expression}\n{rules}", "tools"
    return joined(f"start: {expression} | @text\n{rules}", "text", text[0]), text[1]


def _after_reasoning(grammar: str, state: State) -> str:
    expression, rules = reasoning_rules(state)
    if not rules:
        return grammar
    return joined(f"start: {expression} @answer\n{rules}", "answer", grammar)
