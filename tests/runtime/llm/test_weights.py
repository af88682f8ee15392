"""The tensors of a decoder: how they are found, and the list of all that are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_formats.errors import IndexDataError
from rsr_formats.reader import RsrFile
from rsr_formats.records import IndexedTensor
from rsr_runtime import DenseTensor, Matrix, Model, llm
from rsr_runtime.llm import ModelError, TensorFacts
from rsr_runtime.llm.config import read_config
from rsr_runtime.llm.weights import Weights, collect
from rsr_runtime.serve import serve
from rsr_testing.language_models import LanguageModels
from rsr_testing.models import FAMILIES, Tensor

Tensors = dict[str, Tensor]


def weights_of(path: Path) -> Weights:
    model = rsr.load(path)
    return collect(model, read_config(model.files))


def test_tensors_of_a_bitnet(language_models: LanguageModels) -> None:
    weights = weights_of(language_models.path("bitnet-2b"))
    layer = weights.layers[1]
    assert len(weights.layers) == 2
    ffn = FAMILIES["bitnet-2b"].config["intermediate_size"]
    for module, shape in (
        ("self_attn.q_proj", (64, 64)), ("self_attn.k_proj", (32, 64)),
        ("self_attn.v_proj", (32, 64)), ("self_attn.o_proj", (64, 64)),
        ("mlp.gate_proj", (ffn, 64)), ("mlp.up_proj", (ffn, 64)), ("mlp.down_proj", (64, ffn)),
    ):  # fmt: skip
        linear = layer.linear(module)
        assert linear.name == f"model.layers.1.{module}"
        assert isinstance(linear.weight, Matrix)
        assert linear.weight.shape == shape
        assert linear.activations == "int8"
        assert linear.bias is None
        assert linear.norm is None
    norms = (
        layer.norm("input_layernorm"),
        layer.norm("post_attention_layernorm"),
        layer.norm("self_attn.attn_sub_norm"),
        layer.norm("mlp.ffn_sub_norm"),
    )
    assert [None if n is None else n.shape for n in norms] == [(64,), (64,), (64,), (ffn,)]
    with pytest.raises(KeyError):
        layer.norm("self_attn.q_norm")
    assert isinstance(weights.embed_tokens, DenseTensor)
    assert weights.embed_tokens.dtype == "BF16"
    assert weights.linear[-1].weight is weights.embed_tokens  # tied
    assert weights.linear[-1].activations == "float32"


def test_norms_of_heads(language_models: LanguageModels) -> None:
    for name in ("bonsai", "bonsai-untied"):
        weights = weights_of(language_models.path(name))
        layer = weights.layers[0]
        for module in ("self_attn.q_norm", "self_attn.k_norm"):
            assert layer.floats(f"{module}.weight").shape == (128,)
        assert layer.linear("self_attn.q_proj").activations == "float32"
        # The whole model is ternary, embedding and head too.
        assert isinstance(weights.embed_tokens, Matrix)
        assert isinstance(weights.linear[-1].weight, Matrix)
        assert (weights.linear[-1].weight is weights.embed_tokens) == (name == "bonsai")


def test_bytes_of_a_token(language_models: LanguageModels) -> None:
    """All matrices count, the head once; a row of the embedding is negligible."""
    model = rsr.load(language_models.path("llama3-1.58"))
    weights = collect(model, read_config(model.files))
    found = sum(array.nbytes for layer in weights.linear for array in layer.arrays)
    names = [name for name in model if name.endswith("_proj.weight")]
    assert len(names) == 14
    matrices = [model[name] for name in names]
    assert found == sum(m.nbytes for m in matrices) + model.dense("lm_head.weight").nbytes


# --- errors ----------------------------------------------------------------------------------


class Without:
    """A model that lacks some tensors, which the compiler would refuse to make."""

    def __init__(self, model: Model, gone: tuple[str, ...]) -> None:
        self._model = model
        self._gone = gone

    def __contains__(self, name: str) -> bool:
        return name in self._model and name not in self._gone

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._model if name not in self._gone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __getitem__(self, name: str) -> Any:
        assert name not in self._gone
        return self._model[name]


def refusal(path: Path, gone: tuple[str, ...] = (), **config: Any) -> str:
    """Return the error without some tensors, or with changes of config.json."""
    model = rsr.load(path)
    document = {**json.loads(model.files["config.json"]), **config}
    files = {**model.files, "config.json": json.dumps(document).encode()}
    with pytest.raises(ModelError) as caught:
        collect(Without(model, gone), read_config(files))  # type: ignore[arg-type]
    return str(caught.value)


def test_all_missing_tensors_are_listed_at_once(language_models: LanguageModels) -> None:
    gone = (
        "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.input_layernorm.weight", "model.layers.1.self_attn.attn_sub_norm.weight",
    )  # fmt: skip
    message = refusal(language_models.path("bitnet-2b"), gone)
    assert "config.json (BitNetForCausalLM)" in message
    for name in gone:
        assert f"{name} is missing" in message
    assert message.count("missing") == len(gone)


def test_contradictions_say_both_shapes(language_models: LanguageModels) -> None:
    ffn = FAMILIES["bitnet-2b"].config["intermediate_size"]
    message = refusal(
        language_models.path("bitnet-2b"), intermediate_size=156, num_key_value_heads=4
    )
    for text in (
        f"model.layers.0.mlp.gate_proj.weight is [{ffn}, 64], expected [156, 64]",
        f"model.layers.0.mlp.down_proj.weight is [64, {ffn}], expected [64, 156] (and 1 more like",
        f"model.layers.0.mlp.ffn_sub_norm.weight is [{ffn}], expected [156]",
        "model.layers.0.self_attn.k_proj.weight is [32, 64], expected [64, 64]",
    ):
        assert text in message


def test_another_vocabulary(language_models: LanguageModels) -> None:
    message = refusal(language_models.path("llama3-1.58"), vocab_size=300)
    assert "model.embed_tokens.weight is [304, 64], expected [300, 64]" in message
    assert "lm_head.weight is [304, 64], expected [300, 64]" in message


@pytest.mark.parametrize("layers", [3, 1000, (1 << 31) - 1])
def test_more_layers_than_there_are(language_models: LanguageModels, layers: int) -> None:
    """The message is short, and soon there, however many layers the config claims."""
    message = refusal(language_models.path("bitnet-2b"), num_hidden_layers=layers)
    assert "model.layers.2.self_attn.q_proj.weight is missing" in message
    assert len(message) < 5000
    assert ("more" in message) == (layers > 3)


def test_weights_that_are_no_floats(language_models: LanguageModels, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"] = Tensor("U8", np.ones(64, np.uint8))
        tensors["model.embed_tokens.weight"] = Tensor("U8", np.ones((304, 64), np.uint8))

    path = language_models.variant("llama3-1.58", tmp_path, tensors=change)
    with pytest.raises(ModelError, match=r"not those that config\.json") as caught:
        llm.load(path)
    assert "model.norm.weight is U8, expected floats" in str(caught.value)
    assert "model.embed_tokens.weight is U8, expected floats or ternary" in str(caught.value)


# --- biases and norms inside layers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "linear_class", "mode", "is_scaled"),
    [
        ("llama-bias", "bitlinear", "offline", False),
        ("llama-auto-bias", "autobitlinear", "offline", True),
    ],
)
def test_biases(
    language_models: LanguageModels, family: str, linear_class: str, mode: str, is_scaled: bool
) -> None:
    path = language_models.path(family)
    model = rsr.load(path)
    layer = collect(model, read_config(model.files)).layers[1]
    assert len(layer.all_linear) == 7
    for linear in layer.all_linear:
        stored = model[f"{linear.name}.bias"]
        assert isinstance(stored, np.ndarray)
        assert isinstance(linear.weight, Matrix)
        assert linear.bias is not None
        assert linear.bias.dtype == np.float32
        factor = linear.weight.scale if is_scaled else np.float32(1)
        np.testing.assert_array_equal(linear.bias, stored * factor)


@pytest.mark.parametrize("name", ["rms_norm", "norm"])
def test_norms_inside_linear_layers(
    language_models: LanguageModels, tmp_path: Path, name: str
) -> None:
    """With use_rms_norm a layer normalizes its input before it quantizes it."""
    values = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    changed = "model.layers.0.mlp.up_proj"

    def change(tensors: Tensors) -> None:
        for weight in [n for n in tensors if n.endswith("_proj.weight")]:
            module = weight.removesuffix(".weight")
            columns = tensors[weight].values.shape[1]
            ones = np.ones(columns, np.float32)
            norm = Tensor("F32", values if module == changed else ones)
            tensors[f"{module}.{name}.weight"] = norm

    quantization = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
        "use_rms_norm": True, "rms_norm_eps": 1e-3,
    }  # fmt: skip
    path = language_models.variant(
        "bitnet-2b", tmp_path, tensors=change, config={"quantization_config": quantization}
    )
    layer = weights_of(path).layers[0]
    gate, up = layer.linear("mlp.gate_proj"), layer.linear("mlp.up_proj")
    assert gate.norm is not None
    np.testing.assert_array_equal(gate.norm, np.ones(64))
    assert up.norm is not None
    np.testing.assert_array_equal(up.norm, values)
    assert up.norm_eps == 1e-3
    with llm.load(path) as with_norms, llm.load(language_models.path("bitnet-2b")) as plain:
        found, before = with_norms.next_logits([5, 6, 7]), plain.next_logits([5, 6, 7])
        assert np.isfinite(found).all()
        assert not np.allclose(found, before)


def test_layers_that_are_not_converted_take_floats(language_models: LanguageModels) -> None:
    weights = weights_of(language_models.path("llama-kept"))
    first, second = weights.layers
    down, k = first.linear("mlp.down_proj"), second.linear("self_attn.k_proj")
    assert isinstance(down.weight, DenseTensor)
    assert isinstance(k.weight, Matrix)  # its floats are ternary, but no layer of a BitNet
    for linear in (down, k):
        assert linear.activations == "float32"
    assert second.linear("mlp.down_proj").activations == "int8"
    assert first.linear("self_attn.q_proj").activations == "int8"


@pytest.mark.parametrize("family", ["bitnet-2b-online", "1bitllm"])
def test_masters_that_were_not_compiled(
    language_models: LanguageModels, tmp_path: Path, family: str
) -> None:
    """The model quantizes them before it multiplies, so dense products would be wrong."""
    path = language_models.variant(family, tmp_path, exclude=["*.1.mlp.down_proj*"])
    with pytest.raises(ModelError) as caught:
        llm.load(path)
    text = "model.layers.1.mlp.down_proj.weight is dense, but the model quantizes it: compile it"
    assert text in str(caught.value)
    assert str(caught.value).count(" is dense") == 1


def test_floats_of_a_model_that_does_not_quantize(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    path = language_models.variant("trilm", tmp_path, exclude=["*.1.mlp.down_proj*"])
    with llm.load(path) as dense, llm.load(language_models.path("trilm")) as indexed:
        found, expected = dense.next_logits([5, 6, 7]), indexed.next_logits([5, 6, 7])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_patterns_of_what_is_not_converted(language_models: LanguageModels, tmp_path: Path) -> None:
    """Layers that the compiler keeps dense, by the same patterns, are dense in the model."""
    quantization = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["model.layers.*.down_proj", "lm_head"],
    }
    path = language_models.variant(
        "bitnet-2b-online", tmp_path, config={"quantization_config": quantization}
    )
    layer = weights_of(path).layers[1]
    assert isinstance(layer.linear("mlp.down_proj").weight, DenseTensor)
    assert layer.linear("mlp.up_proj").activations == "int8"


# --- heads --------------------------------------------------------------------------------------


def test_an_untied_head(language_models: LanguageModels) -> None:
    weights = weights_of(language_models.path("llama3-1.58"))
    assert isinstance(weights.linear[-1].weight, DenseTensor)
    assert weights.linear[-1].weight is not weights.embed_tokens


def test_a_head_although_the_config_ties_it(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    """The head in the file is used, as in transformers 5 (tests/parity/test_llm.py)."""
    path = language_models.variant("llama3-1.58", tmp_path, config={"tie_word_embeddings": True})
    weights = weights_of(path)
    assert weights.linear[-1].weight is not weights.embed_tokens
    with llm.load(path) as tied, llm.load(language_models.path("llama3-1.58")) as untied:
        np.testing.assert_array_equal(tied.next_logits([5, 6]), untied.next_logits([5, 6]))


def test_a_tied_embedding_that_is_stored_as_the_head(
    language_models: LanguageModels, tmp_path: Path
) -> None:
    def change(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    path = language_models.variant("bitnet-2b", tmp_path, tensors=change)
    weights = weights_of(path)
    assert weights.linear[-1].weight.name == weights.embed_tokens.name == "lm_head.weight"
    with llm.load(path) as found, llm.load(language_models.path("bitnet-2b")) as expected:
        np.testing.assert_array_equal(found.next_logits([5, 6]), expected.next_logits([5, 6]))


def test_an_untied_head_that_is_missing(language_models: LanguageModels, tmp_path: Path) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, config={"tie_word_embeddings": False})
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing .* there is no output head"):
        llm.load(path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_int8(language_models: LanguageModels, tmp_path: Path, tied: bool) -> None:
    """With a scale per row; it is the head even where config.json ties the embeddings."""

    def change(tensors: Tensors) -> None:
        embedding = tensors["model.embed_tokens.weight"].values
        floats = (embedding.astype(np.uint32) << 16).view(np.float32)
        scale = np.abs(floats).max(axis=1) / np.float32(127)
        tensors["lm_head.weight"] = Tensor("I8", np.round(floats / scale[:, None]).astype(np.int8))
        tensors["lm_head.weight_scale"] = Tensor("F32", scale)

    path = language_models.variant(
        "bitnet-2b", tmp_path, tensors=change, config={"tie_word_embeddings": tied}
    )
    weights = weights_of(path)
    assert weights.linear[-1].weight.dtype == "I8"
    assert weights.linear[-1].row_scale is not None
    assert weights.linear[-1].activations == "int8"
    with llm.load(path) as model, llm.load(language_models.path("bitnet-2b")) as plain:
        tokens = [256, 40, 41, 42]
        found, exact = model.next_logits(tokens), plain.next_logits(tokens)
        assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
        assert not np.array_equal(found, exact)


def test_a_head_of_int8_without_its_scale(language_models: LanguageModels, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        rows = len(tensors["model.embed_tokens.weight"].values)
        tensors["lm_head.weight"] = Tensor("I8", np.full((rows + 4, 60), 3, np.int8))

    path = language_models.variant("bitnet-2b", tmp_path, tensors=change)
    with pytest.raises(ModelError) as caught:
        llm.load(path)
    assert "lm_head.weight_scale is missing" in str(caught.value)
    assert "lm_head.weight is [308, 60], expected [304, 64]" in str(caught.value)


def test_tensors_that_the_compiler_never_writes(
    language_models: LanguageModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias with scales of groups, and an int8 head whose sums may overflow, are refused."""
    of_record = TensorFacts.of_record
    with monkeypatch.context() as patched:
        patched.setattr(TensorFacts, "of_record", lambda t: replace(of_record(t), has_groups=True))
        with pytest.raises(
            ModelError, match=r"q_proj.weight has scales for groups of columns, expected one"
        ):
            llm.load(language_models.path("llama-auto-bias"))
    path = language_models.variant("bitnet-2b", tmp_path, head="int8")
    llm.load(path).close()
    monkeypatch.setattr("rsr_runtime.llm.tensors.MAX_QUANTIZED_COLUMNS", 63)
    with pytest.raises(
        ModelError, match=r"lm_head.weight is int8 with 64 columns, expected at most 63"
    ):
        llm.load(path)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bitnet-2b", "model.layers.1.mlp.down_proj.weight"),
        ("qwen3.5", "model.embed_tokens.weight"),
        ("qwen3-moe", "model.layers.2.mlp.experts.5.up_proj.weight"),
    ],
)
def test_a_scale_that_is_not_finite_is_found_before_a_token(
    family: str, name: str, language_models: LanguageModels, tmp_path: Path
) -> None:
    """Loading reads no scales. The first pass checks them, or a server before its first request."""
    path = language_models.path(family)
    header = RsrFile(path).header
    tensor = next(t for t in header.tensors if t.name == name)
    assert isinstance(tensor, IndexedTensor)
    assert tensor.scale is not None
    data = bytearray(path.read_bytes())
    section = header.sections[tensor.scale.section]
    end = section.offset + section.size
    data[end - 2 : end] = b"\xff\xff"  # NaN in float16 and in float32
    damaged = tmp_path / "damaged.rsr"
    damaged.write_bytes(data)
    with llm.load(damaged, context=64) as model:
        for _ in range(2):
            with pytest.raises(IndexDataError, match=f"scale of tensor '{name}' is not finite"):
                model.logits([5, 6, 7])
        with pytest.raises(IndexDataError):
            model.generate([5, 6, 7], max_tokens=2)
    with (
        llm.load(damaged, context=64) as model,
        pytest.raises(IndexDataError, match=f"scale of tensor '{name}' is not finite"),
    ):
        serve(model, "damaged", port=0, ready=pytest.fail)  # at its start
