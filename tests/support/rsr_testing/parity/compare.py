"""Hold the text that `rsr_runtime.llm` generates against transformers, family by family.

    python -m rsr_testing.parity.compare                # the table of docs/parity.md
    python -m rsr_testing.parity.compare falcon3 trilm  # of some families

``test_llm.py`` asserts what the table shows. Needs the extras ``parity`` and ``llm``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_runtime import llm

from .. import models
from . import make_golden_llm as make_golden

FloatArray = npt.NDArray[np.float32]
Recording = dict[str, Any]  # what make_golden_llm.py keeps

# The largest difference of a logit, as a share of the largest logit. The products of BitNet's
# layers are exact, so what differs is the order of sums in norms, attention and head: 24 bits each,
# over some ten sublayers. One activation rounded to another integer would show as 1e-3 and more.
TOLERANCE = 2e-4
# With keys and values in float16 a BitNet's activations are rounded to other integers in many
# places: these bound the root mean squared difference, as a share of that of the logits.
FLOAT16_DEVIATION = 4e-2  # of a BitNet
FLOAT16_DEVIATION_OF_FLOATS = 2e-3
PERPLEXITY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """What both say of one model; logits are float32 (positions, vocabulary)."""

    family: Any
    golden: Recording  # what transformers says, live, of the golden text and prompt
    logits: FloatArray  # as all below but `half` with keys and values in float32
    stepwise: FloatArray  # the same, token by token
    half: FloatArray  # the same as `logits`, keys and values in float16
    continuation: list[int]
    perplexity: float

    def difference(self, logits: FloatArray) -> float:
        """Return the largest difference from transformers' logits, as a share of the largest."""
        want = self.golden["logits"]
        if logits.shape != want.shape or logits.dtype != want.dtype:
            return float("inf")
        return float(np.abs(logits - want).max() / np.abs(want).max())

    def deviation(self, logits: FloatArray) -> float:
        """Return the root mean squared difference, as a share of that of transformers' logits."""
        want = self.golden["logits"].astype(np.float64)
        return float(np.sqrt(((logits - want) ** 2).mean() / (want**2).mean()))

    @property
    def is_greedy_equal(self) -> bool:
        """Whether both continue the prompt alike."""
        wanted: list[int] = self.golden["continuation"].tolist()
        return self.continuation == wanted

    @property
    def perplexity_difference(self) -> float:
        """How far the perplexities are apart, as a share of transformers'."""
        return abs(self.perplexity / float(self.golden["perplexity"]) - 1)


def compare(name: str, folder: Path) -> Comparison:
    """Build the checkpoint of a family in `folder`, and have both compute.

    Args:
        name: of the family.
        folder: an empty one.
    """
    family = models.FAMILIES[name]
    compiled = family.build(folder)
    with np.load(make_golden.GOLDEN_DIR / f"{name}.npz") as kept:
        text, prompt = str(kept["text"]), kept["prompt"].tolist()
    golden = make_golden.record(folder / "model", text, prompt)
    tokens, new = golden["tokens"].tolist(), len(golden["continuation"])
    with llm.load(compiled, kv="float32") as model:
        logits = model.logits(tokens)
        sequence = model.new_session()
        steps = [sequence.follow(tokens[: i + 1]).copy() for i in range(len(tokens))]
        found = model.generate(prompt, max_tokens=new, sampling=llm.Sampling(temperature=0.0))
        perplexity = model.perplexity(text).value
    with llm.load(compiled, kv="float16") as model:
        half = model.logits(tokens)
    return Comparison(family, golden, logits, np.stack(steps), half, found.tokens, perplexity)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare generated text with transformers.")
    parser.add_argument("family", nargs="*", help="all are the default")
    columns = "family", "like", "logits", "by token", "float16 cache", "greedy", "perplexity"
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in parser.parse_args().family or models.FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            found = compare(name, Path(scratch))
        print(
            f"| `{name}` | {found.family.published} | {found.difference(found.logits):.1e} | "
            f"{found.difference(found.stepwise):.1e} | {found.deviation(found.half):.1e} | "
            f"{'equal' if found.is_greedy_equal else '**differs**'} | "
            f"{found.perplexity_difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
