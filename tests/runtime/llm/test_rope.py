"""Rotary embeddings: literal values, and every scaling by its paper's formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import OptionError
from rsr_runtime.llm import ModelError
from rsr_runtime.llm.rope import Rope

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


def rope(
    head_dim: int = 64,
    positions: int = 4096,
    theta: float = 1e4,
    share: float | None = None,
    **config: Any,
) -> Rope:
    return Rope.from_config(config, head_dim, positions, theta, share)


def frequencies(found: Rope) -> npt.NDArray[np.float64]:
    """Return the angles of position 1, which are less than a turn."""
    cos, sin = found.tables(2)
    angles: npt.NDArray[np.float64] = np.arctan2(sin[1].astype(float), cos[1].astype(float))
    return angles


def test_literal_values() -> None:
    """theta 10000, heads of 8: frequencies 1, 0.1, 0.01, 0.001."""
    cos, sin = rope(8).tables(3)
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == sin.shape == (3, 4)
    assert cos.flags.c_contiguous
    assert sin.flags.c_contiguous
    assert cos[0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert sin[0].tolist() == [0.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(cos[1], [0.54030231, 0.99500417, 0.99995000, 0.9999995], 1e-6)
    np.testing.assert_allclose(sin[1], [0.84147098, 0.09983342, 0.00999983, 0.001], 1e-6)
    np.testing.assert_allclose(cos[2], [-0.41614684, 0.98006658, 0.99980001, 0.999998], 1e-6)
    np.testing.assert_allclose(sin[2], [0.90929743, 0.19866933, 0.01999867, 0.002], 1e-6)


def test_all_positions() -> None:
    found = rope(16, theta=500000.0)
    cos, sin = found.tables(300)
    base = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    angles = np.arange(300)[:, None] * base
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-4)  # float32 angles of 300 radians
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-4)


def test_longer_tables_begin_with_shorter_ones() -> None:
    for config in ({}, LLAMA3, YARN):
        found = rope(rope_scaling=config)
        for few, many in zip(found.tables(7), found.tables(100), strict=True):
            np.testing.assert_array_equal(few, many[:7])


# --- keys ---------------------------------------------------------------------------------------


def test_theta() -> None:
    assert rope(theta=5e5).theta == 5e5
    assert rope(rope_theta=1000042).theta == 1000042.0
    assert rope(rope_theta=None).theta == 1e4
    assert rope(rope_parameters={"rope_theta": 7e4}).theta == 7e4
    # The inner value takes precedence, as in transformers.
    assert rope(rope_theta=1e6, rope_parameters={"rope_theta": 7e4}).theta == 7e4
    assert rope(rope_theta=1e6, rope_scaling={"type": "linear", "factor": 2.0}).theta == 1e6


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_old_and_new_names(key: str, name: str) -> None:
    kinds = []
    for value in ({name: "linear", "factor": 2.0}, {name: "default"}, {name: None}, None, {}):
        config: dict[str, Any] = {key: value}
        kinds.append(rope(**config).kind)
    assert kinds == ["linear", "default", "default", "default", "default"]


# --- scalings -----------------------------------------------------------------------------------


def test_linear() -> None:
    base = 1e4 ** -(np.arange(0, 64, 2) / 64)
    found = rope(rope_scaling={"type": "linear", "factor": 4.0})
    np.testing.assert_allclose(frequencies(found), base / 4, 1e-6)


def llama3(
    base: npt.NDArray[np.float64], factor: float, low: float, high: float, original: float
) -> list[float]:
    """Return the frequencies as Meta's release describes them, pair by pair."""
    result = []
    for f in base.tolist():
        wave = 2 * math.pi / f
        if wave < original / high:
            result.append(f)
        elif wave > original / low:
            result.append(f / factor)
        else:
            smooth = (original / wave - low) / (high - low)
            result.append((1 - smooth) * f / factor + smooth * f)
    return result


@pytest.mark.parametrize(("head_dim", "original"), [(64, 8192), (128, 8192), (16, 64), (128, 100)])
def test_llama3(head_dim: int, original: int) -> None:
    base = 5e5 ** -(np.arange(0, head_dim, 2) / head_dim)
    config = {**LLAMA3, "original_max_position_embeddings": original}
    found = rope(head_dim, theta=5e5, rope_scaling=config)
    expected = llama3(base, 8.0, 1.0, 4.0, original)
    np.testing.assert_allclose(frequencies(found), expected, 1e-5)
    assert not np.allclose(expected, base)  # some are stretched


