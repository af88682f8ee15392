"""--quantize: every rule and granularity against its formula, one weight at a time."""

from __future__ import annotations

import json
import math
import statistics
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_testing.bench import Bench
from rsr_testing.checkpoints import Kit, Raw
from rsrc.cli.main import main
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts import float_bits, stats
from rsrc.layouts.scales import Per
from rsrc.source.open import open_checkpoint

Array = npt.NDArray[Any]

RULES = ("absmean", "absmedian", "twn")
PER = ("tensor", "row", "group:1", "group:7", "group:32")
NAME = "l.weight"


def quantized(
    kit: Kit, folder: Path, w: Array | Raw, rule: str, per: str | None = None, **options: Any
) -> tuple[TensorReport, rsr_runtime.Matrix]:
    """Compile one matrix; check that `compare` quantizes the source to the same digits."""
    source, rsr = kit.save(folder / "s.safetensors", {NAME: w}), folder / "x.rsr"
    (report,) = rsrc.compile(source, rsr, quantize=rule, per=per, force=True, **options).tensors
    assert compare(rsr, source) == 1
    matrix = rsr_runtime.load(rsr, verify=True)[NAME]
    assert isinstance(matrix, rsr_runtime.Matrix)
    return report, matrix


def cells(shape: tuple[int, int], per: str) -> Iterator[tuple[slice, slice]]:
    if per == "tensor":
        yield slice(0, shape[0]), slice(0, shape[1])
        return
    width = shape[1] if per == "row" else int(per.removeprefix("group:"))
    for row in range(shape[0]):
        for first in range(0, shape[1], width):
            yield slice(row, row + 1), slice(first, first + width)


def formula(values: list[float], rule: str) -> tuple[list[int], float]:
    """Quantize weights that share a scale, in float32, with Python's statistics."""
    one = np.float32(1)
    magnitudes = [abs(v) for v in values]
    mean = np.float32(math.fsum(magnitudes) / len(values))
    if rule == "twn":
        limit = np.float32(0.7) * mean
        above = [m for m in magnitudes if m > limit]
        scale = np.float32(math.fsum(above) / len(above)) if above else np.float32(0)
        return [int(np.sign(v)) if abs(v) > limit else 0 for v in values], float(scale)
    middle = np.float32(statistics.median_low(magnitudes))
    s = one / max(mean if rule == "absmean" else middle, np.float32(1e-5))
    digits = [max(-1, min(1, round(float(np.float32(v) * s)))) for v in values]  # half to even
    return digits, float(one / s)


def by_formula(W: Array, rule: str, per: str) -> tuple[Array, Array]:
    """Return the digit and the scale of each weight."""
    t, scales = np.zeros(W.shape, np.int8), np.zeros(W.shape, np.float32)
    for rows, columns in cells(W.shape, per):
        digits, scale = formula(W[rows, columns].reshape(-1).tolist(), rule)
        t[rows, columns] = np.reshape(digits, t[rows, columns].shape)
        scales[rows, columns] = scale
    return t, scales


