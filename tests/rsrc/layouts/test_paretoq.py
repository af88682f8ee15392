"""ParetoQ: masters with a learned clip value for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_testing.bench import Bench, Reports
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts import float_bits

Array = npt.NDArray[Any]

BASE = "layers.0.up_proj."
NAME, CLIP = BASE + "weight", BASE + "weight_clip_val"
ALPHA = np.array([[3], [0.75], [1e-9]], np.float32)
# At and just above a third of alpha, and above alpha; the alpha of the last row counts as 1e-5.
W = np.array(
    [[1, -1, 1.0625, -1.0625, 9, 0], [0.25, -0.25, 0.2578125, -3, 0.5, -0.5], [3e-6, -4e-6] * 3],
    np.float32,
)
DIGITS = [[0, 0, 1, -1, 1, 0], [0, 0, 1, -1, 1, -1], [0, -1] * 3]


def compiled(
    bench: Bench, tensors: dict[str, Any], config: dict[str, Any] | None = None
) -> Reports:
    bench.configure(config)
    return bench.compile(tensors)


TERNARY = {"model_type": "llama", "w_bits": 0}


@pytest.mark.parametrize("w_bits", [0, 0.0, 1.58])
def test_thresholds_and_values(bench: Bench, w_bits: float) -> None:
    found = compiled(bench, {NAME: W, CLIP: ALPHA}, {"w_bits": w_bits})
    assert (found[NAME].layout, found[CLIP].kind) == ("paretoq", "dense")
    assert str(found[NAME].scale).startswith("paretoq per row, as the model computes: 2/3 of")
    assert found[NAME].cosine is None
    matrix = bench.matrix(NAME)
    assert matrix.to_dense(np.int8).tolist() == DIGITS
    np.testing.assert_allclose(matrix.scale, [2, 0.5, 2e-5 / 3], rtol=2e-7)
    assert bench.grid(NAME) == (1, None, "F32")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("clip", [CLIP, BASE + "scale"])
@pytest.mark.parametrize("flat", [False, True])
def test_types_shapes_and_names(bench: Bench, dtype: str, clip: str, flat: bool) -> None:
    alpha = bench.kit.cast(ALPHA[:2].reshape(-1) if flat else ALPHA[:2], dtype)
    w = bench.kit.cast(W[:2], dtype)
    assert compiled(bench, {NAME: w, clip: alpha}, TERNARY)[NAME].layout == "paretoq"
    assert bench.matrix(NAME).to_dense(np.int8).tolist() == DIGITS[:2]
    np.testing.assert_allclose(bench.matrix(NAME).scale, [2, 0.5], rtol=2e-7)


def test_equals_the_formula(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, one operation after another, also at the floats around a third of alpha."""
    rng = np.random.default_rng(1)
    alpha = rng.uniform(1e-4, 2, (200, 1)).astype(np.float32)
    alpha[::20] = rng.standard_normal((10, 1)) * 1e-5  # also negative: 1e-5 counts instead
    third = np.maximum(alpha, np.float32(1e-5)) / np.float32(3)
    near = third.view(np.uint32) + rng.integers(-3, 4, (200, 30)).astype(np.uint32)
    w = near.view(np.float32) * rng.choice(np.array([-1, 1], np.float32), near.shape)
    w = np.concatenate([w, rng.standard_normal((200, 40)).astype(np.float32)], axis=1)
    monkeypatch.setattr(float_bits, "BLOCK", 999)
    compiled(bench, {NAME: w, CLIP: alpha}, TERNARY)
    a = np.where(alpha > np.float32(1e-5), alpha, np.float32(1e-5))
    levels = np.float32(1.5)
    clipped = np.clip(w / a, np.float32(-0.99), np.float32(0.99))
    expected = np.rint(clipped * levels) / levels * a
    assert len(set(np.unique(np.sign(expected[:, :30])))) == 3
    np.testing.assert_array_equal(bench.matrix(NAME).to_dense(), expected)


def test_dequantized_weights_are_floats_with_a_scale_per_row(bench: Bench) -> None:
    """Values of exactly 2 alpha / 3 show no trace of ParetoQ."""
    q = np.array(DIGITS, np.float32)[:2] * (np.float32(1) / np.float32(1.5) * ALPHA[:2])
    found = compiled(bench, {NAME: q}, TERNARY)[NAME]
    assert (found.layout, found.scale) == ("float", "per row")
    assert bench.matrix(NAME).to_dense().tolist() == q.tolist()


