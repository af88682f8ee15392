"""`accelerate`: transformers' models with their linear layers swapped, against the same unchanged.

Models are those of `rsr_testing.models`, loaded by the judge; logits and texts are transformers'.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import rsrc
from rsr_testing import models
from rsr_testing.parity import golden_llm, judge
from rsr_testing.parity.compare import TOLERANCE
from rsr_testing.parity.judge import torch_and_transformers

torch, transformers = torch_and_transformers()

from rsr_runtime.torch import (  # noqa: E402
    AccelerateError,
    NormalizedRsrLinear,
    RsrLinear,
    accelerate,
)

# The judge computes these as a Llama whose weights hold factors, or a layer twice: another model.
FOLDED = {"minicpm": "layers.0.self_attn.o_proj", "mobilellm": "layers.1.self_attn.q_proj"}
FOLDED["gguf-minicpm"] = FOLDED["minicpm"]
FAMILIES = [name for name in models.FAMILIES if name not in FOLDED]


class Folders:
    """Checkpoints and compiled files of families, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> Path:
        """Return the folder of a family: model/ and model.rsr."""
        folder = self._folder / name
        if not folder.exists():
            models.FAMILIES[name].build(folder)
        return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("families"))


@pytest.fixture(autouse=True)
def plainly() -> Iterator[None]:
    with judge.quiet():
        yield


def golden(name: str, key: str) -> Any:
    with np.load(golden_llm.GOLDEN_DIR / f"{name}.npz") as kept:
        return torch.tensor([kept[key].tolist()])


def linear_names(model: Any) -> set[str]:
    kinds = (torch.nn.Linear, transformers.integrations.bitnet.BitLinear)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def rsr_names(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, RsrLinear)}


# --- every family -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_logits(name: str, folders: Folders) -> None:
    """Of the text whose activations lie next to no tie; every linear layer is accounted for."""
    model = judge.load(folders(name) / "model")
    before, tokens = linear_names(model), golden(name, "tokens")
    wanted = model(tokens).logits
    done = accelerate(model, folders(name) / "model.rsr")
    assert set(done.swapped) == rsr_names(model)
    assert set(done.swapped) | set(done.kept) >= before
    assert len(done.swapped) >= 7
    difference = (model(tokens).logits - wanted).abs().max()
    assert difference <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize("name", ["bitnet-2b", "bitnet-2b-online", "llama3-1.58", "phi3"])
def test_greedy_text(name: str, folders: Folders) -> None:
    model, prompt = judge.load(folders(name) / "model"), golden(name, "prompt")
    accelerate(model, folders(name) / "model.rsr")
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=judge.NEW_TOKENS,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    wanted = golden(name, "continuation")
    assert made[0, prompt.shape[1] :].tolist() == wanted[0].tolist()
    assert wanted.shape[1] == judge.NEW_TOKENS


@pytest.mark.parametrize("name", FOLDED)
def test_weights_that_hold_factors_are_another_model(name: str, folders: Folders) -> None:
    model = judge.load(folders(name) / "model")
    with pytest.raises(AccelerateError, match=rf"model\.{FOLDED[name]}' differs by .* times what"):
        accelerate(model, folders(name) / "model.rsr")
    assert not rsr_names(model)


HALF = [
    *((name, "bfloat16") for name in ("bitnet-2b", "bitnet-2b-online", "falcon3", "trilm")),
    *((name, "float16") for name in ("trilm", "bonsai")),
]


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_floats(name: str, dtype: str, folders: Folders) -> None:
    """Layers of masters, codes and floats pass the check; results keep the model's dtype."""
    model, tokens = judge.load(folders(name) / "model", dtype), golden(name, "tokens")
    model = model.to(getattr(torch, dtype)) if name in ("trilm", "bonsai") else model
    wanted = model(tokens).logits
    accelerate(model, folders(name) / "model.rsr")
    found = model(tokens).logits
    assert found.dtype == wanted.dtype == getattr(torch, dtype)
    spread = (wanted.float() ** 2).mean().sqrt()
    assert ((found.float() - wanted.float()) ** 2).mean().sqrt() <= 0.1 * spread


# --- what stays ---------------------------------------------------------------------------------


