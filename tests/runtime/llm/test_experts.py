"""Mixtures of experts in language models: layers, settings, what a token reads, hostile files."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
import rsrc
from rsr_runtime import llm
from rsr_runtime.llm import ModelError, check
from rsr_runtime.llm.tensors import ModelFacts
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader
from rsr_testing.models import Tensor

MLP = "model.layers.0.mlp."
BITNET = {"quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}}
TOKENS = [5, 60, 7, 200, 9, 110, 33, 299, 4, 60, 61]


def logits(path: Path, tokens: list[int], **options: Any) -> npt.NDArray[np.float32]:
    with llm.load(path, context=64, kv="float32", **options) as model:
        return model.logits(tokens)


def test_layers_are_of_the_kinds_that_the_config_names(loaded: Loader) -> None:
    model = loaded("qwen3-moe")
    assert [model.config.layer(n).mlp for n in range(3)] == ["experts", "mlp", "experts"]
    modules = [one.name for one in model.weights.layers[0].all_linear if ".mlp." in one.name]
    assert modules[0] == f"{MLP}gate"
    assert len(modules) == 1 + 8 * 3
    assert len(model.weights.layers[1].all_linear) == 7


def test_sparse_steps(language_models: LanguageModels, tmp_path: Path) -> None:
    """Layers 1, 3, ... have experts by the step; layer 1 is an MLP all the same."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(MLP)]:
            del tensors[name]
        for name in [name for name in tensors if name.startswith("model.layers.1.mlp.")]:
            tensors[name.replace("layers.1", "layers.0")] = tensors[name]
        for name in [name for name in tensors if name.startswith("model.layers.2.")]:
            tensors[name.replace("layers.2", "layers.3")] = tensors[name]
            if ".mlp." in name:
                del tensors[name]
        for name in [name for name in tensors if name.startswith("model.layers.1.mlp.")]:
            tensors[name.replace("layers.1", "layers.2")] = tensors[name]

    config = {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [1]}
    path = language_models.variant("qwen3-moe", tmp_path, tensors=change, config=config)
    with llm.load(path) as model:
        assert [model.config.layer(n).mlp for n in range(4)] == ["mlp", "mlp", "mlp", "experts"]
        assert np.isfinite(model.next_logits(TOKENS)).all()


