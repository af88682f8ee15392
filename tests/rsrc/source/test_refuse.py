"""Each kind of checkpoint that is rejected as a whole, and harmless look-alikes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.source.open import open_checkpoint
from rsrc.source.refuse import FOREIGN_METHODS, REFUSALS

T = np.array([[1, 0, -1]], np.int8)
I32 = np.zeros((2, 2), np.int32)
F16 = np.ones((2, 2), np.float16)
COMPLEX = np.ones((2, 2), np.complex64)

ROTATED = "weights in a rotated basis"
ADAPTER = "a LoRA or other PEFT adapter"
OFFSETS = r"ternary codes with offsets \(ternary-quant\)"
ZEROS = r"integers with zero points \(GPTQ or AWQ\)"
BITSANDBYTES = "weights quantized by bitsandbytes"
FOREIGN = "weights quantized by another method"
IMAGINARY = "complex weights"

Case = dict[str, Any]
REFUSED: dict[str, tuple[str, str, Case]] = {
    "hadamard in the metadata": (
        ROTATED,
        r"its metadata has the key 'prism\.hadamard\.version'",
        {"metadata": {"prism.hadamard.version": "1"}},
    ),
    "hadamard in the config": (
        ROTATED,
        r"its config\.json has the key 'prism\.hadamard\.block_size'",
        {"config": {"prism.hadamard.block_size": 1024}},
    ),
    "lora": (
        ADAPTER,
        r"there is a tensor 'base\.q_proj\.lora_A\.weight'",
        {"tensors": {"base.q_proj.lora_A.weight": F16, "base.q_proj.lora_B.weight": F16}},
    ),
    "lora by loralib": (
        ADAPTER, "there is a tensor 'q.lora_A'", {"tensors": {"q.lora_A": F16, "q.lora_B": F16}},
    ),
    "another adapter": (
        ADAPTER,
        r"there is an adapter_config\.json",
        {"name": "adapter_model.safetensors", "files": {"adapter_config.json": "{}"}},
    ),
    "GPTQ": (
        ZEROS,
        r"there is a tensor 'l\.0\.qweight'",
        {"tensors": {"l.0.qweight": I32, "l.0.qzeros": I32, "l.0.scales": F16, "l.0.g_idx": I32}},
    ),
    "AWQ, symmetric": (
        ZEROS, r"there is a tensor 'l\.qweight'",
        {"tensors": {"l.qweight": I32, "l.scales": F16}},
    ),
    "bitsandbytes, by its tensors": (
        BITSANDBYTES,
        r"there is a tensor 'l\.weight\.quant_state\.bitsandbytes__nf4'",
        {"tensors": {"l.weight": F16, "l.weight.quant_state.bitsandbytes__nf4": np.zeros(9, "u1")}},
    ),
    **{
        method: (
            FOREIGN,
            f"config.json says quant_method '{method}'",
            {"config": {"quantization_config": {"quant_method": method}}},
        )
        for method in sorted(FOREIGN_METHODS)
    },
    "complex by type": (IMAGINARY, r"'l\.weight' is C64", {"tensors": {"l.weight": COMPLEX}}),
    "complex by config": (
        IMAGINARY, r"config\.json says 'fairy2i'", {"config": {"model_type": "fairy2i"}},
    ),
    "complex by class": (
        IMAGINARY,
        r"config\.json says 'iFairyForCausalLM'",
        {"config": {"architectures": ["iFairyForCausalLM"]}},
    ),
    **{
        f"complex in parts, {real}": (
            IMAGINARY,
            f"'{real}' has an imaginary part beside it",
            {"tensors": {imaginary: F16, real: F16}},
        )
        for real, imaginary in (
            ("l.weight_real", "l.weight_imag"),
            ("l.real.weight", "l.imag.weight"),
            ("l.weight_re", "l.weight_im"),
        )
    },
}  # fmt: skip

ACCEPTED: dict[str, Case] = {
    "nothing": {},
    "BitNet": {"config": {"quantization_config": {"quant_method": "bitnet"}}},
    "config of other types": {
        "config": {"quantization_config": 3, "model_type": ["fairy"], "architectures": {"fairy": 1}}
    },
    "half an adapter": {"tensors": {"q.lora_A": F16}},
    "a model beside an adapter's config": {"files": {"adapter_config.json": "{}"}},
    "scales alone": {"tensors": {"l.scales": F16, "qweight": I32}},
    "rotary angles": {"tensors": {"freqs_cis": COMPLEX, "A_real": F16, "A_imag": F16}},
    "metadata about rotation": {"metadata": {"note": "prism.hadamard"}},
    "empty folders": {"folders": ["codes", "scales"]},
}


def make(kit: Kit, folder: Path, case: Case, sharded: bool = False) -> Path:
    """Write a checkpoint with a ternary matrix and what the case adds."""
    for name in case.get("folders", ()):
        (folder / name).mkdir()
    for name, text in case.get("files", {}).items():
        (folder / name).write_text(text)
    if "config" in case:
        (folder / "config.json").write_text(json.dumps(case["config"]))
    tensors = {"ternary": T, **case.get("tensors", {})}
    if sharded:
        stem = case.get("name", "model.safetensors").removesuffix(".safetensors")
        shards = {
            f"{stem}-{i}.safetensors": {name: tensors[name]} for i, name in enumerate(tensors)
        }
        kit.save_sharded(folder, shards)
        kit.save(folder / f"{stem}-0.safetensors", {"ternary": T}, case.get("metadata"))
    else:
        name = case.get("name", "model.safetensors")
        kit.save(folder / name, tensors, case.get("metadata"))
    return folder


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("kind", "sign", "case"), REFUSED.values(), ids=REFUSED)
def test_refused(kit: Kit, tmp_path: Path, kind: str, sign: str, case: Case, sharded: bool) -> None:
    source = make(kit, tmp_path, case, sharded)
    with pytest.raises(rsrc.SourceError, match=rf": {kind}: {sign}\. [A-Z]"):
        rsrc.compile(source, tmp_path / "x.rsr")
    assert not (tmp_path / "x.rsr").exists()


def test_an_adapter_is_for_running(kit: Kit, tmp_path: Path) -> None:
    source = kit.save(tmp_path / "a.safetensors", {"q.lora_A": F16, "q.lora_B": F16})
    with pytest.raises(rsrc.SourceError, match=r"rsrc run MODEL\.rsr --lora DIR$"):
        rsrc.compile(source, tmp_path / "x.rsr")


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_look_alikes(kit: Kit, tmp_path: Path, case: Case) -> None:
    report = rsrc.compile(make(kit, tmp_path, case), tmp_path / "x.rsr")
    assert {t.name: t.kind for t in report.tensors}["ternary"] == "ternary"


def test_files_of_a_folder_without_safetensors(tmp_path: Path) -> None:
    for name in ("codes", "scales"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.layers.0.bin").write_bytes(b"")
    with pytest.raises(rsrc.SourceError, match=rf": {OFFSETS}: there are codes/\*\.bin and sca"):
        open_checkpoint(tmp_path)


def test_a_pickled_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(rsrc.SourceError, match=rf": {ADAPTER}: there is an adapter_c"):
        open_checkpoint(tmp_path)


def test_pickles_of_another_method(tmp_path: Path) -> None:
    """Converting them would not help."""
    config = {"quantization_config": {"quant_method": "torchao"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    for source in (tmp_path, index):
        with pytest.raises(rsrc.SourceError, match=rf": {FOREIGN}: .*'torchao'"):
            open_checkpoint(source)


def test_a_damaged_config_is_reported_by_a_directory_only(kit: Kit, tmp_path: Path) -> None:
    """A file opened by itself leaves model files aside."""
    (tmp_path / "config.json").write_text("[")
    source = kit.save(tmp_path / "x.safetensors", {"w": T})
    with pytest.raises(rsrc.SourceError, match=r"config\.json: not valid JSON"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(source).tensors.keys() == {"w"}


def test_long_names_are_cut(kit: Kit, tmp_path: Path) -> None:
    name = "x" * 100_000
    kit.save(tmp_path / "x.safetensors", {f"{name}.qweight": I32, f"{name}.qzeros": I32})
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 1000


def test_every_kind_has_a_case() -> None:
    tested = {kind.replace("\\", "") for kind in (OFFSETS, *(case[0] for case in REFUSED.values()))}
    assert {refusal.kind for refusal in REFUSALS} == tested
