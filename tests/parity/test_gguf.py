"""GGUF files with our names, row order and metadata, loaded by transformers.

transformers must get the model that the file was made from, and so must the compiler.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing.parity.judge import torch_and_transformers
from rsrc.inspection.compare import compare
from rsrc.source.gguf.config import gguf_metadata, hf_config, rope_factors
from rsrc.source.gguf.names import gguf_name, gguf_rows, permuted_heads
from rsrc.source.open import open_checkpoint

torch, transformers = torch_and_transformers()

Array = npt.NDArray[Any]

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 48,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def ternary_model(kind: str, tied: bool, theta: float, head_dim: int = 64) -> Any:
    """Return a small model with random ternary linear layers."""
    config = getattr(transformers, f"{kind}Config")(
        **{**SIZES, "head_dim": head_dim},
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "_proj" in name:
                p.copy_(torch.randint(-1, 2, p.shape) * 0.5)
            else:
                p.copy_(torch.randn(p.shape))
    return model


def save_gguf(path: Path, model: Any) -> None:
    """Write a model with the gguf package: linear layers as TQ2_0, the rest as F32."""
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    metadata = gguf_metadata(config)
    architecture = str(metadata["general.architecture"])
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif key != "general.architecture":
            assert isinstance(value, int)
            writer.add_uint32(key, value)
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        own, w = gguf_name(name, architecture), p.numpy()
        heads = permuted_heads(own, architecture, 8, 2)
        if heads is not None:
            w = w[gguf_rows(len(w), heads)]
        kind = gguf.GGMLQuantizationType.TQ2_0 if "_proj" in name else gguf.GGMLQuantizationType.F32
        writer.add_tensor(own, gguf.quants.quantize(w, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("kind", "tied", "theta", "head_dim"),
    [
        ("Llama", False, 1000042.0, 64),  # heads are wider than hidden / heads
        ("Llama", True, 10000.0, 32),
        ("Qwen3", False, 1e6, 128),  # what transformers assumes
    ],
)
def test_transformers_loads_the_same_model(
    tmp_path: Path, kind: str, tied: bool, theta: float, head_dim: int
) -> None:
    model = ternary_model(kind, tied, theta, head_dim)
    path = tmp_path / "m.gguf"
    save_gguf(path, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judged = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=path.name, dtype=torch.float32
        )
    weights = {name: p.numpy() for name, p in model.state_dict().items()}
    for name, p in judged.state_dict().items():
        assert np.array_equal(p.numpy(), weights[name]), name

    rsrc.compile(path, tmp_path / "m.rsr")
    assert compare(tmp_path / "m.rsr", path) == len(weights) - tied
    with rsr_runtime.load(tmp_path / "m.rsr") as compiled:
        assert set(compiled) == set(weights) - ({"lm_head.weight"} if tied else set())
        for name, w in compiled.items():
            dense = w.to_dense() if isinstance(w, rsr_runtime.Matrix) else w
            assert isinstance(w, rsr_runtime.Matrix) == ("_proj" in name)
            assert np.array_equal(dense, weights[name]), name
        rebuilt = compiled.files["config.json"]
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_bytes(rebuilt)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf").to_dict()
    expected = model.config.to_dict()
    for key in [*SIZES, "model_type", "hidden_act", "tie_word_embeddings", "rope_parameters"]:
        assert config[key] == expected[key], key
    assert config["architectures"] == [type(model).__name__]


def test_transformers_reads_the_config_of_a_bitnet() -> None:
    """transformers loads no GGUF files of BitNet, but it reads the config made from one."""
    config = {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", **SIZES}
    metadata = gguf_metadata({**config, "rope_theta": 500000.0, "hidden_act": "relu2"})
    rebuilt = hf_config(metadata, {"token_embd.weight": (48, 256)})
    assert rebuilt is not None
    found = transformers.BitNetConfig.from_dict(rebuilt).to_dict()
    assert {key: found[key] for key in SIZES} == SIZES
    assert found["hidden_act"] == "relu2"
    assert found["rope_parameters"] == {"rope_type": "default", "rope_theta": 500000.0}
    assert found["tie_word_embeddings"] is True


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_factors_are_those_of_transformers(factor: float, theta: float) -> None:
    scaling = {**LLAMA3, "factor": factor}
    own = {**SIZES, "rope_theta": theta, "rope_scaling": scaling}
    factors = rope_factors(own)
    config = transformers.LlamaConfig(**SIZES, rope_parameters={**scaling, "rope_theta": theta})
    init = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"]
    scaled, _ = init(config, "cpu")
    plain = 1 / theta ** (torch.arange(0, 64, 2) / 64)
    assert factors is not None
    assert np.allclose(factors, (plain / scaled).numpy(), rtol=1e-5)


def test_the_config_of_a_written_file(tmp_path: Path) -> None:
    """The compiler reads the config of the files that these tests write without reading tensors."""
    save_gguf(tmp_path / "m.gguf", ternary_model("Llama", True, 10000.0))
    files = open_checkpoint(tmp_path / "m.gguf").files
    assert isinstance(files["config.json"], bytes)
    assert json.loads(files["config.json"])["hidden_size"] == 256
