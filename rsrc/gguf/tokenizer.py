"""A model's tokenizer: the metadata of GGUF and the files of Hugging Face, both ways.

GGUF names two kinds (ggml, docs/gguf.md): "gpt2", byte-level BPE with its merges, and "llama",
SentencePiece's BPE, whose merges follow from the scores: the pair is merged whose result has the
highest score. Both become a tokenizer.json of the `tokenizers` library, which is JSON all through.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .pretokenizers import PRE_TOKENIZERS, PreTokenizer, name_of

Note = Callable[[str], None]

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_SPACE = "\u2581"  # how SentencePiece spells a space
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_MOST_WORK = 1 << 27  # characters looked at to derive merges; a vocabulary of 256,000 needs 2^24

# tokenizer_config.json: key of the metadata.
_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


class _UnfitError(Exception):
    """Why there is no tokenizer, in words."""


def _ignore(text: str) -> None:
    pass


# --- from GGUF ----------------------------------------------------------------------------------


def tokenizer_files(metadata: Mapping[str, Any], note: Note = _ignore) -> dict[str, bytes]:
    """Return tokenizer.json, tokenizer_config.json and generation_config.json of a GGUF model.

    Without a vocabulary there is none of them. One that `tokenizers` cannot be told of gives no
    tokenizer.json, and one whose ids are unknown no generation_config.json.

    Args:
        metadata: key: value; str, int, float, bool, and lists or arrays of them.
        note: told in words why a tokenizer.json could not be made.
    """
    if "tokenizer.ggml.model" not in metadata:
        return {}
    files: dict[str, Any] = {}
    tokens: list[str] = []
    try:
        tokens = _strings(metadata, "tokenizer.ggml.tokens")
        files["tokenizer.json"] = _tokenizer_json(metadata, tokens)
    except _UnfitError as reason:
        note(f"no tokenizer.json: {reason}")
    ids = {name: _token_id(metadata, key, len(tokens)) for name, key in _SPECIAL.items()}
    if tokens:
        files["tokenizer_config.json"] = _tokenizer_config(metadata, tokens, ids)
    if generation := _generation_config(metadata, len(tokens), ids):
        files["generation_config.json"] = generation
    return {name: _encoded(value) for name, value in files.items()}


def _tokenizer_json(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    if len(set(tokens)) < len(tokens):
        raise _UnfitError("tokenizer.ggml.tokens holds a token twice")
    kind = metadata["tokenizer.ggml.model"]
    if kind == "gpt2":
        made = _byte_level(metadata, tokens)
    elif kind == "llama":
        made = _sentencepiece(metadata, tokens)
    else:
        raise _UnfitError(
            f"tokenizer.ggml.model is {str(kind)[:64]!r}, and 'gpt2' and 'llama' are known"
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
    known = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if known is None:
        found = "is missing" if name is None else f"is {str(name)[:64]!r}"
        raise _UnfitError(
            f"tokenizer.ggml.pre {found}, and how to cut text is known for "
            + ", ".join(PRE_TOKENIZERS)
        )
    return known


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    types = _token_types(metadata, len(tokens))
    if "tokenizer.ggml.merges" in metadata:
        merges = _merges(metadata, vocabulary)
    else:
        merges = _merges_from_scores(metadata, vocabulary, types)
    unknown = _token_id(metadata, _SPECIAL["unk_token"], len(tokens))
    if unknown is None and UNKNOWN in types:
        unknown = types.index(UNKNOWN)
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizers: list[dict[str, Any]] = [spaces]
    if prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
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
            byte_fallback=vocabulary.keys() >= _BYTES,
        ),
    }


def _model(
    vocabulary: dict[str, int],
    merges: list[list[str]],
    *,
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = []
    for merge in _strings(metadata, "tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not vocabulary.keys() >= {left, right, left + right}:
            raise _UnfitError(
                f"tokenizer.ggml.merges has {merge[:64]!r}, which does not join two tokens to one"
            )
        merges.append([left, right])
    return merges


def _merges_from_scores(
    metadata: Mapping[str, Any], vocabulary: Mapping[str, int], types: Sequence[int]
) -> list[list[str]]:
    """List every pair of tokens that makes a token, those of the best token first."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list | tuple | np.ndarray) or len(scores) != len(vocabulary):
        raise _UnfitError("tokenizer.ggml.scores is missing or not one number per token")
    for score in scores:
        if not isinstance(score, int | float | np.number) or math.isnan(score):
            raise _UnfitError("tokenizer.ggml.scores holds what is no number")
    normal = [token for token, i in vocabulary.items() if types[i] == NORMAL]
    if sum(len(token) ** 2 for token in normal) > _MOST_WORK:
        raise _UnfitError("tokenizer.ggml.tokens holds tokens too long to derive merges from")
    merges = []
    for token in sorted(normal, key=lambda token: -float(scores[vocabulary[token]])):
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        found = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        found.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [list(pair) for pair in found]
    return merges


