"""The targets of fuzzing: valid samples, and the operations of a user on untrusted files.

A target is an entry of `TARGETS`. Its `execute` returns if it accepts a file and raises an
`RsrError` if it refuses it; anything else is a finding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

import rsr_runtime
import rsrc
from rsr_formats import RsrError, RsrFile
from rsr_testing.gguf_files import GgufKit
from rsr_testing.golden_rsr import WRITERS, ternary_digits
from rsr_testing.paths import GOLDEN
from rsrc.common.errors import MismatchError
from rsrc.compiler.recognize import recognize
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.source.open import open_checkpoint

from .mutators import Sample

Arrays = dict[str, npt.NDArray[Any]]

_LARGEST_PRODUCT = 1 << 20  # rows or columns: vectors of a product may exceed the file


class Finding(Exception):  # noqa: N818 (the term for what fuzzing finds)
    """An invalid file or a wrong result was accepted."""


@dataclass(frozen=True)
class Target:
    """An entry point for untrusted files."""

    name: str
    samples: Callable[[Path], list[Sample]]  # valid samples; takes a scratch folder
    execute: Callable[[Path], None]  # takes a folder with the files of a damaged sample


def checkpoints(scratch: Path) -> list[Sample]:
    """Return small checkpoints: single and sharded, packed, floats with scales of every kind."""
    t = ternary(8, 70)
    rows = np.arange(1, 9, dtype=np.float32)[:, None]
    groups = np.repeat(np.arange(1, 25, dtype=np.float32).reshape(8, 3), 32, axis=1)[:, :70]
    floats: Arrays = {
        "model.layers.0.mlp.up_proj.weight": (t * np.float32(0.5)),
        "model.layers.0.self_attn.k_proj.weight": (t * rows).astype(np.float16),
        "model.layers.0.mlp.gate_proj.weight": (t * groups).astype(np.float16),
        "model.embed_tokens.weight": np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10),
        "model.norm.weight": np.ones(8, np.float16),
        "codes": t.astype(np.int8),
    }
    packed: Arrays = {
        "model.layers.0.self_attn.q_proj.weight": packed_codes(t),
        "model.layers.0.self_attn.q_proj.weight_scale": np.array([1.5], np.float32),
        "model.norm.weight": np.ones(8, np.float32),
    }
    bitnet = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    config = json.dumps(
        {
            "architectures": ["BitNetForCausalLM"],
            "model_type": "bitnet",
            "hidden_size": 70,
            "intermediate_size": 8,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "quantization_config": {**bitnet, "modules_to_not_convert": ["lm_head"]},
        }
    ).encode()
    index = dict.fromkeys(floats, "1.safetensors") | dict.fromkeys(packed, "2.safetensors")
    del index["model.norm.weight"]
    first = {name: a for name, a in floats.items() if name != "model.norm.weight"}
    index["model.norm.weight"] = "2.safetensors"
    unpacked: Arrays = {
        "w.weight": t.astype(np.float32),
        "w.weight_scale": np.array([2], np.float32),
    }
    words = (t[:, :64] + 1).astype(np.uint32).reshape(8, 4, 16) << np.arange(0, 32, 2, dtype="u4")
    scales = np.arange(1, 17, dtype=np.float16).reshape(8, 2)
    mlx: Arrays = {
        "w.weight": words.sum(2, dtype=np.uint32),
        "w.scales": scales,
        "w.biases": -scales,
        "v.weight": words.reshape(8, -1)[:, :8].astype(np.uint32),
        "v.scales": scales,
        "v.biases": scales,
        "master.weight": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
        "master.weight_clip_val": np.ones((8, 1), np.float32),
    }
    settings = {"quantization": {"group_size": 32, "bits": 2, "v": {"bits": 4}}, "w_bits": 0}
    return [
        {"model.safetensors": safetensors_bytes(floats, {"format": "pt"})},
        {
            "model.safetensors": safetensors_bytes(mlx),
            "config.json": json.dumps(settings).encode(),
        },
        {"model.safetensors": safetensors_bytes(packed), "config.json": config},
        {"model.safetensors": safetensors_bytes(unpacked), "config.json": config},
        {
            "1.safetensors": safetensors_bytes(first),
            "2.safetensors": safetensors_bytes(packed),
            "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
            "config.json": config,
            "tokenizer.json": b'{"version": "1.0"}',
        },
    ]


SINGLE = b"\x00\x00\x00\x3f"  # 0.5


def ggufs(scratch: Path) -> list[Sample]:
    """Return a Llama model with settings and tokenizer, and one tensor of every ternary type."""
    kit, half = GgufKit(), b"\x00\x38"
    tq2 = bytes.fromhex("186186" * 21 + "18") + half
    pattern = bytes.fromhex("244992" * 10 + "2449")
    one = (1).to_bytes(4, "little")
    llama: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 256,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    matrix = ((256, 256), 35, tq2 * 256)
    layer = {
        f"blk.0.{name}.weight": matrix for name in ("attn_q", "ffn_gate", "ffn_up", "ffn_down")
    }
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]] = {
        **layer,
        "blk.0.attn_k.weight": ((128, 256), 35, tq2 * 128),
        "blk.0.attn_v.weight": ((128, 256), 35, tq2 * 128),
        "blk.0.attn_output.weight": matrix,
        "output_norm.weight": ((2,), 0, one * 2),
        "token_embd.weight": ((2, 256), 8, (half + bytes(range(32))) * 16),
    }
    types: dict[str, tuple[tuple[int, ...], int, bytes]] = {
        "tq1_0": ((1, 256), 34, bytes.fromhex("456ccf" * 16 + "3092bb30") + half),
        "i2_s": ((1, 128), 36, pattern + SINGLE + bytes(28)),
        "q2_0": ((1, 64), 42, half + pattern[:16]),
        "ptq1_0": (
            (1, 128),
            143,
            bytes.fromhex("3194bb" * 5 + "31" + "cf456c" * 2 + "cf45436c") + half,
        ),
        "stq1_0": ((1, 256), 43, bytes(40) + half),
        "iq1_bn": ((1, 64), 134, half + bytes.fromhex("6c45cfcf6c4545cf6c6c45cf17")),
        "iq2_bn": ((1, 64), 135, SINGLE + pattern[:16]),
        "q1_0": ((1, 128), 41, half + bytes(range(16))),
    }
    more: dict[str, Any] = {
        **llama,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.yarn_ext_factor": 0.5,
        "llama.rope.scaling.attn_factor": 1.25,
        "llama.rope.dimension_count": 128,
        "llama.attention.sliding_window": 8,
        "general.sampling.temp": 0.5,
        "tokenizer.ggml.eot_token_id": 1,
        "rsr.int8_activations": True,
        "rsr.modules_to_not_convert": ["lm_head"],
        "rsr.scaled_tensors": ["blk.0.attn_v.weight"],
        "rsr.scales": [0.4999],
    }
    factors = ((64,), 0, SINGLE * 64)
    others = {
        **tensors,
        "rope_freqs.weight": factors,
        "blk.0.attn_q.scale": ((1,), 0, SINGLE),
        "blk.0.ffn_up.scale": ((1,), 1, half),
    }
    longrope = {k: v for k, v in llama.items() if "tokenizer" not in k}
    return [
        {"model.gguf": kit.file_bytes(llama, tensors)},
        {"model.gguf": kit.file_bytes({"general.architecture": "none"}, types)},
        {"model.gguf": kit.file_bytes(more, others)},
        {
            "model.gguf": kit.file_bytes(
                longrope,
                {
                    **tensors,
                    "rope_factors_short.weight": factors,
                    "rope_factors_long.weight": factors,
                },
            )
        },
    ]


def rsr_files(scratch: Path) -> list[Sample]:
    """Return the golden files, and compiled files in both encodings, raw and compressed."""
    samples = [(GOLDEN / name / "golden.rsr").read_bytes() for name in WRITERS]
    sources = checkpoints(scratch)
    for i, options in enumerate(
        (
            {"target": "avx512"},
            {"zstd": 3, "target": "avx2"},
            {"encoding": "permuted", "direction": "expand", "k": 2},
            {"encoding": "permuted", "direction": "reduce", "k": 3, "zstd": 1},
        )
    ):
        folder = scratch / f"source{i}"
        folder.mkdir()
        for name, data in sources[2 if i > 1 else 4].items():
            (folder / name).write_bytes(data)
        rsrc.compile(folder, scratch / f"{i}.rsr", threads=1, **options)  # type: ignore[arg-type]
        samples.append((scratch / f"{i}.rsr").read_bytes())
    return [{"model.rsr": data} for data in samples]


def unrotated_files(scratch: Path) -> list[Sample]:
    """Return those of `rsr_files` that every form can express: none with a rotated basis."""
    return [sample for sample in rsr_files(scratch) if b"rotations" not in sample["model.rsr"]]


def open_source(folder: Path) -> None:
    """Open a checkpoint and recognize its tensors; the safetensors library must accept it too."""
    checkpoint = open_checkpoint(source_of(folder))
    for shard in checkpoint.shards:
        if shard.suffix == ".safetensors":
            check_with_library(shard)
    recognize(checkpoint)


def compile_source(folder: Path) -> None:
    """Compile a checkpoint; the output must be valid and restore the source byte for byte."""
    output = folder / "out.rsr"
    try:
        rsrc.compile(source_of(folder), output, threads=1)
    except RsrError:
        if output.exists():
            raise Finding("a refused source left an output") from None
        raise
    RsrFile(output).verify()
    try:
        compare(output, source_of(folder))
    except MismatchError as error:
        raise Finding(f"compiled to something else: {error}") from None


_OLD_FILES: dict[bytes, bytes] = {}  # by the hash of their header; they are not damaged


def deltas(scratch: Path) -> list[Sample]:
    """Return deltas of two files with every encoding, alike but for some weights; raw and zstd."""
    samples = []
    for i, options in enumerate(
        ({"target": "avx512"}, {"target": "avx2"}, {"encoding": "permuted", "k": 2}, {"zstd": 1})
    ):
        paths = []
        for j, t in enumerate((ternary(8, 70), np.abs(ternary(8, 70)))):
            t[0, :60] = [-1, 0, 1] * 20  # the same digits occur in both
            source, compiled = scratch / f"{i}{j}.safetensors", scratch / f"{i}{j}.rsr"
            tensors: Arrays = {"w.weight": t, "n": np.ones(8 + j, np.float32)}
            source.write_bytes(safetensors_bytes(tensors))
            rsrc.compile(source, compiled, threads=1, **options)  # type: ignore[arg-type]
            paths.append(compiled)
        delta = scratch / f"{i}.rsrd"
        rsrc.diff(paths[0], paths[1], delta, threads=1)
        _OLD_FILES[RsrFile(paths[0]).digest] = paths[0].read_bytes()
        samples.append({"d.rsrd": delta.read_bytes()})
    return samples


def patch_rsr(folder: Path) -> None:
    """Apply a delta; a result must be the new file, and what is refused must leave nothing."""
    old, delta, output = folder / "old.rsr", folder / "d.rsrd", folder / "out.rsr"
    data = delta.read_bytes()
    old.write_bytes(_OLD_FILES.get(data[32:64]) or next(iter(_OLD_FILES.values())))
    try:
        rsrc.patch(old, delta, output, threads=1)
    except RsrError:
        if {path.name for path in folder.iterdir()} != {old.name, delta.name}:
            raise Finding("a refused delta left an output") from None
        raise
    if RsrFile(output).digest != data[64:96]:
        raise Finding("patched to another file")
    RsrFile(output).verify()


def verify_rsr(folder: Path) -> None:
    """Open a file and check every byte, which is cheap, so that many headers are tried."""
    RsrFile(folder / "model.rsr").verify()


def use_rsr(folder: Path) -> None:
    """Load a file without verifying it, use all its tensors and files, then verify it."""
    refused: list[RsrError] = []
    with rsr_runtime.load(folder / "model.rsr") as model:
        for name in model:
            try:
                use_tensor(model[name])
            except RsrError as error:
                refused.append(error)
        for name in model.files:
            try:
                _ = model.files[name]
            except RsrError as error:
                refused.append(error)
    RsrFile(folder / "model.rsr").verify()
    if refused:
        raise refused[0]


def use_tensor(tensor: rsr_runtime.Matrix | npt.NDArray[Any]) -> None:
    """Multiply by a matrix in every way, or read an array."""
    if isinstance(tensor, np.ndarray):
        tensor.tobytes()
        return
    rows, columns = tensor.shape
    if max(rows, columns) > _LARGEST_PRODUCT:
        return
    with np.errstate(all="ignore"):
        tensor @ np.full(columns, -128, np.int8)
        tensor @ np.ones(columns, np.float32)
        tensor @ np.ones((columns, 3), np.float32)
        tensor.linear(np.ones((2, columns), np.float32), activations="int8")
    tensor.to_dense()
    for j in range(min(tensor.blocks, 3)):
        tensor.block(j)
    _ = tensor.scale


def decompile_rsr(folder: Path) -> None:
    """Decompile a file; the safetensors library must accept the results."""
    for form in ("source", "int8", "float"):
        output = folder / f"{form}.safetensors"
        decompile(folder / "model.rsr", output, to=form)
        check_with_library(output)


def source_of(folder: Path) -> Path:
    """Return the path to open: a single file, or the folder if it has several."""
    names = sorted(p.name for p in folder.iterdir())
    return folder / names[0] if names in (["model.safetensors"], ["model.gguf"]) else folder


def check_with_library(path: Path) -> None:
    """Check that the safetensors library accepts a file that was accepted or written here."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise Finding(f"the safetensors library refuses {path.name}: {error}") from None


def ternary(rows: int, columns: int) -> npt.NDArray[np.int8]:
    """Return W[r, c] = ((r r + 2 c + r c) mod 3) - 1."""
    return np.asarray(ternary_digits(rows, columns).astype(np.int8) - 1, np.int8)


def packed_codes(t: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary values as layout bitnet: four rows per byte, one from each quarter."""
    quarters = (t + 1).astype(np.uint8).reshape(4, -1, t.shape[1])
    return np.asarray(sum(q << np.uint8(2 * i) for i, q in enumerate(quarters)), np.uint8)


def safetensors_bytes(tensors: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file with tensors in the given order."""
    names = {"uint8": "U8", "int8": "I8", "uint32": "U32", "float16": "F16", "float32": "F32"}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, array in tensors.items():
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": array.shape,
            "data_offsets": offsets,
        }
        body += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


TARGETS = {
    target.name: target
    for target in (
        Target("open", checkpoints, open_source),
        Target("compile", checkpoints, compile_source),
        Target("gguf", ggufs, compile_source),
        Target("verify", rsr_files, verify_rsr),
        Target("use", rsr_files, use_rsr),
        Target("decompile", unrotated_files, decompile_rsr),
        Target("patch", deltas, patch_rsr),
    )
}
