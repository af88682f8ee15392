"""Single tokens as bytes: together they are the text."""

from __future__ import annotations

import pytest

from rsr_runtime.serve.token_texts import TokenTexts
from rsr_testing.loader import Loader

TEXT = "The weights of 3 networks: añ 🙂 the end."


@pytest.mark.parametrize("family", ["bitnet-2b", "1bitllm"])  # byte-level; SentencePiece
def test_bytes_of_tokens_are_those_of_the_text(loaded: Loader, family: str) -> None:
    tokenizer = loaded(family).tokenizer
    texts = TokenTexts(tokenizer)
    tokens = tokenizer.encode(TEXT, special=False)
    assert b"".join(map(texts.bytes, tokens)).decode().lstrip(" ") == TEXT
    assert len(tokens) > 20
    names = [texts.text(token) for token in tokens]
    assert "bytes:\\xf0" in names  # the first byte of the face
    whole = [token for token in tokens if not texts.text(token).startswith("bytes:")]
    assert all(texts.bytes(token) == texts.text(token).encode() for token in whole)


def test_special_tokens_are_their_names(loaded: Loader) -> None:
    tokenizer = loaded("bitnet-2b").tokenizer
    assert tokenizer.eos_id is not None
    assert TokenTexts(tokenizer).text(tokenizer.eos_id) == "<|end_of_text|>"
    assert TokenTexts(tokenizer).bytes(tokenizer.size + 7) == b""
