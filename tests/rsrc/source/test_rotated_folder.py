"""Model directories with a hadamard.json: from transformers' names, and as MLX converts hybrids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rsr_runtime
import rsrc
from rsr_testing import models
from rsr_testing.gguf_files import GgufKit
from rsr_testing.mlx import ternary
from rsr_testing.models import Tensor
from rsr_testing.rotation import PREFIX
from rsrc import ExportError, SourceError
from rsrc.common.errors import MismatchError
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare

FAMILY = models.FAMILIES["bonsai-2-hybrid"]
OUTER = "language_model."


def save_mlx(folder: Path) -> dict[str, Tensor]:
    """Write the family as Prism ML's MLX packs are; return the tensors."""
    made: dict[str, Tensor] = {"vision_tower.patch.weight": Tensor.of(np.ones((2, 2)), "F16")}
    tensors = FAMILY.tensors()
    declared = FAMILY.declaration(tensors)
    signs = dict(
        zip(
            declared[PREFIX + "sign_widths"],
            np.split(
                np.array(declared[PREFIX + "sign_values"], np.float32),
                np.cumsum(declared[PREFIX + "sign_widths"])[:-1],
            ),
            strict=True,
        )
    )
    for name, t in tensors.items():
        module = OUTER + name.removesuffix(".weight")
        if t.values.ndim == 2 and "in_proj_a" not in name and "in_proj_b" not in name:
            made |= {f"{module}.{part}": v for part, v in ternary(t.values, 128).items()}
            made[f"{module}.signs"] = Tensor("F32", signs[t.values.shape[1]])
        elif name.endswith("conv1d.weight"):
            made[OUTER + name] = Tensor.of(t.values.swapaxes(1, 2), "F32")
        elif name.endswith("norm.weight") and "linear_attn" not in name:
            made[OUTER + name] = Tensor.of(1 + t.values.astype(np.float32), "F32")
        else:
            made[OUTER + name] = Tensor.of(t.values.astype(np.float32), "F32")
    FAMILY.save(folder, made)
    config = {
        "model_type": "prism_hadamard_qwen35",
        "base_model_type": "qwen3_5",
        "schema_version": 2,
        "hadamard_config": "hadamard.json",
        "gdn_activation_layout": "grouped",
        "tie_word_embeddings": False,
        "text_config": FAMILY.settings,
        "vision_config": {"depth": 1},
        "quantization": {"group_size": 128, "bits": 2, "mode": "affine"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for key in ("weight_names", "inverse_weight_names"):
        declared[PREFIX + key] = [OUTER + name for name in declared[PREFIX + key]]
    (folder / "hadamard.json").write_text(json.dumps(declared))
    return made


def assert_same_model(found: Path, expected: Path, prefix: str = "") -> None:
    """Check digits, scales, rotations and dense values, these up to the rounding of 1 + w."""
    with rsr_runtime.load(found) as own, rsr_runtime.load(expected) as other:
        assert set(own) == {prefix + name for name in other}
        for name in other:
            a, b = own[prefix + name], other[name]
            if isinstance(b, rsr_runtime.Matrix):
                assert isinstance(a, rsr_runtime.Matrix)
                np.testing.assert_array_equal(a.to_dense(), b.to_dense())
                assert (a.rotation is None) == (b.rotation is None)
                if a.rotation is not None and b.rotation is not None:
                    np.testing.assert_array_equal(a.rotation.factors, b.rotation.factors)
            else:
                assert not isinstance(a, rsr_runtime.Matrix)
                assert a.shape == b.shape
                np.testing.assert_allclose(a.astype(float), b.astype(float), 2e-7, 2e-7)


def test_mlx_packs_are_the_model_of_transformers(tmp_path: Path) -> None:
    save_mlx(tmp_path / "mlx")
    report = rsrc.compile(tmp_path / "mlx", tmp_path / "mlx.rsr")
    assert report.support is not None
    assert report.support.run_reasons == ()
    assert any("a vision tower" in note for note in report.notes)
    compare(tmp_path / "mlx.rsr", tmp_path / "mlx")
    FAMILY.save(tmp_path / "hf")
    rsrc.compile(tmp_path / "hf", tmp_path / "hf.rsr")
    assert_same_model(tmp_path / "mlx.rsr", tmp_path / "hf.rsr", OUTER)


def test_decompiled_and_compiled_again(tmp_path: Path) -> None:
    save_mlx(tmp_path / "mlx")
    rsrc.compile(tmp_path / "mlx", tmp_path / "a.rsr")
    decompile(tmp_path / "a.rsr", tmp_path / "again")
    rsrc.compile(tmp_path / "again", tmp_path / "b.rsr")
    assert_same_model(tmp_path / "b.rsr", tmp_path / "a.rsr")


@pytest.mark.parametrize("to", ["float", "bitnet", "int8", "gguf"])
def test_no_other_form_has_a_basis(to: str, tmp_path: Path) -> None:
    rsr = FAMILY.build(tmp_path)
    with pytest.raises(ExportError, match="rotated basis exist in form source only"):
        decompile(rsr, tmp_path / ("back.gguf" if to == "gguf" else "back"), to=to)


def test_no_file_has_a_basis(tmp_path: Path) -> None:
    rsr = FAMILY.build(tmp_path)
    with pytest.raises(ExportError, match=r"in a directory with a hadamard\.json"):
        decompile(rsr, tmp_path / "back.safetensors")


def test_another_basis_is_another_model(tmp_path: Path) -> None:
    rsr = FAMILY.build(tmp_path)
    path = tmp_path / "model" / "hadamard.json"
    declared = json.loads(path.read_text())
    declared[PREFIX + "sign_values"][0] *= -1
    path.write_text(json.dumps(declared))
    with pytest.raises(MismatchError, match=r"embed_tokens\.weight: in another basis"):
        compare(rsr, tmp_path / "model")


def test_unpacked_files_keep_their_rotations(tmp_path: Path) -> None:
    FAMILY.save(tmp_path / "model")
    rsrc.compile(tmp_path / "model", tmp_path / "small.rsr", zstd=1)
    rsrc.unpack(tmp_path / "small.rsr", tmp_path / "unpacked.rsr")
    rsrc.compile(tmp_path / "model", tmp_path / "plain.rsr")
    assert (tmp_path / "unpacked.rsr").read_bytes() == (tmp_path / "plain.rsr").read_bytes()


def test_an_int8_head(tmp_path: Path) -> None:
    """It is in the basis of the floats that it is made of."""
    pytest.importorskip("tokenizers", reason="needs the extra llm")
    from rsr_runtime import llm

    family = models.FAMILIES["bonsai-2"]
    expected = llm.load(family.build(tmp_path), kv="float32").logits([1, 2, 3])
    rsrc.compile(tmp_path / "model", tmp_path / "head.rsr", head="int8", exclude=["lm_head.weight"])
    found = llm.load(tmp_path / "head.rsr", kv="float32").logits([1, 2, 3])
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def damage(made: dict[str, Tensor]) -> None:
        made[name] = change(made[name])

    return damage


SIGNS = f"{OUTER}lm_head.signs"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (changed(SIGNS, lambda t: Tensor("F32", -t.values)), r"lm_head\.signs' has other signs"),
        (changed(SIGNS, lambda t: Tensor.of(t.values, "F16")), "is F16 .*, expected F32 signs"),
        (
            changed(SIGNS, lambda t: Tensor("F32", t.values[:64])),
            "has shape .1, 64.*, but the decl",
        ),
        (
            lambda made: made.update({f"{OUTER}model.norm.signs": made[SIGNS]}),
            r"hadamard\.json does not name 'language_model\.model\.norm\.weight'",
        ),
    ],
)
def test_signs_that_contradict(
    damage: Callable[[dict[str, Tensor]], None], match: str, tmp_path: Path
) -> None:
    made = save_mlx(tmp_path)
    damage(made)
    (tmp_path / "model.safetensors").write_bytes(models.safetensors(made))
    with pytest.raises(SourceError, match=match):
        rsrc.compile(tmp_path, tmp_path / "x.rsr")


def test_codes_that_stay_dense(tmp_path: Path) -> None:
    """Packed codes that are not ternary are no matrix whose basis a .rsr file could tell."""
    made = save_mlx(tmp_path)
    name = f"{OUTER}lm_head.biases"
    made[name] = Tensor("F16", np.float16(1.5) * made[name].values)
    (tmp_path / "model.safetensors").write_bytes(models.safetensors(made))
    with pytest.raises(SourceError, match=r"lm_head\.weight is in a rotated basis and U32"):
        rsrc.compile(tmp_path, tmp_path / "x.rsr")


def test_beside_a_gguf_file_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hadamard.json").write_text("{}")
    w = np.zeros((1, 1), "<f4").tobytes()
    path = GgufKit().save(tmp_path / "m.gguf", {}, {"w": ((1, 1), 0, w)})
    with pytest.raises(SourceError, match=r"weights in a rotated basis: there is a hadamard\.json"):
        rsrc.compile(path, tmp_path / "x.rsr")
