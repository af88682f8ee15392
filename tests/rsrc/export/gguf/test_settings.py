"""Settings of config.json in GGUF metadata: each is written, harmless, named or refused."""

from __future__ import annotations

from typing import Any

import pytest

import rsrc
from rsr_formats.keys import USED
from rsr_formats.keys.config import CONFIG
from rsrc.export.gguf.settings import WRITTEN, end_tokens, model_settings

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
}  # fmt: skip


def settings(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    found = model_settings({**BASE, **changes}, {}, notes.append)
    return found.metadata, notes


def test_every_key_that_the_runtime_reads_is_written() -> None:
    assert {key for key, known in CONFIG.items() if known.kind == USED} == set(WRITTEN)


def test_defaults_of_a_class() -> None:
    """Readers of GGUF have others, or none."""
    metadata, notes = settings()
    assert notes == []
    assert metadata["llama.context_length"] == 2048
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-6
    assert metadata["llama.attention.head_count_kv"] == 4
    assert metadata["llama.rope.freq_base"] == 10000.0
    bitnet, _ = settings(architectures=["BitNetForCausalLM"], num_attention_heads=5)
    assert bitnet["bitnet-b1.58.rope.freq_base"] == 500000.0
    assert bitnet["bitnet-b1.58.attention.layer_norm_rms_epsilon"] == 1e-5
    qwen, _ = settings(architectures=["Qwen3ForCausalLM"], num_attention_heads=64)
    assert qwen["qwen3.attention.key_length"] == 128
    assert qwen["qwen3.rope.dimension_count"] == 128
    assert qwen["qwen3.attention.head_count_kv"] == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and llama.cpp computes silu"),
        ({"hidden_act": ["silu"]}, "hidden_act is a list"),
        ({"architectures": ["BitNetForCausalLM"], "hidden_act": "silu"}, "cpp computes relu2"),
        ({"sliding_window": 100}, "sliding_window is 100, which is not supported"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"attention_multiplier": 0.1, "num_experts": 4}, "attention_multiplier .*; .*num_experts"),
        ({"my_attn_scale": 2.0}, "my_attn_scale is 2.0, which is not understood"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "curve": 3}}, "curve is 3"),
        (
            {"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}},
            "use_rms_norm puts norms into the linear layers",
        ),
        ({"gguf_metadata": {"llama.attention.scale": 0.5}}, r"llama.attention.scale is 0\.5"),
    ],
)  # fmt: skip
def test_what_means_another_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(rsrc.ExportError, match=rf"(?s)GGUF cannot say .*{message}"):
        settings(**changes)


def test_layers_without_rope_of_a_model_that_claims_many_layers() -> None:
    """They are compared only if there are as many."""
    smol = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"}
    with pytest.raises(rsrc.ExportError, match="no_rope_layers is a list"):
        settings(**smol, num_hidden_layers=(1 << 31) - 1, no_rope_layers=[1, 1, 1, 0])
    metadata, _ = settings(**smol, num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0])
    assert metadata["smollm3.block_count"] == 4


def test_rope_tensors_that_llama_cpp_does_not_read() -> None:
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}
    _, notes = settings(rope_scaling=llama3)
    assert notes == []
    with pytest.raises(rsrc.ExportError, match=r"rope_freqs.weight.* only in .* llama, minicpm"):
        settings(architectures=["Qwen2ForCausalLM"], rope_scaling=llama3)


def test_what_changes_nothing_is_not_written() -> None:
    harmless = {
        "use_cache": True,
        "attention_dropout": 0.0,
        "hidden_act": "swish",
        "logit_scale": 1,
    }
    assert settings(**harmless) == settings()


def test_what_is_not_understood_is_named() -> None:
    metadata, (note,) = settings(color="blue")
    assert note == "not written, because their meaning is not known: color in config.json"
    assert metadata == settings()[0]


