"""A small language model, trained on Shakespeare, that writes a paragraph."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rsr_runtime import llm

from .. import talk
from ..pipeline import compile
from ..tables import console, size
from .examples import example_folder

PROMPT = "KING.\nMy lord, I"
SEED = 1
TOKENS = 120


def run() -> None:
    """Compile the model, let it go on from the prompt, and say how large and how fast it is."""
    out = console()
    folder = example_folder("tiny-lm")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "tiny-lm.rsr")
        report = compile(folder, path)
        out.print()
        try:
            model = llm.load(path)
            model.tokenizer  # noqa: B018  without its package there is nothing to show
        except llm.DependencyError as error:
            out.print(f"a language model: {error}", highlight=False)
            return
        with model:
            out.print("a ternary language model, 2.8 million weights, goes on from", PROMPT)
            sampling = llm.Sampling(temperature=0.8, top_k=40, seed=SEED)
            result = talk.run(model, PROMPT, {"sampling": sampling, "max_tokens": TOKENS})
