"""Checkpoints of float tensors that are ternary, family by family, as they are published.

Names, dtypes, config and granularity of the scales are the families'; sizes are small, and the
values are made here. The dense matrix, read by the safetensors library, is the judge of products.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.checkpoints import Kit, Raw
from rsr_testing.matrices import float32_bound
from rsrc.export.decompile import compare

Array = npt.NDArray[Any]
Rng = np.random.Generator

SHARDS = 6  # of TriLM's model-parallel training


@dataclass(frozen=True)
class Family:
    """A family's form, and for the name of a matrix its values and the scale rule in words."""

    dtype: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, int]]
    values: Callable[[Rng, str, tuple[int, int]], tuple[Array, str | None]]
    norms: tuple[str, ...] = ()


def linears(
    hidden: int, inner: int, width: int | None = None, kv: int | None = None
) -> dict[str, tuple[int, int]]:
    """Return the linear layers of one decoder layer, by name: (out_features, in_features)."""
    width = width or hidden
    kv = kv or width
    attention = {"q": (width, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, width)}
    mlp = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return {f"self_attn.{n}_proj": s for n, s in attention.items()} | {
        f"mlp.{n}_proj": s for n, s in mlp.items()
    }


def halves(values: Array, dtype: str) -> Array:
    """Round to what `dtype` holds."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float64)
    wide = values.astype(np.float32)
    return (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def scales(rng: Rng, shape: tuple[int, ...], dtype: str) -> Array:
    """Return scales of the size of weights, no two the same."""
    found = np.unique(halves(rng.uniform(0.01, 0.04, 4 * int(np.prod(shape)) + 64), dtype))
    return rng.permutation(found)[: int(np.prod(shape))].reshape(shape)


def trilm(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """One scale per shard: of the rows, or of the columns where the layer's inputs are sharded."""
    if "embed" in name or "lm_head" in name:
        return halves(rng.standard_normal(shape), "F16"), None
    t = rng.integers(-1, 2, shape)
    s = scales(rng, (SHARDS,), "F16")
    if name.endswith(("o_proj", "down_proj")):
        return t * np.repeat(s, shape[1] // SHARDS), f"per {shape[1] // SHARDS} columns"
    return t * np.repeat(s, shape[0] // SHARDS)[:, None], f"per {shape[0] // SHARDS} rows"


def bonsai(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """A scale per row and 128 columns, everywhere: embeddings and head too."""
    t = rng.integers(-1, 2, shape)
    s = rng.choice(scales(rng, (40,), "BF16"), (shape[0], shape[1] // 128))  # F16 holds them too
    return t * np.repeat(s, 128, axis=1), "per row and 128 columns"


def sherry(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """One zero in each four columns."""
    if "embed" in name:
        return halves(rng.standard_normal(shape), "BF16"), None
    t = rng.choice((-1, 1), (shape[0], shape[1] // 4, 4))
    t *= np.arange(4) != rng.integers(0, 4, (*t.shape[:2], 1))
    s = rng.choice(scales(rng, (20,), "BF16"), (shape[0], shape[1] // 256))
    return t.reshape(shape) * np.repeat(s, 256, axis=1), "per row and 256 columns"


def paretoq(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Array, str | None]:
    """Two thirds of a learned value for each row."""
    if "embed" in name:
        return halves(rng.standard_normal(shape), "BF16"), None
    alpha = rng.choice(scales(rng, (30,), "BF16"), (shape[0], 1))
    return halves(alpha * rng.integers(-1, 2, shape) / 1.5, "BF16"), "per row"


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64}
FAMILIES = {
    # 192 columns are shards of 32, 480 of 80, which groups of 32 cannot make up.
    "trilm": Family("F16", LLAMA, linears(192, 480), trilm),
    "bonsai": Family(
        "BF16", QWEN3, linears(256, 384, 512, 128), bonsai, ("self_attn.q_norm", "self_attn.k_norm")
    ),
    "bonsai-f16": Family("F16", QWEN3, linears(256, 384, 512, 128), bonsai),
    "sherry": Family("BF16", {**LLAMA, "tie_word_embeddings": True}, linears(512, 768), sherry),
    "paretoq": Family("BF16", LLAMA, linears(64, 176), paretoq),
}


def build(kit: Kit, family: Family) -> tuple[dict[str, Array | Raw], dict[str, str | None]]:
    """Return the tensors of two layers with all around them, and the scale rules of matrices."""
    rng = np.random.default_rng(12)
    hidden = family.shapes["mlp.up_proj"][1]
    matrices = {"model.embed_tokens.weight": (301, hidden)}
    for i in range(2):
        matrices |= {f"model.layers.{i}.{n}.weight": s for n, s in family.shapes.items()}
    if not family.config.get("tie_word_embeddings"):
        matrices["lm_head.weight"] = (301, hidden)
    tensors: dict[str, Array | Raw] = {"model.tag": np.ones(1, np.uint8)}  # all else at odd offsets
    rules = {}
    for name, shape in matrices.items():
        values, rules[name] = family.values(rng, name.removesuffix(".weight"), shape)
        tensors[name] = kit.cast(values, family.dtype)
    norms = ("input_layernorm", "post_attention_layernorm", *family.norms)
    for name in (*(f"model.layers.{i}.{n}.weight" for i in range(2) for n in norms), "model.norm"):
        tensors[name] = kit.cast(halves(rng.uniform(0.5, 2, hidden), family.dtype), family.dtype)
    return tensors, rules


def dense(raw: Raw) -> Array:
    """Return a matrix of F16 or BF16 as float64."""
    if raw.dtype == "F16":
        return np.frombuffer(raw.data, "<f2").reshape(raw.shape).astype(np.float64)
    bits = np.frombuffer(raw.data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(raw.shape).astype(np.float64)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_family(kit: Kit, tmp_path: Path, name: str, sharded: bool) -> None:
    family = FAMILIES[name]
    tensors, rules = build(kit, family)
    (tmp_path / "config.json").write_text(json.dumps(family.config))
    if sharded:
        names = list(tensors)
        kit.save_sharded(
            tmp_path,
            {
                f"model-0000{i + 1}-of-00003.safetensors": {n: tensors[n] for n in names[i::3]}
                for i in range(3)
            },
        )
    else:
        kit.save(tmp_path / "model.safetensors", tensors)
    report = rsrc.compile(tmp_path, tmp_path / "x.rsr")
    found = {t.name: t for t in report.tensors}
    assert {n: found[n].scale for n in rules} == rules
    assert {t.name for t in report.tensors if t.kind == "ternary"} == {n for n in rules if rules[n]}
    assert compare(tmp_path / "x.rsr", tmp_path) == len(tensors)

    rng = np.random.default_rng(13)
    model = rsr_runtime.load(tmp_path / "x.rsr", verify=True)
    for shard in sorted(tmp_path.glob("*.safetensors")):
        for n, raw in kit.judge(shard).items():
            if not rules.get(n):
                continue
            w, matrix = dense(raw), model[n]
            assert isinstance(matrix, rsr_runtime.Matrix)
            x = rng.standard_normal((2, w.shape[1]), dtype=np.float32)
            bound = float32_bound(np.abs(w), x.T, least=1).T
            assert (np.abs(matrix.linear(x) - x.astype(np.float64) @ w.T) <= bound).all()


def test_one_stray_weight_keeps_a_tensor_dense(kit: Kit, tmp_path: Path) -> None:
    """The rest of the model compiles; the report names the row."""
    tensors, rules = build(kit, FAMILIES["trilm"])
    name = "model.layers.1.mlp.down_proj.weight"
    stray = np.array(tensors[name])
    stray[100, 7] = np.float16(0.5)
    source = kit.save(tmp_path / "s.safetensors", {**tensors, name: stray})
    report = rsrc.compile(source, tmp_path / "x.rsr")
    found = {t.name: t for t in report.tensors}
    reason = "F16, not ternary: row 100 has several magnitudes in a group of 80 columns"
    assert found[name].reason == reason
    kinds = {n: found[n].kind == "ternary" for n in rules}
    assert kinds == {n: rule is not None and n != name for n, rule in rules.items()}