def test_llama3_literal_values() -> None:
    """Llama 3.1 8B: the shortest and longest waves, and one that is blended."""
    found = rope(128, theta=5e5, rope_scaling=LLAMA3)
    angles = frequencies(found)
    assert angles[0] == pytest.approx(1.0, 1e-6)
    assert angles[63] == pytest.approx(5e5 ** -(126 / 128) / 8, 1e-5)
    # 2 pi / 5e5^(-64/128) = 4443 lies between 8192 / 4 and 8192 / 1: smooth = 0.28127
    assert angles[32] == pytest.approx((0.71873 / 8 + 0.28127) * 5e5**-0.5, 1e-4)


def test_llama3_without_its_original_length() -> None:
    """max_position_embeddings takes its place, as in transformers."""
    config = {k: v for k, v in LLAMA3.items() if not k.startswith("original")}
    found = rope(positions=8192, rope_scaling=config)
    np.testing.assert_array_equal(found.tables(9), rope(rope_scaling=LLAMA3).tables(9))


def yarn(
    head_dim: int, theta: float, factor: float, original: float,
    fast: float = 32, slow: float = 1, truncate: bool = True,
) -> list[float]:  # fmt: skip
    """Return the frequencies of arXiv 2309.00071, section 3.2, pair by pair."""

    def pair(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    result = []
    for i in range(head_dim // 2):
        f = theta ** -(2 * i / head_dim)
        ramp = min(max((i - low) / (high - low), 0), 1)
        result.append(ramp * f / factor + (1 - ramp) * f)
    return result


@pytest.mark.parametrize(
    "extra", [{}, {"truncate": False}, {"truncate": None}, {"beta_fast": 16, "beta_slow": 2.5}]
)
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 1e6), (64, 1e4)])
def test_yarn(head_dim: int, theta: float, extra: dict[str, Any]) -> None:
    found = rope(head_dim, theta=theta, rope_scaling={**YARN, **extra})
    expected = yarn(
        head_dim, theta, 4.0, 4096,
        extra.get("beta_fast", 32), extra.get("beta_slow", 1), extra.get("truncate", True),
    )  # fmt: skip
    np.testing.assert_allclose(frequencies(found), expected, 1e-5)
    cos, sin = found.tables(5)
    magnitude = np.hypot(cos.astype(float), sin.astype(float))
    np.testing.assert_allclose(magnitude, 0.1 * math.log(4) + 1, 1e-6)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"attention_factor": 0.5}, 0.5),
        ({"factor": 1.0}, 1.0),
        ({"factor": 0.5}, 1.0),
        ({"factor": 40.0}, 1.3688879454113936),
        ({"mscale": 1.0}, 1.138629436111989),  # has no effect alone
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, 0.9643269),
        ({"mscale": None, "mscale_all_dim": None}, 1.138629436111989),
    ],
)
def test_the_magnitude_of_yarn(extra: dict[str, Any], expected: float) -> None:
    cos, _ = rope(rope_scaling={**YARN, **extra}).tables(1)
    np.testing.assert_allclose(cos[0], expected, 1e-6)


