"""Tokenizers to GGUF metadata and back: the `tokenizers` library encodes texts the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rsrc.source.gguf.tokenizer_common import PRE_TOKENIZERS, pre_tokenizer_name
from rsrc.source.gguf.tokenizer_files import MAX_TOKENS, tokenizer_files
from rsrc.source.gguf.tokenizer_metadata import tokenizer_metadata

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it?\n\n",
    "def f(x):\n    return x ** 2  # a comment\r\n\tindented\n",
    "Größe, naïve café, Ελληνικά, русский текст, 中文文本, 日本語, العربية, हिन्दी",
    "WE'LL SEE'EM, we've seen; 3.14159 1,000,000 -- CamelCase snake_case",
] * 3  # fmt: skip
NASTY = [
    "",
    " ",
    "   leading and trailing   ",
    "It's WE'LL  isn't 'quoted'",
    "12345678 3.14 1,000\n\n\n  \t x",
    "unseen: ☃ 🦊 \U0001f468\u200d\U0001f469\u200d\U0001f467 \x00\x7f",
    "中文abc русский123 हिन्दी",  # noqa: RUF001
    "<s>a</s><|user|> hi<think>no</think>",
    "\r\n \r\n",
    "CamelCaseHTTPServer_id ＡＢＣ",  # noqa: RUF001
]
SPECIAL = ["<s>", "</s>", "<|user|>"]


def trained(pre: str) -> Tokenizer:
    """Train byte-level BPE on text split as `pre` says."""
    known = PRE_TOKENIZERS[pre]
    tokenizer = Tokenizer(models.BPE(ignore_merges=known.ignore_merges))
    steps: list[Any] = [
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not known.splits)
    ]
    steps[:0] = [pre_tokenizers.Split(Regex(split), "isolated") for split in known.splits]
    if known.digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if steps[1:] else steps[0]
    if known.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def with_bos(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the tokenizer.json; BOS is added before texts, as in Llama 3's."""
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    document["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "<s>", "type_id": 1}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
            },
        ],
    }
    return document


CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"}


def through_gguf(document: dict[str, Any], **options: Any) -> tuple[dict[str, Any], Tokenizer]:
    """Convert a tokenizer.json to metadata and back; return both."""
    metadata = tokenizer_metadata(document, CONFIG, **options)
    files = tokenizer_files(metadata)
    return metadata, Tokenizer.from_str(files["tokenizer.json"].decode())


@pytest.mark.parametrize(
    "pre",
    [
        "gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "tekken", "gpt-4o",
        "deepseek-v3",
    ],
)  # fmt: skip
def test_byte_level_bpe(pre: str) -> None:
    document = with_bos(trained(pre))
    metadata, back = through_gguf(document)
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == pre
    before = Tokenizer.from_str(json.dumps(document))
    for text in [*CORPUS[:4], *NASTY]:
        want = before.encode(text)
        assert back.encode(text).ids == want.ids, text
        assert back.decode(want.ids, skip_special_tokens=False) == before.decode(
            want.ids, skip_special_tokens=False
        )
    assert back.encode("a", "b").ids == before.encode("a", "b").ids
    assert back.encode("x").ids[0] == 0
    assert back.get_vocab() == before.get_vocab()


def test_names_of_the_same_cut_are_those_that_are_known() -> None:
    """Each name maps to itself or to one of the same meaning."""
    for name, known in PRE_TOKENIZERS.items():
        document = {
            "normalizer": {"type": "NFC"} if known.nfc else None,
            "pre_tokenizer": known.to_json(),
            "model": {"ignore_merges": known.ignore_merges},
        }
        found = pre_tokenizer_name(document)
        assert found is not None
        assert PRE_TOKENIZERS[found] == known, name


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [3]}},
        {"pre_tokenizer": {"type": "Sequence"}},
        {"model": {"ignore_merges": True}},
    ],
)
def test_other_cuts_have_no_name(change: dict[str, Any]) -> None:
    gpt2 = {"pre_tokenizer": PRE_TOKENIZERS["gpt-2"].to_json(), "model": {}}
    assert pre_tokenizer_name(gpt2) == "gpt-2"
    assert pre_tokenizer_name({**gpt2, **change}) is None


