"""Small tokenizers of every kind, made by the library: whole texts, and token by token."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Library

from rsr_runtime.llm.errors import ModelError, PromptError
from rsr_runtime.llm.tokenizer import (
    StopStrings,
    StreamingDetokenizer,
    Tokenizer,
    special_tokens,
)
from rsr_runtime.llm.tokenizer.library import call
from rsr_testing.tokenizers import sentencepiece_decoder, sentencepiece_normalizer

SPECIAL = ["<s>", "</s>", "<|im_end|>"]


def bytes_bpe() -> Library:
    """Every byte and some merges, as in Llama 3, Qwen and Falcon."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("Ã", "¤"), ("ð", "Ł"), ("l", "d")]
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    library = Library(models.BPE(vocab=vocab, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def pieces() -> dict[str, int]:
    words = ["<unk>", *SPECIAL[:2], *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁▁", "▁▁▁▁"]
    words += ["h", "e", "l", "o", "w", "r", "d", "▁he", "▁hello", "▁wor", "ld", "ä", "✓", "."]
    return {word: i for i, word in enumerate(words)}


def byte_fallback_bpe() -> Library:
    """SentencePiece with a fallback on bytes, as in Llama 2 and Mistral."""
    vocab = pieces() | {"he": 900}
    merges = [("h", "e"), ("▁", "he")]
    model = models.BPE(
        vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    library = Library(model)
    library.normalizer = sentencepiece_normalizer()
    library.decoder = sentencepiece_decoder()
    return library


def unigram(scheme: str = "always") -> Library:
    """A score for each piece, as in T5 and XGLM."""
    model = models.Unigram([(word, -1.0) for word in pieces()], unk_id=0, byte_fallback=True)
    library = Library(model)
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    library.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
    )
    return library


def metaspace() -> Library:
    library = unigram("first")
    library.decoder = decoders.Metaspace(prepend_scheme="first")
    return library


def words() -> Library:
    """Without a decoder: the library puts spaces between tokens."""
    vocab = {w: i for i, w in enumerate(["<unk>", "a", ".", "'", "do", "n't", "it", "'s", "?"])}
    library = Library(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return library


def word_pieces() -> Library:
    vocab = {w: i for i, w in enumerate(["[UNK]", "un", "##able", "##s", "to", ",", "'", "ve"])}
    library = Library(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.WordPiece(cleanup=True)
    return library


def end_of_word() -> Library:
    vocab = {w: i for i, w in enumerate(["a", "b", "a</w>", "b</w>"])}
    library = Library(models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>"))
    library.decoder = decoders.BPEDecoder("</w>")
    return library


def bytes_in_a_sequence() -> Library:
    library = bytes_bpe()
    library.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    return library


KINDS: list[Callable[[], Library]] = [
    bytes_bpe,
    bytes_in_a_sequence,
    byte_fallback_bpe,
    unigram,
    metaspace,
    words,
    word_pieces,
    end_of_word,
]


def files(library: Library, config: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files of a tokenizer, with special tokens and two other added ones."""
    library.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    library.add_tokens([AddedToken("<think>", normalized=False), AddedToken("ü b ✓")])
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    return {
        "tokenizer.json": library.to_str().encode(),
        "tokenizer_config.json": json.dumps(named | (config or {})).encode(),
    }


CLEANED = {"clean_up_tokenization_spaces": True}
TOKENIZERS = {
    f"{kind.__name__}{' cleaned' if config else ''}": Tokenizer(files(kind(), config))
    for kind in KINDS
    for config in ({}, CLEANED)
}
LLAMA3, LLAMA2 = TOKENIZERS["bytes_bpe"], TOKENIZERS["byte_fallback_bpe"]


def streamed(tokenizer: Tokenizer, ids: list[int], **options: Any) -> list[str]:
    stream = StreamingDetokenizer(tokenizer, **options)
    return [*map(stream.push, ids), stream.finish()]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_id(token)
    assert found is not None
    return found


class TestTokenizer:
    def test_bytes(self) -> None:
        ids = LLAMA3.encode("<s>ä world<|im_end|>")
        assert [LLAMA3.token(i) for i in ids] == ["<s>", "Ã¤", "Ġwor", "ld", "<|im_end|>"]
        assert LLAMA3.decode(ids) == "ä world"
        assert LLAMA3.decode(ids, skip_special=False) == "<s>ä world<|im_end|>"

    def test_byte_fallback(self) -> None:
        ids = LLAMA2.encode("he 🦊")
        assert [LLAMA2.token(i) for i in ids] == (
            ["▁he", "▁", "<0xF0>", "<0x9F>", "<0xA6>", "<0x8A>"]
        )
        assert LLAMA2.decode(ids) == "he 🦊"

    def test_names(self) -> None:
        names = LLAMA3.special_tokens
        assert (names["bos_token"], names["eos_token"]) == ("<s>", "</s>")
        assert LLAMA3.bos_id == LLAMA3.token_id("<s>") == 262
        assert LLAMA3.eos_id == LLAMA3.token_id("</s>") == 263
        assert LLAMA3.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
        assert LLAMA3.size == 256 + 6 + 5
        assert LLAMA3.token_id("no such token") is None
        assert LLAMA3.token_id("\ud800") is None  # a stop string may be half a surrogate pair
        assert LLAMA3.token(10_000) is None
        assert LLAMA3.is_special(262)
        assert not LLAMA3.is_special(id_of(LLAMA3, "<think>"))

    def test_without_names(self) -> None:
        tokenizer = Tokenizer({"tokenizer.json": words().to_str().encode()})
        assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)
        assert "bos_token" not in tokenizer.special_tokens
        assert tokenizer.special_tokens == {}

    def test_the_post_processor_says_what_is_added(self) -> None:
        library = bytes_bpe()
        made = files(library)
        library.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 262)]
        )
        library.enable_truncation(3)  # a relic of training, like padding: both are switched off
        library.enable_padding(length=50)
        tokenizer = Tokenizer(made | {"tokenizer.json": library.to_str().encode()})
        assert [tokenizer.token(i) for i in tokenizer.encode("ldld")] == ["<s>", "ld", "ld"]
        assert [tokenizer.token(i) for i in tokenizer.encode("ldld", special=False)] == ["ld", "ld"]
        assert len(tokenizer.encode("ld" * 40)) == 41

    def test_tokens_of_the_config_are_added(self) -> None:
        config = {
            "pad_token": "<pad>",
            "added_tokens_decoder": {
                "265": {"content": "<think>", "special": True, "normalized": False},
                "900": {"content": "<tool>", "special": True},
            },
        }
        tokenizer = Tokenizer(files(bytes_bpe(), config))
        ids = tokenizer.encode("<tool><think>a<pad>")
        assert [tokenizer.token(i) for i in ids] == ["<tool>", "<think>", "a", "<pad>"]
        assert [tokenizer.is_special(i) for i in ids] == [True, True, False, True]
        assert tokenizer.decode(ids) == "a"
        assert "".join(streamed(tokenizer, ids)) == "a"

    def test_a_special_token_stays_special(self) -> None:
        config = {"added_tokens_decoder": {"264": {"content": "<|im_end|>", "special": False}}}
        tokenizer = Tokenizer(files(bytes_bpe(), config))
        assert tokenizer.decode([264, 64]) == "".join(streamed(tokenizer, [264, 64])) == "a"

    def test_the_older_file_of_names(self) -> None:
        older = json.dumps({"bos_token": {"content": "<|im_end|>"}}).encode()
        assert special_tokens({"special_tokens_map.json": older}) == {"bos_token": "<|im_end|>"}
        both = files(words()) | {"special_tokens_map.json": older}
        assert special_tokens(both) == {"bos_token": "<|im_end|>", "eos_token": "</s>"}
        newer = files(words(), {"added_tokens_decoder": {}})
        assert special_tokens(newer | {"special_tokens_map.json": older})["bos_token"] == "<s>"

    def test_names_of_other_tokens(self) -> None:
        config = {"image_token": "<img>", "add_bos_token": True, "unk_token": None}
        config |= {"extra_special_tokens": {"boi_token": "<boi>"}}
        assert special_tokens(files(words(), config)) == {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "boi_token": "<boi>",
            "image_token": "<img>",
        }

    def test_cleaning_up(self) -> None:
        ids = [4, 5, 1, 2, 6, 7, 1, 3, 1, 8]
        assert TOKENIZERS["words"].decode(ids) == "do n't a . it 's a ' a ?"
        assert TOKENIZERS["words cleaned"].decode(ids) == "don't a. it's a'a?"
        bpe = TOKENIZERS["bytes_bpe cleaned"]
        assert bpe.decode(bpe.encode("a . b")) == "a . b"  # never with BPE, unless it insists
        name = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        bpe = Tokenizer(files(bytes_bpe(), CLEANED | {name: True}))
        assert bpe.decode(bpe.encode("a . b")) == "a. b"

    def test_no_text(self) -> None:
        assert LLAMA3.encode("") == []
        assert LLAMA3.decode([]) == ""
        assert LLAMA3.decode([70_000]) == ""


class TestRefusals:
    def test_nothing_there(self) -> None:
        with pytest.raises(
            ModelError, match=r"no tokenizer.json \(it has config.json\).*directory"
        ):
            Tokenizer({"config.json": b"{}"})
        with pytest.raises(ModelError, match=r"no files at all"):
            Tokenizer({})

    def test_only_sentencepiece(self) -> None:
        with pytest.raises(ModelError, match=r"alone is not enough.*AutoTokenizer"):
            Tokenizer({"tokenizer.model": b"\n\x0e\n\x05"})

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"model":' * 100_000,
            b'{"model":{"type":"BPE","vocab":{},"merges":[["a","b"]]}}',
            b'{"model":{"type":"Unigram","vocab":[["a",0.0]],"unk_id":7}}',
            files(words())["tokenizer.json"][:-40],
        ],
    )
    def test_damaged(self, data: bytes) -> None:
        with pytest.raises(ModelError, match=r"^tokenizer.json cannot be read: "):
            Tokenizer({"tokenizer.json": data})

    def test_too_large(self) -> None:
        with pytest.raises(ModelError, match=r"67,108,865 bytes, the limit is 67,108,864"):
            Tokenizer({"tokenizer.json": bytes((64 << 20) + 1)})

    @pytest.mark.parametrize(
        "config",
        [
            b"[]",
            b"{",
            b"[" * 100_000,
            b'{"bos_token": 7}',
            b'{"bos_token": {"text": "<s>"}}',
            b'{"added_tokens_decoder": [1]}',
            b'{"added_tokens_decoder": {"x": {"content": "a"}}}',
            b'{"added_tokens_decoder": {"9": 5}}',
            b'{"added_tokens_decoder": {"9": {"content": 5}}}',
            b'{"bos_token": "\\ud800"}',
            b'{"extra_special_tokens": ["\\ud800"]}',
            b'{"extra_special_tokens": 5}',
            b'{"extra_special_tokens": [5]}',
            b'{"additional_special_tokens": [{}]}',
            b'{"additional_special_tokens": [{"content": "a", "lstrip": []}]}',
        ],
    )
    def test_a_damaged_config(self, config: bytes) -> None:
        with pytest.raises(ModelError):
            Tokenizer(files(words()) | {"tokenizer_config.json": config})

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("added_tokens.json", b"[]"),
            ("added_tokens.json", b'{"<tool>": "5"}'),
            ("added_tokens.json", b'{"<tool>": {}}'),
            ("special_tokens_map.json", b'{"extra_special_tokens": "<tool>"}'),
            ("special_tokens_map.json", b'{"additional_special_tokens": [null]}'),
        ],
    )
    def test_damaged_files_of_old_versions(self, name: str, data: bytes) -> None:
        with pytest.raises(ModelError, match=f"^{name}: "):
            Tokenizer(files(words()) | {name: data})

    def test_a_panic_becomes_an_error(self) -> None:
        """The library raises what `except Exception` does not catch. KeyboardInterrupt passes."""
        panic = type("PanicException", (BaseException,), {})

        def fail(error: BaseException) -> None:
            raise error

        with pytest.raises(ModelError, match="cannot encode: index out of bounds"):
            call("encode", fail, panic("index out of bounds"))
        with pytest.raises(KeyboardInterrupt):
            call("encode", fail, KeyboardInterrupt())

    @given(data=st.data())
    @settings(max_examples=300, deadline=None)
    def test_damaged_in_one_place(self, data: st.DataObject) -> None:
        """It is used or refused."""
        kind = data.draw(st.sampled_from(KINDS))
        document = json.loads(files(kind())["tokenizer.json"])
        decoder = json.dumps(document["decoder"])
        place, steps = document, data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=6))
        for step in steps:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[step % len(keys)]
            if step == steps[-1] or not isinstance(place[key], (dict, list)) or not place[key]:
                break
            place = place[key]
        junk: list[Any] = [
            None,
            -1,
            2**32 - 1,
            1e300,
            "",
            "▁",
            "\ud800",
            [],
            {},
            True,
            [[]],
            {"type": "Fuse"},
        ]
        place[key] = data.draw(st.sampled_from(junk))
        try:
            tokenizer = Tokenizer({"tokenizer.json": json.dumps(document).encode()})
            ids = tokenizer.encode("<s>hello ä🦊 world, it's un able")
            text, pieces = tokenizer.decode(ids), streamed(tokenizer, ids)
            # A damaged decoder need not work token by token (an end of word that is "").
            assert "".join(pieces) == text or json.dumps(document["decoder"]) != decoder
        except ModelError:
            pass

    @pytest.mark.parametrize("text", [b"bytes", None, ["a"]])
    def test_a_prompt_that_is_no_text(self, text: Any) -> None:
        with pytest.raises(PromptError, match="expected a string"):
            LLAMA3.encode(text)

    def test_half_a_surrogate_pair(self) -> None:
        with pytest.raises(PromptError, match="surrogate pair at character 2"):
            LLAMA3.encode("ab\ud800")

    @pytest.mark.parametrize("bad", [-1, 1 << 32, "a", 1.0, None])
    def test_ids(self, bad: Any) -> None:
        with pytest.raises(PromptError, match=r"found token id .*, expected an integer"):
            LLAMA3.decode([bad])
        with pytest.raises(PromptError, match=r"found token id .*, expected an integer"):
            StreamingDetokenizer(LLAMA3).push(bad)


class TestStream:
    @pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
    @given(data=st.data())
    @settings(max_examples=60)
    def test_pieces_are_the_whole(self, tokenizer: Tokenizer, data: st.DataObject) -> None:
        """Any ids: bytes that are not UTF-8, special tokens, ids without a token."""
        ids = data.draw(st.lists(st.integers(0, tokenizer.size + 2), max_size=40))
        skip = data.draw(st.booleans())
        found = "".join(streamed(tokenizer, ids, skip_special=skip))
        assert found == tokenizer.decode(ids, skip_special=skip)

    @given(st.lists(st.integers(0, 255), max_size=30))
    @settings(max_examples=300)
    def test_any_bytes(self, data: list[int]) -> None:
        for tokenizer, first in ((LLAMA3, 0), (LLAMA2, 3)):
            ids = [first + byte for byte in data]
            assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)

    @pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
    @given(text=st.text(max_size=30))
    @settings(max_examples=30)
    def test_any_text(self, tokenizer: Tokenizer, text: str) -> None:
        ids = tokenizer.encode(text)
        pieces = streamed(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)

    def test_a_character_comes_as_a_whole(self) -> None:
        ids = LLAMA3.encode("é🦊ä")
        assert len(ids) == 2 + 3 + 1  # of the fox, two bytes are one token
        assert streamed(LLAMA3, ids) == ["", "é", "", "", "🦊", "ä", ""]

    def test_bytes_are_certain_with_the_token_after_them(self) -> None:
        ids = LLAMA2.encode("🦊.he")
        assert [LLAMA2.token(i) for i in ids[5:]] == [".", "he"]
        assert streamed(LLAMA2, ids) == ["", "", "", "", "", "🦊.", "he", ""]

    def test_bytes_that_are_no_character(self) -> None:
        """The library decodes a row of bytes with one bad byte as replacement characters."""
        ids = [id_of(LLAMA2, t) for t in ("<0xC3>", "<0xA4>", "<0xFF>", "he")]
        assert streamed(LLAMA2, ids) == ["", "", "", "\ufffd" * 3 + "he", ""]

    def test_spaces(self) -> None:
        ids = [id_of(LLAMA2, t) for t in ("▁hello", "▁▁", "▁wor", "ld", "▁", "</s>", "▁hello")]
        assert streamed(LLAMA2, ids) == ["hello", "  ", " wor", "ld", " ", "", " hello", ""]

    def test_the_end_may_be_half_a_character(self) -> None:
        ids = LLAMA3.encode("🦊")[:-1]
        assert streamed(LLAMA3, ids) == ["", "", "\ufffd"]

    @pytest.mark.parametrize(
        ("kind", "token"),
        [
            ("bytes_bpe", "a"),
            ("bytes_bpe", "ÿ"),
            ("bytes_in_a_sequence", "a"),
            ("bytes_in_a_sequence", "ÿ"),
            ("byte_fallback_bpe", "▁"),
            ("byte_fallback_bpe", "<0xFF>"),
            ("byte_fallback_bpe", "</s>"),
            ("byte_fallback_bpe", "▁hello"),
            ("metaspace", "▁"),
            ("words", "a"),
        ],
    )
    def test_late_tokens_cost_what_early_ones_do(self, kind: str, token: str) -> None:
        """Of 20,000 tokens; decoding all of them each time would take minutes."""
        tokenizer = TOKENIZERS[kind]
        ids = [id_of(tokenizer, token)] * 20_000
        before = time.process_time()
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
        assert time.process_time() - before < 10


class TestStopStrings:
    def test_holds_back_a_beginning(self) -> None:
        stop = StopStrings(["</end>"])
        assert stop.push("hello <") == ("hello ", False)
        assert stop.push("/") == ("", False)
        assert stop.push("e, not") == ("</e, not", False)
        assert stop.push(" yet</en") == (" yet", False)
        assert stop.push("d> and more") == ("", True)
        assert stop.push("nothing") == ("", True)
        assert stop.finish() == ""

    def test_the_rest(self) -> None:
        stop = StopStrings(["ab"])
        assert stop.push("ca") == ("c", False)
        assert stop.finish() == "a"
        assert stop.finish() == ""

    def test_the_first_to_end(self) -> None:
        assert StopStrings(["bcd", "c"]).push("abcd") == ("ab", True)
        assert StopStrings(["c", "bc"]).push("abc") == ("a", True)

    def test_a_beginning_within_a_beginning(self) -> None:
        stop = StopStrings(["aab"])
        assert stop.push("aa") == ("", False)
        assert stop.push("a") == ("a", False)
        assert stop.push("b") == ("", True)

    def test_none(self) -> None:
        stop = StopStrings()
        assert stop.push("abc") == ("abc", False)
        assert stop.finish() == ""

    @pytest.mark.parametrize("strings", [[""], [b"a"], [None], ["a", ""]])
    def test_refuses(self, strings: Any) -> None:
        with pytest.raises(PromptError, match=r"found stop string .*, expected non-empty text"):
            StopStrings(strings)

    @given(
        st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
        st.lists(st.text("abc", max_size=4), max_size=12),
    )
    @settings(max_examples=300)
    def test_pieces_do_not_matter(self, strings: list[str], pieces: list[str]) -> None:
        text = "".join(pieces)
        ends = [(text.index(s) + len(s), text.index(s)) for s in strings if s in text]
        expected = text[: min(ends)[1]] if ends else text
        stop, found, stopped = StopStrings(strings), "", False
        for piece in pieces:
            part, stopped = stop.push(piece)
            found += part
        assert stopped == bool(ends)
        assert found + stop.finish() == expected


@pytest.mark.parametrize("name", [k.__name__ for k in KINDS if k is not end_of_word])
@given(data=st.data())
def test_a_text_goes_on_as_if_it_had_not_been_cut(name: str, data: st.DataObject) -> None:
    """SentencePiece drops the blank before the first word of a text, not of its continuation."""
    tokenizer = TOKENIZERS[name]
    words = st.sampled_from(["hello", " hello", " he", "world", " ", "."])
    ids = tokenizer.encode("".join(data.draw(st.lists(words, min_size=2, max_size=30))))
    assume(len(ids) > 1)
    cut = data.draw(st.integers(1, len(ids) - 1))
    continued = "".join(streamed(tokenizer, ids[cut:], after=ids[:cut]))
    assert tokenizer.decode(ids[:cut]) + continued == tokenizer.decode(ids)


def test_the_blank_of_a_continuation() -> None:
    hello = LLAMA2.encode("hello")
    assert "".join(streamed(LLAMA2, hello)) == "hello"
    assert "".join(streamed(LLAMA2, hello, after=hello)) == " hello"