def test_ternary_masters_are_quantized_as_the_model_does(bench: Bench) -> None:
    """The model makes 2 alpha / 3 of any magnitude above alpha / 3, and 0 of the others."""
    w = np.array([[2, 0, -2], [0.25, -0.25, 0]], np.float32)
    assert compiled(bench, {NAME: w, CLIP: ALPHA[:2]}, TERNARY)[NAME].layout == "paretoq"
    assert bench.matrix(NAME).to_dense(np.int8).tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no w_bits"), ({}, "no w_bits"), ({"w_bits": None}, "no w_bits"),
        ({"w_bits": 1}, "w_bits 1"), ({"w_bits": 2}, "w_bits 2"), ({"w_bits": 4}, "w_bits 4"),
        ({"w_bits": 16}, "w_bits 16"), ({"w_bits": "0"}, "w_bits 0"), ({"w_bits": False}, "w_bits"),
        ({"w_bits": [0]}, "w_bits"),
    ],
)  # fmt: skip
def test_other_bits(bench: Bench, config: dict[str, Any] | None, words: str) -> None:
    reason = compiled(bench, {NAME: W, CLIP: ALPHA}, config)[NAME].reason
    assert reason is not None
    assert reason.startswith(f"has clip values {CLIP!r}, but config.json has {words}")
    assert ", expected w_bits 0 for ternary; F32, not ternary: row " in reason


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.ones(4, np.float32), f"{CLIP} is F32 [4], expected a float for each row"),
        (np.ones((1, 3), np.float32), f"{CLIP} is F32 [1, 3], expected a float for each row"),
        (np.ones((3, 2), np.float32), f"{CLIP} is F32 [3, 2], expected a float for each row"),
        (np.ones(3, np.int32), f"{CLIP} is I32 [3], expected a float for each row"),
        (np.array([1, np.nan, 1], np.float32), f"{CLIP} has NaN or infinite values"),
        (np.array([1, np.inf, 1], np.float32), f"{CLIP} has NaN or infinite values"),
    ],
)
def test_other_clip_values(bench: Bench, clip: Array, reason: str) -> None:
    found = compiled(bench, {NAME: W, CLIP: clip}, TERNARY)[NAME].reason
    assert str(found).startswith(reason)


def test_not_finite(bench: Bench) -> None:
    w = W.copy()
    w[1, 2] = np.inf
    found = compiled(bench, {NAME: w, CLIP: ALPHA}, TERNARY)[NAME]
    assert str(found.reason).startswith("F32 with NaN or infinite values")


def test_a_scale_alone_means_nothing(bench: Bench) -> None:
    found = compiled(bench, {NAME: W, BASE + "scale": ALPHA}, {"model_type": "llama"})[NAME]
    assert str(found.reason).startswith("F32, not ternary: row ")


def test_decompile_writes_what_the_model_computes(bench: Bench) -> None:
    w, alpha = bench.kit.bf16(W[:2]), bench.kit.bf16(ALPHA[:2])
    compiled(bench, {NAME: w, CLIP: alpha}, TERNARY)
    assert decompile(bench.rsr, bench.folder / "back.safetensors").quantized == [NAME]
    back = bench.kit.judge(bench.folder / "back.safetensors")
    values = np.array(DIGITS[:2]) * np.array([[2], [0.5]])
    assert back[NAME] == bench.kit.bf16(values + 0.0)
    assert back[CLIP] == alpha


def test_sharded(bench: Bench) -> None:
    """Clip values may be in another shard; a change in them is noticed."""
    bench.configure(TERNARY)
    shards: dict[str, Any] = {"a.safetensors": {NAME: W}, "b.safetensors": {CLIP: ALPHA}}
    bench.kit.save_sharded(bench.folder, shards)
    reports = bench.compile_source(bench.folder)
    assert [t.layout for t in reports.values()] == ["paretoq", None]
    bench.kit.save(bench.folder / "b.safetensors", {CLIP: ALPHA * np.float32(1.001)})
    with pytest.raises(rsrc.MismatchError, match=f"{NAME}: quantizes to another scale"):
        compare(bench.rsr, bench.folder)