def test_what_has_no_name_is_written_without() -> None:
    document = json.loads(trained("gpt-2").to_str())
    document["pre_tokenizer"] = {"type": "Whitespace"}
    notes: list[str] = []
    metadata = tokenizer_metadata(document, {}, note=notes.append)
    assert "tokenizer.ggml.pre" not in metadata
    assert "without tokenizer.ggml.pre" in notes[0]
    assert "tokenizer.json" not in tokenizer_files(metadata, notes.append)
    assert "tokenizer.ggml.pre is missing" in notes[1]
    assert notes[1].endswith(
        "Put the model's tokenizer.json beside the .gguf and compile that directory"
    )


@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "bitnet-25", "bitnet"])
def test_bitnet_cpp_leaves_out_the_pre_tokenizer_of_llama_3(architecture: str) -> None:
    tokenizer = trained("llama-bpe")
    metadata, _ = through_gguf(with_bos(tokenizer))
    expected = tokenizer_files(metadata)
    del metadata["tokenizer.ggml.pre"]
    notes: list[str] = []
    found = tokenizer_files({**metadata, "general.architecture": architecture}, notes.append)
    assert found == expected
    assert notes == [
        "tokenizer.ggml.pre is missing: assumed llama-bpe, the tokenizer of Llama 3, as the "
        f"architecture is {architecture}"
    ]
    assert "tokenizer.json" not in tokenizer_files({**metadata, "general.architecture": "llama"})


def test_the_number_of_llama_3_s_tokens_tells_its_pre_tokenizer() -> None:
    metadata, _ = through_gguf(with_bos(trained("llama-bpe")))
    del metadata["tokenizer.ggml.pre"]
    more = [f"<|reserved_{i}|>" for i in range(128256 - len(metadata["tokenizer.ggml.tokens"]))]
    metadata["tokenizer.ggml.tokens"] += more
    metadata["tokenizer.ggml.token_type"] += [3] * len(more)
    notes: list[str] = []
    made = tokenizer_files({**metadata, "general.architecture": "llama"}, notes.append)
    assert "assumed llama-bpe" in notes[0]
    assert "as there are 128,256 tokens" in notes[0]
    split = json.loads(made["tokenizer.json"])["pre_tokenizer"]
    assert split == PRE_TOKENIZERS["llama-bpe"].to_json()


