"""Convert the tokenizer in GGUF metadata to the tokenizer files of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .tokenizer_common import (
    BYTE_TOKENS,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    SPACE,
    SPECIAL_TOKENS,
    UNKNOWN,
    USER_DEFINED,
    Note,
    PreTokenizer,
    TokenizerError,
    ignore,
)
from .values import number_of

_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # of a turn, of a message
_SAMPLING = {  # key after general.sampling: key of generation_config.json, and its largest value
    "temp": ("temperature", 1e6),
    "top_k": ("top_k", 1 << 20),
    "top_p": ("top_p", 1),
    "min_p": ("min_p", 1),
}

# Limits for untrusted files: a few megabytes of metadata could become a gigabyte of merges.
LLAMA3_TOKENS = 128256  # of Llama 3, whose tokenizer BitNet b1.58 2B4T has
_BITNET_CPP = ("bitnet-b1.58", "bitnet-25", "bitnet")  # architectures of bitnet.cpp's converter
MAX_TOKENS = 1 << 20  # the largest known vocabularies have 262,144
MAX_MERGES = 1 << 20  # listed or derived; Gemma's 256,000 tokens have 580,604, others fewer
MERGES_PER_TOKEN = 16  # derived; Llama 2 and Gemma have about two
_MAX_WORK = 1 << 27  # characters examined to derive merges; 256,000 tokens need 2^24


def tokenizer_files(metadata: Mapping[str, Any], note: Note = ignore) -> dict[str, bytes]:
    """Return tokenizer.json, tokenizer_config.json and generation_config.json of a GGUF model.

    Files that cannot be made are left out: all of them without a tokenizer, tokenizer.json if
    `tokenizers` has no equivalent, generation_config.json without token ids.

    Args:
        metadata: values are str, int, float, bool, and lists or arrays of them.
        note: called with the reason if there is no tokenizer.json.

    Returns:
        The contents of each file, by name.
    """
    if "tokenizer.ggml.model" not in metadata:
        return {}
    files: dict[str, Any] = {}
    tokens: list[str] = []
    try:
        tokens = _strings(metadata, "tokenizer.ggml.tokens", MAX_TOKENS)
        metadata = _with_pre(metadata, len(tokens), note)
        files["tokenizer.json"] = _tokenizer_json(metadata, tokens)
    except TokenizerError as reason:
        note(
            f"no tokenizer.json: {reason}. Put the model's tokenizer.json beside the .gguf and "
            "compile that directory"
        )
    ids = {name: _token_id(metadata, key, len(tokens)) for name, key in SPECIAL_TOKENS.items()}
    if tokens:
        files["tokenizer_config.json"] = _tokenizer_config(metadata, tokens, ids)
    if generation := _generation_config(metadata, len(tokens), ids):
        files["generation_config.json"] = generation
    # json.dumps escapes, so the result is ASCII whatever the strings hold.
    return {
        name: json.dumps(value, separators=(",", ":")).encode() for name, value in files.items()
    }


def _with_pre(metadata: Mapping[str, Any], count: int, note: Note) -> Mapping[str, Any]:
    """Return the metadata with the pre-tokenizer that bitnet.cpp's converter leaves out."""
    if "tokenizer.ggml.pre" in metadata or not _is(metadata["tokenizer.ggml.model"], "gpt2"):
        return metadata
    architecture = str(metadata.get("general.architecture"))
    if count != LLAMA3_TOKENS and architecture not in _BITNET_CPP:
        return metadata
    note(
        "tokenizer.ggml.pre is missing: assumed llama-bpe, the tokenizer of Llama 3, as "
        + (
            f"there are {LLAMA3_TOKENS:,} tokens"
            if count == LLAMA3_TOKENS
            else f"the architecture is {architecture}"
        )
    )
    return {**metadata, "tokenizer.ggml.pre": "llama-bpe"}


