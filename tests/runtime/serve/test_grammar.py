"""Tests of constraints on texts."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from rsr_runtime.llm import LanguageModel
from rsr_runtime.llm.constraint import Constraint
from rsr_runtime.llm.model import ChatPrompt
from rsr_runtime.serve.errors import ApiError
from rsr_runtime.serve.grammar import Grammars, json_grammar
from rsr_runtime.serve.token_texts import TokenTexts
from rsr_testing.loader import Loader

FORMS: list[dict[str, Any]] = [{}, {"indent": 4}, {"separators": (",", ":")}]
SHOWN = frozenset[int]()
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["word", "count"],
    "additionalProperties": False,
}


def grammars(model: LanguageModel) -> Grammars:
    return Grammars(model, TokenTexts(model.tokenizer))


def allowed(constraint: Constraint, size: int) -> set[int]:
    """Return the tokens that a constraint allows next."""
    logits = np.zeros(size, np.float32)
    constraint.mask(logits)
    return set(np.flatnonzero(logits == 0).tolist())


def accepts(model: LanguageModel, grammar: str, text: str) -> bool:
    """Return whether a grammar allows the tokens of a text, and that it ends there."""
    prompt = ChatPrompt([1])
    constraint = grammars(model).constraint(grammar, prompt, SHOWN, "grammar")()
    before = model.tokenizer.encode("a", special=False)  # as SentencePiece begins with a space
    for token in model.tokenizer.encode(f"a{text}", special=False)[len(before) :]:
        if token not in allowed(constraint, model.config.vocab_size):
            return False
        constraint.accept(token)
    encoded, _, until = model.prepared(prompt, None, None, ())
    ends = encoded.end_tokens | until.end_tokens
    return bool(allowed(constraint, model.config.vocab_size) & ends)


@pytest.mark.parametrize("family", ["bitnet-2b", "trilm", "gguf-tq2_0"])
def test_json_of_every_kind_of_tokenizer(loaded: Loader, family: str) -> None:
    """Byte-level, SentencePiece with byte tokens, and one that was made from a GGUF file."""
    model = loaded(family)
    grammar = json_grammar(SCHEMA)
    for value in ({"word": "the rain é 雨", "count": -3}, {"word": '\n"\\', "count": 10**20}):
        for form in FORMS:
            assert accepts(model, grammar, json.dumps(value, ensure_ascii=False, **form)), value
    for text in (
        '{"word": "a"}',
        '{"word": "a", "count": 1.5}',
        '{"count": 1, "word": "a"}x',
        "[]",
    ):
        assert not accepts(model, grammar, text), text
    assert not accepts(model, grammar, '{"word": "a",   "count": 1}')  # white space is bounded


def test_only_an_end_follows_a_complete_text(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    prompt = ChatPrompt([1])
    constraint = grammars(model).constraint('start: "the"', prompt, SHOWN, "grammar")()
    for token in model.tokenizer.encode("the", special=False):
        constraint.accept(token)
    encoded, _, until = model.prepared(prompt, None, None, ())
    ends = encoded.end_tokens | until.end_tokens
    assert len(ends) == 2  # of a text, and of a turn
    assert allowed(constraint, model.config.vocab_size) == ends
    constraint.accept(min(ends))
    # A text to continue, not an answer, ends at the first only.
    constraint = grammars(model).constraint("start: /a*/", [1], SHOWN, "grammar")()
    assert len(allowed(constraint, model.config.vocab_size) & ends) == 1


def test_special_tokens_are_no_text_unless_shown(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    special = model.tokenizer.added_id("<|start_header_id|>")
    assert special is not None
    for shown in (frozenset[int](), frozenset({special})):
        made = grammars(model).constraint("start: /(?s:.*)/", [1], shown, "grammar")()
        assert (special in allowed(made, model.config.vocab_size)) == bool(shown)


def test_texts_of_one_constraint_are_independent(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    make = grammars(model).constraint('start: "a" | "b"', [1], SHOWN, "grammar")
    one, other = make(), make()
    (a,) = model.tokenizer.encode("a", special=False)
    (b,) = model.tokenizer.encode("b", special=False)
    one.accept(a)
    assert {a, b} <= allowed(other, model.config.vocab_size)
    with pytest.raises(ApiError, match="cannot go on"):
        one.accept(b)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (json_grammar({"type": "nothing"}), "JSON schema is not usable: invalid type: nothing$"),
        (json_grammar({"if": {}, "then": {}}), 'usable: no support for "if", "then"$'),
        (json_grammar({"pattern": "("}), "a regular expression is not valid: unclosed group$"),
        (f"start: /{'a' * 300_000}/", "300,009 characters, expected at most 262,144"),
    ],
)
def test_unusable_schemas_are_refused(loaded: Loader, grammar: str, reason: str) -> None:
    model = loaded("bitnet-2b")
    with pytest.raises(ApiError, match=reason) as caught:
        grammars(model).constraint(grammar, [1], SHOWN, "response_format")
    assert caught.value.status == 400
    assert caught.value.param == "response_format"


def test_an_unusable_grammar_is_shown(loaded: Loader) -> None:
    made = grammars(loaded("bitnet-2b"))
    with pytest.raises(ApiError, match=r'usable: unknown name: "b" in \'a: "x" b\'$'):
        made.constraint('start: a\na: "x" b', [1], SHOWN, "grammar")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}|(.*a.{20}b.*)*)$"},
        {"enum": [f"v{i}" for i in range(20_000)]},
        {"properties": {f"p{i}": {"type": "string", "maxLength": 1000} for i in range(3000)}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {"anyOf": [{"properties": {"a": {"pattern": f"{i}.*{i}"}}} for i in range(1000)]},
    ],
    ids=["pattern", "enum", "properties", "loop", "anyOf"],
)
def test_a_stranger_s_schema_takes_bounded_time(loaded: Loader, schema: dict[str, object]) -> None:
    model = loaded("bitnet-2b")
    begin = time.process_time()
    try:
        made = grammars(model).constraint(json_grammar(schema), [1], SHOWN, "grammar")()
        for _ in range(20):
            token = min(allowed(made, model.config.vocab_size))
            made.accept(token)
    except (ApiError, ValueError):  # no token is allowed where the grammar has no text
        pass
    assert time.process_time() - begin < 10