def test_report(folders: Folders) -> None:
    done = accelerate(judge.load(folders("bonsai") / "model"), folders("bonsai") / "model.rsr")
    assert done.kept == {
        "model.embed_tokens": "an embedding",
        "lm_head": "its weight is that of model.embed_tokens",
    }
    assert done.freed_bytes == 4 * 2 * 128 * (2 * 128 + 2 * 256 + 3 * 256)
    assert repr(done) == (
        f"14 linear layers multiply by {folders('bonsai') / 'model.rsr'}: its index of 0.1 MB "
        "replaces 1.6 MB of weights\n"
        "kept: model.embed_tokens (an embedding)\n"
        "kept: lm_head (its weight is that of model.embed_tokens)"
    )


def test_tied_weights_stay_tied(folders: Folders) -> None:
    model = judge.load(folders("bonsai") / "model")
    accelerate(model, folders("bonsai") / "model.rsr")
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_untied_head_is_swapped_and_an_int8_head_is_not(
    folders: Folders, tmp_path: Path
) -> None:
    source = folders("bonsai-untied") / "model"
    model = judge.load(source)
    assert "lm_head" in accelerate(model, folders("bonsai-untied") / "model.rsr").swapped
    rsrc.compile(folders("trilm") / "model", tmp_path / "int8.rsr", head="int8")
    model = judge.load(folders("trilm") / "model")
    head = model.lm_head
    done = accelerate(model, tmp_path / "int8.rsr")
    assert done.kept == {"lm_head": "the file has no matrix of that name"}
    assert model.lm_head is head


def test_experts_in_one_tensor_stay(folders: Folders) -> None:
    done = accelerate(
        judge.load(folders("qwen3-moe") / "model"), folders("qwen3-moe") / "model.rsr"
    )
    assert done.kept["model.layers.0.mlp.experts"] == "its experts are in one tensor"
    assert "model.layers.1.mlp.down_proj" in done.swapped


def test_norms_inside_of_layers_stay(folders: Folders) -> None:
    model = judge.load(folders("llama-norms") / "model")
    norm = model.model.layers[0].mlp.down_proj.rms_norm
    accelerate(model, folders("llama-norms") / "model.rsr")
    layer = model.model.layers[0].mlp.down_proj
    assert isinstance(layer, NormalizedRsrLinear)
    assert layer.rms_norm is norm
    copied = copy.deepcopy(layer)
    x = torch.randn(2, layer.in_features)
    assert torch.equal(copied(x), layer(x))
    assert copied.rms_norm is not norm


def test_unknown_classes_stay(folders: Folders) -> None:
    """A class derived from Linear may compute anything."""
    model = judge.load(folders("trilm") / "model")
    model.model.layers[0].mlp.up_proj.__class__ = type("Other", (torch.nn.Linear,), {})
    done = accelerate(model, folders("trilm") / "model.rsr")
    assert done.kept["model.layers.0.mlp.up_proj"] == "the class Other is not known"
    assert len(done.swapped) == 13


def test_layers_with_hooks_stay(folders: Folders) -> None:
    model = judge.load(folders("trilm") / "model")
    calls: list[Any] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *given: calls.append(given))
    done = accelerate(model, folders("trilm") / "model.rsr")
    assert done.kept["model.layers.0.mlp.up_proj"] == "it has hooks"
    assert not calls
    model(golden("trilm", "tokens"))
    assert len(calls) == 1


def test_layers_in_adapters(folders: Folders) -> None:
    """Those that PEFT has wrapped are swapped; its matrices stay."""
    peft = pytest.importorskip("peft")
    model = judge.load(folders("trilm") / "model")
    wanted = model(golden("trilm", "tokens")).logits
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    done = accelerate(wrapped, folders("trilm") / "model.rsr")
    assert len(done.swapped) == 14
    assert all(name.endswith("_proj.base_layer") for name in done.swapped)
    assert isinstance(model.model.layers[1].self_attn.q_proj.base_layer, RsrLinear)
    found = wrapped(golden("trilm", "tokens")).logits
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_old_weights_are_freed(folders: Folders) -> None:
    model = judge.load(folders("bitnet-2b") / "model")
    weights = [weakref.ref(m.weight) for m in judge.bitnet_layers(model).values()]
    assert len(weights) == 14
    accelerate(model, folders("bitnet-2b") / "model.rsr")
    gc.collect()
    assert not any(weight() is not None for weight in weights)