def test_yarn_without_its_original_length() -> None:
    found = rope(positions=4096, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    np.testing.assert_array_equal(found.tables(9), rope(rope_scaling=YARN).tables(9))


def test_dynamic_changes_nothing_within_the_model_s_context() -> None:
    """transformers changes the base only beyond max_position_embeddings."""
    found = rope(rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    np.testing.assert_array_equal(found.tables(4096), rope().tables(4096))


def longrope(head_dim: int = 64, **changes: Any) -> dict[str, Any]:
    short, long = (np.linspace(1, most, head_dim // 2).tolist() for most in (1.5, 20))
    config = {
        "rope_type": "longrope", "short_factor": short, "long_factor": long,
        "original_max_position_embeddings": 1024,
    }  # fmt: skip
    return {**config, **changes}


@pytest.mark.parametrize(("length", "key"), [(1024, "short_factor"), (1025, "long_factor")])
def test_longrope(length: int, key: str) -> None:
    """The length of a sequence chooses the divisors of the frequencies."""
    config = longrope()
    found = rope(rope_scaling=config)
    cos, sin = found.tables(3, variant=found.variant(length))
    expected = 1e4 ** -(np.arange(0, 64, 2) / 64) / np.array(config[key])
    np.testing.assert_allclose(np.arctan2(sin[1], cos[1]), expected, 1e-5)
    magnitude = math.sqrt(1 + math.log(4096 / 1024) / math.log(1024))
    np.testing.assert_allclose(np.hypot(cos, sin), magnitude, 1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"factor": 32.0}, 1.2247449),  # sqrt(1 + 5 / 10)
        ({"factor": 1.0}, 1.0),
        ({"factor": 32.0, "attention_factor": 1.25}, 1.25),
        ({"original_max_position_embeddings": None}, 1.0),  # max_position_embeddings
    ],
)
def test_the_magnitude_of_longrope(changes: dict[str, Any], expected: float) -> None:
    cos, _ = rope(rope_scaling=longrope(**changes)).tables(1)
    np.testing.assert_allclose(cos[0], expected, 1e-6)


@pytest.mark.parametrize("kind", ["longrope", "yarn", "llama3"])
def test_the_original_length_beside_the_scaling_takes_precedence(kind: str) -> None:
    scaling = {"longrope": longrope(), "yarn": YARN, "llama3": LLAMA3}[kind]
    beside = rope(rope_scaling=scaling, original_max_position_embeddings=256)
    inside = rope(rope_scaling={**scaling, "original_max_position_embeddings": 256})
    assert beside.variant(257) == inside.variant(257) == (kind == "longrope")
    np.testing.assert_array_equal(beside.tables(9), inside.tables(9))
    assert not np.array_equal(beside.tables(9), rope(rope_scaling=scaling).tables(9))


def test_alpha_stretches_the_base() -> None:
    """HunYuan: theta alpha ^ (d / (d - 2)), whatever the length."""
    scaling = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    found = rope(128, rope_scaling=scaling)
    expected = (1e4 * 1000 ** (128 / 126)) ** -(np.arange(64) / 64)
    np.testing.assert_allclose(frequencies(found), expected, 2e-5)
    assert found.variant(1 << 20) == 0
    np.testing.assert_array_equal(rope(2, rope_scaling=scaling).tables(9), rope(2).tables(9))
    with pytest.raises(ModelError, match=r"rope_theta 10000 with alpha 1e-09 is a base of"):
        rope(rope_scaling={**scaling, "alpha": 1e-9})


@pytest.mark.parametrize(("positions", "key"), [(64, "short_factor"), (65, "long_factor")])
def test_the_limit_chooses_the_factors_of_minicpm(positions: int, key: str) -> None:
    config = {
        "rope_scaling": {
            "rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
            "original_max_position_embeddings": 64, "attention_factor": 1.0,
        }
    }  # fmt: skip
    found = Rope.from_config(config, 4, positions, 1e4, is_by_limit=True)
    assert {found.variant(length) for length in (1, 1000)} == {int(key == "long_factor")}
    angles = found.tables(2, variant=found.variant(1))
    expected = np.array([1, 0.01]) / config["rope_scaling"][key]
    np.testing.assert_allclose(np.arctan2(angles[1][1], angles[0][1]), expected, 1e-5)


def test_only_longrope_depends_on_the_length() -> None:
    for scaling in (None, {"type": "linear", "factor": 2.0}, LLAMA3, YARN):
        assert rope(rope_scaling=scaling).variant(1 << 20) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"short_factor": None},
            "has nothing under short_factor, expected 32, half of",
        ),
        ({"long_factor": [1.0] * 31}, "has 31 numbers under long_factor, expected 32"),
        ({"long_factor": "x" * 32}, "has 'xxx.*' under long_factor, expected 32"),
        ({"long_factor": [1.0] * 31 + ["1"]}, "long_factor has '1', expected numbers from"),
        ({"short_factor": [1.0] * 31 + [0]}, "short_factor has 0, expected numbers from"),
        ({"short_factor": [1.0] * 31 + [math.nan]}, "short_factor has nan, expected numbers"),
        ({"original_max_position_embeddings": 1}, "is 1, expected more than 1"),
    ],
)
def test_invalid_settings_of_longrope(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        rope(rope_scaling=longrope(**changes))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["proportional", "", 3, ["linear"], {"a": "linear"}])
def test_an_unknown_scaling_is_named(kind: object) -> None:
    with pytest.raises(ModelError, match="not supported; known are default, linear, dynamic, llam"):
        rope(rope_scaling={"rope_type": kind})