def _added_tokens(metadata: Mapping[str, Any], tokens: list[str]) -> list[dict[str, Any]]:
    """List the tokens that are found in the text before it is cut, by type."""
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
    """Put BOS before the text and EOS behind it, where the metadata or the kind ask for it."""
    marks = []
    for name, wanted in (("bos", _adds_bos(metadata)), ("eos", _adds_eos(metadata))):
        i = _token_id(metadata, _SPECIAL[f"{name}_token"], len(tokens))
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


def _adds_bos(metadata: Mapping[str, Any]) -> bool:
    pre = metadata.get("tokenizer.ggml.pre")
    known = PRE_TOKENIZERS.get(pre) if isinstance(pre, str) else None
    spm = metadata.get("tokenizer.ggml.model") == "llama"
    default = spm or (known is not None and known.add_bos)  # llama.cpp's
    return _flag(metadata, "tokenizer.ggml.add_bos_token", default)


def _adds_eos(metadata: Mapping[str, Any]) -> bool:
    return _flag(metadata, "tokenizer.ggml.add_eos_token", False)


def _tokenizer_config(
    metadata: Mapping[str, Any], tokens: list[str], ids: Mapping[str, int | None]
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(metadata),
        "add_eos_token": _adds_eos(metadata),
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
    """Return the ids that generating begins and ends with; a chat's end of turn ends it too."""
    config: dict[str, Any] = {
        f"{name}_id": ids[name]
        for name in ("bos_token", "eos_token", "pad_token")
        if ids[name] is not None
    }
    turn, eos = _token_id(metadata, "tokenizer.ggml.eot_token_id", count), ids["eos_token"]
    if eos is not None and turn not in (None, eos):
        config["eos_token_id"] = [eos, turn]
    return config


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(key)
    if not isinstance(found, list | tuple | np.ndarray) or not len(found):
        raise _UnfitError(f"{key} is missing or no list")
    texts = list(found)
    if not all(isinstance(text, str) for text in texts):
        raise _UnfitError(f"{key} holds what is no string")
    return [str(text) for text in texts]


def _token_types(metadata: Mapping[str, Any], count: int) -> list[int]:
    found = metadata.get("tokenizer.ggml.token_type")
    if found is None:
        return [NORMAL] * count
    if not isinstance(found, list | tuple | np.ndarray) or len(found) != count:
        raise _UnfitError("tokenizer.ggml.token_type is not one number per token")
    return [int(kind) if isinstance(kind, int | np.integer) else NORMAL for kind in found]


def _token_id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    found = metadata.get(key)
    if isinstance(found, bool) or not isinstance(found, int | np.integer):
        return None
    return int(found) if 0 <= found < count else None


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    found = metadata.get(key)
    return bool(found) if isinstance(found, bool | np.bool_) else default


def _encoded(value: Any) -> bytes:
    # Escaped, so that whatever a file's strings hold is valid UTF-8.
    return json.dumps(value, indent=None, separators=(",", ":")).encode()


# --- to GGUF ------------------------------------------------------------------------------------


def tokenizer_metadata(
    tokenizer: Mapping[str, Any],
    config: Mapping[str, Any],
    vocab_size: int | None = None,
    note: Note = _ignore,
) -> dict[str, Any]:
    """Return the metadata of a GGUF file for a tokenizer.json and a tokenizer_config.json.

    Byte-level BPE becomes "gpt2", BPE with bytes to fall back to "llama"; of other tokenizers, and
    of damaged files, nothing is returned.

    Args:
        tokenizer: tokenizer.json.
        config: tokenizer_config.json; what it lacks is left out.
        vocab_size: rows of the embedding, up to which unused tokens are added: llama.cpp insists
            on as many tokens as rows.
        note: told in words what could not be said in GGUF.
    """
    try:
        return _metadata(tokenizer, config, vocab_size, note)
    except _UnfitError as reason:
        note(f"the tokenizer is left out: {reason}")
        return {}


def _metadata(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int | None, note: Note
) -> dict[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise _UnfitError(f"tokenizer.json is of type {str(kind)[:64]!r}, not BPE")
    vocabulary = _vocabulary(model.get("vocab"), "vocab")
    pairs = _pairs(model.get("merges"))
    added = _added(tokenizer.get("added_tokens"))
    tokens, types = _token_list(vocabulary, added, vocab_size)
    result: dict[str, Any] = {}
    if model.get("byte_fallback"):
        result["tokenizer.ggml.model"] = "llama"
        prefix = _space_prefix(tokenizer)
        if prefix is None:
            raise _UnfitError("tokenizer.json falls back to bytes, but is not cut as SentencePiece")
        unknown = model.get("unk_token")
        for i, token in enumerate(tokens):
            if token in _BYTES:
                types[i] = BYTE
            elif token == unknown:
                types[i] = UNKNOWN
        result["tokenizer.ggml.scores"] = _scores(tokens, types, pairs, note)
        result["tokenizer.ggml.add_space_prefix"] = prefix
    else:
        result["tokenizer.ggml.model"] = "gpt2"
        if any(" " in part for pair in pairs for part in pair):
            raise _UnfitError("tokenizer.json merges tokens with spaces in them")
        pre = name_of(tokenizer)
        if pre is None:
            note(
                "the tokenizer is written without tokenizer.ggml.pre: its tokenizer.json cuts text "
                "in a way llama.cpp has no name for, or one not known here; llama.cpp will warn "
                "and use its default"
            )
        else:
            result["tokenizer.ggml.pre"] = pre
        if pairs:
            result["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in pairs]
    result["tokenizer.ggml.tokens"] = tokens
    result["tokenizer.ggml.token_type"] = types
    result.update(_special_metadata(tokenizer, config, tokens))
    return result


def _vocabulary(found: Any, where: str) -> dict[str, int]:
    if not isinstance(found, Mapping) or not found:
        raise _UnfitError(f"tokenizer.json has no {where}")
    for token, i in found.items():
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < 1 << 24:
            raise _UnfitError(f"tokenizer.json gives {token[:64]!r} the id {str(i)[:20]}")
    return dict(found)


def _pairs(found: Any) -> list[tuple[str, str]]:
    """Return the merges, which older files spell as one string."""
    if not isinstance(found, list):
        raise _UnfitError("tokenizer.json has no list of merges")
    pairs = []
    for merge in found:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2:
            raise _UnfitError(f"tokenizer.json has the merge {str(merge)[:64]!r}")
        if not all(isinstance(part, str) for part in parts):
            raise _UnfitError(f"tokenizer.json has the merge {str(merge)[:64]!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(found: Any) -> dict[str, tuple[int, bool]]:
    """Return id, and whether it is special, of each added token."""
    added = {}
    for entry in found if isinstance(found, list) else []:
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str):
            raise _UnfitError("tokenizer.json has an added token without content")
        i = _vocabulary({content: entry.get("id")}, "added token")[content]
        added[content] = (i, bool(entry.get("special")))
    return added


def _token_list(
    vocabulary: Mapping[str, int], added: Mapping[str, tuple[int, bool]], vocab_size: int | None
) -> tuple[list[str], list[int]]:
    ids = {**vocabulary, **{token: i for token, (i, _) in added.items()}}
    count = max(ids.values()) + 1
    if vocab_size is not None:
        if count > vocab_size:
            raise _UnfitError(f"it has {count} tokens, the embedding {vocab_size} rows")
        count = vocab_size
    if count > 16 * len(ids) + (1 << 16):
        raise _UnfitError(f"it has {len(ids)} tokens with ids up to {count - 1}")
    tokens = [f"[PAD{i}]" for i in range(count)]
    types = [UNUSED] * count
    for token, i in ids.items():
        if types[i] != UNUSED:
            raise _UnfitError(f"{token[:64]!r} and {tokens[i][:64]!r} have the same id, {i}")
        tokens[i], types[i] = token, NORMAL
    for i, special in added.values():
        types[i] = CONTROL if special else USER_DEFINED
    return tokens, types


def _space_prefix(tokenizer: Mapping[str, Any]) -> bool | None:
    """Return whether a space is put before the text, or None: not SentencePiece's way."""
    steps: list[Any] = []
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        entry = tokenizer.get(key)
        if isinstance(entry, Mapping):
            found = entry.get(inner) if entry.get("type") == "Sequence" else [entry]
            steps += found if isinstance(found, list) else [None]
    prefix = spaces = False
    for step in steps:
        kind = step.get("type") if isinstance(step, Mapping) else None
        if kind == "Prepend" and step.get("prepend") == _SPACE:
            prefix = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "}:
            spaces = step.get("content") == _SPACE
        elif kind == "Metaspace" and step.get("replacement", _SPACE) == _SPACE:
            scheme = step.get("prepend_scheme", "always")
            prefix, spaces = scheme != "never" and step.get("add_prefix_space", True), True
        elif kind != "Split" or step.get("pattern") != {"String": " "}:
            return None  # (Gemma's Split cuts at spaces, of which none is left)
    return bool(prefix) if spaces else None


def _scores(
    tokens: Sequence[str], types: Sequence[int], pairs: Iterable[tuple[str, str]], note: Note
) -> list[float]:
    """Score tokens so that the best pair to merge is the one whose merge comes first."""
    rank: dict[str, int] = {}
    last, in_order = "", True
    for left, right in pairs:
        made = left + right
        if made not in rank:
            rank[made] = len(rank)
        elif made != last:
            in_order = False
        last = made
    if not in_order:
        note(
            "the tokenizer's merges are in no order of tokens, as SentencePiece's are: GGUF has "
            "scores for tokens only, and rare words may be cut otherwise"
        )
    scores, unmerged = [], len(rank)
    for token, kind in zip(tokens, types, strict=True):
        if kind != NORMAL:
            scores.append(0.0)
        elif token in rank:
            scores.append(-float(rank[token]))
        else:
            scores.append(-float(unmerged))
            unmerged += 1
    return scores


def _special_metadata(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], tokens: Sequence[str]
) -> dict[str, Any]:
    ids = {token: i for i, token in enumerate(tokens)}
    result: dict[str, Any] = {}
    special: dict[str, str] = {}
    for name, key in _SPECIAL.items():
        found = config.get(name)
        content = found.get("content") if isinstance(found, Mapping) else found
        if isinstance(content, str) and content in ids:
            special[name] = content
            result[key] = ids[content]
    first, last = _template_ends(tokenizer.get("post_processor"))
    for name, mark in (("bos", first), ("eos", last)):
        found = config.get(f"add_{name}_token")
        if not isinstance(found, bool):
            found = mark is not None and mark == special.get(f"{name}_token")
        result[f"tokenizer.ggml.add_{name}_token"] = found
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, Mapping)}
        template = named.get("default")
    if isinstance(template, str) and template:
        result["tokenizer.chat_template"] = template
    return result


def _template_ends(entry: Any) -> tuple[Any, Any]:
    """Return the special tokens that a post-processor puts before and behind a text, or None."""
    if not isinstance(entry, Mapping):
        return None, None
    if entry.get("type") == "Sequence":
        inner = entry.get("processors")
        found = [_template_ends(step) for step in inner] if isinstance(inner, list) else []
        return next(filter(any, found), (None, None))
    single = entry.get("single")
    if entry.get("type") != "TemplateProcessing" or not isinstance(single, list) or not single:
        return None, None
    steps = [step.get("SpecialToken") if isinstance(step, Mapping) else None for step in single]
    ids = [step.get("id") if isinstance(step, Mapping) else None for step in steps]
    return ids[0], ids[-1]
