"""sentence-transformers as the judge of vectors, and how they are recorded.

    PYTHONPATH=tests/support python -m rsr_testing.parity.embeddings [FAMILY ...]

writes ``tests/golden/embeddings/<FAMILY>.npz``::

    sha256   of model.safetensors, as text
    texts    of `embedding_models.TEXTS` and short ones, the first whose vectors depend on no
             rounding (``judge.py``)
    vectors  of the texts, float32 (texts, dimension)
    queries  of the same texts after the prompt "query", if none depends on a rounding
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..embedding_models import EMBEDDING_FAMILIES, TEXTS
from ..paths import GOLDEN
from . import judge

GOLDEN_DIR = GOLDEN / "embeddings"
MOST_TEXTS = 1000  # short ones that are tried
TOLERANCE = 2e-4  # of the largest number of a vector


def load(folder: Path) -> Any:
    """Return the SentenceTransformer of a folder, in float32.

    transformers has no class for the BitLinear layers of BitNet-embedding, which have a norm. They
    are its own BitNet layers with a norm, under other names.
    """
    with judge.quiet():
        import torch
        from sentence_transformers import SentenceTransformer

        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        found = SentenceTransformer(str(folder), device="cpu", model_kwargs=options)
        model: Any = found[0].auto_model
        torch.nn.Module.float(model)
        _restore_bitlinear(model, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        judge.round_embedding_scale(model, config)
        model.eval()
        return found


def _restore_bitlinear(model: Any, folder: Path) -> None:
    from safetensors.torch import load_file
    from transformers import BitNetQuantConfig
    from transformers.integrations.bitnet import replace_with_bitnet_linear

    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if name.endswith("_proj.norm.weight")]
    if not names:
        return
    online = BitNetQuantConfig(
        linear_class="autobitlinear", quantization_mode="online", use_rms_norm=True
    )
    replace_with_bitnet_linear(model, [], online)
    model.to_empty(device="cpu")
    model.rotary_emb = type(model.rotary_emb)(model.config)  # buffers that no file has
    for name in names:
        tensors[name.replace(".norm.", ".rms_norm.")] = tensors.pop(name)
    model.load_state_dict(tensors, strict=True)


def clearance(found: Any, text: str, prompt: str = "") -> float:
    """Return how far the inputs that BitNet layers round are from a tie, see `judge.Answer`."""
    with judge.quiet(), judge.watched(found[0].auto_model) as distances:
        found.encode([prompt + text], show_progress_bar=False)
    return min((float(distance.min()) for distance in distances), default=1.0)


def encoded(found: Any, texts: list[str], **options: Any) -> judge.FloatArray:
    """Return the vectors of texts, float32 (texts, dimension)."""
    with judge.quiet():
        vectors: judge.FloatArray = found.encode(texts, show_progress_bar=False, **options)
    assert vectors.dtype == np.float32
    return vectors


def short_texts() -> Iterator[str]:
    """Yield texts of one to five words, in random order."""
    words = models.TEXT.split()
    for seed in range(MOST_TEXTS):
        order = np.argsort(models.Random(seed).uniform(len(words)))
        yield " ".join(words[i] for i in order[: 1 + seed % 5])


def record(folder: Path) -> dict[str, Any]:
    """Return the golden data of the model in a folder."""
    found = load(folder)
    texts: list[str] = []
    for text in chain(TEXTS, short_texts()):
        if text not in texts and clearance(found, text) >= judge.CLEARANCE:
            texts.append(text)
        if len(texts) == len(TEXTS):
            break
    golden = {
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "texts": texts,
        "vectors": encoded(found, texts),
    }
    prompt = found.prompts.get("query") or ""
    if all(clearance(found, text, prompt) >= judge.CLEARANCE for text in texts):
        golden["queries"] = encoded(found, texts, prompt_name="query")
    return golden


def main() -> None:
    """Record golden data."""
    parser = argparse.ArgumentParser(description="Record vectors of sentence-transformers.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=list(EMBEDDING_FAMILIES))
    GOLDEN_DIR.mkdir(exist_ok=True)
    for name in parser.parse_args().families:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            EMBEDDING_FAMILIES[name].save(folder)
            np.savez_compressed(GOLDEN_DIR / f"{name}.npz", **record(folder))


if __name__ == "__main__":
    main()
