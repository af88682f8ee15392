"""Time what LoRA adapters add to a token of a language model.

    python benchmarks/lora.py MODEL.rsr [--rank 16] [--positions 64] [--threads N] [--seconds 8]

Random adapters, of the projections of queries and values and of all linear layers, each in bfloat16
and in float32, are written to a temporary directory. Texts of the same length grow in turns, one
token at a time: one without an adapter and one with each. The cost is the median of the differences
between neighbors. The model needs no tokenizer: `make_2b_checkpoint.py` writes one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import TensorSpec, serialize_file

import rsr_runtime as rsr
from reporting import Lines, Row, measuring_parser, report, time_in_turns
from rsr_formats.numerics import narrow_bf16
from rsr_runtime import llm
from rsr_runtime.llm.linear import Linear

QUERIES_AND_VALUES = ("q_proj", "v_proj")
DTYPES = ("bfloat16", "float32")
SEED = 7


def write_adapter(folder: Path, layers: Sequence[Linear], rank: int, dtype: str) -> None:
    """Write a random adapter of some layers, as PEFT does."""
    rng = np.random.default_rng(SEED)
    folder.mkdir()
    tensors, held = {}, []
    for layer in layers:
        rows, columns = layer.weight.shape
        shapes = {"lora_A": (rank, columns), "lora_B": (rows, rank)}
        for half, shape in shapes.items():
            values = rng.standard_normal(shape, np.float32) * np.float32(0.01)
            stored = narrow_bf16(values) if dtype == "bfloat16" else values
            held.append(stored)
            tensors[f"base_model.model.{layer.name}.{half}.weight"] = TensorSpec(
                dtype=dtype, shape=shape, data_ptr=stored.ctypes.data, data_len=stored.nbytes
            )
    serialize_file(tensors, folder / "adapter_model.safetensors")
    targets = [layer.name for layer in layers]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


class GrowingText:
    """A text whose tokens are drawn beforehand."""

    def __init__(self, model: llm.LanguageModel, adapter: str | None, positions: int) -> None:
        rng = np.random.default_rng(SEED)
        self._session = model.new_session()
        self._session.use(model.chosen_adapters(adapter))
        self._tokens: list[int] = rng.integers(0, model.config.vocab_size, model.context).tolist()
        self._length = positions
        self.grow()

    def grow(self, call: int = 0) -> None:
        """Compute the next token."""
        self._session.follow(self._tokens[: self._length])
        self._length += 1


def main() -> None:
    parser = measuring_parser(__doc__, 8, "the whole measurement")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--positions", type=int, default=64, help="before the first token (64)")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads is not None:
        rsr.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        with llm.load(options.file) as model:
            weights = model.weights
            layers = [one for one in weights.linear if one is not weights.lm_head]
        some = [one for one in layers if one.name.endswith(QUERIES_AND_VALUES)]
        paths = {}
        for what, adapted in (("q and v", some), ("all", layers)):
            for dtype in DTYPES:
                name = f"{what}, {dtype}"
                paths[name] = Path(scratch, name)
                write_adapter(paths[name], adapted, options.rank, dtype)
        model = llm.load(options.file, adapters=paths)
    model.use_huge_pages()
    texts = {"none": GrowingText(model, None, options.positions)}
    texts |= {name: GrowingText(model, name, options.positions) for name in paths}
    times = time_in_turns(
        {name: text.grow for name, text in texts.items()},
        options.seconds,
        8,
    )
    base = times["none"]
    rows: list[Row] = [
        {
            "adapter": name,
            "milliseconds": 1e3 * float(np.median(found)),
            "cost": float(np.median(found - base) / np.median(base)),
        }
        for name, found in times.items()
    ]
    lines: Lines = [["adapter of", "ms per token", "cost"]]
    lines += [[r["adapter"], f"{r['milliseconds']:.1f}", f"{r['cost']:.1%}"] for r in rows]
    title = f"{options.file.name}, rank {options.rank}, {rsr.get_num_threads()} threads"
    report(options, rows, [(title, lines)])


if __name__ == "__main__":
    main()