class TestRules:
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    @pytest.mark.parametrize("per", PER)
    @pytest.mark.parametrize("rule", RULES)
    @given(st.data())
    @settings(max_examples=6, deadline=None)
    def test_equal_the_formula(
        self, kit: Kit, scratch: Path, rule: str, per: str, dtype: str, data: st.DataObject
    ) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        shape = data.draw(st.tuples(st.integers(1, 40), st.integers(2, 70)))
        W = rng.standard_normal(shape) * data.draw(st.sampled_from((1e-7, 1e-2, 100.0)))
        if data.draw(st.booleans()):  # ties, zeros, values at thresholds
            W = rng.choice(np.array([0, 0.5, -0.5, 1.5, -1.5, 1, 0.7, -1.4, 2]), shape)
        W[rng.random(shape[0]) < 0.1] = 0
        W = W.astype(np.float16 if dtype == "F16" else np.float32).astype(np.float32)
        if dtype == "BF16":
            W = (W.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        encoding = data.draw(st.sampled_from(("auto", "permuted"))) if ":" not in per else "auto"
        raw = kit.cast(W, dtype)
        report, matrix = quantized(kit, scratch, raw, rule, per, encoding=encoding)
        if report.layout != rule:  # a small matrix may be ternary already
            assert report.layout == "float"
            np.testing.assert_array_equal(matrix.to_dense(), W)
            return
        t, scales = by_formula(W, rule, per)
        np.testing.assert_array_equal(matrix.to_dense(np.int8), t)
        np.testing.assert_array_equal(matrix.to_dense(), t * scales)
        decompile(scratch / "x.rsr", scratch / "back.safetensors", force=True)
        back = kit.judge(scratch / "back.safetensors")[NAME]
        assert (back.dtype, back.shape) == (dtype, shape)
        if dtype != "BF16":
            kept = np.where(t, t * scales, 0).astype(np.float16 if dtype == "F16" else np.float32)
            assert back.data == kept.tobytes()

    @pytest.mark.parametrize(
        ("rule", "per", "w", "digits", "scale"),
        [
            # The mean magnitude is 0.6, those of the rows are 0.425 and 0.775.
            ("absmean", None, [[0.5, -1, 0.2, 0], [1.5, -0.1, 0.75, -0.75]],
             [[1, -1, 0, 0], [1, 0, 1, -1]], 0.6),
            ("absmean", "row", [[0.5, -1, 0.2, 0], [1.5, -0.1, 0.75, -0.75]],
             [[1, -1, 0, 0], [1, 0, 1, -1]], [0.425, 0.775]),
            # Rounding half up gives [1, 1, 0, 1], half away from zero [1, 1, -1, 1].
            ("absmean", None, [[0.5, 1.5, -0.5, 1.5]], [[0, 1, 0, 1]], 1),
            ("absmedian", None, [[0.5, 9, -0.5, 1, 1]], [[0, 1, 0, 1, 1]], 1),
            # The lower median of an even number; with the upper one or the mean, 0.12 becomes 0.
            ("absmedian", None, [[0.12, 0.3, 0.2, -0.8]], [[1, 1, 1, -1]], 0.2),
            ("absmedian", "group:2", [[4, 1, 2, 0.5, 3]], [[1, 1, 1, 1, 1]], [[1, 0.5, 3]]),
            ("twn", None, [[1, 0.5, -0.25, -0.25]], [[1, 1, 0, 0]], 0.75),
            # The mean is 1: float32(0.7) is not above the threshold.
            ("twn", None, [[np.float32(0.7), 0.5, 2 - 0.5 - np.float32(0.7), 2]],
             [[0, 0, 1, 1]], 1.4),
            ("twn", "group:3", [[1, 2, 3, 5]], [[0, 1, 1, 1]], [[2.5, 5]]),
        ],
    )  # fmt: skip
    def test_literal(
        self, kit: Kit, tmp_path: Path, rule: str, per: str | None, w: Any, digits: Any, scale: Any
    ) -> None:
        report, matrix = quantized(kit, tmp_path, np.array(w, np.float32), rule, per)
        assert report.layout == rule
        assert matrix.to_dense(np.int8).tolist() == digits
        np.testing.assert_allclose(matrix.scale, scale, rtol=1e-7)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("per", ["tensor", "row", "group:2"])
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_not_finite(
        self, kit: Kit, tmp_path: Path, rule: str, per: str, value: float, dtype: str
    ) -> None:
        w = np.array([[1, 2, 3], [4, value, 6]], np.float32)
        tensors = {NAME: kit.cast(w, dtype), "ternary": np.array([[1, -1, 0]], np.int8)}
        source = kit.save(tmp_path / "s.safetensors", tensors)
        report = rsrc.compile(source, tmp_path / "x.rsr", quantize=rule, per=per)
        found = {t.name: t for t in report.tensors}[NAME]
        assert found.kind == "dense"
        assert str(found.reason).endswith(f"{dtype} with NaN or infinite values")

    @pytest.mark.parametrize(
        ("rule", "largest"),
        [(rule, 3.3e38) for rule in RULES]
        # 1 / (1 / this) overflows float32, so it cannot be a median.
        + [(rule, np.finfo(np.float32).max) for rule in ("absmean", "twn")],
    )
    def test_huge_magnitudes(self, kit: Kit, tmp_path: Path, rule: str, largest: float) -> None:
        huge = np.array([[largest, -largest, largest, largest / 2]], np.float32)
        _, matrix = quantized(kit, tmp_path, huge, rule)
        (digits,) = matrix.to_dense(np.int8).tolist()
        assert digits[:3] == [1, -1, 1]
        if rule == "absmean":  # half of the largest is above half of the mean
            assert digits[3] == 1

    @pytest.mark.parametrize("rule", RULES)
    def test_tiny_magnitudes(self, kit: Kit, tmp_path: Path, rule: str) -> None:
        tiny = np.array([[1e-40, -2e-40, 3e-40, 1e-45]], np.float32)
        _, matrix = quantized(kit, tmp_path, tiny, rule)
        digits = matrix.to_dense(np.int8).tolist()
        # absmean and absmedian divide by at least 1e-5.
        assert digits == ([[0, -1, 1, 0]] if rule == "twn" else [[0, 0, 0, 0]])


class TestGranularity:
    W = np.random.default_rng(5).standard_normal((40, 100)).astype(np.float32)

    @pytest.mark.parametrize(
        ("per", "words", "grid"),
        [
            (None, "per tensor", (40, None)),
            ("tensor", "per tensor", (40, None)),
            ("row", "per row", (1, None)),
            ("group:64", "per row and 64 columns", (1, 64)),
            ("group:99", "per row and 99 columns", (1, 99)),
            ("group:100", "per row", (1, None)),
            ("group:999999999", "per row", (1, None)),
        ],
    )
    @pytest.mark.parametrize("rule", RULES)
    def test_record(
        self, kit: Kit, tmp_path: Path, rule: str, per: str | None, words: str, grid: Any
    ) -> None:
        report, _ = quantized(kit, tmp_path, self.W, rule, per)
        assert report.scale == f"{rule} {words} (post-training, lossy)"
        file = RsrFile(tmp_path / "x.rsr")
        (t,) = file.header.tensors
        assert isinstance(t, IndexedTensor)
        assert t.source.layout == rule
        assert t.scale is not None
        assert (t.scale.rows, t.scale.columns) == grid

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("columns", [2, 7, 1000, 5000])
    def test_per_row_is_per_tensor_for_one_row(
        self, kit: Kit, tmp_path: Path, rule: str, columns: int
    ) -> None:
        w = np.random.default_rng(columns).standard_normal((1, columns)).astype(np.float32)
        quantized(kit, tmp_path, w, rule, "tensor")
        whole = RsrFile(tmp_path / "x.rsr").header
        quantized(kit, tmp_path, w, rule, "row")
        header = RsrFile(tmp_path / "x.rsr").header
        # It has the hashes of all sections. The keys of --reuse differ, as the option does.
        assert replace(header, reuse=None) == replace(whole, reuse=None)

    @pytest.mark.parametrize("per", ["tensor", "row", "group:33"])
    @pytest.mark.parametrize("rule", RULES)
    def test_panels_leave_no_trace(
        self, kit: Kit, tmp_path: Path, rule: str, per: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for w in (self.W, kit.bf16((self.W.view(np.uint32) & 0xFFFF0000).view(np.float32))):
            _, matrix = quantized(kit, tmp_path, w, rule, per)
            whole, scale = (tmp_path / "x.rsr").read_bytes(), np.copy(matrix.scale)
            with monkeypatch.context() as patch:
                patch.setattr(float_bits, "PIECE", 900)
                patch.setattr(float_bits, "BLOCK", 250)
                _, matrix = quantized(kit, tmp_path, w, rule, per, threads=2)
            if rule == "absmedian" or per != "tensor":
                assert (tmp_path / "x.rsr").read_bytes() == whole
            else:  # other panels round their sums differently
                np.testing.assert_allclose(matrix.scale, scale, rtol=1e-7)

    def test_groups_need_encoding_ranked(self, kit: Kit, tmp_path: Path) -> None:
        message = "l.weight: has one scale per row and 8 columns, which encoding permuted"
        with pytest.raises(rsrc.OptionError, match=message):
            quantized(kit, tmp_path, self.W, "twn", "group:8", encoding="permuted")
        for per in ("tensor", "row"):
            quantized(kit, tmp_path, self.W, "twn", per, encoding="permuted")

    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    @pytest.mark.parametrize("per", ["tensor", "row", 128])
    def test_memory_is_bounded(self, kit: Kit, tmp_path: Path, dtype: str, per: Per) -> None:
        w = np.zeros((2000, 4096), np.float32 if dtype == "F32" else np.uint16)
        w[:, ::3] = 0.25 if dtype == "F32" else 0x3E80
        raw = kit.literal(dtype, w.shape, w.tobytes())
        checkpoint = open_checkpoint(kit.save(tmp_path / "s.safetensors", {NAME: raw}))
        tracemalloc.start()
        try:
            assert (stats.medians(checkpoint.tensors[NAME], per) == 0).all()
            assert (stats.means(checkpoint.tensors[NAME], per) > 0).all()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 12 << 20  # panels of 1 MiB and counters, not 32 MiB of float32


class TestNames:
    def test_heads_and_routers_stay_dense(self, kit: Kit, tmp_path: Path) -> None:
        """Heads by all their names, and routers of mixtures of experts; gate_proj is neither."""
        kept = ["lm_head", "score", "classifier", "embed_out", "output", "model.score"]
        kept += ["model.layers.0.mlp.gate", "model.layers.0.block_sparse_moe.gate"]
        made = ["model.layers.0.mlp.gate_proj", "model.layers.0.output"]
        w = np.random.default_rng(9).standard_normal((4, 9)).astype(np.float32)
        source = kit.save(tmp_path / "s.safetensors", {f"{name}.weight": w for name in kept + made})
        report = rsrc.compile(source, tmp_path / "x.rsr", quantize="absmean")
        found = {t.name.removesuffix(".weight") for t in report.tensors if t.kind == "ternary"}
        assert found == set(made)

    def test_reasons(self, bench: Bench) -> None:
        w = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
        kept = [
            "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "wte.weight",
            "output.weight", "layers.0.mlp.router.weight", "a.Norm.weight",
        ]  # fmt: skip
        tensors: dict[str, Any] = dict.fromkeys(kept, w)
        tensors |= {"layers.0.q_proj.weight": w, "layers.0.q_proj.lora_A": w, "bias.weight": w[0]}
        found = bench.compile(tensors, quantize="absmean")
        reason = "F32, not ternary: row 0 has several magnitudes; not quantized: "
        by_name = reason + "its name is not a linear layer's (--include overrides)"
        assert [found[name].reason for name in kept] == [by_name] * len(kept)
        assert found["layers.0.q_proj.weight"].layout == "absmean"
        ending = reason + "its name does not end in 'weight' (--include overrides)"
        assert found["layers.0.q_proj.lora_A"].reason == ending
        assert found["bias.weight"].reason == "1-dimensional"
        assert found["anchor"].layout == "int8"  # ternary already, and so not quantized

        found = bench.compile(tensors, quantize="absmean", include=["lm_head*", "*lora_A"])
        indexed = [name for name, t in found.items() if t.kind != "dense"]
        assert indexed == ["lm_head.weight", "layers.0.q_proj.lora_A"]
        assert found["anchor"].reason == "not matched by --include"


class TestCompare:
    """`verify --against` quantizes again, by the rule and granularity of the record."""

    @pytest.mark.parametrize("per", ["tensor", "row", "group:3"])
    @pytest.mark.parametrize("rule", RULES)
    def test_another_source(self, kit: Kit, tmp_path: Path, rule: str, per: str) -> None:
        w = np.random.default_rng(6).standard_normal((4, 9)).astype(np.float32)
        quantized(kit, tmp_path, w, rule, per)
        for values, message in (
            (w * 2, "quantizes to another scale"),
            (-w, "quantizes to other digits"),
            (w * np.float32(np.nan), "cannot be quantized: F32 with NaN"),
        ):
            source = kit.save(tmp_path / "s.safetensors", {NAME: values})
            with pytest.raises(rsrc.MismatchError, match=f"{NAME}: {message}"):
                compare(tmp_path / "x.rsr", source)

    @pytest.mark.parametrize("rule", RULES)
    def test_another_grid(self, kit: Kit, tmp_path: Path, rule: str) -> None:
        """A grid that no rule makes is a mismatch, not a crash."""
        w = np.random.default_rng(7).standard_normal((4, 9)).astype(np.float32)
        quantized(kit, tmp_path, w, rule, "tensor")

        def two_rows(document: dict[str, Any]) -> None:
            document["tensors"][0]["scale"]["rows"] = 9

        kit.tamper(tmp_path / "x.rsr", two_rows)
        with pytest.raises(rsrc.MismatchError, match="another scale"):
            compare(tmp_path / "x.rsr", tmp_path / "s.safetensors")

    @pytest.mark.parametrize("per", ["tensor", "row", "group:5"])
    @pytest.mark.parametrize("rule", RULES)
    def test_sharded(self, kit: Kit, tmp_path: Path, rule: str, per: str) -> None:
        rng = np.random.default_rng(8)
        shards = {
            f"model-{i}.safetensors": {
                f"layers.{i}.up.weight": rng.standard_normal((7, 11)).astype(np.float32),
                f"layers.{i}.norm.weight": np.ones(11, np.float32),
            }
            for i in (1, 2)
        }
        source = kit.save_sharded(tmp_path, shards)
        report = rsrc.compile(source, tmp_path / "x.rsr", quantize=rule, per=per)
        assert [t.layout for t in report.tensors] == [rule, None] * 2
        assert compare(tmp_path / "x.rsr", source) == 4


class TestReport:
    def test_figures(self, kit: Kit, tmp_path: Path) -> None:
        """W = [3, 4, 0.5, -0.5], Q = [3.5, 3.5, 0, 0]."""
        report, _ = quantized(kit, tmp_path, np.array([[3, 4, 0.5, -0.5]], np.float32), "twn")
        assert report.zero_share == 0.5
        assert report.relative_error == pytest.approx(math.sqrt(1 / 25.5), rel=1e-12)
        assert report.cosine == pytest.approx(24.5 / math.sqrt(25.5 * 24.5), rel=1e-12)

    @pytest.mark.parametrize("per", ["tensor", "row", "group:9"])
    @pytest.mark.parametrize("rule", RULES)
    def test_equals_the_norms(self, kit: Kit, tmp_path: Path, rule: str, per: str) -> None:
        W = TestGranularity.W.astype(np.float16)
        report, matrix = quantized(kit, tmp_path, W, rule, per)
        w, q = W.astype(np.float64), matrix.to_dense().astype(np.float64)
        assert report.zero_share == (q == 0).mean()
        norm = np.linalg.norm
        assert report.relative_error == pytest.approx(norm(w - q) / norm(w), rel=1e-9)
        assert report.cosine == pytest.approx((w * q).sum() / norm(w) / norm(q), rel=1e-9)

    def test_nothing_kept(self, kit: Kit, tmp_path: Path) -> None:
        report, _ = quantized(kit, tmp_path, np.array([[1e-9, 2e-9]], np.float32), "absmean")
        assert (report.zero_share, report.relative_error, report.cosine) == (1, 1, 0)

    def test_output(self, kit: Kit, tmp_path: Path) -> None:
        tensors: dict[str, Any] = {
            "good.weight": np.array([[1, -1, 1, 0.9]], np.float32),
            "bad.weight": np.array([[1, -0.1, 0.2, 0.3]], np.float32),
            "ternary.weight": np.array([[1, -1, 0, 0]], np.float32),
        }
        source = kit.save(tmp_path / "s.safetensors", tensors)
        command = ["compile", str(source), "-o", str(tmp_path / "x.rsr"), "--force"]
        plain = CliRunner().invoke(main, [*command, "--json"])
        assert "lossy" not in CliRunner().invoke(main, command).output
        assert {t["cosine"] for t in json.loads(plain.output)["tensors"]} == {None}
        command += ["--quantize", "absmean", "--per", "row"]
        text = CliRunner().invoke(main, command).output
        assert "quantized after training, lossy" in text
        assert "2 tensors in layout absmean, scale: absmean per" in text
        (line,) = (line for line in text.splitlines() if "│ relative error" in line)
        found = {
            t["name"]: t
            for t in json.loads(CliRunner().invoke(main, [*command, "--json"]).output)["tensors"]
        }
        good, bad = (found[f"{n}.weight"]["relative_error"] for n in ("good", "bad"))
        figures = (f"{v:.4f}" for v in (good, (good + bad) / 2, bad))
        words = [word.strip() for word in line.strip("│").split("│")]
        assert words == ["relative error", *figures]
        table = text[text.index("┃ quantized after") :].splitlines()[1:5]
        assert max(map(len, table)) < 80
        assert "worst share of zeros, relative error, cosine: bad.weight" in text.splitlines()
        assert found["ternary.weight"]["cosine"] is None
