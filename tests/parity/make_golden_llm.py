"""Make the golden data of ``tests/golden/llm``: what transformers says of the models of models.py.

Run it from anywhere, in an environment with the extra ``parity``::

    python tests/parity/make_golden_llm.py              # write the golden data
    python tests/parity/make_golden_llm.py --seeds      # look for seeds, which models.py then names

A checkpoint is a function of its seed, so the data are only what transformers computed, and a
SHA-256 of the checkpoint, by which a test notices that it is another one:

    tests/golden/llm/<family>.npz    sha256        of model.safetensors, as text
                                     tokens        of models.TEXT
                                     logits        of the first 64, a third of them: see `sample`
                                     largest       the largest of all those logits' magnitudes
                                     prompt        the tokens that were continued
                                     continuation  the 64 most probable tokens
                                     perplexity    of the whole text
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

GOLDEN_DIR = Path(__file__).resolve().parents[1] / "golden" / "llm"
MOST_SEEDS = 1000


def _sibling(name: str) -> ModuleType:
    """Import a file of this folder by path: in pytest's importlib mode it has no name."""
    full = f"rsr_tests_parity_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module  # before it runs: its dataclasses look themselves up there
        spec.loader.exec_module(module)
    return sys.modules[full]


models, judge = _sibling("models"), _sibling("judge")


def text_tokens(folder: Path) -> list[int]:
    """Return the tokens of models.TEXT, BOS first."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(models.TEXT).ids
    return ids


def find_seed(family: Any, folder: Path) -> int:
    """Return the first seed with which transformers' findings hang on no rounding."""
    for seed in range(1, MOST_SEEDS):
        family.save(folder, seed)
        tokens = text_tokens(folder)
        if judge.clearance(folder, tokens) < judge.CLEARANCE:
            continue
        if judge.examine(folder, tokens).decided:
            return seed
    raise RuntimeError(f"none of {MOST_SEEDS} seeds will do: is the model too large?")


def sample(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a third of the logits (positions, vocabulary), another one at each position."""
    positions, vocabulary = logits.shape
    rows, columns = np.arange(positions)[:, None], np.arange(vocabulary)
    picked: npt.NDArray[np.float32] = logits[(rows + columns) % 3 == 0]
    return picked


def record(family: Any, folder: Path) -> dict[str, Any]:
    """Return what is kept of a model."""
    family.save(folder)
    found = judge.examine(folder, text_tokens(folder))
    if not found.decided:
        raise RuntimeError(
            f"findings hang on roundings: clearance {found.clearance:.1e}, margin "
            f"{found.margin:.1e}, {len(set(found.continuation))} different tokens; "
            "look for another seed with --seeds"
        )
    checkpoint = (folder / "model.safetensors").read_bytes()
    return {
        "sha256": hashlib.sha256(checkpoint).hexdigest(),
        "tokens": np.array(found.tokens, np.int16),
        "logits": sample(found.logits),
        "largest": np.abs(found.logits).max(),
        "prompt": np.array(found.prompt, np.int16),
        "continuation": np.array(found.continuation, np.int16),
        "perplexity": found.perplexity,
    }


def main() -> None:
    """Replace the golden data, or look for seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", nargs="*", help="all are the default")
    parser.add_argument("--output", type=Path, default=GOLDEN_DIR)
    parser.add_argument("--seeds", action="store_true", help="look for seeds and print them")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.family or models.FAMILIES:
        family = models.FAMILIES[name]
        with tempfile.TemporaryDirectory() as scratch:
            if arguments.seeds:
                print(name, find_seed(family, Path(scratch)), flush=True)
            else:
                np.savez_compressed(
                    arguments.output / f"{name}.npz", **record(family, Path(scratch))
                )
                print(name)


if __name__ == "__main__":
    main()