def _tokenizer_json(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    if len(set(tokens)) < len(tokens):
        raise TokenizerError("tokenizer.ggml.tokens has a duplicate token")
    kind = metadata["tokenizer.ggml.model"]
    if _is(kind, "gpt2"):
        made = _byte_level(metadata, tokens)
    elif _is(kind, "llama"):
        made = _sentencepiece(metadata, tokens)
    else:
        raise TokenizerError(
            f"tokenizer.ggml.model is {str(kind)[:64]!r}, supported are 'gpt2' and 'llama'"
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(metadata, tokens),
        **made,
        "post_processor": _post_processor(metadata, tokens),
    }


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    pre = _pre_tokenizer(metadata)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = _merges(metadata, vocabulary)
    return {
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": pre.to_json(),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _model(vocabulary, merges, ignore_merges=pre.ignore_merges),
    }


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = metadata.get("tokenizer.ggml.pre")
    if (known := PRE_TOKENIZERS.get(str(name))) is not None:
        return known
    if name is None:
        raise TokenizerError("tokenizer.ggml.pre is missing, which says how text is split")
    raise TokenizerError(
        f"tokenizer.ggml.pre is {str(name)[:64]!r}, supported are " + ", ".join(PRE_TOKENIZERS)
    )


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    types = _token_types(metadata, len(tokens))
    if "tokenizer.ggml.merges" in metadata:
        merges = _merges(metadata, vocabulary)
    else:
        merges = _merges_from_scores(metadata, vocabulary, types)
    unknown = _token_id(metadata, SPECIAL_TOKENS["unk_token"], len(tokens))
    if unknown is None and UNKNOWN in types:
        unknown = types.index(UNKNOWN)
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizers: list[dict[str, Any]] = [spaces]
    if prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(
            vocabulary,
            merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=vocabulary.keys() >= BYTE_TOKENS,
        ),
    }


def _model(
    vocabulary: dict[str, int], merges: list[list[str]], **settings: bool | str | None
) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**model, **settings, "vocab": vocabulary, "merges": merges}


def _merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = []
    for merge in _strings(metadata, "tokenizer.ggml.merges", MAX_MERGES):
        left, _, right = merge.partition(" ")
        if not vocabulary.keys() >= {left, right, left + right}:
            raise TokenizerError(
                f"tokenizer.ggml.merges has {merge[:64]!r}, which does not merge two tokens into "
                "a token"
            )
        merges.append([left, right])
    return merges


def _merges_from_scores(
    metadata: Mapping[str, Any], vocabulary: Mapping[str, int], types: Sequence[int]
) -> list[list[str]]:
    """List all pairs of tokens that form a token, by descending score of that token."""
    scores = _scores(metadata, len(vocabulary))
    names = list(vocabulary)  # merges share these strings
    normal = [token for token, i in vocabulary.items() if types[i] == NORMAL]
    if sum(len(token) ** 2 for token in normal) > _MAX_WORK:
        raise TokenizerError("tokenizer.ggml.tokens has tokens too long to derive merges from")
    limit = min(MAX_MERGES, MERGES_PER_TOKEN * len(vocabulary))
    merges: list[list[str]] = []
    for token in sorted(normal, key=lambda token: -scores[vocabulary[token]]):
        found = []
        for i in range(1, len(token)):
            left = vocabulary.get(token[:i])
            if left is not None and (right := vocabulary.get(token[i:])) is not None:
                found.append((left, right))
        if len(merges) + len(found) > limit:
            raise TokenizerError(
                f"tokenizer.ggml.tokens has {len(vocabulary)} tokens that more than {limit} pairs "
                f"form, expected at most {MERGES_PER_TOKEN} per token and {MAX_MERGES} in all"
            )
        found.sort()
        merges += [[names[left], names[right]] for left, right in found]
    return merges


def _scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    found = metadata.get("tokenizer.ggml.scores")
    if not isinstance(found, list | tuple | np.ndarray) or len(found) != count:
        raise TokenizerError("tokenizer.ggml.scores is missing or not one number per token")
    if not all(isinstance(s, int | float | np.number) and s == s for s in found):
        raise TokenizerError("tokenizer.ggml.scores has a value that is not a number")
    return [float(score) for score in found]


def _added_tokens(metadata: Mapping[str, Any], tokens: list[str]) -> list[dict[str, Any]]:
    """List the tokens that are matched in the text before it is split."""
    return [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for i, kind in enumerate(_token_types(metadata, len(tokens)))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) and tokens[i]
    ]


