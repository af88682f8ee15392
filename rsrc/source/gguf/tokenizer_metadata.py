"""Convert the tokenizer files of Hugging Face to GGUF metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .tokenizer_common import (
    BYTE,
    BYTE_TOKENS,
    CONTROL,
    NORMAL,
    SPACE,
    SPECIAL_TOKENS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Note,
    TokenizerError,
    ignore,
    pre_tokenizer_name,
)


def tokenizer_metadata(
    tokenizer: Mapping[str, Any],
    config: Mapping[str, Any],
    vocab_size: int | None = None,
    note: Note = ignore,
) -> dict[str, Any]:
    """Return the `tokenizer.*` metadata of a GGUF file.

    Byte-level BPE becomes "gpt2", BPE with byte fallback becomes "llama".

    Args:
        tokenizer: tokenizer.json.
        config: tokenizer_config.json; absent settings are left out.
        vocab_size: rows of the embedding. Unused tokens pad the vocabulary to it, because
            llama.cpp requires as many tokens as rows.
        note: called with a sentence for each thing that GGUF cannot express.

    Returns:
        Key: value; {} for other tokenizers and for damaged files.
    """
    try:
        return _metadata(tokenizer, config, vocab_size, note)
    except TokenizerError as reason:
        note(f"the tokenizer is left out: {reason}")
        return {}


def _metadata(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int | None, note: Note
) -> dict[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise TokenizerError(f"tokenizer.json is of type {str(kind)[:64]!r}, not BPE")
    vocabulary = _vocabulary(model.get("vocab"), "vocab")
    pairs = _pairs(model.get("merges"))
    added = _added(tokenizer.get("added_tokens"))
    tokens, types = _token_list(vocabulary, added, vocab_size)
    result: dict[str, Any] = {}
    if model.get("byte_fallback"):
        result["tokenizer.ggml.model"] = "llama"
        prefix = _space_prefix(tokenizer)
        if prefix is None:
            raise TokenizerError(
                "tokenizer.json has byte fallback, but does not split as SentencePiece does"
            )
        unknown = model.get("unk_token")
        for i, token in enumerate(tokens):
            if token in BYTE_TOKENS:
                types[i] = BYTE
            elif token == unknown:
                types[i] = UNKNOWN
        result["tokenizer.ggml.scores"] = _scores(tokens, types, pairs, note)
        result["tokenizer.ggml.add_space_prefix"] = prefix
    else:
        result["tokenizer.ggml.model"] = "gpt2"
        if any(" " in part for pair in pairs for part in pair):
            raise TokenizerError("tokenizer.json merges tokens that contain spaces")
        pre = pre_tokenizer_name(tokenizer)
        if pre is None:
            note(
                "the tokenizer is written without tokenizer.ggml.pre: no supported value splits "
                "text as its tokenizer.json does; llama.cpp will warn and use its default"
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
        raise TokenizerError(f"tokenizer.json has no {where}")
    for token, i in found.items():
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < 1 << 24:
            raise TokenizerError(f"tokenizer.json gives {token[:64]!r} the id {str(i)[:20]}")
    return dict(found)


def _pairs(found: Any) -> list[tuple[str, str]]:
    """Return the merges. Older files write each as one string."""
    if not isinstance(found, list):
        raise TokenizerError("tokenizer.json has no list of merges")
    pairs = []
    for merge in found:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        whole = isinstance(parts, list) and len(parts) == 2
        if not whole or not all(isinstance(part, str) for part in parts):
            raise TokenizerError(f"tokenizer.json has the merge {str(merge)[:64]!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(found: Any) -> dict[str, tuple[int, bool]]:
    """Return the id of each added token, and whether it is special."""
    added = {}
    for entry in found if isinstance(found, list) else []:
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str):
            raise TokenizerError("tokenizer.json has an added token without content")
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
            raise TokenizerError(f"it has {count} tokens, but the embedding has {vocab_size} rows")
        count = vocab_size
    if count > 16 * len(ids) + (1 << 16):
        raise TokenizerError(f"it has {len(ids)} tokens with ids up to {count - 1}")
    tokens = [f"[PAD{i}]" for i in range(count)]
    types = [UNUSED] * count
    for token, i in ids.items():
        if types[i] != UNUSED:
            raise TokenizerError(f"{token[:64]!r} and {tokens[i][:64]!r} have the same id, {i}")
        tokens[i], types[i] = token, NORMAL
    for i, special in added.values():
        types[i] = CONTROL if special else USER_DEFINED
    return tokens, types


def _space_prefix(tokenizer: Mapping[str, Any]) -> bool | None:
    """Return whether a space is added before the text; None if this is not SentencePiece."""
    steps: list[Any] = []
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        entry = tokenizer.get(key)
        if isinstance(entry, Mapping):
            found = entry.get(inner) if entry.get("type") == "Sequence" else [entry]
            steps += found if isinstance(found, list) else [None]
    prefix = spaces = False
    for step in steps:
        kind = step.get("type") if isinstance(step, Mapping) else None
        if kind == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "}:
            spaces = step.get("content") == SPACE
        elif kind == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            scheme = step.get("prepend_scheme", "always")
            prefix, spaces = scheme != "never" and step.get("add_prefix_space", True), True
        elif kind != "Split" or step.get("pattern") != {"String": " "}:
            return None  # Gemma's Split at " " has no effect: spaces are replaced before it
    return bool(prefix) if spaces else None


def _scores(
    tokens: Sequence[str], types: Sequence[int], pairs: Iterable[tuple[str, str]], note: Note
) -> list[float]:
    """Return scores that reproduce the order of the merges: the earlier a merge, the higher."""
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
            "the tokenizer's merges are not ordered by token, as SentencePiece's are: GGUF has "
            "scores of tokens only, so rare words may be split differently"
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
    for name, key in SPECIAL_TOKENS.items():
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
    if isinstance(template, list):  # named templates
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, Mapping)}
        template = named.get("default")
    if isinstance(template, str) and template:
        result["tokenizer.chat_template"] = template
    return result


def _template_ends(entry: Any) -> tuple[Any, Any]:
    """Return the special tokens that a post-processor adds before and after a text, or None."""
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