def test_a_model_without_weights_is_not_saved(folders: Folders, tmp_path: Path) -> None:
    model = judge.load(folders("trilm") / "model")
    accelerate(model, folders("trilm") / "model.rsr")
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(AccelerateError, match="rsrc export-transformers"):
            one.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_modules_under_two_names(folders: Folders) -> None:
    model = judge.load(folders("trilm") / "model")
    model.alias = torch.nn.ModuleList([model.model.layers[0].mlp.up_proj])
    done = accelerate(model, folders("trilm") / "model.rsr")
    assert model.alias[0] is model.model.layers[0].mlp.up_proj
    assert isinstance(model.alias[0], RsrLinear)
    assert "alias.0" in done.swapped


def test_mode_and_gradients(folders: Folders) -> None:
    """A model in training mode stays there, and gradients pass through to the embeddings."""
    model = judge.load(folders("bitnet-2b") / "model").train()
    accelerate(model, folders("bitnet-2b") / "model.rsr")
    assert model.model.layers[0].mlp.up_proj.training
    with torch.enable_grad():
        model(golden("bitnet-2b", "tokens")).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


def test_compiled_without_graph_breaks(folders: Folders) -> None:
    model, tokens = judge.load(folders("bitnet-2b") / "model"), golden("bitnet-2b", "tokens")
    accelerate(model, folders("bitnet-2b") / "model.rsr")
    wanted = model(tokens, use_cache=False).logits
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(tokens, use_cache=False).logits, wanted)


# --- names --------------------------------------------------------------------------------------


def wrapper(**modules: Any) -> Any:
    """Return a module with other modules as its attributes."""
    made = torch.nn.Module()
    for name, module in modules.items():
        setattr(made, name, module)
    return made


NAMED: dict[str, Callable[[Any], Any]] = {
    "decoder alone": lambda model: model.model,
    "multimodal": lambda model: wrapper(
        model=wrapper(language_model=model.model), lm_head=model.lm_head
    ),
    "wrapped": lambda model: wrapper(net=model),
    "wrapped twice": lambda model: wrapper(outer=wrapper(net=model)),
}


@pytest.mark.parametrize("wrap", NAMED.values(), ids=NAMED.keys())
def test_prefixes(wrap: Callable[[Any], Any], folders: Folders) -> None:
    model = judge.load(folders("bonsai-untied") / "model")
    wrapped = wrap(model)
    done = accelerate(wrapped, folders("bonsai-untied") / "model.rsr")
    assert len(done.swapped) == 14 + any("lm_head" in name for name in linear_names(wrapped))
    assert isinstance(model.model.layers[1].self_attn.q_proj, RsrLinear)


# --- refusals -----------------------------------------------------------------------------------


def assert_refused(model: Any, path: Path, message: str) -> None:
    """Nothing is swapped then."""
    before = dict(model.named_modules())
    with pytest.raises(AccelerateError, match=message):
        accelerate(model, path)
    assert dict(model.named_modules()) == before


def test_another_model(folders: Folders, tmp_path: Path) -> None:
    family = models.FAMILIES["llama3-1.58"]
    other = dataclasses.replace(family, seed=family.seed + 1).build(tmp_path)
    assert_refused(
        judge.load(folders("llama3-1.58") / "model"), other,
        r"model\.rsr is not of this model: a product of 'model\.layers\.0\.self_attn\.q_proj' "
        r"differs by \S+ times what rounding allows from that of 'model\.layers\.0\.self_attn",
    )  # fmt: skip


# How the weight of the last layer's last entry is changed to another digit.
ONE_WEIGHT: dict[str, tuple[str, Callable[[Any], None]]] = {
    "codes": ("falcon3", lambda w: w[-1, -1:].copy_((w[-1, -1:] & 0x3F) + (w[-1, -1] < 64) * 64)),
    "digits": ("bitnet-2b", lambda w: w[-1, -1:].copy_(w[-1, -1:] - (w[-1, -1] > 0) * 2 + 1)),
    "floats": ("trilm", lambda w: w[-1, -1:].copy_((w[-1, -1:] == 0) * w.abs().max())),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "change"), ONE_WEIGHT.values(), ids=ONE_WEIGHT.keys())
