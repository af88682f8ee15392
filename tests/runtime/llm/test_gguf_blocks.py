"""Models in block types that rsrc only reads: the same bits as in those that it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing import models
from rsr_testing.gguf_files import GgufKit
from rsrc.export.decompile import decompile
from rsrc.source.gguf.reader import read_header
from rsrc.source.gguf.types import resolve

pytest.importorskip("tokenizers", reason="needs the extra llm")
pytest.importorskip("jinja2", reason="needs the extra llm")

from rsr_runtime import llm

Codes = npt.NDArray[np.uint8]  # (blocks, weights of a block): value + 1
Blocks = Callable[[Codes, Codes], Codes]  # (codes, bytes of the scales): bytes of blocks
TOKENS = list(range(3, 40))

# Sherry's patterns of four codes, the first in the low bits; the other 16 are their negations.
_PATTERNS = bytes.fromhex("a9892909a68626069a921a126a624a42")


def stq1_0(codes: Codes, scales: Codes) -> Codes:
    """Four weights 16 apart are a group: a pattern of four bits and a sign."""
    lanes = codes.reshape(-1, 4, 4, 16).swapaxes(2, 3).reshape(-1, 64, 4)
    pattern = (lanes << np.array([0, 2, 4, 6], np.uint8)).sum(axis=2).astype(np.uint8)
    number = np.zeros(256, np.uint8)
    for i, known in enumerate(_PATTERNS):
        number[known], number[0xAA - known] = i, i + 16
    numbers = number[pattern]
    nibbles = numbers[:, ::2] & 15 | (numbers[:, 1::2] & 15) << 4
    signs = np.packbits(numbers >> 4, axis=1, bitorder="little")
    return np.concatenate([nibbles, signs, scales], axis=1)


def q1_0(codes: Codes, scales: Codes) -> Codes:
    return np.concatenate([scales, np.packbits(codes >> 1, axis=1, bitorder="little")], axis=1)


def rewrite(source: Path, output: Path, blocks: Blocks, number: int) -> int:
    """Write a GGUF file with its ternary tensors in other blocks; return how many there are."""
    header = read_header(source)
    types, data = resolve(header), source.read_bytes()
    tensors: dict[str, tuple[Any, int, bytes]] = {}
    changed = 0
    for info in header.tensors:
        kind = types[info.name]
        raw = data[info.offset : info.offset + kind.nbytes(info.shape)]
        type_id = info.type_id
        if kind.codec is not None:
            stored = np.frombuffer(raw, np.uint8).reshape(-1, kind.block_bytes)
            raw = blocks(kind.codec.decode(stored), stored[:, kind.codec.scale]).tobytes()
            type_id, changed = number, changed + 1
        tensors[info.name] = (info.shape, type_id, raw)
    metadata = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in header.metadata.items()
    }
    GgufKit().save(output, metadata, tensors)
    return changed


def logits(path: Path) -> npt.NDArray[np.float32]:
    with llm.load(path, kv="float32") as model:
        found: npt.NDArray[np.float32] = model.logits(TOKENS)
        return found


def one_zero_in_four(
    random: models.Random, module: str, rows: int, columns: int
) -> dict[str, models.Tensor]:
    """F16 values of which one in every four that are 16 apart is 0."""
    signs = np.where(random.uniform(rows, columns // 64, 4, 16) < 0.5, -1.0, 1.0)
    zero = (4 * random.uniform(rows, columns // 64, 1, 16)).astype(np.intp)
    np.put_along_axis(signs, zero, 0.0, axis=2)
    values = signs.reshape(rows, columns) * models.scale_of(columns)
    return {f"{module}.weight": models.Tensor.of(values, "F16")}


@pytest.mark.parametrize("number", [42, 43])
def test_hy_mt_in_stq1_0(number: int, tmp_path: Path) -> None:
    family = dataclasses.replace(models.FAMILIES["gguf-hunyuan"], linear=one_zero_in_four)
    expected = logits(family.build(tmp_path))
    path, compiled = tmp_path / "stq.gguf", tmp_path / "stq.rsr"
    assert rewrite(tmp_path / "model.gguf", path, stq1_0, number) == 7
    report = rsrc.compile(path, compiled)
    assert {t.kind for t in report.tensors if "proj" in t.name} == {"ternary"}
    assert {str(t.scale).split(",")[0] for t in report.tensors if "proj" in t.name} == {"STQ1_0"}
    np.testing.assert_array_equal(logits(compiled), expected)


def test_bonsai_in_q1_0(tmp_path: Path) -> None:
    """Binary matrices, embedding and head among them, as MLX's 1-bit codes give them."""
    mlx = models.FAMILIES["bonsai-1bit"].build(tmp_path)
    decompile(mlx, tmp_path / "ternary.gguf", to="gguf", type="PQ2_0")
    path, compiled = tmp_path / "q1.gguf", tmp_path / "q1.rsr"
    assert rewrite(tmp_path / "ternary.gguf", path, q1_0, 41) == 15
    rsrc.compile(path, compiled)
    for file in (mlx, compiled):
        matrices = [t for t in RsrFile(file).header.tensors if len(t.shape) == 2]
        assert {getattr(t, "kind", "dense") for t in matrices} == {"binary"}
    expected = logits(mlx)
    # MLX's codes are 0 and 1 with a bias, those of Q1_0 are signs.
    assert np.abs(logits(compiled) - expected).max() <= 1e-5 * np.abs(expected).max()
