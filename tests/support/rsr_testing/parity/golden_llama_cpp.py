"""Makes the golden data of ``tests/golden/llama_cpp``: logits and vectors of texts by llama.cpp.

    PYTHONPATH=tests/support python -m rsr_testing.parity.golden_llama_cpp [NAME ...]

It needs ``llama-cpp-python==0.3.36``, which no test does. The data are of the GGUF files that
`rsrc decompile` writes of ``rsr_testing.gguf_models``, or that are made there::

    <NAME>.npz  sha256   of the model.safetensors that the file is made from, as text
                tokens   of the prompt
                logits   a third of the logits of all tokens, another one at each position
                largest  the largest magnitude of all those logits
                vectors  instead of logits, of a model that embeds texts: those of the first
                         tokens, `LENGTHS` of them, before they get length 1
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gguf_models import GGUF_EMBEDDINGS, GGUF_FAMILIES
from ..models import Family, Random
from ..paths import GOLDEN
from .golden_llm import sample

FloatArray = npt.NDArray[np.float32]

GOLDEN_DIR = GOLDEN / "llama_cpp"
TOKENS = 72  # beyond the original context of the model with long factors
LENGTHS = (1, 20, 72)
_F32 = 0  # GGML_TYPE_F32, of the KV cache


def judge(path: Path, tokens: list[int]) -> FloatArray:
    """Return llama.cpp's logits of all tokens, (tokens, vocabulary)."""
    model = _opened(path, logits_all=True)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)], np.float32)


def judge_vectors(path: Path, tokens: list[int]) -> FloatArray:
    """Return llama.cpp's vectors of the first tokens, (lengths, dimension)."""
    model = _opened(path, embedding=True)
    vectors = []
    for length in LENGTHS:
        model.tokenize = lambda _, length=length: tokens[:length]
        vectors.append(model.embed(""))
    return np.array(vectors, np.float32)


def _opened(path: Path, **options: Any) -> Any:
    import llama_cpp

    return llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_ubatch=256, verbose=False, n_threads=1,
        type_k=_F32, type_v=_F32, flash_attn=False, **options,
    )  # fmt: skip


def _recorded(family: Family, embeds: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        family.build(folder)
        vocabulary = family.settings["vocab_size"]
        tokens = (Random(7).uniform(TOKENS) * vocabulary).astype(int).tolist()
        digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
        found: dict[str, Any] = {"sha256": digest, "tokens": np.array(tokens, np.int16)}
        if embeds:
            return {**found, "vectors": judge_vectors(folder / "model.gguf", tokens)}
        logits = judge(folder / "model.gguf", tokens)
        return {**found, "logits": sample(logits), "largest": np.abs(logits).max()}


def main() -> None:
    """Replace the golden data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", nargs="*", help="default: all")
    GOLDEN_DIR.mkdir(parents=True, exist_ok=True)
    families = GGUF_FAMILIES | GGUF_EMBEDDINGS
    for name in parser.parse_args().name or families:
        golden = _recorded(families[name], name in GGUF_EMBEDDINGS)
        np.savez_compressed(GOLDEN_DIR / f"{name}.npz", **golden)
        print(name, flush=True)


if __name__ == "__main__":
    main()