def test_int8_experts_do_not_depend_on_how_a_prompt_is_cut(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    """To the bit, as for every layer that was trained with int8 activations."""
    path = language_models.variant("qwen3-moe-fused", tmp_path, config=BITNET)
    with llm.load(path, context=64) as model:
        experts = [one for one in model.weights.linear if ".experts." in one.name]
        assert {one.activations for one in experts} == {"int8"}
        together = model.logits(TOKENS)
        alone = [model.next_logits(TOKENS[: i + 1]) for i in range(len(TOKENS))]
        np.testing.assert_array_equal(np.stack(alone), together)
        both = model.generate_all([TOKENS, TOKENS[3:]], max_tokens=6)
        one = [model.generate(tokens, max_tokens=6) for tokens in (TOKENS, TOKENS[3:])]
        assert [r.text for r in both] == [r.text for r in one]


@pytest.mark.parametrize("activations", ["trained", "int8-group"])
def test_threads_change_nothing(loaded: Loader, restore: None, activations: str) -> None:
    model = loaded("qwen3-moe", activations=activations)
    rsr.set_num_threads(1)
    before = model.logits(TOKENS)
    rsr.set_num_threads(4)
    np.testing.assert_array_equal(model.logits(TOKENS), before)


def test_dense_experts(language_models: LanguageModels, tmp_path: Path) -> None:
    """Experts that are not ternary are multiplied as they are stored; so are excluded ones."""
    plain = language_models.path("qwen3-moe-fused")
    mixed = language_models.variant(
        "qwen3-moe-fused", tmp_path, exclude=["*.experts.[135].*", "*.experts.4.up_proj.*"]
    )
    expected = logits(plain, TOKENS)
    assert np.abs(logits(mixed, TOKENS) - expected).max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(
        logits(mixed, TOKENS[:1]), expected[:1], atol=1e-5 * float(np.abs(expected).max())
    )


def test_a_token_reads_the_experts_that_it_takes(loaded: Loader) -> None:
    """Two of eight: the bytes of a token, and what memory "auto" moves into huge pages."""
    model = loaded("qwen3-moe", context=64)
    experts = [one for one in model.weights.linear if ".experts." in one.name]
    others = [one for one in model.weights.linear if ".experts." not in one.name]
    assert len(experts) == 2 * 8 * 3
    sizes = {one.weight.nbytes for one in experts}
    assert len(sizes) == 1  # so it does not matter which are counted
    expected = sum(one.weight.nbytes for one in others) + 2 * 2 * 3 * sizes.pop()
    assert model.bytes_per_token(0) == expected == sum(map(len, model.arrays_per_token(0)))


def test_experts_stay_mapped(
    language_models: LanguageModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(rsr.Model, "move_by", lambda self, names, busy: moved.extend(names))
    with llm.load(language_models.path("qwen3-moe")) as model:
        kept = {one.name + ".weight" for one in model.weights.linear if ".experts." in one.name}
        assert kept.isdisjoint(moved)
        assert len(kept) + len(moved) == len(model.weights.linear)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, but there are 8 experts"),
        ({"num_experts": 1 << 30}, "num_experts is 1073741824, expected at most 65536"),
        ({"num_experts": 60000}, "num_experts is 60000, but there are only 80 tensors"),
        ({"num_experts": 7}, "describes: num_experts is 7, but a layer has 8 experts$"),
        ({"moe_intermediate_size": None}, r"\.0\.gate_proj\.weight is .*, expected \[768, 128\]"),
        ({"mlp_only_layers": []},
         r"model\.layers\.1 has mlp\.gate_proj\.\*, but by .* it would have mlp\.experts\.\*$"),
        ({"decoder_sparse_step": 1 << 30, "num_hidden_layers": 1 << 30},
         r"model\.layers\.3\.mlp\.gate_proj\.weight is missing \(and [0-9]+ more like this"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes', expected true or false"),
        ({"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size is 64"),
    ],
)  # fmt: skip
def test_hostile_settings(
    language_models: LanguageModels, config: dict[str, Any], message: str
) -> None:
    settings = json.loads(rsr.load(language_models.path("qwen3-moe")).files["config.json"])
    settings = {k: v for k, v in {**settings, **config}.items() if v is not None}
    model = rsr.load(language_models.path("qwen3-moe"))
    files = {**model.files, "config.json": json.dumps(settings).encode()}
    found = check(files, ModelFacts(model))
    (reason,) = found.run_reasons
    assert re.search(message, reason)
    assert not [name for name in found.not_understood if "tensor" in name]


def test_missing_experts_are_named_briefly(language_models: LanguageModels) -> None:
    model = rsr.load(language_models.path("qwen3-moe"))
    facts = dict(ModelFacts(model))
    for number in range(1, 8):
        del facts[f"{MLP}experts.{number}.up_proj.weight"]
    reasons = check(model.files, facts).run_reasons
    assert len(reasons) == 1
    assert reasons[0].endswith(
        "experts of model.layers.0 are missing: mlp.experts.1.up_proj.weight, "
        "mlp.experts.2.up_proj.weight, mlp.experts.3.up_proj.weight and 4 more"
    )


def test_permuted_experts_are_refused(language_models: LanguageModels, tmp_path: Path) -> None:
    """At compile, and when the model is loaded."""
    source = language_models.path("qwen3-moe-fused").parent / "model"
    report = rsrc.compile(source, tmp_path / "m.rsr", encoding="permuted")
    assert report.support is not None
    (reason,) = report.support.run_reasons
    assert "gate_proj.weight is in encoding permuted, and experts run in encoding ranked" in reason
    assert "compile without --encoding permuted" in reason
    with pytest.raises(ModelError, match="compile without --encoding permuted"):
        llm.load(tmp_path / "m.rsr")


@pytest.mark.parametrize("config", [{}, BITNET])
def test_rotated_experts_with_other_activations(
    language_models: LanguageModels, tmp_path: Path, config: dict[str, Any]
) -> None:
    """int8 of rotated inputs: close to floats, and independent of how a prompt is cut."""
    path = language_models.variant("qwen3-moe-rotated", tmp_path, config=config)
    expected = logits(path, TOKENS, activations="float32")
    activations: Literal["trained", "int8-group"] = "trained" if config else "int8-group"
    with llm.load(path, context=64, kv="float32", activations=activations) as model:
        experts = [one for one in model.weights.linear if ".experts." in one.name]
        assert {one.activations for one in experts} == {"int8" if config else "int8-group"}
        assert all(one.weight.rotation is not None for one in experts)
        found = model.logits(TOKENS)
        one = np.stack([model.next_logits(TOKENS[: i + 1]) for i in range(len(TOKENS))])
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert 0 < error < 0.1
    if config:
        np.testing.assert_array_equal(one, found)


def test_dense_experts_in_a_rotated_basis(language_models: LanguageModels, tmp_path: Path) -> None:
    """Among those that take int8, a dense one takes rotated floats."""
    path = language_models.variant(
        "qwen3-moe-rotated", tmp_path, exclude=["*.experts.[135].*", "*.experts.4.up_proj.*"]
    )
    expected = logits(language_models.path("qwen3-moe-rotated"), TOKENS)
    assert np.abs(logits(path, TOKENS) - expected).max() < 1e-5 * np.abs(expected).max()
    found = logits(path, TOKENS, activations="int8-group")
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.1


@pytest.mark.parametrize("part", ["up_proj", "down_proj"])
def test_experts_in_different_bases_are_refused(language_models: LanguageModels, part: str) -> None:
    model = rsr.load(language_models.path("qwen3-moe-rotated"))
    facts = dict(ModelFacts(model))
    name = f"{MLP}experts.1.{part}.weight"
    assert facts[name].is_rotated
    facts[name] = dataclasses.replace(facts[name], is_rotated=False)
    (reason,) = check(model.files, facts).run_reasons
    assert f"is in a rotated basis and {name} is not, expected one basis" in reason


def test_other_signs_of_an_expert_are_refused(
    language_models: LanguageModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rsr.load(language_models.path("qwen3-moe-rotated"))
    found = model.matrix(f"{MLP}experts.0.down_proj.weight").rotation
    assert found is not None
    copied = copy.copy(found)
    real = rsr.Model.matrix

    def matrix(self: rsr.Model, name: str) -> rsr.Matrix:
        result = real(self, name)
        if name.endswith(".experts.1.down_proj.weight"):
            result.rotation = copied
        return result

    monkeypatch.setattr(rsr.Model, "matrix", matrix)
    with pytest.raises(
        ModelError, match=r"experts\.0\.down_proj and .*1\.down_proj are not in the"
    ):
        llm.load(language_models.path("qwen3-moe-rotated"))
