"""Every form of `decompile` for every kind of matrix: what it means stays what it was."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsr_testing.checkpoints import Kit, Raw
from rsrc.export import FORMS
from rsrc.export.decompile import decompile
from rsrc.export.tensors import row_windows
from rsrc.inspection.compare import compare

Array = npt.NDArray[Any]

RNG = np.random.default_rng(31)
T = RNG.integers(-1, 2, (8, 96)).astype(np.int8)
SIGNS = np.where(T[:, :10] > 0, 1, -1).astype(np.int8)
BITS = np.abs(T[:, :7])
GROUPS = np.repeat(2.0 ** RNG.integers(-3, 4, (8, 3)), 32, axis=1)
ROWS = 2.0 ** RNG.integers(-3, 4, (8, 1))
NO_BF16 = np.float32(1 / 3)

# Name: a matrix, and the dtype that holds it.
MATRICES: dict[str, tuple[Array, str]] = {
    "ternary": (T, "I8"),
    "signs": (SIGNS, "I8"),
    "bits": (BITS, "I8"),
    "tensor": (T * 0.5, "BF16"),
    "tensor16": (T * np.float16(0.1), "F16"),
    "tensor32": (T * NO_BF16, "F32"),
    "signs32": (SIGNS * NO_BF16, "F32"),
    "bits16": (BITS * np.float16(0.3), "F16"),
    "row": (T * ROWS, "F16"),
    "group": (T * GROUPS, "F16"),
    "negative_zeros": (np.where(T == 0, -0.0, T * 0.25), "BF16"),
    "odd": (T[:5, :7] * 0.5, "F32"),
    "one": (T[:1], "I8"),
    "zeros": (np.zeros((4, 6)), "F32"),
    "no_rows": (np.zeros((0, 6)), "F32"),
    "no_columns": (np.zeros((4, 0)), "F32"),
}
PER_TENSOR = [name for name in MATRICES if name not in ("row", "group")]


def tensors(kit: Kit, names: Any = MATRICES) -> dict[str, Array | Raw]:
    found: dict[str, Array | Raw] = {}
    for name in names:
        values, dtype = MATRICES[name]
        found[name] = values if dtype == "I8" else kit.cast(values, dtype)
    found["norm"] = kit.bf16([1.0, -2.0, 0.5])
    return found


@pytest.fixture
def rsr(kit: Kit, tmp_path: Path) -> Path:
    """All matrices, from a folder without config.json."""
    source = kit.save(tmp_path / "s.safetensors", tensors(kit))
    rsrc.compile(source, tmp_path / "x.rsr")
    return tmp_path / "x.rsr"


def compiled(kit: Kit, tmp_path: Path, names: Any, config: Any = None, **more: Any) -> Path:
    """Compile some of the matrices, and `more` tensors, from a model directory."""
    folder = tmp_path / "source"
    folder.mkdir()
    kit.save(folder / "model.safetensors", {**tensors(kit, names), **more}, {"by": "test"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"a tokenizer": 1}')
    rsrc.compile(folder, tmp_path / "m.rsr")
    return tmp_path / "m.rsr"


def told(rsr: Path, output: Path, **options: Any) -> list[str]:
    """Decompile; return what was noted."""
    notes: list[str] = []
    decompile(rsr, output, **options, note=notes.append)
    return notes


def dense(tensor: Raw) -> npt.NDArray[np.float64]:
    """Read floats exactly, by other means than the compiler's."""
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        values = wide.view(np.float32)
    else:
        values = np.frombuffer(tensor.data, {"F16": "<f2", "F32": "<f4", "I8": "i1"}[tensor.dtype])
    return values.astype(np.float64).reshape(tensor.shape)


