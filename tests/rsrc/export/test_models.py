"""Whole models leave in a form, come back through `compile`, and give the same logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_runtime import llm
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, TEXTS
from rsr_testing.models import FAMILIES, Family, Tensor, shards
from rsrc.compiler.support import check_file
from rsrc.export.decompile import decompile
from rsrc.export.int8 import READERS

TOKENS = list(range(3, 15))
# Others differ from one of these in nothing that an export sees.
NAMES = [name for name in FAMILIES if name not in ("bitnet-2b-permuted", "falcon3-avx2")]

# Settings that GGUF has no keys for, or that llama.cpp ignores.
WITHOUT_GGUF = {
    "bonsai-windows": "use_sliding_window is true",
    "qwen2-windows": "use_sliding_window is true",
    "mistral": "sliding_window is 24",
    "phi3": "sliding_window is 48",
    "smollm3": "no_rope_layers is a list",  # of others than every fourth
    "gemma3": "whose GGUF files are read, but not written",
    "mobilellm": "for which GGUF has no names",
    "qwen3-moe": r"layers without experts \(decoder_sparse_step, mlp_only_layers\)",
    "qwen3-moe-fused": "norm_topk_prob is not true",
}

# The same of models that embed texts.
WITHOUT_POOLING = {
    "qwen3-mean": "pooling_mode is mean, max, and in GGUF it is one of mean, cls, lasttoken",
    "gemma3": "architecture Gemma3TextModel, whose GGUF files are read, but not written",
    "bitnet-embedding-0.6b": "no name for 'layers.0.self_attn.q_proj.norm.weight'",
    "bitnet-embedding-270m": "Gemma3TextModel, whose GGUF files are read, but not written",
}


def logits(path: Path) -> npt.NDArray[np.float32]:
    with llm.load(path, kv="float32") as model:
        found: npt.NDArray[np.float32] = model.logits(TOKENS)
        return found


def back(rsr: Path, to: str, name: str) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return the logits of the model exported and compiled again, and the notes of the export."""
    out = rsr.parent / f"{to}{'.gguf' if to == 'gguf' else ''}"
    notes = decompile(rsr, out, to=to).notes
    rsrc.compile(out, rsr.parent / f"{to}.rsr", **FAMILIES[name].options)
    return logits(rsr.parent / f"{to}.rsr"), notes


@pytest.mark.parametrize("name", NAMES)
def test_int8_and_gguf(name: str, tmp_path: Path) -> None:
    rsr = FAMILIES[name].build(tmp_path)
    want = logits(rsr)
    if FAMILIES[name].rotated:
        for to in ("int8", "gguf"):
            with pytest.raises(rsrc.ExportError, match="weights in a rotated basis exist in form"):
                decompile(rsr, tmp_path / "out", to=to)
        return
    found, notes = back(rsr, "int8", name)
    assert (found == want).all()
    assert notes == [READERS]
    if name == "llama-norms":  # of inputs of linear layers, which only transformers has
        for to in ("gguf", "float"):
            with pytest.raises(rsrc.ExportError, match="use_rms_norm"):
                decompile(rsr, tmp_path / "out", to=to)
        return
    if name in WITHOUT_GGUF:
        with pytest.raises(rsrc.ExportError, match=f"{WITHOUT_GGUF[name]}.* with --to int8"):
            decompile(rsr, tmp_path / "out.gguf", to="gguf")
        assert not (tmp_path / "out.gguf").exists()
        return
    found, notes = back(rsr, "gguf", name)  # other readers may lose int8 activations
    # Binary matrices come back in the codes of ternary ones, whose sums have another order. Norms
    # of a hybrid are rounded when 1 is added.
    most = 1e-5 if name in ("bonsai-1bit", "qwen3.5") else 1e-6
    assert np.abs(found - want).max() <= most * np.abs(want).max()


