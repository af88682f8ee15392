"""RoPE scaling of GGUF files: the runtime gets the angles that llama.cpp computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime.llm.rope import Rope
from rsrc.common.errors import SourceError
from rsrc.export.gguf.rope import gguf_rope
from rsrc.source.gguf.config import hf_config

Factors = npt.NDArray[np.float32]
HEAD_DIM, PAIRS, CONTEXT = 64, 32, 4096


def floats(first: float, last: float) -> Factors:
    return np.linspace(first, last, PAIRS, dtype=np.float32)


FREQS, SHORT, LONG = floats(1, 9), floats(1, 1.5), floats(2, 20)
LONGROPE = {"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG}


def llama_cpp(
    factor: float = 1.0, yarn: float = 0.0, attn_factor: float = 1.0, original: int = CONTEXT,
    fast: float = 32.0, slow: float = 1.0, log_mul: float = 0.0,
    freq_factors: Factors | None = None,
) -> tuple[list[float], float]:  # fmt: skip
    """Return the angle of each pair at position 1, and the magnitude, as ggml computes them."""

    def corr_dim(turns: float) -> float:
        return HEAD_DIM * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(1e4))

    scale = 1 / factor
    low = max(0, math.floor(corr_dim(fast)))
    high = min(HEAD_DIM - 1, math.ceil(corr_dim(slow)))
    angles = []
    for i in range(PAIRS):
        extrapolated = 1e4 ** (-2 * i / HEAD_DIM) / (1 if freq_factors is None else freq_factors[i])
        y = (i - low) / max(0.001, high - low)
        mix = (1 - min(1, max(0, y))) * yarn
        angles.append(float(scale * extrapolated * (1 - mix) + extrapolated * mix))
    if yarn and factor > 1:
        attn_factor *= (0.1 * math.log(factor) + 1) / (0.1 * log_mul * math.log(factor) + 1)
    return angles, attn_factor


def config(keys: dict[str, Any], tensors: dict[str, Factors] | None = None) -> dict[str, Any]:
    metadata = {
        "general.architecture": "llama",
        "llama.attention.key_length": HEAD_DIM,
        "llama.context_length": CONTEXT,
        **{f"llama.rope.{key}": value for key, value in keys.items()},
    }
    found = hf_config(metadata, {}, tensors)
    assert found is not None
    assert "gguf_metadata" not in found
    return found


def check(found: dict[str, Any], expected: tuple[list[float], float], length: int = 8) -> None:
    rope = Rope.from_config(found, HEAD_DIM, CONTEXT, 1.0)
    tables = rope.tables(2, variant=rope.variant(length))
    cos, sin = (table.astype(float) for table in tables)
    np.testing.assert_allclose(np.hypot(cos, sin), expected[1], rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(sin[1], cos[1]), expected[0], rtol=1e-5, atol=1e-7)


YARN = {"scaling.type": "yarn", "scaling.factor": 4.0}


@pytest.mark.parametrize(
    ("keys", "expected", "kind"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, {"factor": 4}, "linear"),
        ({"scaling.factor": 4.0}, {"factor": 4}, "linear"),
        ({"scale_linear": 4.0}, {"factor": 4}, "linear"),
        ({"scale_linear": 4.0, "scaling.factor": 2.0}, {"factor": 2}, "linear"),
        ({"scaling.type": "none", "scaling.factor": 4.0}, {}, None),
        ({"scaling.type": "linear", "scaling.factor": 0.0}, {}, None),
        ({"scaling.type": "linear"}, {}, None),
        ({"scaling.attn_factor": 1.25}, {"attn_factor": 1.25}, "longrope"),
        ({"scaling.type": "none", "scaling.attn_factor": 2.0}, {"attn_factor": 2.0}, "longrope"),
        (
            {"scaling.factor": 3.0, "scaling.attn_factor": 0.5},
            {"factor": 3, "attn_factor": 0.5},
            "longrope",
        ),
        (YARN, {"factor": 4, "yarn": 1}, "yarn"),
        (
            {**YARN, "scaling.original_context_length": 1024},
            {"factor": 4, "yarn": 1, "original": 1024},
            "yarn",
        ),
        (
            {**YARN, "scaling.attn_factor": 2.0},
            {"factor": 4, "yarn": 1, "attn_factor": 2},
            "yarn",
        ),
        (
            {**YARN, "scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0},
            {"factor": 4, "yarn": 1, "fast": 16, "slow": 2},
            "yarn",
        ),
        (
            {**YARN, "scaling.yarn_log_multiplier": 0.7},
            {"factor": 4, "yarn": 1, "log_mul": 0.7},
            "yarn",
        ),
        (
            {**YARN, "scaling.yarn_log_multiplier": 0.7, "scaling.attn_factor": 1.5},
            {"factor": 4, "yarn": 1, "log_mul": 0.7, "attn_factor": 1.5},
            "yarn",
        ),
        ({**YARN, "scaling.yarn_ext_factor": 0.0}, {"factor": 4}, "linear"),
        ({**YARN, "scaling.yarn_ext_factor": 1.0}, {"factor": 4, "yarn": 1}, "yarn"),
        ({**YARN, "scaling.yarn_ext_factor": -1.0}, {"factor": 4, "yarn": 1}, "yarn"),
        ({**YARN, "scaling.yarn_ext_factor": 0.5}, {"factor": 4, "yarn": 0.5}, "longrope"),
        ({"scaling.type": "yarn", "scaling.factor": 1.0}, {}, None),
    ],
)
def test_keys(keys: dict[str, Any], expected: dict[str, Any], kind: str | None) -> None:
    found = config(keys)
    assert found.get("rope_scaling", {}).get("rope_type") == kind
    check(found, llama_cpp(**expected))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"scaling.factor": 2.0}, {"factor": 2}),
        ({"scaling.attn_factor": 1.5}, {"attn_factor": 1.5}),
        (YARN, {"factor": 4, "yarn": 1}),
    ],
)
def test_factors_multiply_what_keys_say(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    found = config(keys, {"rope_freqs.weight": FREQS})
    check(found, llama_cpp(**expected, freq_factors=FREQS))


@pytest.mark.parametrize("kind", [{}, {"scaling.type": "longrope"}])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_longrope(kind: dict[str, str], factor: float) -> None:
    keys = {
        **kind,
        "scaling.attn_factor": 1.19,
        "scaling.original_context_length": 1024,
        "scaling.factor": factor,
    }
    found = config(keys, LONGROPE)
    assert found["rope_scaling"]["original_max_position_embeddings"] == 1024
    for length, factors in ((1024, SHORT), (1025, LONG)):
        expected = llama_cpp(factor=factor, attn_factor=1.19, freq_factors=factors)
        check(found, expected, length)


def test_longrope_without_keys() -> None:
    """attn_factor is 1, whatever transformers would compute, and short factors hold throughout."""
    found = config({"scaling.type": "longrope"}, LONGROPE)
    check(found, llama_cpp(freq_factors=SHORT), CONTEXT)


@pytest.mark.parametrize("kind", ["dynamic", "su", "", "yarn2", "LINEAR"])
def test_types_that_llama_cpp_does_not_know(kind: str) -> None:
    with pytest.raises(
        SourceError, match=r"llama.rope.scaling.type is .* neither rsrc nor llama.cpp"
    ):
        config({"scaling.type": kind, "scaling.factor": 4.0})


@pytest.mark.parametrize("value", ["4", True, -1.0, math.nan, math.inf, np.array([4.0])])
@pytest.mark.parametrize("key", ["factor", "attn_factor", "yarn_beta_fast", "yarn_log_multiplier"])
def test_numbers_that_are_none(key: str, value: object) -> None:
    with pytest.raises(SourceError, match=f"llama.rope.scaling.{key} is .*, expected a number"):
        config({**YARN, f"scaling.{key}": value})


@pytest.mark.parametrize("value", ["4", True, -1, 0, 1.5])
def test_original_lengths_that_are_none(value: object) -> None:
    with pytest.raises(SourceError, match=r"original_context_length is .*, expected 1 or more"):
        config({**YARN, "scaling.original_context_length": value})


@pytest.mark.parametrize(
    ("keys", "tensors", "message"),
    [
        ({"scaling.type": "longrope"}, {}, "there is no rope_factors_short.weight"),
        ({}, {"rope_factors_short.weight": SHORT}, "there is no rope_factors_long.weight"),
        ({}, {**LONGROPE, "rope_freqs.weight": FREQS}, "but there is rope_freqs.weight, too"),
        (YARN, LONGROPE, "scaling.type is 'yarn', but there are tensors of longrope"),
        ({}, {**LONGROPE, "rope_factors_long.weight": LONG[:9]}, r"long.weight has 9 values"),
        ({}, {**LONGROPE, "rope_factors_long.weight": -LONG}, "64 / 2 positive numbers"),
        (YARN, {"rope_freqs.weight": FREQS[:9]}, "rope_freqs.weight has 9 values"),
    ],
)
def test_keys_and_tensors_that_contradict_each_other(
    keys: dict[str, Any], tensors: dict[str, Factors], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        config(keys, tensors)


@pytest.mark.parametrize("head_dim", [None, 0, 63, 1 << 40])
def test_heads_that_cannot_be_rotated(head_dim: int | None) -> None:
    metadata = {"general.architecture": "llama", "llama.rope.scaling.attn_factor": 2.0}
    if head_dim is not None:
        metadata["llama.attention.key_length"] = head_dim
    with pytest.raises(SourceError, match=r"heads of \d+ features, expected an even number"):
        hf_config(metadata, {})


def test_settings_out_of_range() -> None:
    with pytest.raises(SourceError, match=r"freq_base is 1\.0, expected more than 1"):
        config({**YARN, "scaling.yarn_ext_factor": 0.5, "freq_base": 1.0})
    with pytest.raises(SourceError, match="is out of range"):
        config({"scaling.factor": 3e38}, {"rope_freqs.weight": FREQS})


# --- there and back -----------------------------------------------------------------------------

ORIGINAL = {"original_max_position_embeddings": 1024}
WRITTEN: list[dict[str, Any]] = [
    {},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4, **ORIGINAL},
    {"rope_type": "yarn", "factor": 4.0, **ORIGINAL},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2.5},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.3},
    {"rope_type": "yarn", "factor": 4.0, "truncate": False},
    {"rope_type": "longrope", "short_factor": SHORT.tolist(), "long_factor": LONG.tolist()},
    {
        "rope_type": "longrope", "short_factor": SHORT.tolist(), "long_factor": LONG.tolist(),
        "factor": 32.0, **ORIGINAL,
    },
]  # fmt: skip


@pytest.mark.parametrize("scaling", WRITTEN, ids=lambda scaling: ", ".join(map(str, scaling)))
def test_what_an_export_writes_has_the_same_angles(scaling: dict[str, Any]) -> None:
    own = {
        "head_dim": HEAD_DIM, "rope_theta": 2e4, "max_position_embeddings": CONTEXT,
        "rope_scaling": scaling,
    }  # fmt: skip
    written = gguf_rope(own, lambda _: None)
    keys = {key.removeprefix("rope."): value for key, value in written.metadata.items()}
    found = config(keys, written.tensors)
    ropes = [Rope.from_config(settings, HEAD_DIM, CONTEXT, 1.0) for settings in (own, found)]
    for length in (1024, 1025, CONTEXT):
        tables = [np.stack(rope.tables(2, variant=rope.variant(length))) for rope in ropes]
        np.testing.assert_allclose(tables[1], tables[0], rtol=1e-6, atol=1e-7)
