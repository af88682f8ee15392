"""Shared by both tokenizer conversions: token types, special tokens, pre-tokenizers.

GGUF has two kinds of tokenizers (ggml, docs/gguf.md): "gpt2", byte-level BPE with merges, and
"llama", the BPE of SentencePiece, whose merges follow from scores: the pair whose result has the
highest score is merged first. `tokenizer_files` and `tokenizer_metadata` convert them to and from
the tokenizer.json of the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Note = Callable[[str], None]  # takes a sentence for the user

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE = "\u2581"  # stands for a space in SentencePiece
BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}

# Key of tokenizer_config.json: key of the metadata.
SPECIAL_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


class TokenizerError(Exception):
    """A tokenizer cannot be converted; becomes a note for the user."""


def ignore(text: str) -> None:
    """Drop a note."""


# Pre-tokenizers split text before BPE merges it. llama.cpp has a regular expression for each value
# of `tokenizer.ggml.pre` in its source (src/llama-vocab.cpp); tokenizer.json contains it. These are
# the values whose expression `tokenizers` can run unchanged.

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_LLAMA3 = _WORDS + r"\p{N}{1,3}" + _OTHERS
_QWEN2 = _WORDS + r"\p{N}" + _OTHERS
_QWEN35 = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    + _SPACES
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(contractions: str, digits: str) -> str:
    """Return an expression for words that begin where lower case ends."""
    first = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{first}{_UPPER}*{_LOWER}+{contractions}|{first}{_UPPER}+{_LOWER}*{contractions}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
    )


# DeepSeek-V3's three, one after the other: numbers, Chinese and Japanese, the rest.
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    '[!"#$%&'
    r"'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"
    "\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    "\r\n"
    r"]*|\s*["
    "\r\n"
    r"]+|\s+(?!\S)|\s+",
)
_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(_CONTRACTIONS + "?", r"\p{N}{1,3}")


@dataclass(frozen=True)
class PreTokenizer:
    """The meaning of a value of `tokenizer.ggml.pre`."""

    splits: tuple[str, ...] = ()  # expressions in turn; none: GPT-2's, built into ByteLevel
    digits: bool = False  # split off each digit first
    nfc: bool = False  # tokenizers of these models normalize; llama.cpp does not
    ignore_merges: bool = False  # a piece that is a token is not split
    add_bos: bool = False  # the default of `tokenizer.ggml.add_bos_token`

    def to_json(self) -> dict[str, Any]:
        """Return the `pre_tokenizer` of a tokenizer.json."""
        level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": not self.splits,
        }
        before: list[dict[str, Any]] = []
        if self.digits:
            before.append({"type": "Digits", "individual_digits": True})
        before += [
            {
                "type": "Split",
                "pattern": {"Regex": split},
                "behavior": "Isolated",
                "invert": False,
            }
            for split in self.splits
        ]
        return {"type": "Sequence", "pretokenizers": [*before, level]} if before else level


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_OF_LLAMA3 = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_OF_QWEN2 = PreTokenizer((_QWEN2,), nfc=True)

# If several names have the same meaning, GGUF files get the first.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _DIGITS),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e", "falcon-h1", "pixtral", "lfm2"),
        _OF_LLAMA3,
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx"), PreTokenizer((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _OF_QWEN2),
    **dict.fromkeys(("stablelm2", "hunyuan"), PreTokenizer((_QWEN2,))),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), PreTokenizer(_DEEPSEEK3)),
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), PreTokenizer((_GPT4O,))),
}


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str | None:
    """Return the value of `tokenizer.ggml.pre` that splits as a tokenizer.json does, or None.

    llama.cpp does not normalize. For a tokenizer that normalizes to NFC, a name whose own models do
    so is preferred.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer != {"type": "NFC"}:
        return None
    model = tokenizer.get("model")
    ignore_merges = isinstance(model, Mapping) and bool(model.get("ignore_merges"))
    found = _steps(tokenizer.get("pre_tokenizer"))
    same = {
        name: known
        for name, known in PRE_TOKENIZERS.items()
        if _steps(known.to_json()) == found and known.ignore_merges == ignore_merges
    }
    nfc = normalizer is not None
    exact = (name for name, known in same.items() if known.nfc == nfc)
    return next(exact, next(iter(same), None))


def _steps(entry: Any) -> list[Any] | None:
    """Return the settings of each step that decide where text is split, defaults filled in."""
    if not isinstance(entry, Mapping):
        return None
    inner = entry.get("pretokenizers") if entry.get("type") == "Sequence" else [entry]
    if not isinstance(inner, list) or not all(isinstance(step, Mapping) for step in inner):
        return None
    steps: list[Any] = []
    for step in inner:
        kind = step.get("type")
        if kind == "ByteLevel":
            use_regex = step.get("use_regex", True)
            steps.append((kind, step.get("add_prefix_space", True), use_regex))
        elif kind == "Split":
            invert, behavior = step.get("invert", False), step.get("behavior")
            steps.append((kind, step.get("pattern"), behavior, invert))
        elif kind == "Digits":
            steps.append((kind, step.get("individual_digits", False)))
        else:
            return None
    return steps
