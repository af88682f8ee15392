"""The directory for transformers: what is in it, what is refused, and that it appears complete.

``tests/parity/test_transformers.py`` loads such directories.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import rsrc
from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.embedding_models import EMBEDDING_FAMILIES
from rsr_testing.exports import compile_matrices
from rsr_testing.models import FAMILIES, Family
from rsrc.export.pretrained import export_pretrained

FILES = [
    "config.json", "generation_config.json", "model.rsr", "model.safetensors",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip


def export(name: str | Family, folder: Path, **options: Any) -> Path:
    """Return the directory exported from a family's model."""
    family = FAMILIES[name] if isinstance(name, str) else name
    family.save(folder / "model")
    rsrc.compile(folder / "model", folder / "m.rsr", **{**family.options, **options})
    export_pretrained(folder / "m.rsr", folder / "out")
    return folder / "out"


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def test_files_and_settings(tmp_path: Path) -> None:
    out = export("bitnet-2b", tmp_path)
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert (out / "model.rsr").samefile(tmp_path / "m.rsr")
    original, found = config(tmp_path / "model"), config(out)
    assert found.pop("quantization_config") == {
        "quant_method": "rsr",
        "digest": RsrFile(tmp_path / "m.rsr").digest.hex(),
        "activations": "int8",
    }
    assert "import rsr_runtime.transformers first" in found.pop("transformers_weights")
    del original["quantization_config"]
    assert found == original
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_dense_tensors_and_no_others(tmp_path: Path) -> None:
    """Of a BitNet the embedding and norms; the tied head and the linear layers are not there."""
    out = export("bitnet-2b", tmp_path)
    header = (tmp_path / "model" / "model.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    dense = {n for n in names if n.endswith(("norm.weight", "layernorm.weight", "tokens.weight"))}
    data = (out / "model.safetensors").read_bytes()
    found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert found.pop("__metadata__")["format"] == "pt"
    assert found.keys() == dense
    assert {t["dtype"] for t in found.values()} == {"BF16"}


def test_layers_that_take_float32(tmp_path: Path) -> None:
    settings = config(export("llama-kept", tmp_path))["quantization_config"]
    assert settings["activations"] == "int8"
    assert settings["float32_modules"] == ["model.layers.1.self_attn.k_proj"]


@pytest.mark.parametrize("name", ["trilm", "bonsai-1bit"])
def test_float_activations(name: str, tmp_path: Path) -> None:
    found = config(export(name, tmp_path))
    assert found["quantization_config"]["activations"] == "float32"
    assert "float32_modules" not in found["quantization_config"]
    assert "quantization" not in found  # MLX's


def test_norms_within_layers(tmp_path: Path) -> None:
    settings = config(export("llama-norms", tmp_path))["quantization_config"]
    assert (settings["use_rms_norm"], settings["rms_norm_eps"]) == (True, 1e-6)


def test_scaled_biases(tmp_path: Path) -> None:
    """AutoBitLinear multiplies a bias by the scale of its layer; RsrLinear does not."""
    out = export("llama-auto-bias", tmp_path)
    name = "model.layers.0.mlp.up_proj"
    bias = load_file(out / "model.safetensors")[f"{name}.bias"]
    tensors = FAMILIES["llama-auto-bias"].tensors()
    wide = [
        (tensors[f"{name}.{part}"].values.astype("<u4") << 16).view("<f4")
        for part in ("bias", "weight_scale")
    ]
    assert (bias == wide[0] * wide[1]).all()


@pytest.mark.parametrize(("name", "is_tied"), [("bitnet-2b", True), ("trilm", False)])
def test_an_int8_head_becomes_floats(name: str, is_tied: bool, tmp_path: Path) -> None:
    """A tied head is the embedding again; one of its own is dequantized, which a note says."""
    FAMILIES[name].save(tmp_path / "model")
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr", head="int8")
    notes = export_pretrained(tmp_path / "m.rsr", tmp_path / "out")
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert ("lm_head.weight" in found) == (not is_tied)
    assert "lm_head.weight_scale" not in found
    expected = [] if is_tied else ["lm_head.weight is written as F16, of its int8 values"]
    assert notes == expected


def test_a_head_of_its_own_is_not_tied(tmp_path: Path) -> None:
    """The head in the file counts, whatever config.json says; transformers would tie it."""
    family = FAMILIES["bonsai-untied"]
    tied = dataclasses.replace(family, config={**family.config, "tie_word_embeddings": True})
    tied.save(tmp_path / "model", family.tensors())
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr")
    export_pretrained(tmp_path / "m.rsr", tmp_path / "out")
    assert config(tmp_path / "out")["tie_word_embeddings"] is False


REFUSED = {
    "1bitllm": "transformers has no class BitnetForCausalLM",
    "minicpm": "transformers has no class MiniCPMForCausalLM",
    "mobilellm": "transformers has no class MobileLLMForCausalLM",
    "qwen3-moe": r"transformers multiplies experts without linear layers: 'model\.layers\.0\.mlp",
    "qwen3-moe-rotated": r"(?:(?!experts)[^;])*; transformers multiplies experts without linear",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_cannot_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(rsrc.ExportError, match=f"transformers cannot run .*: {REFUSED[name]}"):
        export(name, tmp_path)
    assert not (tmp_path / "out").exists()


def test_norms_of_embedding_models(tmp_path: Path) -> None:
    """BitNet-embedding has code of its own for its linear layers."""
    EMBEDDING_FAMILIES["bitnet-embedding-0.6b"].build(tmp_path)
    with pytest.raises(rsrc.ExportError, match=r"norms within linear layers that transformers lac"):
        export_pretrained(tmp_path / "model.rsr", tmp_path / "out")


def test_dense_tensors_in_a_rotated_basis(tmp_path: Path) -> None:
    family = FAMILIES["bonsai-2"]
    family.save(tmp_path / "model")
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr", exclude=["model.embed_tokens.weight"])
    with pytest.raises(
        rsrc.ExportError, match=r"rotated basis that are not ternary: 'model\.embed"
    ):
        export_pretrained(tmp_path / "m.rsr", tmp_path / "out")


def test_all_reasons_at_once(tmp_path: Path) -> None:
    family = FAMILIES["bitnet-2b-online"]
    layer = "model.layers.0.mlp.up_proj"
    settings = {**family.config, "architectures": ["OtherForCausalLM"]}
    dataclasses.replace(family, config=settings).save(tmp_path / "model", family.tensors())
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr", exclude=[f"{layer}.*"])
    with pytest.raises(rsrc.ExportError) as caught:
        export_pretrained(tmp_path / "m.rsr", tmp_path / "out")
    assert str(caught.value) == (
        f"transformers cannot run {tmp_path / 'm.rsr'} on RsrLinear: config.json names the class "
        "'OtherForCausalLM', which rsrc does not know; weights that the model quantizes itself: "
        f"compile them, too: '{layer}.weight'"
    )


def test_matrices_that_are_no_model(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, ["row"])
    with pytest.raises(rsrc.ExportError, match=r"it has no config\.json, so it is no whole model"):
        export_pretrained(rsr, tmp_path / "out")


def test_frequencies_of_rope_in_a_tensor(tmp_path: Path) -> None:
    family = FAMILIES["trilm"]
    tensors = {**family.tensors(), "rope_freqs.weight": family.tensors()["model.norm.weight"]}
    family.save(tmp_path / "model", tensors)
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr")
    with pytest.raises(rsrc.ExportError, match=r"frequencies of RoPE in a tensor, rope_freqs"):
        export_pretrained(tmp_path / "m.rsr", tmp_path / "out")


def test_a_damaged_file(tmp_path: Path) -> None:
    FAMILIES["trilm"].build(tmp_path)
    data = bytearray((tmp_path / "model.rsr").read_bytes())
    data[4096] ^= 1
    (tmp_path / "model.rsr").write_bytes(data)
    with pytest.raises(rsrc.FormatError):
        export_pretrained(tmp_path / "model.rsr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_replaced_meanwhile(tmp_path: Path) -> None:
    rsr = FAMILIES["trilm"].build(tmp_path / "a")
    other = FAMILIES["bonsai"].build(tmp_path / "b")

    def replace(*call: object) -> None:
        if other.exists():
            other.replace(rsr)

    with pytest.raises(rsrc.ExportError, match="was replaced while it was exported"):
        export_pretrained(rsr, tmp_path / "out", progress=replace)
    assert not (tmp_path / "out").exists()


def test_only_a_directory_of_its_own_is_replaced(tmp_path: Path) -> None:
    rsr = FAMILIES["trilm"].build(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    export_pretrained(rsr, out)  # an empty one is filled
    (out / "more.txt").write_text("of the user")
    with pytest.raises(rsrc.OutputExistsError, match="use --force to replace it"):
        export_pretrained(rsr, out)
    assert (out / "more.txt").exists()
    export_pretrained(rsr, out, force=True)
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "chat_template.jinja"])
    for folder in (tmp_path / "model", tmp_path):
        with pytest.raises(rsrc.OutputExistsError, match="with files in it"):
            export_pretrained(rsr, folder, force=True)
    assert rsr.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"model", "model.rsr", "out"}


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    rsr = FAMILIES["trilm"].build(tmp_path)
    export_pretrained(rsr, tmp_path / "out")
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def fail(*call: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_pretrained(rsr, tmp_path / "out", force=True, progress=fail)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_copy_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*call: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", fail)
    out = export("trilm", tmp_path)
    assert not (out / "model.rsr").samefile(tmp_path / "m.rsr")
    assert (out / "model.rsr").read_bytes() == (tmp_path / "m.rsr").read_bytes()
