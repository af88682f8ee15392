"""Shapes that config.json implies. tests/parity compares them with the models of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_formats.architectures import ARCHITECTURES
from rsr_testing.checkpoints import Kit
from rsrc.source.open import open_checkpoint
from rsrc.source.shapes import expected_shape, is_linear, missing_weights

# Public models: hidden_size, intermediate_size, heads, key-value heads, head_dim; rows of q and k.
MODELS = {
    "bitnet-b1.58-2B-4T": ("BitNetForCausalLM", 2560, 6912, 20, 5, 128, 2560, 640),
    "the same, head_dim derived": ("BitNetForCausalLM", 2560, 6912, 20, 5, None, 2560, 640),
    "Falcon3-1B-1.58bit": ("LlamaForCausalLM", 2048, 8192, 8, 4, 256, 2048, 1024),
    "Falcon3-10B-1.58bit": ("LlamaForCausalLM", 3072, 23040, 12, 4, 256, 3072, 1024),
    "bitnet_b1_58-3B": ("BitnetForCausalLM", 3200, 8640, 32, None, None, 3200, 3200),
    "Qwen3-0.6B, head_dim not hidden / heads": (
        "Qwen3ForCausalLM", 1024, 3072, 16, 8, 128, 2048, 1024,
    ),
    "Qwen2-0.5B": ("Qwen2ForCausalLM", 896, 4864, 14, 2, None, 896, 128),
    "MiniCPM-2B": ("MiniCPMForCausalLM", 2304, 5760, 36, 36, None, 2304, 2304),
}  # fmt: skip
LAYER = "model.layers.7."


def config(name: str) -> dict[str, Any]:
    architecture, hidden, intermediate, heads, groups, size, *_ = MODELS[name]
    values = {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size,
        "vocab_size": 128,
    }
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_public_models(model: str, prefix: str) -> None:
    _, hidden, wide, _, _, _, q, k = MODELS[model]
    expected = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (k, hidden),
        "self_attn.v_proj": (k, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    for module, shape in expected.items():
        name = f"{prefix}layers.7.{module}.weight"
        assert is_linear(name)
        found = expected_shape(config(model), name)
        assert found is not None
        assert (found.shape, found.is_vocabulary) == (shape, False)
    for name in (f"{prefix}embed_tokens.weight", "lm_head.weight"):
        found = expected_shape(config(model), name)
        assert found is not None
        assert (found.shape, found.is_vocabulary) == ((128, hidden), True)


def test_keys_in_words() -> None:
    found = expected_shape(config("Falcon3-1B-1.58bit"), f"{LAYER}self_attn.v_proj.weight")
    assert found is not None
    assert found.keys == "num_key_value_heads 4 x head_dim 256, hidden_size 2048"
    found = expected_shape(config("Falcon3-1B-1.58bit"), f"{LAYER}mlp.down_proj.weight")
    assert found is not None
    assert found.keys == "intermediate_size 8192, hidden_size 2048"


@pytest.mark.parametrize(
    "name",
    [
        "w", "", f"{LAYER}self_attn.q_proj.bias", f"{LAYER}self_attn.qkv.weight",
        f"{LAYER}input_layernorm.weight", f"x.{LAYER}mlp.up_proj.weight", "lm_head.weight_scale",
        "model.layers.07.mlp.up_proj.weight", "model.layers.٣.mlp.up_proj.weight",
        "model.layers.1234567890.mlp.up_proj.weight", "lm_head.weight\n",
    ],
)  # fmt: skip
def test_other_names(name: str) -> None:
    assert not is_linear(name)
    assert expected_shape(config("bitnet-b1.58-2B-4T"), name) is None


def test_experts() -> None:
    given = {**config("bitnet-b1.58-2B-4T"), "architectures": ["Qwen3MoeForCausalLM"]}
    given |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
    for name, shape in {"gate": (96, 2560), "up": (96, 2560), "down": (2560, 96)}.items():
        found = expected_shape(given, f"{LAYER}mlp.experts.3.{name}_proj.weight")
        assert found is not None
        assert (found.shape, found.keys) == (
            shape, "moe_intermediate_size 96, hidden_size 2560",
        )  # fmt: skip
    given["num_experts"] = 1  # of which two cannot be chosen
    assert expected_shape(given, f"{LAYER}mlp.experts.0.up_proj.weight") is None
    assert not is_linear(f"{LAYER}mlp.gate.weight")


@pytest.mark.parametrize("architectures", [["NovelForCausalLM"], [["LlamaForCausalLM"]], [{}]])
def test_other_architectures(architectures: Any) -> None:
    given = {**config("Falcon3-1B-1.58bit"), "architectures": architectures, "model_type": "llama"}
    assert expected_shape(given, "lm_head.weight") is None


@pytest.mark.parametrize("architectures", [None, [], [None], "LlamaForCausalLM", {}, 3])
@pytest.mark.parametrize(
    ("model_type", "known"), [("llama", True), ("novel", False), (None, False), (["llama"], False)]
)
def test_model_type_counts_where_no_class_is_named(
    architectures: Any, model_type: Any, known: bool
) -> None:
    given = config("Falcon3-1B-1.58bit")
    given |= {"architectures": architectures, "model_type": model_type}
    assert (expected_shape(given, "lm_head.weight") is not None) == known


@pytest.mark.parametrize("value", [None, 0, -1, 2.0, "2048", [], {}, True, 1 << 31, 1 << 100])
@pytest.mark.parametrize("key", [k for k in config("Falcon3-1B-1.58bit") if k != "architectures"])
def test_values_of_other_kinds(key: str, value: Any) -> None:
    """Null means derived where transformers derives the value; other values imply no shape."""
    given = {**config("Falcon3-1B-1.58bit"), key: value}
    modules = {"intermediate_size": "mlp.up_proj", "num_attention_heads": "self_attn.q_proj"}
    module = modules.get(key, "self_attn.k_proj")
    name = "lm_head.weight" if key == "vocab_size" else f"{LAYER}{module}.weight"
    found = expected_shape(given, name)
    if value is None and key in ("num_key_value_heads", "head_dim"):
        assert found is not None
        assert found.shape == (2048 if key == "num_key_value_heads" else 1024, 2048)
    else:
        assert found is None


class TestShapesAgainstTheConfig:
    """A small model: hidden 8, intermediate 12, two heads of 4, one of them for keys and values."""

    CONFIG: dict[str, Any] = {  # noqa: RUF012
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
    }

    def compile(self, kit: Kit, folder: Path, tensors: dict[str, Any], **changes: Any) -> Any:
        (folder / "config.json").write_text(json.dumps({**self.CONFIG, **changes}))
        source = kit.save(folder / "model.safetensors", tensors)
        return rsrc.compile(source, folder / "x.rsr", force=True)

    @pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "MiniCPMForCausalLM"])
    @pytest.mark.parametrize("is_named", [True, False])
    def test_every_architecture_is_checked(
        self, kit: Kit, tmp_path: Path, name: str, is_named: bool
    ) -> None:
        known = next(a for a in ARCHITECTURES if a.name == name)
        architecture = (
            {"architectures": [name]}
            if is_named
            else {"architectures": None, "model_type": known.model_type}
        )
        good = np.resize(np.array([1, 0, -1], np.int8), (12, 8))
        weight = f"{LAYER}mlp.up_proj.weight"
        report = self.compile(kit, tmp_path, {weight: good}, **architecture)
        assert [t.kind for t in report.tensors] == ["ternary"]
        with pytest.raises(
            rsrc.SourceError, match=r"implies \[12, 8\] \(intermediate_size 12, hid"
        ):
            self.compile(kit, tmp_path, {weight: good[1:]}, **architecture)

    @pytest.mark.parametrize("dtype", ["i1", "f2", "f4"])
    def test_a_contradiction_is_refused(self, kit: Kit, tmp_path: Path, dtype: str) -> None:
        name = f"{LAYER}self_attn.k_proj.weight"
        good = np.resize(np.array([1, 0, -1], dtype), (4, 8))
        self.compile(kit, tmp_path, {name: good})
        kind = {"i1": "I8", "f2": "F16", "f4": "F32"}[dtype]
        for bad in (good[:, :7].copy(), good[:3], np.resize(good, (8, 8))):
            with pytest.raises(rsrc.SourceError) as caught:
                self.compile(kit, tmp_path, {name: bad})
            assert str(caught.value) == (
                f"{name}: {kind} {list(bad.shape)} is a matrix of {list(bad.shape)}, but "
                "config.json implies [4, 8] (num_key_value_heads 1 x head_dim 4, hidden_size 8): "
                "are they from the same model?"
            )

    def test_dense_tensors_are_not_checked(self, kit: Kit, tmp_path: Path) -> None:
        name = f"{LAYER}self_attn.k_proj.weight"
        dense = np.random.default_rng(1).standard_normal((5, 5))
        report = self.compile(kit, tmp_path, {name: dense, "w": np.ones((1, 2), np.int8)})
        assert {t.name: t.kind for t in report.tensors} == {name: "dense", "w": "ternary"}

    @pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
    def test_a_vocabulary_may_be_padded(self, kit: Kit, tmp_path: Path, name: str) -> None:
        for rows in (9, 10, 64):
            w = np.resize(np.array([1, 0, -1], np.float16), (rows, 8))
            self.compile(kit, tmp_path, {name: w})
        with pytest.raises(rsrc.SourceError, match=r"implies \[10, 8\] \(vocab_size 10, hidden"):
            self.compile(kit, tmp_path, {name: w[:, :7].copy()})

    def test_a_file_without_a_config(self, kit: Kit, tmp_path: Path) -> None:
        w = np.ones((5, 3), np.int8)
        source = kit.save(tmp_path / "x.safetensors", {f"{LAYER}mlp.up_proj.weight": w})
        report = rsrc.compile(source, tmp_path / "x.rsr")
        assert [t.shape for t in report.tensors] == [(5, 3)]


class TestMissingWeights:
    CONFIG: dict[str, Any] = {  # noqa: RUF012
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 3,
    }

    @staticmethod
    def names(
        layers: int, modules: tuple[str, ...] = ("self_attn.q_proj", "mlp.up_proj")
    ) -> list[str]:
        return [f"model.layers.{i}.{m}.weight" for i in range(layers) for m in modules]

    def test_whole(self) -> None:
        assert missing_weights(self.CONFIG, self.names(3)) is None
        assert missing_weights(self.CONFIG, self.names(5)) is None  # more than num_hidden_layers
        assert missing_weights(self.CONFIG, ["model.norm.weight"]) is None  # other names
        assert missing_weights({"num_hidden_layers": 3}, self.names(2)) is None
        for value in (None, "3", 0, -1, 1 << 31, [3]):
            given = {**self.CONFIG, "num_hidden_layers": value}
            assert missing_weights(given, self.names(2)) is None

    def test_all_are_listed(self) -> None:
        names = self.names(3)
        del names[3], names[4]
        assert missing_weights(self.CONFIG, names) == (
            "weights are missing from the 3 layers that config.json announces (num_hidden_layers): "
            "model.layers.1.mlp.up_proj.weight, model.layers.2.mlp.up_proj.weight"
        )

    def test_many(self) -> None:
        found = missing_weights({**self.CONFIG, "num_hidden_layers": 2_000_000_000}, self.names(2))
        assert found is not None
        assert found.startswith("weights are missing from the 2000000000 layers")
        assert found.endswith("layers.11.mlp.up_proj.weight and 3999999976 more")

    def test_those_of_far_layers_are_counted(self) -> None:
        """Only the layers before 4096 are searched, whatever config.json says."""
        given = {
            "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 2_000_000_000,
            "num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
            "decoder_sparse_step": 100_000_000,
        }  # fmt: skip
        names = [f"model.layers.99999999.mlp.experts.0.{p}_proj.weight" for p in ("up", "gate")]
        found = missing_weights(given, names)
        assert found is not None
        assert found.endswith("(num_hidden_layers): 58 weights")

    def test_checkpoints(self, kit: Kit, tmp_path: Path) -> None:
        """A shard stands for its model; a file beside a config.json is a model, too."""
        (tmp_path / "config.json").write_text(json.dumps(self.CONFIG))
        shards: dict[str, dict[str, Any]] = {f"{i}.safetensors": {} for i in range(2)}
        for i, name in enumerate(self.names(2)):
            shards[f"{i % 2}.safetensors"][name] = np.ones((1, 2), np.int8)
        index = kit.save_sharded(tmp_path, shards)
        alone = kit.save(tmp_path / "alone.safetensors", shards["0.safetensors"])
        for source in (tmp_path, index, tmp_path / "0.safetensors", alone):
            with pytest.raises(rsrc.SourceError, match=r": weights are missing from the 3 layers"):
                open_checkpoint(source)
        (tmp_path / "config.json").unlink()
        assert len(open_checkpoint(alone).tensors) == 2
        assert len(open_checkpoint(tmp_path / "0.safetensors").tensors) == 4