def test_ids_templates_and_types() -> None:
    document = with_bos(trained("llama-bpe"))
    metadata, _ = through_gguf(document, vocab_size=460)
    tokens = metadata["tokenizer.ggml.tokens"]
    count = len(Tokenizer.from_str(json.dumps(document)).get_vocab())
    assert tokens[:3] == SPECIAL
    assert len(tokens) == 460
    assert tokens[count:] == [f"[PAD{i}]" for i in range(count, 460)]
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:3] == [3, 3, 3]
    assert types[tokens.index("<think>")] == 4
    assert set(types[3 : count - 1]) == {1}
    assert set(types[count:]) == {5}
    assert metadata["tokenizer.ggml.bos_token_id"] == 0
    assert metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.add_eos_token"] is False
    files = tokenizer_files({**metadata, "tokenizer.ggml.eot_token_id": 2})
    assert json.loads(files["tokenizer_config.json"]) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{{ messages }}",
    }
    assert json.loads(files["generation_config.json"]) == {
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"eos": 1}, 1),
        ({"eos": 1, "eot": 1}, 1),
        ({"eos": 1, "eot": 2, "eom": 0}, [1, 2, 0]),
        ({"eom": 2}, 2),
        ({"eos": 3, "eot": 0}, 0),  # beyond the vocabulary
    ],
)
def test_ends_of_text_turn_and_message(keys: dict[str, int], expected: object) -> None:
    ids = {f"tokenizer.ggml.{name}_token_id": i for name, i in keys.items()}
    made = json.loads(tokenizer_files({**PLAIN, **ids}).get("generation_config.json", b"{}"))
    assert made == ({} if expected is None else {"eos_token_id": expected})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "do_sample": True},
        ),
        ({"temp": 0.0}, {"temperature": 0.0, "do_sample": False}),
        ({"top_p": 1.5, "temp": "hot", "top_k": -1, "mirostat": 2}, {}),
    ],
)
def test_sampling_that_the_file_suggests(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    suggested = {f"general.sampling.{name}": value for name, value in keys.items()}
    made = tokenizer_files({**PLAIN, **suggested}).get("generation_config.json", b"{}")
    assert json.loads(made) == expected


def test_llama_cpp_puts_bos_where_nothing_says_otherwise() -> None:
    metadata, _ = through_gguf(with_bos(trained("llama-bpe")))
    del metadata["tokenizer.ggml.add_bos_token"]
    made = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    assert made["post_processor"]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    metadata["tokenizer.ggml.pre"] = "smaug-bpe"
    assert json.loads(tokenizer_files(metadata)["tokenizer.json"])["post_processor"] is None
    metadata["tokenizer.ggml.add_eos_token"] = True
    made = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    assert made["post_processor"]["single"][-1] == {"SpecialToken": {"id": "</s>", "type_id": 0}}


# --- SentencePiece ------------------------------------------------------------------------------


def sentencepiece(prefix: bool = True) -> Tokenizer:
    """Train BPE as SentencePiece does: spaces are characters, unknown ones become bytes."""
    spell = normalizers.Replace(" ", "\u2581")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("\u2581"), spell]) if prefix else spell
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "<|user|>"],
        show_progress=False,
        max_token_length=8,
    )
    words = [word for text in CORPUS for word in text.replace(" ", " \u2581").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [
        t for t in document["added_tokens"] if not t["content"].startswith("<0x")
    ]
    # Put merges of the same token side by side, as when they are derived from scores.
    model = document["model"]
    made: dict[str, None] = dict.fromkeys("".join(pair) for pair in model["merges"])
    ids = model["vocab"]
    model["merges"] = [
        [token[:i], token[i:]]
        for token in made
        for i in sorted(range(1, len(token)), key=lambda i: (ids.get(token[:i], 0), i))
        if token[:i] in ids and token[i:] in ids
    ]
    return Tokenizer.from_str(json.dumps(document))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe(prefix: bool) -> None:
    before = sentencepiece(prefix)
    document = json.loads(before.to_str())
    notes: list[str] = []
    metadata = tokenizer_metadata(document, {**CONFIG, "unk_token": "<unk>"}, note=notes.append)
    assert notes == []
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    assert "tokenizer.ggml.merges" not in metadata  # derived from the scores
    tokens = metadata["tokenizer.ggml.tokens"]
    types = dict(zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True))
    assert [types[t] for t in ("<unk>", "<s>", "<0x0A>", "<|user|>", "e")] == [2, 3, 6, 3, 1]
    made = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    assert made["model"]["merges"] == document["model"]["merges"]
    back = Tokenizer.from_str(json.dumps(made))
    assert back.get_vocab() == before.get_vocab()
    for text in [*CORPUS[:4], *NASTY]:
        want = before.encode(text, add_special_tokens=False).ids
        assert back.encode(text, add_special_tokens=False).ids == want, text
    # Bytes are decoded to text, and the added space is removed.
    assert back.decode(back.encode("a 🦊  b", add_special_tokens=False).ids) == "a 🦊  b"


def test_other_spellings_of_sentencepiece() -> None:
    document = json.loads(sentencepiece().to_str())
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    for scheme, prefix in (("first", True), ("always", True), ("never", False)):
        other = {"normalizer": None, "pre_tokenizer": {**metaspace, "prepend_scheme": scheme}}
        metadata = tokenizer_metadata({**document, **other}, {})
        assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    space = {"String": " "}
    gemma = {
        "normalizer": {"type": "Replace", "pattern": space, "content": "\u2581"},
        "pre_tokenizer": {"type": "Split", "pattern": space, "behavior": "MergedWithPrevious"},
    }
    assert tokenizer_metadata({**document, **gemma}, {})["tokenizer.ggml.add_space_prefix"] is False
    notes: list[str] = []
    other = {"pre_tokenizer": {"type": "Whitespace"}}
    assert tokenizer_metadata({**document, **other}, {}, note=notes.append) == {}
    assert "does not split as SentencePiece" in notes[0]


