"""Makes the golden data of ``tests/golden/llm``: logits and text of ``rsr_testing.models``.

    PYTHONPATH=tests/support python -m rsr_testing.parity.golden_llm [FAMILY ...] [--output DIR]

A checkpoint is a function of its seed, so the data are what transformers computed, and a hash that
shows when the checkpoint is another one::

    <FAMILY>.npz    sha256        of model.safetensors, as text
                    text          64 tokens and a few more
                    perplexity    of the text
                    tokens        the first 64 tokens of the text
                    logits        a third of the logits of those tokens: see `sample`
                    largest       the largest magnitude of all those logits
                    prompt        the tokens that are continued
                    continuation  the 64 most probable tokens

Texts and prompts are words of ``models.TEXT`` in random order: the first ones whose results do not
depend on a rounding (``judge.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from .. import models
from ..paths import GOLDEN
from . import judge

GOLDEN_DIR = GOLDEN / "llm"
POSITIONS = 64  # of the text, whose logits are compared
PROMPT_TOKENS = 12
BATCH = 64  # texts tried side by side
MOST_BATCHES = 200


def texts(tokenizer: tokenizers.Tokenizer, first: int) -> list[str]:
    """Return BATCH texts of POSITIONS tokens and a few more, by seeds from `first` on."""
    words = models.TEXT.split()
    found = []
    for seed in range(first, first + BATCH):
        order = iter(np.argsort(models.Random(seed).uniform(len(words))))
        text = words[next(order)]
        while len(tokenizer.encode(text).ids) < POSITIONS:
            text += f" {words[next(order)]}"
        found.append(text)
    return found


def find_text(model: Any, tokenizer: tokenizers.Tokenizer) -> str:
    """Return the first text whose logits depend on no rounding."""
    for batch in range(MOST_BATCHES):
        tried = texts(tokenizer, batch * BATCH)
        answers = judge.answer(model, [tokenizer.encode(text).ids for text in tried])
        for text, answer in zip(tried, answers, strict=True):
            if answer.clearance >= judge.CLEARANCE:
                return text
    raise RuntimeError("every text depends on a rounding; if BOS does, change the seed")


def find_prompt(model: Any, tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Return the first prompt whose continuation depends on no rounding."""
    for batch in range(MOST_BATCHES):
        tried = [tokenizer.encode(t).ids[:PROMPT_TOKENS] for t in texts(tokenizer, batch * BATCH)]
        for prompt, found in zip(tried, judge.continuations(model, tried), strict=True):
            if found.is_decided:
                return prompt
    raise RuntimeError("every prompt depends on a rounding; if BOS does, change the seed")


def sample(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a third of the logits (positions, vocabulary), another one at each position."""
    positions, vocabulary = logits.shape
    rows, columns = np.arange(positions)[:, None], np.arange(vocabulary)
    picked: npt.NDArray[np.float32] = logits[(rows + columns) % 3 == 0]
    return picked


def record(folder: Path, text: str, prompt: list[int]) -> dict[str, Any]:
    """Return the golden data of the model in a folder, with all logits (POSITIONS, vocabulary)."""
    model = judge.load(folder, attn_implementation="eager")
    tokens = _tokenizer(folder).encode(text).ids
    (answer,) = judge.answer(model, [tokens])
    (continuation,) = judge.continuations(model, [prompt])
    if answer.clearance < judge.CLEARANCE or not continuation.is_decided:
        raise RuntimeError(f"the results depend on a rounding: {answer}, {continuation}")
    logits = answer.logits[:POSITIONS]
    return {
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "text": text,
        "perplexity": judge.perplexity(answer.logits, tokens),
        "tokens": np.array(tokens[:POSITIONS], np.int16),
        "logits": logits,
        "largest": np.abs(logits).max(),
        "prompt": np.array(prompt, np.int16),
        "continuation": np.array(continuation.tokens, np.int16),
    }


def find(folder: Path) -> dict[str, Any]:
    """Look for a text and a prompt; return the golden data of the model in a folder."""
    model, tokenizer = judge.load(folder, attn_implementation="eager"), _tokenizer(folder)
    found = record(folder, find_text(model, tokenizer), find_prompt(model, tokenizer))
    return {**found, "logits": sample(found["logits"])}


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def main() -> None:
    """Replace the golden data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", nargs="*", help="default: all")
    parser.add_argument("--output", type=Path, default=GOLDEN_DIR)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    judged: dict[bytes, dict[str, Any]] = {}  # some families differ only in how they are compiled
    for name in arguments.family or models.FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            models.FAMILIES[name].save(folder)
            files = sorted(folder.iterdir())
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()
            if digest not in judged:
                judged[digest] = find(folder)
        np.savez_compressed(arguments.output / f"{name}.npz", **judged[digest])
        print(name, flush=True)


if __name__ == "__main__":
    main()