def test_tokens_that_end_a_text() -> None:
    """llama.cpp has three keys, each of one token."""

    def ends(first: object, others: object) -> tuple[list[int], list[str]]:
        notes: list[str] = []
        found = end_tokens(first, others, notes.append)
        keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
        assert list(found) == keys[: len(found)]
        return list(found.values()), notes

    assert ends(None, 7) == ([7], [])
    assert ends(None, [7, 9, 7, 8]) == ([7, 9, 8], [])
    assert ends(8, [7, 8]) == ([8, 7], [])
    found, (note,) = ends(1, [2, 3, 4, 5])
    assert found == [1, 2, 3]
    assert note == "5 tokens end a text, and GGUF has names for 3: not written are 4, 5"
    assert ends(None, ["x", True, -1, 1.5, None])[0] == []


def test_how_tokens_are_drawn() -> None:
    def sampling(**generation: Any) -> tuple[dict[str, Any], list[str]]:
        notes: list[str] = []
        found = model_settings(BASE, generation, notes.append).metadata
        return {k[17:]: v for k, v in found.items() if k.startswith("general.sampling.")}, notes

    values = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01}
    own = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01}
    assert sampling(do_sample=True, **values) == (own, [])
    assert sampling(**values) == ({}, [])  # the most likely token is taken
    assert sampling(do_sample=True) == ({"temp": 1.0}, [])
    assert sampling(do_sample=True, top_k=1.5, top_p="x", temperature=-1) == ({}, [])
    _, (note,) = sampling(
        repetition_penalty=1.3, max_length=None, min_length=0, bad_words_ids=[[1]]
    )
    assert note.endswith("not written: repetition_penalty, bad_words_ids")
    off = {"typical_p": 1.0, "eta_cutoff": 0.0, "stop_strings": [], "renormalize_logits": False}
    assert sampling(**off) == ({}, [])
    for key, value in {
        "renormalize_logits": True, "no_repeat_ngram_size": 1, "forced_eos_token_id": 0,
    }.items():  # fmt: skip
        _, (note,) = sampling(**{key: value})
        assert key in note


def test_integers_beyond_all_floats() -> None:
    """JSON has them."""
    with pytest.raises(
        rsrc.ExportError, match="factor of RoPE scaling 'linear' is an integer of 39 digits"
    ):
        settings(rope_scaling={"rope_type": "linear", "factor": 10**400})
    with pytest.raises(rsrc.ExportError, match="num_attention_heads is an integer of 39 digits"):
        settings(num_attention_heads=10**400)


HYBRID: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "num_hidden_layers": 8,
}  # fmt: skip


def test_layers_of_a_hybrid() -> None:
    """An interval if there is one. llama.cpp's pairs have one of three coordinates in turns."""
    interval, flags = "qwen35.full_attention_interval", "qwen35.attention.recurrent_layers"
    metadata, notes = settings(**HYBRID)
    assert notes == []
    assert metadata[interval] == 4
    assert metadata["qwen35.rope.dimension_count"] == 64
    assert metadata["qwen35.rope.dimension_sections"] == [11, 11, 10, 0]
    kinds = [*["linear_attention"] * 2, "full_attention"] * 2 + ["linear_attention"] * 2
    assert settings(**HYBRID, layer_types=kinds)[0][interval] == 3
    kinds[7] = "full_attention"
    metadata, _ = settings(**HYBRID, layer_types=kinds)
    assert interval not in metadata
    assert metadata[flags] == [kind == "linear_attention" for kind in kinds]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["linear_attention"]}, "layer_types has 1 entries, expected 8"),
        ({"layer_types": ["mamba"] * 8}, "layer_types is a list"),
        ({"linear_num_value_heads": 30}, "is 30, expected a multiple of linear_num_key_heads, 16"),
        ({"linear_num_key_heads": True}, "linear_num_key_heads is True, expected a number"),
        ({"linear_value_head_dim": 64}, "linear_value_head_dim 64, and in llama.cpp they are eq"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor of RoPE scaling"),
    ],
)
def test_hybrids_that_llama_cpp_does_not_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(rsrc.ExportError, match=message):
        settings(**{**HYBRID, **changes})


def test_minicpm_has_names_for_its_factors() -> None:
    names = {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm"}
    metadata, notes = settings(**names, scale_emb=12, scale_depth=1.4, dim_model_base=128)
    assert notes == []
    assert metadata["minicpm.embedding_scale"] == 12
    assert metadata["minicpm.logit_scale"] == 2