def test_one_weight_of_the_last_layer(
    name: str, change: Callable[[Any], None], dtype: str, folders: Folders
) -> None:
    """Where another model differs least, as a fine-tune might; in bfloat16, too."""
    model = judge.load(folders(name) / "model", dtype)
    model = model.to(torch.bfloat16) if (name, dtype) == ("trilm", "bfloat16") else model
    weight = model.model.layers[-1].mlp.down_proj.weight
    before = weight.clone()
    change(weight.data)
    assert (weight != before).sum() == 1
    path = folders(name) / "model.rsr"
    assert_refused(model, path, r"a product of 'model\.layers\.1\.mlp\.down_proj' differs")
    weight.data.copy_(before)
    assert "model.layers.1.mlp.down_proj" in accelerate(model, path).swapped


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_weight_of_a_row_with_a_small_scale(dtype: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    digits = generator.integers(-1, 2, (24, 128))
    scales = np.where(np.arange(24) == 5, 2.0**-12, 0.5)[:, None]
    save_file({"w.weight": (digits * scales).astype(np.float32)}, tmp_path / "w.safetensors")
    rsrc.compile(tmp_path / "w.safetensors", tmp_path / "w.rsr")
    model = torch.nn.ModuleDict({"w": torch.nn.Linear(128, 24, bias=False)})
    model.w.weight.data = torch.from_numpy(digits * scales).to(getattr(torch, dtype))
    changed = copy.deepcopy(model)
    changed.w.weight.data[5, 100] = 0.0 if digits[5, 100] else 2.0**-12
    assert_refused(changed, tmp_path / "w.rsr", "a product of 'w' differs")
    assert accelerate(model, tmp_path / "w.rsr").swapped == ("w",)


def test_another_scale(folders: Folders) -> None:
    model = judge.load(folders("bitnet-2b") / "model")
    model.model.layers[1].mlp.up_proj.weight_scale *= 1.001
    assert_refused(
        model, folders("bitnet-2b") / "model.rsr", r"'model\.layers\.1\.mlp\.up_proj' differs"
    )


def test_norms_stay_where_a_layer_is_refused(folders: Folders) -> None:
    model = judge.load(folders("llama-norms") / "model")
    model.model.layers[0].mlp.up_proj.weight_scale *= 1.001
    assert_refused(model, folders("llama-norms") / "model.rsr", r"mlp\.up_proj' differs")


def test_another_shape(folders: Folders, tmp_path: Path) -> None:
    family = models.FAMILIES["trilm"]
    config = {**family.config, "intermediate_size": 144}
    other = dataclasses.replace(family, config=config).build(tmp_path)
    assert_refused(
        judge.load(folders("trilm") / "model"), other,
        r"gate_proj.weight' has shape \(144, 64\), 'model.layers.0.mlp.gate_proj' \(132, 64\)",
    )  # fmt: skip


def test_more_layers(folders: Folders, tmp_path: Path) -> None:
    family = models.FAMILIES["trilm"]
    other = dataclasses.replace(family, config={**family.config, "num_hidden_layers": 3})
    assert_refused(
        judge.load(folders("trilm") / "model"), other.build(tmp_path),
        r"it has 'model\.layers\.2\.self_attn\.q_proj\.weight', and the model no module "
        r"'model\.layers\.2\.self_attn\.q_proj'",
    )  # fmt: skip


def test_twice(folders: Folders) -> None:
    model = judge.load(folders("trilm") / "model")
    accelerate(model, folders("trilm") / "model.rsr")
    with pytest.raises(AccelerateError, match="LlamaForCausalLM is accelerated already"):
        accelerate(model, folders("trilm") / "model.rsr")


def test_a_model_without_memory(folders: Folders) -> None:
    config = json.loads((folders("trilm") / "model" / "config.json").read_text())
    with torch.device("meta"):
        known: Any = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(known)
    assert_refused(model, folders("trilm") / "model.rsr", "is on meta, expected the CPU")


def test_a_folder(folders: Folders, tmp_path: Path) -> None:
    """One of transformers has model.rsr; another is refused by a sentence."""
    model = judge.load(folders("trilm") / "model")
    with pytest.raises(AccelerateError, match=r"is a folder without model\.rsr, .* compile the"):
        accelerate(model, tmp_path)
    (tmp_path / "other.rsr").write_bytes(b"")
    with pytest.raises(AccelerateError, match=r"expected a \.rsr file: it has other\.rsr"):
        accelerate(model, tmp_path)
    assert accelerate(model, folders("trilm")).file == str(folders("trilm") / "model.rsr")


def test_what_is_no_module(folders: Folders) -> None:
    wrong: Any = folders("trilm")
    with pytest.raises(AccelerateError, match=r"model is a \w*Path, expected a torch\.nn\.Module"):
        accelerate(wrong, wrong / "model.rsr")