def means(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return what the runtime says a .rsr file means."""
    with rsr_runtime.load(path, verify=True) as model:
        return {
            name: found.to_dense() if isinstance(found, rsr_runtime.Matrix) else np.array(found)
            for name, found in model.items()
        }


class TestFloat:
    def test_every_matrix_is_what_it_means(self, kit: Kit, rsr: Path, tmp_path: Path) -> None:
        back = tmp_path / "back.safetensors"
        decompile(rsr, back, to="float")
        found, source = kit.judge(back), kit.judge(tmp_path / "s.safetensors")
        assert set(found) == set(source)
        for name, (values, dtype) in MATRICES.items():
            assert dense(found[name]).tolist() == values.tolist(), name
            if dtype != "I8":  # also the signs of zeros
                assert found[name] == source[name], name
        assert {found[name].dtype for name in ("ternary", "signs", "bits")} == {"BF16"}
        rsrc.compile(back, tmp_path / "again.rsr")
        assert compare(tmp_path / "again.rsr", back) == len(found)
        again = means(tmp_path / "again.rsr")
        for name, want in means(rsr).items():
            assert again[name].tobytes() == want.tobytes(), name

    def test_permuted(self, kit: Kit, tmp_path: Path) -> None:
        names = [name for name in MATRICES if name != "group"]  # which that encoding cannot hold
        source = kit.save(tmp_path / "s.safetensors", tensors(kit, names))
        rsrc.compile(source, tmp_path / "x.rsr", encoding="permuted")
        decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors", to="float")
        found = kit.judge(tmp_path / "back.safetensors")
        for name in names:
            assert dense(found[name]).tolist() == MATRICES[name][0].tolist(), name

    def test_the_smallest_float_that_holds_the_scale(self, kit: Kit, tmp_path: Path) -> None:
        """Quantized masters have a scale that the source's dtype rarely holds."""
        folder = tmp_path / "f"
        folder.mkdir()
        noise = RNG.integers(-3, 4, T.shape) / 64  # which BF16 adds to 0.75 exactly
        W = kit.bf16(T * 0.75 + noise)
        kit.save(folder / "model.safetensors", {"a.weight": W})
        rsrc.compile(folder, tmp_path / "x.rsr", quantize="absmean")
        assert decompile(tmp_path / "x.rsr", tmp_path / "out", to="float") == ["a.weight"]
        found = kit.judge(tmp_path / "out" / "model.safetensors")["a.weight"]
        assert found.dtype == "F32"
        assert (dense(found) == means(tmp_path / "x.rsr")["a.weight"]).all()


W = (T * 0.5 + RNG.integers(-1, 2, T.shape) / 64).astype(np.float32)
SELF_QUANTIZING: dict[str, tuple[Any, dict[str, Any]]] = {
    "online": ({"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}},
               {}),
    "1bitLLM": ({"architectures": ["BitnetForCausalLM"], "weight_bits": 1}, {}),
    "paretoq": ({"w_bits": 0}, {"l.weight_clip_val": np.full((8, 1), 0.75, np.float32)}),
    "norm": (None, {"l.norm.weight": np.ones(96, np.float32)}),
}  # fmt: skip


class TestModelsThatQuantizeThemselves:
    """What is written compiles again to the same scales, or a note says that it does not."""

    @pytest.mark.parametrize("kind", SELF_QUANTIZING)
    @pytest.mark.parametrize("to", ["source", "float"])
    @pytest.mark.parametrize("name", ["out", "out.safetensors"])
    def test_no_scale_shrinks_in_silence(
        self, kit: Kit, tmp_path: Path, kind: str, to: str, name: str
    ) -> None:
        config, more = SELF_QUANTIZING[kind]
        rsr = compiled(kit, tmp_path, [], config, **{"l.weight": W, "a": T}, **more)
        want = means(rsr)["l.weight"]
        notes = told(rsr, tmp_path / name, to=to)
        if (to, name) == ("float", "out") and kind != "norm":
            assert notes == []
            rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
            assert (means(tmp_path / "again.rsr")["l.weight"] == want).all()
            found = json.loads((tmp_path / "out" / "config.json").read_text())
            assert found == ({"architectures": ["BitnetForCausalLM"]} if kind == "1bitLLM" else {})
            return
        (note,) = notes
        assert "again and get smaller scales ('l.weight'): keep the original" in note
        assert ("--to bitnet" in note) == (kind != "paretoq")
        assert ("--to float into a directory" in note) == (kind != "norm")

    @pytest.mark.parametrize("kind", ["online", "1bitLLM", "norm"])
    def test_bitnet_keeps_the_scales(self, kit: Kit, tmp_path: Path, kind: str) -> None:
        config, more = SELF_QUANTIZING[kind]
        rsr = compiled(kit, tmp_path, [], config, **{"l.weight": W}, **more)
        decompile(rsr, tmp_path / "out", to="bitnet")
        rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
        want = means(rsr)["l.weight"]
        np.testing.assert_allclose(means(tmp_path / "again.rsr")["l.weight"], want, rtol=1e-6)

    def test_what_the_user_had_quantized_is_no_such_model(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "s.safetensors", {"l.weight": W})
        rsrc.compile(source, tmp_path / "x.rsr", quantize="absmean")
        for to in ("source", "float"):
            assert told(tmp_path / "x.rsr", tmp_path / to, to=to) == []


class TestInt8:
    def test_every_matrix(self, kit: Kit, rsr: Path, tmp_path: Path) -> None:
        back = tmp_path / "back.safetensors"
        decompile(rsr, back, to="int8")
        found = kit.judge(back)
        for name, (values, _) in MATRICES.items():
            assert found[name].dtype == "I8"
            meant = dense(found[name])
            assert set(np.unique(meant)) <= {-1, 0, 1}
            if f"{name}_scale" in found:
                assert found[f"{name}_scale"].dtype == "F32"
                scale = dense(found[f"{name}_scale"])
                if scale.ndim == 2:
                    scale = np.repeat(scale, 32, axis=1)
                elif scale.size > 1:
                    scale = scale[:, None]
                meant = meant * scale
            assert meant.tolist() == values.tolist(), name
        shapes = {name: t.shape for name, t in found.items() if name.endswith("_scale")}
        per_tensor = [
            name
            for name in PER_TENSOR
            if MATRICES[name][1] != "I8" and name not in ("no_rows",)
        ]  # fmt: skip
        assert shapes == {
            "row_scale": (8,),
            "group_scale": (8, 3),
            **{f"{name}_scale": (1,) for name in per_tensor},
        }
        # The same digits and scales again.
        rsrc.compile(back, tmp_path / "again.rsr")
        assert compare(tmp_path / "again.rsr", back) == len(found)
        again = means(tmp_path / "again.rsr")
        for name, want in means(rsr).items():
            assert (again[name] == want).all(), name

    @pytest.mark.parametrize(
        ("columns", "per", "groups"),
        [(100, 64, 2), (100, 50, 10), (100, 7, 100), (96, 48, 4), (70, 32, 3), (300, 150, 4)],
    )  # fmt: skip
    @pytest.mark.parametrize("rows", [3, 2000])
    def test_groups_are_read_as_they_are_written(
        self, kit: Kit, tmp_path: Path, columns: int, per: int, groups: int, rows: int
    ) -> None:
        """50 of 100 columns make two groups, as 64 do: then they are written narrower."""
        w = RNG.standard_normal((rows, columns)).astype(np.float32)
        source = kit.save(tmp_path / "s.safetensors", {"l.weight": w})
        rsrc.compile(source, tmp_path / "x.rsr", quantize="twn", per=f"group:{per}")
        want = means(tmp_path / "x.rsr")
        # Twice: the scales of 2000 rows are a tensor of their own then, and are written once.
        for i in range(2):
            back = tmp_path / f"back{i}.safetensors"
            decompile(tmp_path / "x.rsr", back, to="int8")
            found = kit.judge(back)
            assert {name: t.shape for name, t in found.items()} == {
                "l.weight": (rows, columns), "l.weight_scale": (rows, groups),
            }  # fmt: skip
            rsrc.compile(back, tmp_path / "x.rsr", force=True)
            assert compare(tmp_path / "x.rsr", back) == 2
            assert (means(tmp_path / "x.rsr")["l.weight"] == want["l.weight"]).all()
        decompile(tmp_path / "x.rsr", tmp_path / "float.safetensors", to="float")
        assert set(kit.judge(tmp_path / "float.safetensors")) == {"l.weight"}

    def test_row_blocks(self, kit: Kit, tmp_path: Path) -> None:
        """A scale for several rows is that of each of them."""
        source = kit.save(tmp_path / "s.safetensors", {"w": (T[:, :12] * ROWS).astype(np.float32)})
        rsrc.compile(source, tmp_path / "x.rsr", encoding="permuted")
        file = RsrFile(tmp_path / "x.rsr")
        (t,) = file.header.tensors
        assert isinstance(t, IndexedTensor)
        assert t.scale is not None
        number = t.scale.section

        def in_blocks(document: dict[str, Any]) -> None:
            document["tensors"][0]["scale"]["rows"] = 3
            stored = ROWS[:3].astype(np.float32).tobytes()
            size = {"size": 12, "stored_size": 12, "sha256": hashlib.sha256(stored).digest()}
            document["sections"][number] |= size

        data = bytearray((tmp_path / "x.rsr").read_bytes())
        offset = file.header.sections[number].offset
        data[offset + 12 : offset + 32] = bytes(20)  # padding now
        (tmp_path / "x.rsr").write_bytes(data)
        kit.tamper(tmp_path / "x.rsr", in_blocks)
        decompile(tmp_path / "x.rsr", tmp_path / "back.safetensors", to="int8")
        found = dense(kit.judge(tmp_path / "back.safetensors")["w_scale"])
        assert found.tolist() == [float(ROWS[i // 3, 0]) for i in range(8)]


BITNET: Mapping[str, Any] = {"quant_method": "bitnet", "linear_class": "autobitlinear"}


class TestBitNet:
    def test_every_matrix_of_one_scale(self, kit: Kit, tmp_path: Path) -> None:
        rsr, out = compiled(kit, tmp_path, PER_TENSOR), tmp_path / "out"
        notes = told(rsr, out, to="bitnet")
        assert "multiplies" in notes[0]
        assert json.loads((out / "config.json").read_text()) == {
            "quantization_config": {**BITNET, "quantization_mode": "offline"}
        }
        assert (out / "tokenizer.json").read_text() == '{"a tokenizer": 1}'
        found = kit.judge(out / "model.safetensors")
        for name in PER_TENSOR:
            values = MATRICES[name][0]
            scale = dense(found[f"{name}_scale"])
            assert scale.shape == (1,)
            assert scale > 0
            digits = np.sign(values).astype(np.int8)
            if len(values) % 4:
                assert found[name].dtype == "BF16"
                assert dense(found[name]).tolist() == digits.tolist()
            else:
                assert found[name] == kit.raw(kit.pack(digits)), name
            assert (digits * scale).tolist() == values.tolist(), name
        assert found["norm"] == kit.judge(tmp_path / "source" / "model.safetensors")["norm"]
        rsrc.compile(out, tmp_path / "again.rsr")
        again = means(tmp_path / "again.rsr")
        for name, want in means(rsr).items():
            assert (again[name] == want).all(), name

    def test_scales_take_the_smallest_float(self, kit: Kit, tmp_path: Path) -> None:
        names = ("tensor", "tensor16", "tensor32", "ternary")
        decompile(compiled(kit, tmp_path, names), tmp_path / "out", to="bitnet")
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        assert [found[f"{name}_scale"].dtype for name in names] == ["BF16", "F16", "F32", "BF16"]

    def test_several_scales_are_refused(self, kit: Kit, rsr: Path, tmp_path: Path) -> None:
        with pytest.raises(rsrc.ExportError, match=r"several for 'row', 'group': .*--to int8"):
            decompile(rsr, tmp_path / "out", to="bitnet")
        assert not (tmp_path / "out").exists()

    def test_a_file_needs_a_config_that_says_it(self, kit: Kit, tmp_path: Path) -> None:
        rsr = compiled(kit, tmp_path, ["tensor"], {"model_type": "bitnet"})
        with pytest.raises(rsrc.ExportError, match="name a directory"):
            decompile(rsr, tmp_path / "out.safetensors", to="bitnet")
        assert not (tmp_path / "out.safetensors").exists()

    @pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear", None])
    def test_a_config_that_says_it_stays(
        self, kit: Kit, tmp_path: Path, linear_class: str | None
    ) -> None:
        """Packed tensors come back as they were, alone or in a directory."""
        settings = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
        if linear_class:
            settings["linear_class"] = linear_class
        packed = {"a.weight": kit.pack(T), "a.weight_scale": kit.bf16([3.0])}
        config = {"model_type": "llama", "quantization_config": settings}
        rsr = compiled(kit, tmp_path, [], config, **packed)
        assert told(rsr, tmp_path / "out.safetensors", to="bitnet") == []
        assert told(rsr, tmp_path / "out", to="bitnet") == []
        source = kit.judge(tmp_path / "source" / "model.safetensors")
        assert kit.judge(tmp_path / "out.safetensors") == source
        assert kit.judge(tmp_path / "out" / "model.safetensors") == source
        text = (tmp_path / "source" / "config.json").read_text()
        assert (tmp_path / "out" / "config.json").read_text() == text

    def test_online_masters_become_offline(self, kit: Kit, tmp_path: Path) -> None:
        config = {"quantization_config": {**BITNET, "quantization_mode": "online", "a": 1}}
        rsr = compiled(kit, tmp_path, ["tensor"], config)
        decompile(rsr, tmp_path / "out", to="bitnet")
        found = json.loads((tmp_path / "out" / "config.json").read_text())
        assert found["quantization_config"] == {**BITNET, "quantization_mode": "offline", "a": 1}

    def test_biases_are_not_scaled(self, kit: Kit, tmp_path: Path) -> None:
        """Which autobitlinear does, and bitlinear does not: it divides before it adds."""
        weight = (T * 0.125).astype(np.float32)
        more = {"a.weight": weight, "a.bias": kit.bf16(np.ones(8))}
        decompile(compiled(kit, tmp_path, [], {}, **more), tmp_path / "out", to="bitnet")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["quantization_config"]["linear_class"] == "bitlinear"
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        assert dense(found["a.weight_scale"]) == [8.0]
        rsrc.compile(tmp_path / "out", tmp_path / "again.rsr")
        assert (means(tmp_path / "again.rsr")["a.weight"] == weight).all()

    def test_reciprocals(self, kit: Kit, tmp_path: Path) -> None:
        """Each that a float32 gives is found; one that none gives is refused."""
        scales = np.random.default_rng(5).uniform(0.01, 3, 400).astype(np.float32)
        given = np.float32(1) / scales  # these have a float each, for instance `scales`
        config = {"quantization_config": {"quant_method": "bitnet"}}
        more: dict[str, Array] = {
            f"a{i}.weight": np.array([[s], [-s], [0], [s]], np.float32) for i, s in enumerate(given)
        }
        rsr = compiled(kit, tmp_path, [], config, **more)
        decompile(rsr, tmp_path / "out", to="bitnet")
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        for i, s in enumerate(given):
            assert np.float32(1) / np.float32(dense(found[f"a{i}.weight_scale"])[0]) == s
        # Just below 2, reciprocals lie twice as far apart as numbers.
        near = np.float32(2) - np.arange(1, 9, dtype=np.float32) * np.float32(2**-23)
        around = np.float32(0.5) + np.arange(0, 64, dtype=np.float32) * np.float32(2**-24)
        missing = next(s for s in near if not (np.float32(1) / around == s).any())
        weight = np.array([[missing], [-missing], [0], [missing]], np.float32)
        source = kit.save(tmp_path / "source" / "model.safetensors", {"a.weight": weight})
        rsrc.compile(source.parent, rsr, force=True)
        with pytest.raises(rsrc.ExportError, match=r"no float32 gives the scale of 'a.weight'"):
            decompile(rsr, tmp_path / "out2", to="bitnet")

    def test_rows_that_bitlinear_has_not(self, kit: Kit, tmp_path: Path) -> None:
        config = {"quantization_config": {"quant_method": "bitnet"}}
        rsr = compiled(kit, tmp_path, ["odd", "tensor"], config)
        with pytest.raises(rsrc.ExportError, match=r"a multiple of 4 rows, .*: 'odd'"):
            decompile(rsr, tmp_path / "out", to="bitnet")

    def test_what_is_no_linear_layer_is_not_packed(self, kit: Kit, tmp_path: Path) -> None:
        names = ("model.embed_tokens.weight", "lm_head.weight")
        wide = kit.bf16(np.arange(12).reshape(4, 3))
        more: dict[str, Any] = {name: (T * 0.5).astype(np.float32) for name in names}
        more |= {"model.layers.0.q.weight": T, "model.layers.1.q.weight": wide}
        config = {"quantization_config": {"bits": 2}, "quantization": {"bits": 2}, "x": 1}
        rsr = compiled(kit, tmp_path, [], config, **more)
        notes = told(rsr, tmp_path / "out", to="bitnet")
        assert "floats, being no linear layers: 'model.embed_tokens.weight', 'lm_head" in notes[0]
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        assert {found[name].dtype for name in names} == {"F32"}
        assert found["model.layers.0.q.weight"].dtype == "U8"
        assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
            "x": 1,
            "quantization_config": {
                **BITNET,
                "quantization_mode": "offline",
                "modules_to_not_convert": ["lm_head", "model.layers.1.q"],
            },
        }

    def test_heads_stay_floats(self, kit: Kit, tmp_path: Path) -> None:
        """transformers makes no BitLinear of them, and a list that is made must not change that."""
        half = (T * 0.5).astype(np.float32)
        more: dict[str, Any] = {"score.weight": half, "a.q.weight": half, "a.classifier.weight": T}
        more["a.k.weight"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        rsr = compiled(kit, tmp_path, [], {}, **more)
        decompile(rsr, tmp_path / "out", to="bitnet")
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        assert {name: t.dtype for name, t in found.items() if t.dtype == "U8"} == {
            "a.q.weight": "U8"
        }
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        modules = config["quantization_config"]["modules_to_not_convert"]
        assert sorted(modules) == ["a.classifier", "a.k", "lm_head", "score"]

    @pytest.mark.parametrize("mode", ["offline", "online"])
    def test_a_list_decides_of_heads(self, kit: Kit, tmp_path: Path, mode: str) -> None:
        half = (T * 0.5).astype(np.float32)
        settings: dict[str, Any] = {"quant_method": "bitnet", "quantization_mode": mode}
        for i, (modules, packed) in enumerate([([], True), (["x"], True), (["lm_head"], False)]):
            folder = tmp_path / str(i)
            folder.mkdir()
            config = {"quantization_config": {**settings, "modules_to_not_convert": modules}}
            more = {"lm_head.weight": half, "a.weight": half}
            rsr = compiled(kit, folder, [], config, **more)
            decompile(rsr, folder / "out", to="bitnet")
            found = kit.judge(folder / "out" / "model.safetensors")
            assert found["lm_head.weight"].dtype == ("U8" if packed else "F32")
            text = (folder / "out" / "config.json").read_text()
            assert json.loads(text)["quantization_config"]["modules_to_not_convert"] == modules

    def test_floats_that_the_config_would_convert_are_listed(
        self, kit: Kit, tmp_path: Path
    ) -> None:
        """Ternary or not; and an empty list gets no lm_head, which it did not have."""
        half = (T * 0.5).astype(np.float32)
        wide = np.arange(12, dtype=np.float32).reshape(4, 3)
        more: dict[str, Any] = {"embed.in.weight": half, "a.weight": half, "lm_head.weight": wide}
        settings: dict[str, Any] = {"quant_method": "bitnet", "modules_to_not_convert": []}
        rsr = compiled(kit, tmp_path, [], {"quantization_config": settings}, **more)
        decompile(rsr, tmp_path / "out", to="bitnet")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        modules = config["quantization_config"]["modules_to_not_convert"]
        assert sorted(modules) == ["embed.in", "lm_head"]

    @pytest.mark.parametrize("to", ["bitnet", "int8"])
    def test_clip_values_stay_floats(self, kit: Kit, tmp_path: Path, to: str) -> None:
        """Alike in all rows, they look like a ternary matrix of one column."""
        clip = np.full((8, 1), 0.75, np.float32)
        more: dict[str, Array | Raw]
        more = {"a.weight": W, "a.weight_clip_val": clip, "b.weight": T}
        rsr = compiled(kit, tmp_path, [], {"w_bits": 0}, **more)
        if to == "bitnet":  # ParetoQ has a scale for each row
            more["a.weight"] = (T * 0.5).astype(np.float32)
            kit.save(tmp_path / "source" / "model.safetensors", more)
            (tmp_path / "source" / "config.json").write_text("{}")
            rsrc.compile(tmp_path / "source", rsr, force=True)
        decompile(rsr, tmp_path / "out", to=to)
        found = kit.judge(tmp_path / "out" / "model.safetensors")
        assert found["a.weight_clip_val"] == kit.raw(clip)

    def test_nothing_to_pack(self, kit: Kit, tmp_path: Path) -> None:
        rsr = compiled(kit, tmp_path, [], None, **{"embed.weight": T})
        with pytest.raises(rsrc.ExportError, match="no matrix of it is a linear layer"):
            decompile(rsr, tmp_path / "out", to="bitnet")

    def test_a_name_that_is_taken(self, kit: Kit, tmp_path: Path) -> None:
        more = {"w": T.astype(np.float32), "w_scale": np.ones(3, np.float32)}
        rsr = compiled(kit, tmp_path, [], None, **more)
        with pytest.raises(rsrc.ExportError, match="two tensors would be named 'w_scale'"):
            decompile(rsr, tmp_path / "out", to="bitnet")
        assert not (tmp_path / "out").exists()

    def test_unheard_of_linear_class(self, kit: Kit, tmp_path: Path) -> None:
        config = {"quantization_config": {"quant_method": "bitnet", "linear_class": "x"}}
        rsr = compiled(kit, tmp_path, ["tensor"], config)
        with pytest.raises(rsrc.ExportError, match="linear_class is 'x'"):
            decompile(rsr, tmp_path / "out", to="bitnet")


class TestDirectory:
    def test_source(self, kit: Kit, tmp_path: Path) -> None:
        config = {"quantization_config": {"quant_method": "bitnet"}, "b": [1]}
        rsr, out = compiled(kit, tmp_path, MATRICES, config), tmp_path / "out"
        assert decompile(rsr, out) == decompile(rsr, tmp_path / "out.safetensors")
        names = sorted(p.name for p in out.iterdir())
        assert names == ["config.json", "model.safetensors", "tokenizer.json"]
        for name in names[0], names[2]:
            assert (out / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
        single = (tmp_path / "out.safetensors").read_bytes()
        assert (out / "model.safetensors").read_bytes() == single
        rsrc.compile(out, tmp_path / "again.rsr")
        assert (tmp_path / "again.rsr").read_bytes() == rsr.read_bytes()

    @pytest.mark.parametrize("to", ["float", "int8"])
    def test_what_is_not_packed_is_not_said_to_be(self, kit: Kit, tmp_path: Path, to: str) -> None:
        packed = {"a.weight": kit.pack(T), "a.weight_scale": kit.bf16([3.0])}
        settings = {"quant_method": "bitnet"}
        rsr = compiled(kit, tmp_path, [], {"b": 1, "quantization_config": settings}, **packed)
        decompile(rsr, tmp_path / "out", to=to)
        assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"b": 1}

    @pytest.mark.parametrize("to", ["float", "int8"])
    def test_other_settings_stay(self, kit: Kit, tmp_path: Path, to: str) -> None:
        config = {"quantization_config": {"quant_method": "other"}}
        decompile(compiled(kit, tmp_path, ["row"], config), tmp_path / "out", to=to)
        text = (tmp_path / "source" / "config.json").read_text()
        assert (tmp_path / "out" / "config.json").read_text() == text

    def test_settings_of_mlx_go(self, kit: Kit, tmp_path: Path) -> None:
        """Which names what it has quantized twice."""
        rsr = compiled(kit, tmp_path, ["group"])

        def as_mlx(document: dict[str, Any]) -> None:
            for t in document["tensors"]:
                if t["name"] == "group":
                    t["source"] |= {"layout": "mlx", "dtype": "U32", "shape": [8, 6]}

        data = bytearray(kit.tamper(rsr, as_mlx).read_bytes())
        data[10] = 2  # the minor version that has this layout
        rsr.write_bytes(data)
        config = {"quantization": {"bits": 2}, "quantization_config": {"bits": 2}, "b": 1}
        export = FORMS["float"](RsrFile(rsr), config)
        assert export.config == {"b": 1}
        group = next(t for t in export.tensors if t.name == "group")
        assert (group.dtype, group.shape) == ("BF16", (8, 96))
        wide = np.concatenate(list(group.pieces())).view("<u2").astype(np.uint32) << 16
        assert (wide.view(np.float32).reshape(8, 96) == MATRICES["group"][0]).all()

    @pytest.mark.parametrize("force", [True, False])
    def test_a_folder_with_files_is_never_touched(
        self, kit: Kit, tmp_path: Path, force: bool
    ) -> None:
        rsr, out = compiled(kit, tmp_path, ["row"]), tmp_path / "out"
        out.mkdir()
        decompile(rsr, out, force=force)  # an empty one is filled
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        with pytest.raises(rsrc.OutputExistsError, match="with files in it"):
            decompile(rsr, out, to="float", force=force)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        (tmp_path / "file").write_bytes(b"precious")
        with pytest.raises(rsrc.OutputExistsError, match="no folder"):
            decompile(rsr, tmp_path / "file", force=force)
        assert (tmp_path / "file").read_bytes() == b"precious"
        with pytest.raises(FileNotFoundError):
            decompile(rsr, tmp_path / "no" / "out", force=force)

    def test_failing_leaves_nothing(
        self, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rsr = compiled(kit, tmp_path, ["row"], {})
        before = sorted(p.name for p in tmp_path.iterdir())

        def fail(*call: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            decompile(rsr, tmp_path / "out", progress=fail)
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    def test_files_that_are_no_model_s_are_not_written(self, kit: Kit, tmp_path: Path) -> None:
        rsr = compiled(kit, tmp_path, ["row"])

        def rename(document: dict[str, Any]) -> None:
            document["files"][0]["name"] = "model.safetensors"

        kit.tamper(rsr, rename)
        decompile(rsr, tmp_path / "out")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
        assert set(kit.judge(tmp_path / "out" / "model.safetensors")) == {"row", "norm"}

    @pytest.mark.parametrize("text", ["[]", "{", "\udcff"])
    def test_a_config_that_is_none(self, kit: Kit, tmp_path: Path, text: str) -> None:
        folder = tmp_path / "source"
        folder.mkdir()
        kit.save(folder / "model.safetensors", {"w": T})
        (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        rsrc.compile(folder, tmp_path / "m.rsr")
        decompile(tmp_path / "m.rsr", tmp_path / "as it is")
        for to in ("float", "int8", "bitnet", "gguf"):
            with pytest.raises(rsrc.SourceError, match=r"config\.json"):
                decompile(tmp_path / "m.rsr", tmp_path / "out", to=to)


def test_options(kit: Kit, rsr: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"to": "onnx"}, "found 'onnx', expected source, bitnet, int8, float, gguf"),
        ({"type": "TQ1_0"}, "which only form 'gguf' has"),
        ({"to": "float", "type": "TQ2_0"}, "which only form 'gguf' has"),
        ({"to": "gguf", "type": "Q4_0"}, "expected TQ1_0 or TQ2_0"),
    ]
    for options, message in wrong:
        with pytest.raises(rsrc.OptionError, match=message):
            decompile(rsr, out, **options)
        assert not out.exists()


@st.composite
def matrices(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Ternary or binary floats, some of the zeros negative; one scale, one per row or per group."""
    rows, columns = draw(st.integers(0, 9)), draw(st.integers(0, 70))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    t = rng.choice(draw(st.sampled_from([(-1, 0, 1), (-1, 1), (0, 1), (0,)])), (rows, columns))
    width = draw(st.sampled_from([None, 1, 32]))
    shape = {None: (1, 1), 1: (rows, 1), 32: (rows, -(-columns // 32))}[width]
    scales = rng.uniform(0.01, 9, shape).astype(np.float32)
    if width == 32:
        scales = np.repeat(scales, 32, axis=1)[:, :columns]
    values: npt.NDArray[np.float32] = (t * scales).astype(np.float32)
    values[(t == 0) & (rng.random(t.shape) < draw(st.sampled_from([0, 0.5])))] = -0.0
    return values


@settings(max_examples=30, deadline=None)
@given(values=matrices(), encoding=st.sampled_from(["ranked", "permuted"]))
def test_any_matrix_in_any_form(
    kit: Kit, scratch: Path, values: npt.NDArray[np.float32], encoding: str
) -> None:
    rsr, back = scratch / "forms.rsr", scratch / "forms.safetensors"
    source = kit.save(scratch / "forms_source.safetensors", {"w": values, "i": T})
    try:
        rsrc.compile(source, rsr, encoding=encoding, force=True)
    except rsrc.OptionError:
        assume(False)  # permuted has no groups
    indexed = isinstance(
        next(t for t in RsrFile(rsr).header.tensors if t.name == "w"), IndexedTensor
    )
    decompile(rsr, back, to="float", force=True)
    assert kit.judge(back)["w"] == kit.raw(values)  # bit for bit
    decompile(rsr, back, to="int8", force=True)
    found = kit.judge(back)
    if indexed and values.size:
        scale = dense(found["w_scale"])
        if scale.ndim == 2:
            file = RsrFile(rsr)
            t = next(t for t in file.header.tensors if t.name == "w")
            assert isinstance(t, IndexedTensor)
            scale = np.repeat(scale, t.group_columns, axis=1)[:, : values.shape[1]]
        elif scale.size > 1:
            scale = scale[:, None]
        assert (dense(found["w"]) * scale == values).all()
    out = scratch / f"forms_{os.urandom(8).hex()}"
    if indexed and len(set(dense(found["w_scale"]).flat if "w_scale" in found else ())) > 1:
        with pytest.raises(rsrc.ExportError, match="several for 'w'"):
            decompile(rsr, out, to="bitnet")
        return
    decompile(rsr, out, to="bitnet")
    rsrc.compile(out, rsr, force=True)
    assert (means(rsr)["w"] == values).all()


@pytest.mark.parametrize("to", ["float", "int8", "bitnet"])
def test_large_matrices_in_windows(kit: Kit, tmp_path: Path, to: str) -> None:
    """Windows join without a seam, and only the digits are in memory whole."""
    shape = (2052, 1537)
    t = np.random.default_rng(3).integers(-1, 2, shape).astype(np.int8)
    assert len(list(row_windows(shape))) > 3
    wide = kit.bf16(np.where(t == 0, np.float32(-0.0), t * np.float32(0.5)))
    source = kit.save(tmp_path / "s.safetensors", {"w": wide})
    rsrc.compile(source, tmp_path / "x.rsr")
    tracemalloc.start()
    try:
        decompile(tmp_path / "x.rsr", tmp_path / "out", to=to)
        assert tracemalloc.get_traced_memory()[1] < 4 * t.size + (16 << 20)
    finally:
        tracemalloc.stop()
    found = kit.judge(tmp_path / "out" / "model.safetensors")["w"]
    want = {"float": wide, "int8": kit.raw(t), "bitnet": kit.raw(kit.pack(t))}
    assert found == want[to]


def test_a_gguf_name_is_for_gguf(kit: Kit, tmp_path: Path) -> None:
    rsrc.compile(
        kit.save(tmp_path / "s.safetensors", {"w": np.eye(3, dtype=np.int8)}), tmp_path / "x.rsr"
    )
    for form in ("source", "bitnet", "int8", "float"):
        with pytest.raises(rsrc.OptionError, match=r"x\.gguf: a \.gguf file is what --to gguf"):
            decompile(tmp_path / "x.rsr", tmp_path / "x.gguf", to=form)
    assert not (tmp_path / "x.gguf").exists()


def test_mlx_codes_that_are_not_ternary_have_no_other_form(kit: Kit, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "w": np.eye(3, dtype=np.int8),
        "e.weight": np.full((2, 8), 0xFFFFFFFF, np.uint32),
        "e.scales": np.ones((2, 1), np.float32),
        "e.biases": -np.ones((2, 1), np.float32),
    }
    rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
    for form in ("int8", "float", "bitnet", "gguf"):
        with pytest.raises(rsrc.ExportError, match=r"MLX \(U32\).*'e.weight'. Only --to source"):
            decompile(tmp_path / "x.rsr", tmp_path / "y", to=form)
    decompile(tmp_path / "x.rsr", tmp_path / "y.safetensors")
    assert compare(tmp_path / "x.rsr", tmp_path / "y.safetensors") == 4
