"""What `check` says of a model before it is loaded, compared with what loading says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_formats import RsrFile
from rsr_runtime import llm
from rsr_runtime.llm import Support, TensorFacts
from rsr_testing.language_models import LanguageModels
from rsr_testing.models import FAMILIES, Tensor

Tensors = dict[str, Tensor]


def check(path: Path, files: dict[str, bytes | None] | None = None) -> Support:
    """Check a file, with changed model files; None removes one."""
    file = RsrFile(path)
    kept: dict[str, Any] = {f.name: file.section(f.section).tobytes() for f in file.header.files}
    kept |= files or {}
    facts = {t.name: TensorFacts.of_record(t) for t in file.header.tensors}
    kept = {name: data for name, data in kept.items() if data is not None}
    return llm.check(kept, facts, file.header.metadata)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs(language_models: LanguageModels, name: str) -> None:
    found = check(language_models.path(name))
    assert (found.run_reasons, found.chat_reasons) == ((), ())
    assert not [n for n in found.not_understood if "generation_config.json" not in n]
    assert found.to_dict()["runs"] == {"ok": True, "reasons": []}


def test_reasons_are_those_of_loading(language_models: LanguageModels, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        del tensors["lm_head.weight"]
        tensors["model.layers.0.self_attn.sinks"] = Tensor("F32", np.ones(4, np.float32))

    path = language_models.variant("llama3-1.58", tmp_path, tensors=change)
    with pytest.raises(llm.ModelError) as caught:
        llm.load(path)
    (reason,) = check(path).run_reasons
    assert str(caught.value) == reason
    assert reason == (
        "the tensors are not those that config.json (LlamaForCausalLM) describes: the layers have "
        "self_attn.sinks (tensor model.layers.0.self_attn.sinks), which LlamaForCausalLM does not "
        "have; lm_head.weight is missing and tie_word_embeddings is not true in config.json, so "
        "there is no output head: a model without one gives hidden states, not text; use the "
        "checkpoint with its head (...ForCausalLM)"
    )


def test_a_scale_beside_a_float_head(language_models: LanguageModels, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["lm_head.weight_scale"] = Tensor("F32", np.ones(1, np.float32))

    (reason,) = check(language_models.variant("trilm", tmp_path, tensors=change)).run_reasons
    assert reason.endswith("lm_head.weight_scale is there, but lm_head.weight is not int8")


def test_all_reasons_of_a_config_are_given(language_models: LanguageModels) -> None:
    path = language_models.path("bonsai")
    config = {
        **json.loads(RsrFile(path).section(_section(path, "config.json")).tobytes()),
        "hidden_act": "gelu", "rope_scaling": {"rope_type": "spiral"}, "vocab_size": "many",
        "attn_logit_softcapping": 50.0,
    }  # fmt: skip
    found = check(path, {"config.json": json.dumps(config).encode()})
    # The size comes first, without which RoPE is not judged.
    assert found.run_reasons == (
        "config.json: attn_logit_softcapping is 50.0, which is not supported (caps the attention "
        "scores)",
        "config.json: found 'many' under vocab_size, expected a positive whole number",
        "config.json: hidden_act 'gelu' is not supported; known are silu, swish, relu2, "
        "gelu_pytorch_tanh",
    )
    assert found.chat_reasons == found.run_reasons


def _section(path: Path, name: str) -> int:
    return next(f.section for f in RsrFile(path).header.files if f.name == name)


def test_a_tokenizer_that_is_missing_or_damaged(language_models: LanguageModels) -> None:
    path = language_models.path("bitnet-2b")
    (reason,) = check(path, {"tokenizer.json": None}).run_reasons
    assert "tokenizer.json" in reason
    (reason,) = check(path, {"tokenizer.json": b"{}"}).run_reasons
    assert reason.startswith("tokenizer.json")


def test_chat_needs_a_template(language_models: LanguageModels) -> None:
    path = language_models.path("1bitllm")
    files: dict[str, bytes | None] = {"chat_template.jinja": None, "tokenizer_config.json": b"{}"}
    found = check(path, files)
    assert found.run_reasons == ()
    assert found.chat_reasons == ("the model has no chat template",)
    assert "rsrc chat cannot use it: the model has no chat template" in found.sentences()


def test_a_template_is_tried(language_models: LanguageModels) -> None:
    path = language_models.path("1bitllm")
    (reason,) = check(path, {"chat_template.jinja": b"{{ messages[0].content"}).chat_reasons
    assert reason.startswith("the model's chat template fails: TemplateSyntaxError")
    picky = b"{{ raise_exception('a system message is needed') }}"
    assert check(path, {"chat_template.jinja": picky}).chat_reasons == ()


def test_without_the_packages_presence_is_checked(
    language_models: LanguageModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    path = language_models.path("bitnet-2b")
    assert check(path).run_reasons == ()
    found = check(path, {"tokenizer.json": None})
    assert found.run_reasons == ("the model has no tokenizer.json",)


def test_a_file_without_config() -> None:
    facts = {"w": TensorFacts((2, 2), "F32")}
    (reason,) = llm.check({}, facts).run_reasons
    assert reason.startswith("the file has no config.json, so it is not a whole model")
    advice = "docs/llm.md lists what runs; the matrices of other models can still be multiplied"
    for name, others in (("mamba", ""), ("qwen3vl", "; similar: 'qwen3', 'qwen35'")):
        (reason,) = llm.check({}, facts, {"general.architecture": name}).run_reasons
        sentence = f"the GGUF file has architecture {name!r}, which is not supported{others}. "
        assert reason.startswith(sentence + advice)
    (reason,) = llm.check({}, facts, {"general.architecture": "gemma-embedding"}).run_reasons
    assert "'gemma-embedding', which is not supported: it has attention in both dir" in reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["mamba"] * 4}, "config.json: layer_types has 'mamba', which Qwen3_5"),
        ({"layer_types": 5}, "config.json: layer_types has 5, expected one for each of the 4"),
        (
            {"layer_types": ["full_attention"] * 4},
            "has linear_attn.*, but by layer_types it would have self_attn.* (and 2 more like ",
        ),
    ],
)
def test_wrong_kinds_of_layers_are_one_reason(
    language_models: LanguageModels, changes: dict[str, Any], message: str
) -> None:
    config = json.dumps({**FAMILIES["qwen3.5"].settings, **changes}).encode()
    (reason,) = check(language_models.path("qwen3.5"), {"config.json": config}).run_reasons
    assert message in reason


def test_sentences() -> None:
    assert Support().sentences() == []
    found = Support(("a", "b"), ("a", "b", "c"), ("x", "y"), ("z is not applied",))
    assert found.sentences() == [
        "rsrc run cannot run it: a",
        "rsrc run cannot run it: b",
        "not understood: x, y; their effect on the model is unknown",
        "z is not applied",
    ]
    (line,) = Support(not_understood=("x",)).sentences()
    assert line == "not understood: x; its effect on the model is unknown"


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("", "lm_head"),
        ("model.language_model.", "lm_head"),
        ("language_model.model.", "language_model.lm_head"),
        ("language_model.", "language_model.lm_head"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"head": "int8"}])
def test_other_prefixes(
    language_models: LanguageModels,
    tmp_path: Path,
    prefix: str,
    head: str,
    options: dict[str, Any],
) -> None:
    """The same model under other names has the same logits, also where layers are listed."""

    def rename(tensors: Tensors) -> None:
        made = dict(tensors)
        tensors.clear()
        for name, tensor in made.items():
            stem = name.removeprefix("model.")
            renamed = f"{head}.weight" if name == "lm_head.weight" else f"{prefix}{stem}"
            tensors[renamed] = tensor

    expected_path = language_models.variant("llama-kept", tmp_path / "a", **options)
    path = language_models.variant("llama-kept", tmp_path / "b", tensors=rename, **options)
    assert check(path).run_reasons == ()
    with llm.load(path) as found, llm.load(expected_path) as expected:
        tokens = [5, 6, 7]
        np.testing.assert_array_equal(found.next_logits(tokens), expected.next_logits(tokens))


def test_a_prefix_that_is_not_known_is_named(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    def rename(tensors: Tensors) -> None:
        made = dict(tensors)
        tensors.clear()
        tensors.update({f"base_model.model.{name}": tensor for name, tensor in made.items()})

    path = language_models.variant("trilm", tmp_path, tensors=rename)
    (reason,) = check(path).run_reasons
    assert reason == (
        "the tensors are not those that config.json (LlamaForCausalLM) describes: the layers are "
        "named 'base_model.model.model.' + 'layers.0.', expected one of 'model.layers.0.', "
        "'layers.0.', 'model.language_model.layers.0.', 'language_model.model.layers.0.', "
        "'language_model.layers.0.': rename the tensors of the checkpoint"
    )