def test_large_scales_of_int8_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a header does not hold stay tensors of the `.rsr` file."""
    monkeypatch.setattr("rsrc.layouts.int8._MAX_ABSORBED", 0)
    rsr = FAMILIES["bonsai"].build(tmp_path)
    found, _ = back(rsr, "int8", "bonsai")
    assert (found == logits(rsr)).all()
    names = {t.name for t in RsrFile(tmp_path / "int8.rsr").header.tensors}
    assert "model.layers.0.mlp.up_proj.weight_scale" in names
    assert check_file(RsrFile(tmp_path / "int8.rsr")).to_dict()["not_understood"] == []


@pytest.mark.parametrize("name", EMBEDDING_FAMILIES)
def test_models_that_embed(name: str, tmp_path: Path) -> None:
    """GGUF has three rules of pooling, and no prompts."""
    rsr = EMBEDDING_FAMILIES[name].build(tmp_path)
    out = tmp_path / "out.gguf"
    if name in WITHOUT_POOLING:
        with pytest.raises(rsrc.ExportError, match=WITHOUT_POOLING[name]):
            decompile(rsr, out, to="gguf")
        return
    notes = decompile(rsr, out, to="gguf").notes
    assert any("Qwen3Model has no output head" in note for note in notes)
    assert any("the prompts 'query', which go before a text, max_seq_" in note for note in notes)
    rsrc.compile(out, tmp_path / "back.rsr")
    with llm.load(rsr) as model, llm.load(tmp_path / "back.rsr") as back:
        assert back.config.architecture.name == "Qwen3Model"
        assert (back.embed(TEXTS) == model.embed(TEXTS)).all()


def test_a_model_for_text_that_embeds_in_its_own_way(tmp_path: Path) -> None:
    """It is written for its texts."""
    FAMILIES["bonsai"].save(tmp_path / "model")
    (tmp_path / "model" / "modules.json").write_text('[{"type": "x.Transformer", "path": ""}]')
    rsrc.compile(tmp_path / "model", tmp_path / "model.rsr")
    notes = decompile(tmp_path / "model.rsr", tmp_path / "out.gguf", to="gguf").notes
    assert any("not written: how the model embeds texts: modules.json" in note for note in notes)


@pytest.mark.parametrize("name", ["bitnet-2b", "falcon3", "trilm"])
def test_an_int8_head_comes_back(name: str, tmp_path: Path) -> None:
    """Tied to the embedding, and of its own."""
    FAMILIES[name].save(tmp_path / "model")
    rsr = tmp_path / "model.rsr"
    rsrc.compile(tmp_path / "model", rsr, head="int8")
    found, notes = back(rsr, "int8", name)
    assert (found == logits(rsr)).all()
    assert notes == [READERS]


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
@pytest.mark.parametrize("to", ["gguf", "int8", "float"])
def test_names_of_other_classes(prefix: str, to: str, tmp_path: Path) -> None:
    """Of a decoder by itself, and within a multimodal class."""
    family = FAMILIES["bonsai-untied"]
    tensors: dict[str, Tensor] = {}
    for name, tensor in family.tensors().items():
        tensors[f"{prefix}{name.removeprefix('model.')}" if "lm_head" not in name else name] = (
            tensor
        )
    family.save(tmp_path / "model", tensors)
    rsr = tmp_path / "model.rsr"
    rsrc.compile(tmp_path / "model", rsr)
    found, notes = back(rsr, to, "bonsai-untied")
    assert (found == logits(rsr)).all()
    assert not any("no name" in note for note in notes)


@pytest.mark.parametrize("tied", [True, False])
def test_an_own_head_wins_over_tied_embeddings(tied: bool, tmp_path: Path) -> None:
    family = FAMILIES["trilm"]
    untied = family.tensors()
    config = {**family.config, "tie_word_embeddings": tied}
    dataclasses.replace(family, config=config).save(tmp_path / "model", untied)
    rsr = tmp_path / "model.rsr"
    rsrc.compile(tmp_path / "model", rsr)
    for to in ("gguf", "float", "int8"):
        assert (back(rsr, to, "trilm")[0] == logits(rsr)).all()


def test_a_bitnet_with_float_activations(tmp_path: Path) -> None:
    """GGUF's architecture means int8 ones, in all layers."""
    family = FAMILIES["bitnet-2b"]
    config = {k: v for k, v in family.config.items() if k != "quantization_config"}
    floats = dataclasses.replace(family, config=config, linear=shards(1, "BF16"))
    rsrc.compile(saved(floats, tmp_path / "model"), tmp_path / "m.rsr")
    notes = decompile(tmp_path / "m.rsr", tmp_path / "m.gguf", to="gguf").notes
    assert any("activations are now quantized to int8, unlike those" in note for note in notes)
    rsrc.compile(tmp_path / "m.gguf", tmp_path / "back.rsr")  # which brings the floats back
    assert np.abs(logits(tmp_path / "back.rsr") - logits(tmp_path / "m.rsr")).max() <= 1e-6
    kept = {**family.config["quantization_config"], "modules_to_not_convert": ["v_proj"]}
    layout = {f"model.layers.{i}.self_attn.v_proj": shards(1, "BF16") for i in range(2)}
    config = {**family.config, "quantization_config": kept}
    some = dataclasses.replace(family, config=config, kept=layout)
    rsrc.compile(saved(some, tmp_path / "kept"), tmp_path / "k.rsr")
    notes = decompile(tmp_path / "k.rsr", tmp_path / "k.gguf", to="gguf").notes
    assert any("(modules_to_not_convert), in 'model.layers.0.self_attn.v" in n for n in notes)


def saved(family: Family, folder: Path) -> Path:
    family.save(folder)
    return folder


def test_what_a_class_leaves_to_its_defaults(tmp_path: Path) -> None:
    """Readers of GGUF have other defaults than transformers' class."""
    family = FAMILIES["bonsai"]
    left_out = ("head_dim", "rope_theta", "rms_norm_eps", "max_position_embeddings")
    config = {key: value for key, value in family.config.items() if key not in left_out}
    dataclasses.replace(family, config=config).save(tmp_path / "model", family.tensors())
    rsrc.compile(tmp_path / "model", tmp_path / "model.rsr")
    found, _ = back(tmp_path / "model.rsr", "gguf", "bonsai")
    assert (found == logits(tmp_path / "model.rsr")).all()