def _post_processor(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """Add BOS and EOS if the metadata says so; the defaults are llama.cpp's."""
    marks = []
    for name, wanted in _added_ends(metadata).items():
        i = _token_id(metadata, SPECIAL_TOKENS[f"{name}_token"], len(tokens))
        marks.append(tokens[i] if wanted and i is not None else None)
    if not any(marks):
        return None

    def part(text: str, number: int) -> list[dict[str, Any]]:
        sequence = {"Sequence": {"id": text, "type_id": number}}
        ends = [
            [{"SpecialToken": {"id": mark, "type_id": number}}] if mark else [] for mark in marks
        ]
        return [*ends[0], sequence, *ends[1]]

    ids = {token: i for i, token in enumerate(tokens)}
    return {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": part("A", 0) + part("B", 1),
        "special_tokens": {
            mark: {"id": mark, "ids": [ids[mark]], "tokens": [mark]} for mark in marks if mark
        },
    }


def _added_ends(metadata: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether BOS and EOS are added to a text."""
    pre = PRE_TOKENIZERS.get(str(metadata.get("tokenizer.ggml.pre")))
    spm = _is(metadata.get("tokenizer.ggml.model"), "llama")
    default = spm or (pre is not None and pre.add_bos)  # llama.cpp's
    return {
        "bos": _flag(metadata, "tokenizer.ggml.add_bos_token", default),
        "eos": _flag(metadata, "tokenizer.ggml.add_eos_token", False),
    }


def _tokenizer_config(
    metadata: Mapping[str, Any], tokens: list[str], ids: Mapping[str, int | None]
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"add_{name}_token": added for name, added in _added_ends(metadata).items()},
    }
    for name, i in ids.items():
        if i is not None:
            config[name] = tokens[i]
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        config["chat_template"] = template
    return config


def _generation_config(
    metadata: Mapping[str, Any], count: int, ids: Mapping[str, int | None]
) -> dict[str, Any]:
    """Return what starts and ends generation, and how llama.cpp would sample.

    The ends of a turn and of a message end the text, too.
    """
    config: dict[str, Any] = {
        f"{name}_id": ids[name]
        for name in ("bos_token", "eos_token", "pad_token")
        if ids[name] is not None
    }
    ends = [ids["eos_token"], *(_token_id(metadata, key, count) for key in _ENDS)]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    if ends:
        config["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for key, (name, largest) in _SAMPLING.items():
        value = number_of(metadata.get(f"general.sampling.{key}"))
        if value is not None and 0 <= value <= largest:
            config[name] = int(value) if key == "top_k" else value
    if any(name in config for name, _ in _SAMPLING.values()):
        config["do_sample"] = config.get("temperature") != 0
    return config


def _strings(metadata: Mapping[str, Any], key: str, limit: int) -> list[str]:
    found = metadata.get(key)
    if isinstance(found, str | bytes) or not isinstance(found, Sequence | np.ndarray):
        raise TokenizerError(f"{key} is missing or not a list")
    if len(found) > limit:  # before any string is decoded
        raise TokenizerError(f"{key} lists {len(found)} strings, the limit is {limit}")
    texts = list(found)
    if not texts:
        raise TokenizerError(f"{key} is empty")
    if not all(isinstance(text, str) for text in texts):
        raise TokenizerError(f"{key} has an element that is not a string")
    return texts


def _token_types(metadata: Mapping[str, Any], count: int) -> list[int]:
    found = metadata.get("tokenizer.ggml.token_type")
    if found is None:
        return [NORMAL] * count
    if not isinstance(found, list | tuple | np.ndarray) or len(found) != count:
        raise TokenizerError("tokenizer.ggml.token_type is not one number per token")
    return [int(kind) if isinstance(kind, int | np.integer) else NORMAL for kind in found]


def _token_id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    found = metadata.get(key)
    if isinstance(found, bool) or not isinstance(found, int | np.integer):
        return None
    return int(found) if 0 <= found < count else None


def _is(value: Any, text: str) -> bool:
    """Compare with a string; == on arrays would compare element by element."""
    return isinstance(value, str) and value == text


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    found = metadata.get(key)
    return bool(found) if isinstance(found, bool | np.bool_) else default
