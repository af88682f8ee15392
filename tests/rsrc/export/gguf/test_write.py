"""The "gguf" form, read back by the package gguf."""

from __future__ import annotations

import json
import re
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_formats import create
from rsr_formats.records import FileEntry
from rsr_testing.checkpoints import Kit
from rsrc.export.decompile import decompile
from rsrc.export.gguf.blocks import TYPES as BLOCK_TYPES
from rsrc.source.gguf.reader import read_header
from rsrc.source.gguf.types import resolve

Array = npt.NDArray[Any]

RNG = np.random.default_rng(41)
TYPES = ("TQ1_0", "TQ2_0")


def ternary(rows: int, columns: int) -> npt.NDArray[np.int8]:
    return RNG.integers(-1, 2, (rows, columns)).astype(np.int8)


def read(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def values(t: gguf.ReaderTensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = gguf.quants.dequantize(t.data, t.tensor_type)
    return found.reshape(tuple(reversed(t.shape.tolist())))


# Name: values of 256 or 512 columns, with scales that float16 holds.
T = ternary(9, 512)
BLOCKS: dict[str, Array] = {
    "ternary": T,
    "signs": np.where(T > 0, 1, -1).astype(np.int8),
    "bits": np.abs(T),
    "tensor": T * np.float32(0.375),
    "row": (T * 2.0 ** RNG.integers(-4, 5, (9, 1))).astype(np.float32),
    "group": (T * np.repeat(2.0 ** RNG.integers(-4, 5, (9, 2)), 256, axis=1)).astype(np.float32),
    "negative_zeros": np.where(T == 0, np.float32(-0.0), T * np.float32(0.5)),
    "zeros": np.zeros((3, 256), np.float32),
}


def save(kit: Kit, folder: Path, tensors: dict[str, Any], config: Any = None) -> Path:
    folder.mkdir()
    kit.save(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_exact(kit: Kit, tmp_path: Path, kind: str) -> None:
    source, rsr, out = tmp_path / "s", tmp_path / "x.rsr", tmp_path / "x.gguf"
    rsrc.compile(save(kit, source, BLOCKS), rsr)
    (note,) = decompile(rsr, out, to="gguf", type=kind).notes
    assert "no config.json" in note
    found = read(out)
    assert list(found) == list(BLOCKS)
    for name, want in BLOCKS.items():
        assert found[name].tensor_type.name == kind
        assert (values(found[name]) == want).all(), name
    with rsr_runtime.load(rsr) as model:
        for name, t in found.items():
            matrix = model[name]
            assert isinstance(matrix, rsr_runtime.Matrix)
            assert (values(t) == matrix.to_dense()).all()


def grouped(columns: int, width: int) -> npt.NDArray[np.float32]:
    """Return 16 rows with a scale for each `width` columns."""
    scales = 2.0 ** RNG.integers(-4, 5, (16, columns // width))
    found: npt.NDArray[np.float32] = (ternary(16, columns) * np.repeat(scales, width, 1)).astype(
        np.float32
    )
    return found


def four_values(lowest: int) -> npt.NDArray[np.float32]:
    """Return a matrix of lowest to lowest + 3."""
    return RNG.integers(lowest, lowest + 4, (16, 512)).astype(np.float32)


# Name: values, and the type that an export chooses.
CHOSEN = {
    "wide": (T.astype(np.float32), "TQ2_0"),
    "rows of 5 x 64": (ternary(8, 320).astype(np.float32), "Q2_0"),
    "groups of 128": (grouped(512, 128), "Q2_0"),
    "groups of 64": (grouped(256, 64), "Q2_0"),
    "groups of 32": (grouped(256, 32), "F32"),
    "rows of 100": (ternary(8, 100).astype(np.float32), "F32"),
    "up to 2": (four_values(-1), "Q2_0"),
    "down to -2": (four_values(-2), "F32"),
}
# What each type holds.
HOLDS = {
    "TQ1_0": {"wide"},
    "TQ2_0": {"wide"},
    "Q2_0": {"wide", "rows of 5 x 64", "groups of 128", "groups of 64", "up to 2"},
    "PQ2_0": {"wide", "groups of 128", "up to 2"},
}


@pytest.mark.parametrize("kind", [None, *BLOCK_TYPES])
def test_every_matrix_gets_a_type_that_holds_it(kit: Kit, tmp_path: Path, kind: str | None) -> None:
    """Without --type the smallest, else that type or floats. Compiling finds the same values."""
    tensors = {name: t for name, (t, _) in CHOSEN.items()}
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    notes = decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", type=kind).notes
    types = {name: t.name for name, t in resolve(read_header(tmp_path / "x.gguf")).items()}
    if kind is None:
        assert types == {name: chosen for name, (_, chosen) in CHOSEN.items()}
        assert any(
            "Q2_0 instead of TQ2_0, because their scales are per row and" in n for n in notes
        )
    else:
        assert {n for n, found in types.items() if found == kind} == HOLDS[kind]
        assert set(types.values()) == {kind, "F32"}
    rsrc.compile(tmp_path / "x.gguf", tmp_path / "y.rsr")
    with rsr_runtime.load(tmp_path / "y.rsr") as model:
        for name, want in tensors.items():
            found = model[name]
            assert isinstance(found, rsr_runtime.Matrix)
            assert (found.to_dense() == want).all(), name


def test_the_file_type_is_that_of_most_weights(kit: Kit, tmp_path: Path) -> None:
    """general.file_type, which llama.cpp prints."""
    small, odd = ternary(4, 256), ternary(90, 100)
    wanted: dict[int, dict[str, Array]] = {
        37: {"w": small, "norm": np.ones(1 << 16, np.float32)},
        32: {"w": odd},  # BF16
        1: {"w": (odd * 0.1).astype(np.float16), "v": small},
        0: {"w": odd.astype(np.float32)},
        41: {"w": grouped(256, 128)},
    }
    for number, tensors in wanted.items():
        source = kit.save(tmp_path / "s.safetensors", tensors)
        rsrc.compile(source, tmp_path / "x.rsr", force=True)
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", force=True)
        metadata = read_header(tmp_path / "x.gguf").metadata
        assert metadata["general.file_type"] == number
    decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", type="PQ2_0", force=True)
    assert read_header(tmp_path / "x.gguf").metadata["general.file_type"] == 141


def test_the_default_is_tq2_0(kit: Kit, tmp_path: Path) -> None:
    rsrc.compile(kit.save(tmp_path / "s.safetensors", {"w": T}), tmp_path / "x.rsr")
    decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    decompile(tmp_path / "x.rsr", tmp_path / "y", to="gguf", type="TQ2_0")
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y").read_bytes()
    fields = gguf.GGUFReader(tmp_path / "y").fields
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_TQ2_0
    assert fields["general.quantization_version"].contents() == 2
    with pytest.raises(rsrc.OutputExistsError):
        decompile(tmp_path / "x.rsr", tmp_path / "y", to="gguf")
    decompile(tmp_path / "x.rsr", tmp_path / "y", to="gguf", type="TQ1_0", force=True)
    assert read(tmp_path / "y")["w"].tensor_type.name == "TQ1_0"


def test_matrices_that_fit_no_block_become_floats(kit: Kit, tmp_path: Path) -> None:
    t, narrow = ternary(4, 100), ternary(6, 256)
    group = (narrow * np.repeat(2.0 ** np.arange(4), 64)).astype(np.float32)
    tensors: dict[str, Any] = {
        "odd": t,
        "odd16": (t * 0.1).astype(np.float16),
        "odd32": (t * np.float32(1 / 3)).astype(np.float32),
        "group": group,
        "group16": kit.bf16(group),
        "no_columns": np.zeros((3, 0), np.float32),
        "fits": narrow,
    }
    source = kit.save(tmp_path / "s.safetensors", tensors)
    rsrc.compile(source, tmp_path / "x.rsr")
    notes = decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", type="TQ2_0").notes
    text = "\n".join(notes)
    length = "because the length of their rows is not a multiple of 256"
    assert f"written as BF16 instead of TQ2_0, {length}: 'odd'\n" in text
    groups = "because their scales are per 64 columns (types that hold them: Q2_0)"
    assert f"as F32 instead of TQ2_0, {groups}: 'group'" in text
    found = read(tmp_path / "x.gguf")
    assert {name: t.tensor_type.name for name, t in found.items()} == {
        "odd": "BF16", "odd16": "F16", "odd32": "F32", "group": "F32", "group16": "BF16",
        "no_columns": "F32", "fits": "TQ2_0",
    }  # fmt: skip
    with rsr_runtime.load(tmp_path / "x.rsr") as model:
        for name, tensor in found.items():
            matrix = model[name]
            assert isinstance(matrix, rsr_runtime.Matrix)
            assert (values(tensor) == matrix.to_dense()).all(), name


def test_scales_that_float16_rounds(kit: Kit, tmp_path: Path) -> None:
    third = np.float32(1 / 3)
    source = {"a": T * third, "b": T * np.float32(0.5)}
    rsrc.compile(kit.save(tmp_path / "s.safetensors", source), tmp_path / "x.rsr")
    notes = decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf").notes
    error = abs(np.float64(np.float16(third)) / np.float64(third) - 1)
    assert (
        f"1 of 2 scales are rounded to float16, with a relative error of at most {error:.1e}"
        in notes
    )
    assert (values(read(tmp_path / "x.gguf")["a"]) == T * np.float32(np.float16(third))).all()


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_scales_beyond_float16(kit: Kit, tmp_path: Path, scale: float) -> None:
    tensors = {"fine": T, "lost": T * np.float32(scale)}
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match=r"those of 'lost' are infinite or 0: .*--to float"):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_dense_tensors(kit: Kit, tmp_path: Path) -> None:
    wide = RNG.normal(size=(3, 5)).astype(np.float32)
    tensors: dict[str, Any] = {
        "w": T,
        "f32": wide,
        "f16": wide.astype(np.float16),
        "bf16": kit.bf16([[1.5, -2.0]]),
        "norm": kit.bf16([1.5, -2.0, 0.25]),
        "norm16": np.array([0.1, 2], np.float16),
        "scalar": np.array(3, np.float32),
        "i64": np.arange(4),
        "empty": np.zeros((0, 4), np.float16),
        "cube": np.zeros((2, 3, 4, 5), np.float16),
    }
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    found = read(tmp_path / "x.gguf")
    kinds = {name: t.tensor_type.name for name, t in found.items() if name != "w"}
    assert kinds == {
        "f32": "F32", "f16": "F16", "bf16": "BF16", "norm": "F32", "norm16": "F32",
        "scalar": "F32", "i64": "I64", "empty": "F16", "cube": "F16",
    }  # fmt: skip
    assert (values(found["f32"]) == wide).all()
    assert (values(found["f16"]) == wide.astype(np.float16)).all()
    assert values(found["bf16"]).tolist() == [[1.5, -2.0]]
    assert values(found["norm"]).tolist() == [1.5, -2.0, 0.25]
    assert values(found["norm16"]).tolist() == [np.float32(np.float16(0.1)), 2]
    assert found["i64"].data.tolist() == [0, 1, 2, 3]
    assert tuple(reversed(found["cube"].shape.tolist())) == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("flags", np.zeros(3, bool), "no type for the dtype of 'flags'"),
        ("deep", np.zeros((1, 1, 1, 1, 2), np.float32), "'deep' has 5 dimensions"),
    ],
)
def test_tensors_that_gguf_cannot_store(
    kit: Kit, tmp_path: Path, name: str, tensor: Array, message: str
) -> None:
    source = kit.save(tmp_path / "s.safetensors", {"w": T, name: tensor})
    rsrc.compile(source, tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match=message):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.safetensors", "x.rsr"]


# --- models -------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": 300,
    "bos_token_id": 1,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}
LAYER = "model.layers.0."
SHAPES = {
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (64, 256),
    "self_attn.v_proj": (64, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}


def llama(kit: Kit) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        f"{LAYER}{stem}.weight": (ternary(*shape) * 0.5).astype(np.float32)
        for stem, shape in SHAPES.items()
    }
    rows = 2.0 ** RNG.integers(-3, 4, (256, 1))
    tensors[f"{LAYER}self_attn.q_proj.weight"] *= rows  # scales move with their rows
    tensors[f"{LAYER}self_attn.q_proj.bias"] = kit.bf16(np.arange(256))
    tensors[f"{LAYER}input_layernorm.weight"] = kit.bf16(np.ones(256))
    tensors[f"{LAYER}post_attention_layernorm.weight"] = kit.bf16(np.ones(256))
    tensors["model.embed_tokens.weight"] = kit.bf16(np.arange(300 * 256).reshape(300, 256) % 128)
    tensors["model.norm.weight"] = kit.bf16(np.ones(256))
    return tensors


def interleaved(rows: Array, heads: int) -> Array:
    """Return rows in llama.cpp's order: the halves of each head alternate."""
    size = len(rows) // heads
    order = [
        head * size + half * (size // 2) + i
        for head in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return rows[order]


@pytest.mark.parametrize("kind", TYPES)
def test_a_llama(kit: Kit, tmp_path: Path, kind: str) -> None:
    tensors = llama(kit)
    rsrc.compile(save(kit, tmp_path / "m", tensors, CONFIG), tmp_path / "x.rsr")
    notes = decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", type=kind).notes
    assert notes == []
    found = read(tmp_path / "x.gguf")
    stems = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output": "o_proj"}
    names = {
        f"blk.0.attn_{own}.weight": f"{LAYER}self_attn.{hf}.weight" for own, hf in stems.items()
    }
    names |= {
        f"blk.0.ffn_{n}.weight": f"{LAYER}mlp.{n}_proj.weight" for n in ("gate", "up", "down")
    }
    for own, hf in names.items():
        want = tensors[hf]
        heads = {"attn_q": 8, "attn_k": 2}.get(own.split(".")[2])
        assert found[own].tensor_type.name == kind
        assert (values(found[own]) == (interleaved(want, heads) if heads else want)).all(), own
    bias = interleaved(np.arange(256), 8).tolist()
    assert values(found["blk.0.attn_q.bias"]).tolist() == bias
    assert found["token_embd.weight"].tensor_type.name == "BF16"
    assert set(found) - set(names) == {
        "blk.0.attn_q.bias", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight",
        "token_embd.weight", "output_norm.weight", "rope_freqs.weight",
    }  # fmt: skip
    assert found["rope_freqs.weight"].shape.tolist() == [16]
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["llama.attention.head_count_kv"].contents() == 2
    assert fields["llama.rope.freq_base"].contents() == 500000.0
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 1
    # llama.cpp knows every name.
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    its = {known.get_name(name, try_suffixes=(".weight", ".bias")) for name in tensors}
    assert its == set(found) - {"rope_freqs.weight"}


def test_rows_that_do_not_divide_into_heads(kit: Kit, tmp_path: Path) -> None:
    heads = {"num_attention_heads": 256, "num_key_value_heads": 64, "head_dim": 1}
    config = {**CONFIG, **heads}  # each needs a pair of rows
    rsrc.compile(save(kit, tmp_path / "m", llama(kit), config), tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match=r"q_proj.* has 256 rows, expected .* 256 heads"):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bos_token_id": 1 << 70}, "bos_token_id: 1180591620717411303424 is not an unsigned"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected a positive"),
        ({"hidden_size": "many"}, "hidden_size is 'many', expected a positive"),
        ({"architectures": ["\ud800"]}, "for which GGUF has no names"),
    ],
)
def test_invalid_settings(kit: Kit, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rsrc.compile(save(kit, tmp_path / "m", llama(kit), CONFIG | change), tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match=message):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_invalid_unicode(kit: Kit, tmp_path: Path) -> None:
    folder = save(kit, tmp_path / "m", llama(kit), CONFIG)
    model = {"type": "BPE", "vocab": {"a": 0, "\ud800": 1}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    rsrc.compile(folder, tmp_path / "x.rsr")
    with pytest.raises(rsrc.ExportError, match="half of a surrogate pair"):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")


def test_an_empty_q_is_not_reordered(kit: Kit, tmp_path: Path) -> None:
    """However many columns a hostile file claims, or rows without columns."""
    for shape in ((0, 1 << 40), (1 << 40, 0)):
        tensors = {
            f"{LAYER}self_attn.v_proj.weight": ternary(64, 256),
            f"{LAYER}self_attn.q_proj.weight": kit.literal("I64", shape, b""),
        }
        rsrc.compile(
            save(kit, tmp_path / str(shape[0]), tensors, CONFIG), tmp_path / "x.rsr", force=True
        )
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf", force=True)
        assert tuple(reversed(read(tmp_path / "x.gguf")["blk.0.attn_q.weight"].shape)) == shape


def test_names_that_llama_cpp_does_not_have(kit: Kit, tmp_path: Path) -> None:
    """It loads no file with others. Frequencies of old checkpoints are left out."""
    tensors = {
        "model.norm.weight": np.ones(3, np.float32),
        f"{LAYER}self_attn.rotary_emb.inv_freq": np.ones(16, np.float32),
        f"{LAYER}self_attn.v_proj.weight": ternary(64, 256),
    }
    rsrc.compile(save(kit, tmp_path / "m", tensors, CONFIG), tmp_path / "x.rsr")
    decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    names = {"output_norm.weight", "blk.0.attn_v.weight", "rope_freqs.weight"}
    assert set(read(tmp_path / "x.gguf")) == names
    tensors[f"{LAYER}strange.weight"] = T
    rsrc.compile(save(kit, tmp_path / "n", tensors, CONFIG), tmp_path / "y.rsr")
    with pytest.raises(rsrc.ExportError, match=r"no name for 'model.layers.0.strange.weight' in"):
        decompile(tmp_path / "y.rsr", tmp_path / "y.gguf", to="gguf")


def test_the_tokenizer_goes_with_it(kit: Kit, tmp_path: Path) -> None:
    tokenizer = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    folder = save(kit, tmp_path / "m", llama(kit), CONFIG)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "chat_template": "x"}')
    (folder / "chat_template.jinja").write_text("{{ m }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    rsrc.compile(folder, tmp_path / "x.rsr")
    assert decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf").notes == []
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 300  # padded to the rows of the embedding
    assert tokens[:4] == ["a", "b", "ab", "<s>"]
    assert fields["tokenizer.ggml.token_type"].contents()[:5] == [1, 1, 1, 3, 5]
    assert fields["tokenizer.ggml.merges"].contents() == ["a b"]
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 3  # tokenizer_config.json wins
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 3
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.chat_template"].contents() == "{{ m }}"


@pytest.mark.parametrize("is_old", [True, False])
def test_what_other_files_say_of_the_tokenizer(kit: Kit, tmp_path: Path, is_old: bool) -> None:
    """Tokens beside tokenizer.json, the names of old transformers, and chat_template.json."""
    tokenizer = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
        "added_tokens": [{"id": 2, "content": "<s>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    ids = {"<x>": 3, "</s>": 4, "<s>": 5, "other": 2, "b": 6, "far": 300, "none": None}
    files: dict[str, Any] = {
        "tokenizer.json": tokenizer,
        "chat_template.json": {"chat_template": "{{ j }}"},
        "tokenizer_config.json": {"bos_token": "<s>", "extra_special_tokens": ["<y>", 3]},
    }
    if is_old:
        files["special_tokens_map.json"] = {"eos_token": {"content": "</s>"}, "x_token": [[]]}
        files["added_tokens.json"] = ids
    else:
        decoder = {str(i): {"content": text, "special": i == 4} for text, i in ids.items()}
        files["tokenizer_config.json"] |= {"eos_token": "</s>", "added_tokens_decoder": decoder}
        files["added_tokens.json"] = {"ignored": 7}
    folder = save(kit, tmp_path / "m", llama(kit), CONFIG)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    rsrc.compile(folder, tmp_path / "x.rsr")
    (note,) = decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf").notes
    assert note == "not written, as they have no id within the embedding: tokens '<y>'"
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    assert fields["tokenizer.ggml.tokens"].contents()[:6] == [
        "a", "b", "<s>", "<x>", "</s>", "[PAD5]",
    ]  # fmt: skip
    assert fields["tokenizer.ggml.token_type"].contents()[:6] == [1, 1, 3, 4, 3, 5]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 4
    assert fields["tokenizer.chat_template"].contents() == "{{ j }}"


@pytest.mark.parametrize(
    ("name", "limit"),
    [("config.json", 1 << 20), ("tokenizer.json", 64 << 20), ("tokenizer_config.json", 64 << 20)],
)
def test_json_above_the_size_limit(kit: Kit, tmp_path: Path, name: str, limit: int) -> None:
    """It compresses well: a small .rsr file may hold that much."""
    files = {"config.json": [json.dumps(CONFIG).encode()], "tokenizer.json": [b"{}"]}
    files[name] = [b"[" * (1 << 20)] * (limit >> 20) + [b"["]
    with create(tmp_path / "x.rsr") as writer:
        entries = [FileEntry(key, writer.add(data, zstd_level=1)) for key, data in files.items()]
        writer.finish(producer="", metadata={}, files=entries, tensors=[])
    start = time.process_time()
    message = rf"x\.rsr: {re.escape(name)}: {limit + 1:,} bytes, the limit is {limit:,}$"
    with pytest.raises(rsrc.SourceError, match=message):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
    assert time.process_time() - start < 2
    assert not (tmp_path / "x.gguf").exists()


def test_one_tensor_in_memory_at_a_time(kit: Kit, tmp_path: Path) -> None:
    t = ternary(2048, 2048)
    source = kit.save(tmp_path / "s.safetensors", {f"w{i}": t for i in range(4)})
    rsrc.compile(source, tmp_path / "x.rsr")
    tracemalloc.start()
    try:
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
        assert tracemalloc.get_traced_memory()[1] < 3 * t.size
    finally:
        tracemalloc.stop()
    assert (values(read(tmp_path / "x.gguf")["w3"]) == t).all()


def test_progress_and_interruption(kit: Kit, tmp_path: Path) -> None:
    rsrc.compile(kit.save(tmp_path / "s.safetensors", {"a": T, "b": T}), tmp_path / "x.rsr")
    calls: list[tuple[str, int, int]] = []
    out = tmp_path / "x.gguf"
    decompile(tmp_path / "x.rsr", out, to="gguf", progress=lambda *call: calls.append(call))
    assert calls == [("a", 1188, 2376), ("b", 2376, 2376)]
    before = out.read_bytes()

    def fail(*call: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decompile(tmp_path / "x.rsr", out, to="gguf", force=True, progress=fail)
    assert out.read_bytes() == before
    assert kit.leftovers(tmp_path) == []


def test_without_the_package(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rsrc.compile(kit.save(tmp_path / "s.safetensors", {"w": T}), tmp_path / "x.rsr")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(rsrc.MissingPackageError, match=r"pip install 'rsr-ternary\[gguf\]'"):
        decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to="gguf")
