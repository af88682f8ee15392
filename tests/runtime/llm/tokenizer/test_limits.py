"""Tokenizers that could make much of little text are refused when they are loaded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from rsr_runtime.llm.errors import ModelError
from rsr_runtime.llm.tokenizer import Tokenizer


def with_part(name: str, part: Any) -> dict[str, bytes]:
    library = Library(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    setattr(library, name, part)
    return {"tokenizer.json": library.to_str().encode()}


def table(*texts: bytes) -> dict[str, bytes]:
    """Return a tokenizer with SentencePiece's table of characters, its index empty."""
    document = json.loads(with_part("normalizer", normalizers.NFC())["tokenizer.json"])
    data = (1024).to_bytes(4, "little") + bytes(1024) + b"".join(text + b"\0" for text in texts)
    encoded = base64.b64encode(data).decode()
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": encoded}
    return {"tokenizer.json": json.dumps(document).encode()}


def template(pieces: str, ids: int = 1) -> Any:
    made = processors.TemplateProcessing(
        single=pieces, pair="$A $B", special_tokens=[("<s>", 1)] if "<s>" in pieces else []
    )
    document = json.loads(made.__getstate__())
    for token in document["special_tokens"].values():
        token["ids"] *= ids
        token["tokens"] *= ids
    library = json.loads(with_part("decoder", None)["tokenizer.json"]) | {
        "post_processor": document
    }
    return Library.from_str(json.dumps(library)).post_processor


LARGE: dict[str, dict[str, bytes]] = {
    "one replacement": with_part("normalizer", normalizers.Replace("a", "a" * 65)),
    "three in a row": with_part(
        "normalizer", normalizers.Sequence([normalizers.Replace("a", "aaaaa")] * 3)
    ),
    "sequences in sequences": with_part(
        "normalizer",
        normalizers.Sequence([normalizers.Sequence([normalizers.Replace("a", "a" * 9)] * 2)] * 2),
    ),
    "a long beginning": with_part("normalizer", normalizers.Prepend("a" * 65)),
    "a decoder": with_part("decoder", decoders.Replace("a", "a" * 65)),
    "a table": table(b"a", b"b" * 1025),
    "a template": with_part("post_processor", template("$A" + " $A" * 64)),
    "a template of a token that is many": with_part("post_processor", template("<s> $A", 33)),
    "templates in a row": with_part(
        "post_processor", processors.Sequence([template("$A $A $A")] * 4)
    ),
}


@pytest.mark.parametrize("files", LARGE.values(), ids=LARGE)
def test_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelError, match=r"than 64 .*no real tokenizer does"):
        Tokenizer(files)


REAL: dict[str, dict[str, bytes]] = {
    "SentencePiece": with_part(
        "normalizer",
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
    "a table": table(b"\xe2\x96\x81", b"x" * 33),
    "words": with_part("decoder", decoders.WordPiece("##")),
    "spaces": with_part("pre_tokenizer", pre_tokenizers.Metaspace("▁")),
    "two templates": with_part("post_processor", processors.Sequence([template("<s> $A <s>")] * 2)),
}


@pytest.mark.parametrize("files", REAL.values(), ids=REAL)
def test_used(files: dict[str, bytes]) -> None:
    assert Tokenizer(files).size == 2


def test_a_pattern_that_never_ends() -> None:
    """The library panics, which is reported as an error."""
    endless = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    tokenizer = Tokenizer(with_part("pre_tokenizer", endless))
    with pytest.raises(ModelError, match=r"cannot encode this text: .*retry-limit"):
        tokenizer.encode("a" * 30)
