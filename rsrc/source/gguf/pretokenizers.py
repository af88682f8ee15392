"""How text is cut before byte-level BPE merges it: the values of `tokenizer.ggml.pre`.

llama.cpp keeps one expression per name in its code (src/llama-vocab.cpp), `tokenizers` keeps it in
the file. Here are the names whose expression `tokenizers` can run as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """Words that begin where lower case ends."""
    first = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{first}{_UPPER}*{_LOWER}+{contractions}|{first}{_UPPER}+{_LOWER}*{contractions}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
    )


_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(_CONTRACTIONS + "?", r"\p{N}{1,3}")


@dataclass(frozen=True)
class PreTokenizer:
    """What a value of `tokenizer.ggml.pre` stands for."""

    split: str | None = None  # the expression; None: that of GPT-2, which ByteLevel has built in
    digits: bool = False  # each digit by itself, before anything else
    nfc: bool = False  # the models' own tokenizers normalize; llama.cpp does not
    ignore_merges: bool = False  # a piece that is a token is not merged from its parts
    add_bos: bool = False  # where `tokenizer.ggml.add_bos_token` does not say

    def to_json(self) -> dict[str, Any]:
        """Return the entry `pre_tokenizer` of a tokenizer.json."""
        level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": self.split is None,
        }
        before: list[dict[str, Any]] = []
        if self.digits:
            before.append({"type": "Digits", "individual_digits": True})
        if self.split is not None:
            before.append(
                {
                    "type": "Split",
                    "pattern": {"Regex": self.split},
                    "behavior": "Isolated",
                    "invert": False,
                }
            )
        return {"type": "Sequence", "pretokenizers": [*before, level]} if before else level


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_OF_LLAMA3 = PreTokenizer(_LLAMA3, ignore_merges=True, add_bos=True)
_OF_QWEN2 = PreTokenizer(_QWEN2, nfc=True)

# The first name of each is the one that is written.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _DIGITS),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e", "falcon-h1", "pixtral", "lfm2"),
        _OF_LLAMA3,
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx"), PreTokenizer(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _OF_QWEN2),
    "stablelm2": PreTokenizer(_QWEN2),
    "qwen35": PreTokenizer(_QWEN35, nfc=True),
    "tekken": PreTokenizer(_TEKKEN, ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), PreTokenizer(_GPT4O)),
}


def name_of(tokenizer: Mapping[str, Any]) -> str | None:
    """Return the name under which llama.cpp cuts text as a tokenizer.json does, or None.

    llama.cpp normalizes nothing, so one that is given for normalized text (NFC) is meant.
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
    """Return what decides where text is cut: of each step its settings, without the defaults."""
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