def test_merges_that_no_scores_express_are_said() -> None:
    document = json.loads(sentencepiece().to_str())
    document["model"]["merges"] = [["a", "b"], ["c", "d"], ["ab", "c"], ["a", "bc"], ["a", "b"]]
    notes: list[str] = []
    tokenizer_metadata(document, {}, note=notes.append)
    assert "not ordered by token" in notes[0]


def test_scores_decide_which_pair_is_merged() -> None:
    """Worked by hand: the scores alone decide whether "ab" or "bc" is merged first."""
    tokens = ["<unk>", "a", "b", "c", "ab", "bc", "abc", "\u2581"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([2, 1, 1, 1, 1, 1, 5, 1], np.int32),
        "tokenizer.ggml.add_space_prefix": False,
    }
    for scores, want in (
        ([0, -9, -9, -9, -1, -2, 0, -9], [4, 3]),
        ([0, -9, -9, -9, -2, -1, 0, -9], [1, 5]),
    ):
        metadata["tokenizer.ggml.scores"] = np.array(scores, np.float32)
        made = Tokenizer.from_str(tokenizer_files(metadata)["tokenizer.json"].decode())
        assert made.encode("abc").ids == want
        assert made.encode("a☃☃").ids == [1, 0]  # no byte fallback


# --- invalid and hostile files ------------------------------------------------------------------

PLAIN = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.merges": ["a b"],
}
SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0],
}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (PLAIN | {"tokenizer.ggml.model": "rwkv"}, "'rwkv'"),
        (PLAIN | {"tokenizer.ggml.model": 7}, "'7'"),
        (PLAIN | {"tokenizer.ggml.model": np.arange(3)}, "'[0 1 2]'"),
        (PLAIN | {"tokenizer.ggml.pre": "unheard-of"}, "'unheard-of'"),
        (PLAIN | {"tokenizer.ggml.pre": ["gpt-2"]}, "gpt-2"),
        (PLAIN | {"tokenizer.ggml.tokens": "abc"}, "not a list"),
        (PLAIN | {"tokenizer.ggml.tokens": []}, "is empty"),
        (PLAIN | {"tokenizer.ggml.tokens": [1, 2]}, "not a string"),
        (PLAIN | {"tokenizer.ggml.tokens": ["a", "a", "b"]}, "a duplicate token"),
        (PLAIN | {"tokenizer.ggml.merges": ["a c"]}, "'a c'"),
        (PLAIN | {"tokenizer.ggml.merges": ["ab"]}, "'ab'"),
        (PLAIN | {"tokenizer.ggml.merges": 3}, "not a list"),
        (PLAIN | {"tokenizer.ggml.token_type": [1]}, "one number per token"),
        (SPM | {"tokenizer.ggml.scores": [0.0]}, "one number per token"),
        (SPM | {"tokenizer.ggml.scores": [0.0, "x", 0.0]}, "not a number"),
        (SPM | {"tokenizer.ggml.scores": [0.0, float("nan"), 0.0]}, "not a number"),
        (SPM | {"tokenizer.ggml.scores": [0.0, None, 0.0]}, "not a number"),
        (SPM | {"tokenizer.ggml.scores": [[0.0], [0.0, 1.0], [0.0]]}, "not a number"),
        (SPM | {"tokenizer.ggml.scores": [[0.0], [0.0], [0.0]]}, "not a number"),
        (SPM | {"tokenizer.ggml.scores": np.zeros(3, np.bool_)}, "not a number"),
        (SPM | {"tokenizer.ggml.tokens": ["a", "b", "a" * 20000]}, "too long"),
    ],
)
def test_metadata_that_give_no_tokenizer(metadata: dict[str, Any], reason: str) -> None:
    assert "tokenizer.json" in tokenizer_files(PLAIN)
    assert "tokenizer.json" in tokenizer_files(SPM)
    notes: list[str] = []
    assert "tokenizer.json" not in tokenizer_files(metadata, notes.append)
    assert len(notes) == 1
    assert reason in notes[0]


