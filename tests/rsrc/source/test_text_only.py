"""Multimodal checkpoints compile to their decoder; what is left out is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats import RsrFile
from rsr_testing import models
from rsr_testing.checkpoints import Kit
from rsr_testing.gguf_files import GgufKit
from rsrc.inspection.compare import compare
from rsrc.inspection.survey import survey
from rsrc.source.open import open_checkpoint

FAMILY = models.FAMILIES["llama3-1.58"]
OUTER = ("quantization_config", "tie_word_embeddings", "eos_token_id", "bos_token_id")


def extra(*names: str) -> dict[str, models.Tensor]:
    return {name: models.Tensor("F32", np.ones((2, 3), np.float32)) for name in names}


def save(folder: Path, config: dict[str, Any], tensors: dict[str, models.Tensor]) -> Path:
    FAMILY.save(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def multimodal(folder: Path) -> Path:
    """Write the family as the decoder of a class that also reads images and audio."""
    own = FAMILY.settings
    text = {key: value for key, value in own.items() if key not in (*OUTER, "architectures")}
    config = {
        "architectures": ["SeeingLlamaForConditionalGeneration"],
        "model_type": "seeing_llama",
        "text_config": {**text, "bos_token_id": None},
        "vision_config": {"hidden_size": 3, "hidden_act": "gelu"},
        "projector_hidden_act": "gelu",
        **{key: own[key] for key in OUTER},
    }
    names = ("model.visual.blocks.0.w", "model.visual.blocks.1.w", "mtp.layers.0.q.weight")
    tensors = extra(*names, "model.multi_modal_projector.linear.weight", "audio_tower.conv.weight")
    for name, tensor in FAMILY.tensors().items():
        tensors[name.replace("model.", "model.language_model.")] = tensor
    return save(folder, config, tensors)


def test_only_the_decoder_is_compiled(tmp_path: Path) -> None:
    source = multimodal(tmp_path / "seeing")
    note = (
        "text only, left out: a vision tower, 3 tensors (model.visual.*, "
        "model.multi_modal_projector.*); MTP heads, 1 tensor (mtp.*); "
        "an audio part, 1 tensor (audio_tower.*)"
    )
    report = rsrc.compile(source, tmp_path / "m.rsr")
    assert note in report.notes
    assert report.support is not None
    assert report.support.run_reasons == ()
    assert report.support.not_understood == ()
    found = survey(source)
    assert note in found["notes"]
    assert found["runs"] == {"ok": True, "reasons": []}
    FAMILY.save(tmp_path / "plain")
    rsrc.compile(tmp_path / "plain", tmp_path / "plain.rsr")
    seeing, plain = (RsrFile(tmp_path / name) for name in ("m.rsr", "plain.rsr"))
    names = [t.name.replace("language_model.", "") for t in seeing.header.tensors]
    assert names == [t.name for t in plain.header.tensors]
    (config,) = (f for f in seeing.header.files if f.name == "config.json")
    expected = dict(FAMILY.settings)
    assert json.loads(seeing.section(config.section).tobytes()) == expected
    assert compare(tmp_path / "m.rsr", source) == len(FAMILY.tensors())


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (
            {"model_type": "llama", "eos_token_id": None, "pad_token_id": None},
            {"eos_token_id": 5, "pad_token_id": None},
        ),
        ({"model_type": "of_another_kind"}, {}),  # the class stays, and is refused by its name
        (None, {}),
        ({"model_type": "llama", "vocab_size": 7}, {"vocab_size": 7, "eos_token_id": 5}),
    ],
)
def test_settings_of_the_decoder(
    tmp_path: Path, text: dict[str, Any] | None, changes: dict[str, Any]
) -> None:
    config = {"architectures": ["Seeing"], "text_config": text, "eos_token_id": 5}
    save(tmp_path, config, FAMILY.tensors())
    found = open_checkpoint(tmp_path).config
    expected = {**changes, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert found == (expected if changes else config)


def test_a_decoder_says_that_it_has_no_windows(tmp_path: Path) -> None:
    text = {"model_type": "mistral", "sliding_window": None}
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text}
    found = open_checkpoint(save(tmp_path, config, FAMILY.tensors())).config
    assert found == {**text, "architectures": ["MistralForCausalLM"]}  # 4096 if it were absent


def test_layers_that_draft(tmp_path: Path) -> None:
    """They follow the others, and the config announces them."""
    layers = FAMILY.settings["num_hidden_layers"]
    drafts = extra(f"model.layers.{layers}.eh_proj.weight", "model.layers.9.eh_proj.weight")
    config = {**FAMILY.settings, "num_nextn_predict_layers": 1}
    found = open_checkpoint(save(tmp_path, config, {**FAMILY.tensors(), **drafts}))
    assert list(found.left_out) == [f"model.layers.{layers}.eh_proj.weight"]
    assert "model.layers.9.eh_proj.weight" in found.tensors  # not announced: refused by the runtime


def test_without_a_decoder_all_stay(tmp_path: Path, kit: Kit) -> None:
    tensors = {"vision_tower.blocks.0.weight": np.ones((2, 2), np.float32)}
    found = open_checkpoint(kit.save(tmp_path / "m.safetensors", tensors))
    assert (list(found.tensors), found.notes) == (list(tensors), ())


def test_gguf(tmp_path: Path, gguf_kit: GgufKit) -> None:
    metadata = {
        "general.architecture": "qwen3",
        "qwen3.block_count": 3,
        "qwen3.nextn_predict_layers": 1,
        "qwen3.embedding_length": 64,
        "qwen3.attention.head_count": 1,
    }
    names = ["v.blk.0.w", "mm.0.weight", *(f"blk.{i}.attn_norm.weight" for i in range(3))]
    names += ["blk.2.nextn.eh_proj.weight", "token_embd.weight"]
    tensors = {name: ((1, 64), 0, bytes(256)) for name in names}
    found = open_checkpoint(gguf_kit.save(tmp_path / "m.gguf", metadata, tensors))
    kept = ["model.embed_tokens", *(f"model.layers.{i}.input_layernorm" for i in range(2))]
    assert sorted(found.tensors) == [f"{module}.weight" for module in kept]
    assert found.config["num_hidden_layers"] == 2
    assert "gguf_metadata" not in found.config
    assert (
        "text only, left out: a vision tower, 2 tensors (v.*, mm.*); MTP heads, 2 tensors "
        "(model.layers.2.*, blk.2.*)"
    ) in found.notes