@pytest.mark.parametrize("value", ["linear", 2.0, True, ["linear"]])
def test_a_scaling_is_an_object(value: object) -> None:
    with pytest.raises(ModelError, match=r"rope_scaling is .*, expected an object"):
        rope(rope_scaling=value)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"type": "linear"}, "factor"),
        ({"type": "linear", "factor": None}, "factor"),
        ({k: v for k, v in LLAMA3.items() if k != "factor"}, "factor"),
        ({k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}, "low_freq_factor"),
        ({k: v for k, v in LLAMA3.items() if k != "high_freq_factor"}, "high_freq_factor"),
        ({"type": "yarn"}, "factor"),
        ({"type": "dynamic"}, "factor"),
    ],
)
def test_a_missing_number_is_named(config: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=f"needs a number under {key}"):
        rope(rope_scaling=config)


@pytest.mark.parametrize(
    "value", [0, -1.0, math.nan, math.inf, 10**400, 1e300, 1e-300, "4", True, [4]]
)
@pytest.mark.parametrize(
    "key", ["factor", "rope_theta", "beta_fast", "original_max_position_embeddings"]
)
def test_invalid_numbers_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"config.json: {key} is .*, expected a number from"):
        rope(rope_scaling={**YARN, key: value})


def test_theta_must_be_more_than_1() -> None:
    for theta in (1, 1.0, 0.5):
        with pytest.raises(ModelError, match=r"rope_theta is .*, expected more than 1"):
            rope(rope_theta=theta)
    with pytest.raises(ModelError, match="rope_theta is 'x'"):
        rope(rope_theta="x")


def test_llama3_frequencies_must_be_in_order() -> None:
    for low in (4.0, 5.0):
        with pytest.raises(ModelError, match=r"expected less than high_freq_factor, 4\.0"):
            rope(rope_scaling={**LLAMA3, "low_freq_factor": low})


def test_older_names_and_stray_settings() -> None:
    lists = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    scaling = {**lists, "original_max_position_embeddings": 512}
    old, new = (rope(rope_scaling={**scaling, "type": name}) for name in ("su", "longrope"))
    assert old == new
    with pytest.raises(ModelError, match="'yarn' has short_factor and long_factor, which only"):
        rope(rope_scaling={**YARN, **lists})


def test_partial_rotation() -> None:
    """The first features of a head rotate as a smaller head."""
    assert rope(partial_rotary_factor=1.0)
    for config in (
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
    ):
        with pytest.raises(
            ModelError, match=r"partial_rotary_factor is 0\.5 .*, but the class rot"
        ):
            rope(**config)
        expected = rope(head_dim=rope().head_dim // 2).tables(9)
        for found, wanted in zip(rope(share=1.0, **config).tables(9), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert rope(share=0.25).head_dim == 16
    for share in (0.001, 1.5, 0.05):
        with pytest.raises(ModelError, match=r"partial_rotary_factor makes .* features of a "):
            rope(share=1.0, partial_rotary_factor=share)


def test_numbers_at_the_borders_give_finite_tables() -> None:
    read = 0
    for scaling in (LLAMA3, YARN, {"type": "linear", "factor": 2.0}):
        for key in ("factor", "rope_theta", "original_max_position_embeddings", "beta_fast"):
            for value in (1e-9, 1.0000001, 1e18):
                try:
                    found = rope(rope_scaling={**scaling, key: value})
                except ModelError:
                    continue
                read += 1
                cos, sin = found.tables(40)
                assert np.isfinite(cos).all()
                assert np.isfinite(sin).all()
    assert read > 10


def test_more_positions_than_memory() -> None:
    """Refused at once, before any of it is written."""
    with pytest.raises(OptionError, match="memory for the RoPE tables of 1,099,511,627,776 pos"):
        rope(4096).tables(1 << 40)


def test_factors_of_a_gguf_file_apply_where_its_config_has_no_scaling() -> None:
    """They divide frequencies, but not those that the config has scaled already."""
    factors = np.array([1, 2, 4, 8], np.float32)
    plain = rope(8).tables(5)[1]
    np.testing.assert_allclose(rope(8).tables(5, factors)[1][:, 0], plain[:, 0])
    np.testing.assert_allclose(rope(8).tables(5, factors)[1][4, 2], plain[1, 2], 1e-6)
    stretched = rope(8, rope_scaling={"rope_type": "linear", "factor": 4.0})
    np.testing.assert_array_equal(stretched.tables(5, factors), stretched.tables(5))
