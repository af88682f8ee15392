"""Read the control tokens that untrusted text spells out as plain text.

A chat template writes control tokens such as <|im_start|> between the messages, and the tokenizer
finds them by their text. A message with the same text would forge a turn. So the strings of
messages are marked before the template runs: wherever a control token could begin, a character
that occurs nowhere else follows its first character. Marks pass through what templates do to text
(trim, split, join, change case), and no control token forms across a mark. After the template ran,
the marks tell the template's control tokens from those of the messages.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import PromptError
from .library import call, check_text

if TYPE_CHECKING:
    import tokenizers

_MARKS = [chr(code) for code in range(0xE000, 0xF900)]  # for private use: text has none of them
_TAG = re.compile(r"_?<.+>|\[.+\]", re.DOTALL)


class _Span(NamedTuple):
    """A control token in a text."""

    token: int
    start: int
    end: int


class ControlTokens:
    """The control tokens of a tokenizer.

    They are its special tokens, and those added tokens that look like tags (<think>, [INST]).

    Args:
        inner: the tokenizer.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._texts = {
            id_: token.content
            for id_, token in inner.get_added_tokens_decoder().items()
            if token.content and (token.special or _TAG.fullmatch(token.content))
        }
        self._beginning = _beginning(set(self._texts.values()))
        added = inner.get_added_tokens_decoder()
        # Then other texts become those of control tokens: fullwidth letters under NFKC.
        self._is_normalized = inner.normalizer is not None and any(
            added[id_].normalized for id_ in self._texts
        )

    def mark_for(self, *values: Any) -> str:
        """Return a character that no string in `values` has, neither as such nor escaped.

        Raises:
            PromptError: there is none, or the values are nested too deeply.
        """
        texts = set(_strings(values))
        for mark in _MARKS:
            if not any(mark in text or _escaped(mark) in text for text in texts):
                return mark
        raise PromptError("the conversation uses every private-use character of Unicode")

    def marked(self, value: Any, mark: str) -> Any:
        """Return a JSON value whose strings are marked; keys as `marked_name` does."""
        if isinstance(value, str):
            text = self._beginning.sub(lambda match: match[0] + mark, value)
            if self._is_normalized and self._spans(self._encoding(check_text(text))):
                return "".join(character + mark for character in value)
            return text
        if isinstance(value, Mapping):
            return {
                self.marked_name(key, mark): self.marked(item, mark) for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.marked(item, mark) for item in value]
        return value

    def marked_name(self, name: Any, mark: str) -> Any:
        """Return a marked string, but an identifier as it is: templates look for "user"."""
        is_text = isinstance(name, str) and not name.isidentifier()
        return self.marked(name, mark) if is_text else name

    def encode(self, text: str, mark: str) -> list[int]:
        """Return the tokens of a text with marks: a control token across a mark is plain text.

        Raises:
            PromptError: the text contains half a surrogate pair, or the tokenizer has no tokens but
                a control token for a text.
            ModelError: the tokenizer fails.
        """
        text = check_text(text).replace(_escaped(mark), mark)
        plain = text.replace(mark, "")
        encoding = self._encoding(plain)
        if mark not in text:
            return encoding.ids
        own = [
            _Span(s.token, s.start - marks, s.end - marks)
            for s, marks in (
                (s, text.count(mark, 0, s.start))
                for s in self._spans(self._encoding(text))
                # A token of one character has nothing that a mark could break.
                if s.end - s.start > 1 or text[s.end : s.end + 1] != mark
            )
        ]
        if self._spans(encoding) == own:  # the usual case: messages have no control tokens
            return encoding.ids
        renamed, names = self._renamed
        parts, done = [], 0
        for span in own:
            parts += [plain[done : span.start], names[span.token]]
            done = span.end
        parts.append(plain[done:])
        ids = call("encode this text", renamed.encode, "".join(parts), None, False, False).ids
        if [id_ for id_ in ids if id_ in self._texts] != [span.token for span in own]:
            raise PromptError(
                "a message has the text of a control token, and the tokenizer has no other tokens "
                "for it: remove the text, or allow special tokens"
            )
        return ids

    def _encoding(self, text: str) -> tokenizers.Encoding:
        return call("encode this text", self._inner.encode, text, None, False, False)

    def _spans(self, encoding: tokenizers.Encoding) -> list[_Span]:
        """Return the control tokens of an encoded text."""
        tokens = zip(encoding.ids, encoding.offsets, strict=True)
        return [_Span(id_, *offsets) for id_, offsets in tokens if id_ in self._texts]

    @cached_property
    def _renamed(self) -> tuple[tokenizers.Tokenizer, dict[int, str]]:
        """A tokenizer whose control tokens have texts that nobody knows, and these texts."""
        import tokenizers

        secret = "".join(chr(0xF0000 + byte) for byte in secrets.token_bytes(16))
        names = {
            id_: f"{secret}{chr(0xF0100 + i // 256)}{chr(0xF0000 + i % 256)}"
            for i, id_ in enumerate(self._texts)
        }
        by_text = {text: names[id_] for id_, text in self._texts.items()}
        settings = json.loads(self._inner.to_str())
        for token in settings["added_tokens"]:
            token["content"] = by_text.get(token["content"], token["content"])
        _rename(settings["model"], by_text)
        settings["post_processor"] = None  # it names tokens, and is not used here
        text = json.dumps(settings)
        return call("be read", tokenizers.Tokenizer.from_str, text), names


def _beginning(texts: set[str]) -> re.Pattern[str]:
    """Return a pattern of the characters after which a mark breaks every one of the texts.

    Words would have marks in every line if a text begins with a letter. So of those texts, only
    whole ones are found, in any case.
    """
    words = {text for text in texts if text[0].isalnum() or text[0].isspace()}
    first = "".join({text[0] for text in texts - words})
    patterns = [f"(?i:{re.escape(text[0])}(?={re.escape(text[1:])}))" for text in sorted(words)]
    if first:
        patterns.append(f"[{re.escape(first)}]")
    return re.compile("|".join(patterns) or "(?!)")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings_of(value.keys())
        yield from _strings_of(value.values())
    elif isinstance(value, (list, tuple)):
        yield from _strings_of(value)


def _strings_of(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _strings(value)


def _escaped(mark: str) -> str:
    """Return how JSON and Python write a mark in ASCII."""
    return ascii(mark)[1:-1]


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in the settings of a tokenizer's model, and drop the merges that make them."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): id_ for text, id_ in vocab.items()}
    else:  # Unigram
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [
            pair for pair in pairs if not any(text in names for text in (*pair, "".join(pair)))
        ]
