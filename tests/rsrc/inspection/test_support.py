"""What `rsrc inspect` and `rsrc compile` say of models that `rsrc run` or `rsrc chat` refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import rsrc
from rsr_formats import RsrFile
from rsr_runtime import llm
from rsr_testing.models import FAMILIES
from rsrc.cli.main import main
from rsrc.inspection.survey import survey

FILES = (
    "kept as files: chat_template.jinja, config.json, generation_config.json, "
    "special_tokens_map.json, tokenizer.json, tokenizer_config.json"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object, code: int = 0) -> list[str]:
    """Return the lines that a command prints."""
    result = CliRunner().invoke(main, list(map(str, arguments)), prog_name="rsrc")
    assert result.exit_code == code, result.output
    return result.output.splitlines()


def save(name: str, family: str = "trilm", **config: Any) -> Path:
    """Write a model with changes of its config.json; None removes a key."""
    found = FAMILIES[family]
    settings = {k: v for k, v in {**found.config, **config}.items() if v is not None}
    dataclasses.replace(found, config=settings).save(Path(name), found.tensors())
    return Path(name)


def test_a_model_that_runs() -> None:
    save("good")
    assert run("inspect", "good")[-2:] == ["good: 249.0 kB: 7 dense, 14 ternary", FILES]
    found = json.loads("\n".join(run("inspect", "good", "--json")))
    assert found["runs"] == found["chat"] == {"ok": True, "reasons": []}
    assert found["not_understood"] == found["not_applied"] == []


def test_the_family_is_named() -> None:
    save("good")
    assert run("inspect", "good")[0] == "model family: Llama (LlamaForCausalLM)"
    run("compile", "good", "-o", "good.rsr")
    assert run("inspect", "good.rsr")[1] == "model family: Llama (LlamaForCausalLM)"
    save("bitnet", "1bitllm")
    found = json.loads("\n".join(run("inspect", "bitnet", "--json")))
    assert found["architecture"] == "BitnetForCausalLM"
    assert found["family"] == "1bitLLM's BitNet b1.58"
    save("other", architectures=["GPT2LMHeadModel"], model_type="gpt2")
    found = json.loads("\n".join(run("inspect", "other", "--json")))
    assert (found["architecture"], found["family"]) == ("GPT2LMHeadModel", None)


def test_an_unsupported_architecture() -> None:
    """Similar ones are named: neither all of them, nor those that merely end alike."""
    for name, others in (
        ("XLNetLMHeadModel", ""),
        ("OddForCausalLM", ""),
        ("Mistral3ForConditionalGeneration", "; similar: 'MistralForCausalLM'"),
    ):
        save("m", architectures=[name], model_type="xlnet")
        assert run("inspect", "m")[-3:] == [
            "m: 249.0 kB: 7 dense, 14 ternary",
            FILES,
            f"rsrc run cannot run it: config.json: architecture {name!r} is not supported{others}. "
            "docs/llm.md lists what runs; the matrices of other models can still be multiplied one "
            "by one",
        ]


def test_an_unknown_rope_key() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "spiral_factor": 2.0}
    save("spiral", rope_parameters=rope, rope_theta=None, rope_scaling=None)
    expected = [
        "rsrc run cannot run it: config.json: rope_parameters.spiral_factor is 2.0, which is not "
        "understood and may change the arithmetic",
        "not understood: rope_parameters.spiral_factor in config.json; its effect on the model is "
        "unknown",
    ]
    assert run("inspect", "spiral")[-4:] == [
        "spiral: 249.0 kB: 7 dense, 14 ternary", FILES, *expected
    ]  # fmt: skip
    text = "\n".join(run("compile", "spiral", "-o", "spiral.rsr"))
    assert all(line in text for line in expected)
    assert set(expected) <= set(run("inspect", "spiral.rsr"))
    (line,) = run("run", "spiral.rsr", "-p", "x", code=1)
    assert line == f"rsrc: spiral.rsr: {expected[0].partition(': ')[2]}"


def test_a_lone_safetensors_file() -> None:
    save("m")
    assert run("inspect", "m/model.safetensors")[-1] == (
        "rsrc run cannot run it: the file has no config.json, so it is not a whole model: compile "
        "the model's directory (or GGUF file), not the .safetensors alone"
    )


def test_a_model_without_a_chat_template() -> None:
    (save("m") / "chat_template.jinja").unlink()
    assert run("inspect", "m")[-1] == "rsrc chat cannot use it: the model has no chat template"
    found = json.loads("\n".join(run("compile", "m", "-o", "m.rsr", "--json")))
    assert found["runs"]["ok"]
    assert found["chat"] == {"ok": False, "reasons": ["the model has no chat template"]}


def test_a_base_model_without_a_head() -> None:
    found = FAMILIES["trilm"]
    tensors = found.tensors()
    del tensors["lm_head.weight"]
    found.save(Path("m"), tensors)
    assert "so there is no output head: a model without one gives" in run("inspect", "m")[-1]


def test_a_source_that_cannot_be_compiled() -> None:
    found = FAMILIES["bitnet-2b"]
    tensors = found.tensors()
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    found.save(Path("m"), tensors)
    result = survey("m")
    assert result["refused"] == 1
    assert result["runs"]["reasons"][0] == "rsrc compile would reject the checkpoint"


def test_the_survey_says_what_the_file_says() -> None:
    """Before compiling and after, for every family."""
    for name in ("bitnet-2b", "bitnet-2b-online", "1bitllm", "bonsai"):
        save(name, name)
        report = rsrc.compile(name, f"{name}.rsr")
        assert report.support is not None
        fields = report.support.to_dict()
        assert fields["runs"]["ok"], name
        assert fields.items() <= survey(name).items()


# --- activations ----------------------------------------------------------------------------------


def test_bitnet_without_quantization_config_takes_floats() -> None:
    """As in transformers (tests/parity/test_settings.py); the commands say so."""
    family = dataclasses.replace(FAMILIES["trilm"], sub_norms=FAMILIES["bitnet-2b"].sub_norms)
    changes = {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet"}
    dataclasses.replace(family, config={**family.config, **changes}).save(Path("m"))
    note = (
        "config.json has no quantization_config of BitNet, so linear layers take float "
        "activations, as in transformers; if the model learned int8 activations, add the "
        "quantization_config of its origin"
    )
    assert run("inspect", "m")[-1] == note
    assert rsrc.compile("m", "m.rsr").notes == (note,)
    with llm.load("m.rsr") as model:
        assert not model.config.int8_activations


def test_quantization_after_training_leaves_activations_float() -> None:
    """Masters of a BitNet take int8 activations only if config.json says what they are."""
    save("m", "bitnet-2b-online", quantization_config=None)
    (note,) = rsrc.compile("m", "lossy.rsr", quantize="absmean").notes
    assert "linear layers take float activations" in note
    assert '"quantization_mode": "online"} to config.json and compile without --quantize' in note
    save("llama", "trilm")
    for per, has_advice in ((None, True), ("tensor", True), ("row", False)):
        notes = rsrc.compile("llama", "llama.rsr", quantize="absmean", per=per, force=True).notes
        assert bool(notes) == has_advice
    save("online", "bitnet-2b-online")
    assert rsrc.compile("online", "online.rsr").notes == ()
    with llm.load("lossy.rsr") as lossy, llm.load("online.rsr") as online:
        assert not lossy.config.int8_activations
        assert online.config.int8_activations


def test_damage_of_a_model_file_does_not_keep_a_file_from_being_listed(folder: Path) -> None:
    rsrc.compile(save("m"), "m.rsr", zstd=3)
    file = RsrFile("m.rsr")
    (section,) = [f.section for f in file.header.files if f.name == "config.json"]
    data = bytearray((folder / "m.rsr").read_bytes())
    data[file.header.sections[section].offset + 4] ^= 0xFF
    (folder / "m.rsr").write_bytes(data)
    lines = run("inspect", "m.rsr")
    assert any("model.norm.weight" in line for line in lines)
    assert any(line.startswith("rsrc run cannot run it: ") for line in lines)
