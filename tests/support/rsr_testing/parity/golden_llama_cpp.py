"""Makes the golden data of ``tests/golden/llama_cpp``: logits by llama.cpp.

    PYTHONPATH=tests/support python -m rsr_testing.parity.golden_llama_cpp [NAME ...]

It needs ``llama-cpp-python==0.3.36``, which no test does. The data are of the GGUF files that
`rsrc decompile` writes of ``rsr_testing.gguf_models``::

    <NAME>.npz  sha256   of the model.safetensors that the file is made from, as text
                tokens   of the prompt
                logits   a third of the logits of all tokens, another one at each position
                largest  the largest magnitude of all those logits

    embedding.npz   sha256   as above, of `gguf_models.GGUF_EMBEDDING`
                    vectors  of `embedding_models.TEXTS`, normalized, by pooling_type of the file
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsrc.export.decompile import decompile

from ..embedding_models import TEXTS
from ..gguf_models import GGUF_EMBEDDING, GGUF_FAMILIES
from ..models import Random
from ..paths import GOLDEN
from .golden_llm import sample

GOLDEN_DIR = GOLDEN / "llama_cpp"
TOKENS = 72  # beyond the original context of the model with long factors
_F32 = 0  # GGML_TYPE_F32, of the KV cache


def judge(path: Path, tokens: list[int]) -> npt.NDArray[np.float32]:
    """Return llama.cpp's logits of all tokens, (tokens, vocabulary)."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, logits_all=True, verbose=False, n_threads=1,
        type_k=_F32, type_v=_F32, flash_attn=False,
    )  # fmt: skip
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)], np.float32)


def embed(path: Path, texts: list[str]) -> npt.NDArray[np.float32]:
    """Return llama.cpp's vectors, (texts, hidden_size)."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=256, n_batch=256, verbose=False, n_threads=1,
        type_k=_F32, type_v=_F32, flash_attn=False,
    )  # fmt: skip
    return np.array(model.embed(texts, normalize=True), np.float32)


def record_embedding() -> None:
    """Replace the vectors."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        decompile(GGUF_EMBEDDING.build(folder), folder / "m.gguf", to="gguf", type="TQ2_0")
        vectors = embed(folder / "m.gguf", TEXTS)
        digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes())
    np.savez_compressed(GOLDEN_DIR / "embedding.npz", sha256=digest.hexdigest(), vectors=vectors)


def main() -> None:
    """Replace the golden data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", nargs="*", help="default: all")
    GOLDEN_DIR.mkdir(parents=True, exist_ok=True)
    names = parser.parse_args().name or [*GGUF_FAMILIES, "embedding"]
    if "embedding" in names:
        names.remove("embedding")
        record_embedding()
    for name in names:
        family = GGUF_FAMILIES[name]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            family.build(folder)
            vocabulary = family.settings["vocab_size"]
            tokens = (Random(7).uniform(TOKENS) * vocabulary).astype(int).tolist()
            logits = judge(folder / "model.gguf", tokens)
            digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes())
        np.savez_compressed(
            GOLDEN_DIR / f"{name}.npz",
            sha256=digest.hexdigest(),
            tokens=np.array(tokens, np.int16),
            logits=sample(logits),
            largest=np.abs(logits).max(),
        )
        print(name, flush=True)


if __name__ == "__main__":
    main()
