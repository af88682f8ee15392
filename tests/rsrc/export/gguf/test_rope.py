"""RoPE in GGUF, judged by the angles that llama.cpp computes from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_runtime.llm.rope import Rope
from rsrc.export.gguf.rope import GgufRope, gguf_rope

Array = npt.NDArray[np.float64]

HEAD, THETA, POSITIONS = 64, 20000.0, 4096
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 256,
    "short_factor": [1 + i / 32 for i in range(32)],
    "long_factor": [2 + i / 8 for i in range(32)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}

# Name: settings of config.json.
SCALINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "null": {"rope_scaling": None},
    "default": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "llama3 beside": {
        "rope_scaling": {"rope_type": "llama3", **LLAMA3}, "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_scaling": YARN},
    "yarn without original": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn beside": {"rope_scaling": YARN, "original_max_position_embeddings": 512},
    "yarn of transformers 5": {"rope_theta": None, "rope_parameters": {**YARN, "rope_theta": 7e4}},
    "yarn with betas": {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 2.5}},
    "yarn with attention_factor": {"rope_scaling": {**YARN, "attention_factor": 1.5}},
    "yarn with mscale": {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}},
    "yarn, not truncated": {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 8}},
    "yarn of factor 1": {"rope_scaling": {**YARN, "factor": 1}},
    "longrope": {"rope_scaling": LONGROPE},
    "longrope with factor": {"rope_scaling": {**LONGROPE, "factor": 32.0}},
    "longrope with attention_factor": {"rope_scaling": {**LONGROPE, "attention_factor": 1.25}},
}  # fmt: skip


def config(changes: dict[str, Any]) -> dict[str, Any]:
    settings = {
        "head_dim": HEAD, "rope_theta": THETA, "max_position_embeddings": POSITIONS, **changes,
    }  # fmt: skip
    return {"rope_theta": THETA} | {k: v for k, v in settings.items() if v is not None}


def llama_cpp(rope: GgufRope, long: bool) -> tuple[Array, float]:
    """Return the angle of each pair at position 1, and the factor of cosines and sines.

    As llama.cpp's llama-context.cpp and ggml's rope_yarn compute them.
    """
    settings: dict[str, Any] = dict(rope.metadata)
    kind = settings.get("rope.scaling.type", "linear")
    scale = 1 / settings.get("rope.scaling.factor", 1.0)
    attn_factor = settings.get("rope.scaling.attn_factor", 1.0)
    theta, d = settings["rope.freq_base"], settings["rope.dimension_count"]
    angles = theta ** (-2.0 * np.arange(d // 2) / d)
    names = ["rope_freqs.weight", f"rope_factors_{'long' if long else 'short'}.weight"]
    for name in names:
        if name in rope.tensors:
            angles = angles / rope.tensors[name].astype(np.float64)
    if kind != "yarn":
        return angles * scale, attn_factor
    original = settings.get("rope.scaling.original_context_length", POSITIONS)
    fast = settings.get("rope.scaling.yarn_beta_fast", 32.0)
    slow = settings.get("rope.scaling.yarn_beta_slow", 1.0)
    start, end = (
        d * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (fast, slow)
    )
    start, end = max(0, math.floor(start)), min(d - 1, math.ceil(end))
    ramp = 1 - np.clip((np.arange(d // 2) - start) / max(0.001, end - start), 0, 1)
    return angles * scale * (1 - ramp) + angles * ramp, attn_factor * (
        1 + 0.1 * math.log(1 / scale)
    )


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [100, 1000])
def test_llama_cpp_computes_the_same_angles(name: str, length: int) -> None:
    settings = config(SCALINGS[name])
    notes: list[str] = []
    found = gguf_rope(settings, notes.append)
    assert (name == "dynamic") == bool(notes)
    ours = Rope.from_config(settings, HEAD, POSITIONS, THETA)
    cos, sin = ours.tables(2, variant=ours.variant(length))
    angles, magnitude = llama_cpp(found, long=length > 256)
    np.testing.assert_allclose(cos[1], np.cos(angles) * magnitude, rtol=0, atol=2e-6)
    np.testing.assert_allclose(sin[1], np.sin(angles) * magnitude, rtol=0, atol=2e-6)


def test_metadata_keys_are_those_of_llama_cpp() -> None:
    import gguf

    known = {str(v).replace("{arch}.", "") for k, v in vars(gguf.Keys.Rope).items() if k.isupper()}
    for changes in SCALINGS.values():
        assert set(gguf_rope(config(changes), lambda _: None).metadata) <= known


def test_llama_cpp_rotates_a_part_of_a_head_in_some_architectures() -> None:
    half: dict[str, Any] = {"partial_rotary_factor": 0.5}
    for changes in (half, {"rope_parameters": half}):
        with pytest.raises(rsrc.SourceError, match=r"rotates 32 of the 64 features .* rotates all"):
            gguf_rope(config(changes), lambda _: None)
        found = gguf_rope(config({**changes, "model_type": "phi3"}), lambda _: None)
        assert found.metadata["rope.dimension_count"] == 32


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "mrope"}, "no name for RoPE scaling 'mrope'"),
        ({"rope_type": ["yarn"]}, "no name for RoPE scaling a list"),
        ({"rope_type": "linear"}, "factor of RoPE scaling 'linear' is nothing"),
        ({"rope_type": "linear", "factor": 0}, "factor of RoPE scaling 'linear' is 0"),
        ({"rope_type": "linear", "factor": True}, "factor of RoPE scaling 'linear' is True"),
        ({"rope_type": "yarn", "factor": 1e300}, "is 1e.300, expected a number above 0"),
        ({"rope_type": "yarn", "factor": 0.5}, "factor of RoPE scaling 'yarn' is 0.5"),
        ({**YARN, "original_max_position_embeddings": 99.5}, "is 99.5, expected a whole number"),
        ({**LONGROPE, "long_factor": [1.0] * 31}, "long_factor .* 31 values, expected 32 numbers"),
        ({**LONGROPE, "short_factor": [1.0] * 31 + ["x"]}, "short_factor of RoPE scaling"),
        ({**LONGROPE, "short_factor": 3}, "short_factor of RoPE scaling 'longrope' has 3"),
        ({**YARN, "rope_theta": 1, "truncate": False}, "rope_theta is 1, expected more than 1"),
        ({"rope_type": "llama3", **LLAMA3, "factor": -1}, "factor of RoPE scaling 'llama3' is -1"),
        ("linear", "rope_scaling is 'linear', expected an object"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say(scaling: Any, message: str) -> None:
    with pytest.raises(rsrc.ExportError, match=message):
        gguf_rope(config({"rope_scaling": scaling}), lambda _: None)