def test_too_many_tokens_or_merges_are_not_even_read() -> None:
    class Unread(list[str]):
        def __len__(self) -> int:
            return MAX_TOKENS + 1

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("it is decoded")

    for key in ("tokens", "merges"):
        notes: list[str] = []
        files = tokenizer_files(PLAIN | {f"tokenizer.ggml.{key}": Unread()}, notes.append)
        assert "tokenizer.json" not in files
        (note,) = notes
        assert f"tokenizer.ggml.{key} lists 1048577 strings, the limit is 1048576" in note


@pytest.mark.parametrize(("most", "limit"), [(1 << 20, 16 * 41), (50, 50)])
def test_tokens_that_many_pairs_make(
    monkeypatch: pytest.MonkeyPatch, most: int, limit: int
) -> None:
    """Seven megabytes of tokens once became a gigabyte of merges."""
    monkeypatch.setattr("rsrc.source.gguf.tokenizer_files.MAX_MERGES", most)
    notes: list[str] = []
    for count in (10, 41):  # tokens of 1 to n letters: n (n - 1) / 2 pairs
        tokens = ["a" * n for n in range(1, count + 1)]
        spm = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": np.zeros(count)}
        files = tokenizer_files(SPM | spm, notes.append)
        assert ("tokenizer.json" in files) == (count == 10)
        if count == 10:
            assert len(json.loads(files["tokenizer.json"])["model"]["merges"]) == 45
    assert len(notes) == 1
    assert f"41 tokens that more than {limit} pairs form, expected at most 16" in notes[0]


def test_ids_that_are_none_are_left_out() -> None:
    for wrong in (3, -1, "a", 1.0, True, None, [0]):
        metadata = PLAIN | {"tokenizer.ggml.bos_token_id": wrong, "tokenizer.chat_template": 5}
        files = tokenizer_files(metadata)
        assert "generation_config.json" not in files
        assert not {"bos_token", "chat_template"} & set(json.loads(files["tokenizer_config.json"]))
    assert tokenizer_files({"general.architecture": "llama"}) == {}


def test_any_text_is_valid_json() -> None:
    tokens = ["\ud800", '"', "\x00", "a"]
    files = tokenizer_files(
        PLAIN | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["a b"]}
    )
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": None}, "not BPE"),
        ({"model": {"type": "Unigram"}}, "'Unigram'"),
        ({"model": {"vocab": []}}, "no vocab"),
        ({"model": {"vocab": {"a": "0"}}}, "the id 0"),
        ({"model": {"vocab": {"a": 1 << 40}}}, "the id"),
        ({"model": {"vocab": {"a": 1 << 23}, "merges": []}}, "ids up to"),
        ({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}, "same id"),
        ({"model": {"vocab": {"a": 0}}}, "no list of merges"),
        ({"model": {"vocab": {"a": 0}, "merges": ["a b c"]}}, "the merge"),
        ({"model": {"vocab": {"a": 0}, "merges": [[1, 2]]}}, "the merge"),
        ({"model": {"vocab": {"a ": 0}, "merges": [["a", " "]]}}, "spaces"),
        ({"added_tokens": [{"id": 1}]}, "without content"),
        ({"added_tokens": ["x"]}, "without content"),
        ({"added_tokens": [{"id": None, "content": "x"}]}, "the id None"),
    ],
)
def test_tokenizers_that_give_no_metadata(change: dict[str, Any], reason: str) -> None:
    plain = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}
    notes: list[str] = []
    found = tokenizer_metadata(plain, {}, note=notes.append)
    assert found["tokenizer.ggml.merges"] == ["a b"]
    notes.clear()
    assert tokenizer_metadata({**plain, **change}, {}, note=notes.append) == {}
    assert len(notes) == 1
    assert reason in notes[0]


def test_more_tokens_than_rows_are_refused() -> None:
    notes: list[str] = []
    document = json.loads(trained("gpt-2").to_str())
    assert tokenizer_metadata(document, {}, vocab_size=100, note=notes.append) == {}
    assert "the embedding has 100 rows" in notes[0]
