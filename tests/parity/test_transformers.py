"""What `rsrc export-transformers` writes, loaded by transformers, is the original model.

Logits and greedy texts are compared with golden data, which transformers computed of the original
checkpoints (``test_llm.py`` makes sure). Everything else is compared with the original live.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest

import rsrc
from rsr_formats.architectures import of_config
from rsr_runtime.errors import OptionError, ReplacedError
from rsr_testing.documents import blocks
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, TEXTS
from rsr_testing.hub import client_of, serving_hub
from rsr_testing.models import FAMILIES, Family
from rsr_testing.parity import compare, embeddings, golden_llm, judge
from rsr_testing.parity.judge import torch_and_transformers
from rsr_testing.paths import ROOT
from rsr_testing.process import run_python, started, wait_until
from rsrc.export.pretrained import export_pretrained

torch, transformers = torch_and_transformers()
with judge.quiet():
    from safetensors.torch import load_file, save_file

    import rsr_runtime.transformers
    from rsr_runtime.torch import RsrEmbedding, RsrLinear


def is_served(family: Family) -> bool:
    """Whether transformers has the class, and multiplies by linear layers only."""
    known = of_config(family.settings)
    return known is not None and known.in_transformers and not known.has_experts


SERVED = [name for name, family in FAMILIES.items() if is_served(family)]
PROMPTS = ["the sum of rows of a block", "in"]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the directory exported from a family; its parent holds "model", the original."""
    made: dict[str, Path] = {}

    def exported(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder / "exported"
            export_pretrained(FAMILIES[name].build(folder), made[name])
        return made[name]

    return exported


def load(folder: Path | str, dtype: str = "float32", **options: Any) -> Any:
    """Load an exported model, every tensor of which must be used."""
    with judge.quiet():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), output_loading_info=True, **options
        )
    assert not any(info.values())
    return model


def tokenizer(folder: Path) -> Any:
    found = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    found.pad_token = found.eos_token
    return found


@pytest.fixture(scope="module")
def pair(export: Callable[[str], Path]) -> Any:
    """The original and the exported model, and a batch of two texts, one of them padded."""
    folder = export("bonsai")
    batch = tokenizer(folder)(PROMPTS, return_tensors="pt", padding=True)
    assert not batch["attention_mask"].all()
    return judge.load(folder.parent / "model"), load(folder), batch


# --- every family -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVED)
def test_logits(name: str, export: Callable[[str], Path]) -> None:
    model = load(export(name), attn_implementation="eager")
    judge.round_embedding_scale(model, FAMILIES[name].settings)
    assert [type(model).__name__] == FAMILIES[name].settings["architectures"]
    assert any(isinstance(module, RsrLinear) for module in model.modules())
    assert_golden_logits(name, model)


def assert_golden_logits(name: str, model: Any) -> None:
    with np.load(golden_llm.GOLDEN_DIR / f"{name}.npz") as golden:
        (found,) = judge.answer(model, [golden["tokens"].tolist()])
        difference = np.abs(golden_llm.sample(found.logits) - golden["logits"]).max()
        assert difference <= compare.TOLERANCE * golden["largest"]


@pytest.mark.parametrize("name", ["bitnet-2b", "trilm", "qwen3.5"])
def test_greedy_text(name: str, export: Callable[[str], Path]) -> None:
    with np.load(golden_llm.GOLDEN_DIR / f"{name}.npz") as golden:
        (text,) = judge.continuations(load(export(name)), [golden["prompt"].tolist()])
        assert text.tokens == golden["continuation"].tolist()


@pytest.mark.parametrize(
    ("name", "embedding", "head"),
    [
        ("bonsai", RsrEmbedding, RsrLinear),  # tied
        ("bonsai-2", RsrEmbedding, RsrLinear),
        ("bitnet-2b", torch.nn.Embedding, torch.nn.Linear),  # both dense in the file
    ],
)
def test_embedding_and_head(
    name: str, embedding: type[Any], head: type[Any], export: Callable[[str], Path]
) -> None:
    model = load(export(name))
    assert type(model.model.embed_tokens) is embedding
    assert type(model.lm_head) is head
    layers = [m for n, m in model.named_modules() if n.endswith("_proj")]
    assert len(layers) == 14
    assert all(isinstance(layer, RsrLinear) for layer in layers)
    dense = sum(p.nbytes for p in model.parameters())
    assert (dense < 10_000) == (name != "bitnet-2b")  # norms only


def test_an_embedding_that_cannot_be_looked_up(tmp_path: Path) -> None:
    """A permuted one is written as floats, and its tied head still multiplies from the index."""
    trilm = FAMILIES["trilm"]
    family = dataclasses.replace(
        trilm,
        config={**trilm.config, "tie_word_embeddings": True},
        everything=True,
        options={"encoding": "permuted"},
    )
    export_pretrained(family.build(tmp_path), tmp_path / "exported")
    with judge.quiet():
        load(tmp_path / "exported").save_pretrained(tmp_path / "saved")
    tokens = list(range(3, 40))
    (want,) = judge.answer(judge.load(tmp_path / "model"), [tokens])
    for folder in (tmp_path / "exported", tmp_path / "saved"):
        model = load(folder)
        assert type(model.model.embed_tokens) is torch.nn.Embedding
        assert type(model.lm_head) is RsrLinear
        (found,) = judge.answer(model, [tokens])
        difference = np.abs(found.logits - want.logits).max()
        assert difference <= compare.TOLERANCE * np.abs(want.logits).max()


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_names_of_other_classes(prefix: str, tmp_path: Path) -> None:
    """Of a decoder by itself, and within a multimodal class."""
    family = FAMILIES["bonsai-untied"]
    tensors = {
        name if "lm_head" in name else prefix + name.removeprefix("model."): tensor
        for name, tensor in family.tensors().items()
    }
    family.save(tmp_path / "model", tensors)
    rsrc.compile(tmp_path / "model", tmp_path / "m.rsr")
    export_pretrained(tmp_path / "m.rsr", tmp_path / "exported")
    model = load(tmp_path / "exported")
    assert sum(isinstance(module, RsrLinear) for module in model.modules()) == 15
    assert_golden_logits("bonsai-untied", model)


@pytest.mark.parametrize("name", ["qwen3-embedding", "gemma3"])
def test_models_that_embed(name: str, tmp_path: Path) -> None:
    """They have no output head, and sentence-transformers loads them."""
    pytest.importorskip("sentence_transformers")
    export_pretrained(EMBEDDING_FAMILIES[name].build(tmp_path), tmp_path / "exported")
    model, original = (embeddings.load(tmp_path / part) for part in ("exported", "model"))
    assert any(isinstance(module, RsrLinear) for module in model.modules())
    found, wanted = (embeddings.encoded(one, TEXTS) for one in (model, original))
    assert np.abs(found - wanted).max() <= embeddings.TOLERANCE * np.abs(wanted).max()


def test_from_the_hub(export: Callable[[str], Path], tmp_path: Path) -> None:
    """The .rsr file is downloaded with the rest, into the same snapshot of the cache."""
    with serving_hub() as hub, judge.quiet():
        commit = hub.add("org/model", export("bonsai"))
        for offline in (False, True):
            with client_of(hub.url, tmp_path / "home", offline=offline):
                model = load("org/model", cache_dir=tmp_path / "cache")
                assert_golden_logits("bonsai", model)
        (downloaded,) = (tmp_path / "cache").rglob("model.rsr")
        assert downloaded.parent.name == commit
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.rsr").is_symlink()
    load(tmp_path / "saved")


def test_from_a_folder_of_a_private_repository(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`token` does not reach the download of the .rsr file, HF_TOKEN does."""
    whole = export("bonsai")
    files = {f"inner/{path.name}": path.read_bytes() for path in whole.iterdir()}
    with serving_hub() as hub, judge.quiet(), client_of(hub.url, tmp_path / "home"):
        hub.add("org/private", files)
        hub.repositories["org/private"].token = "hf_one"
        options: Any = {"subfolder": "inner", "cache_dir": tmp_path / "cache"}
        with pytest.raises(OptionError, match=r"org/private: model\.rsr cannot .* set HF_TOKEN or"):
            load("org/private", token="hf_one", **options)
        monkeypatch.setenv("HF_TOKEN", "hf_one")
        assert_golden_logits("bonsai", load("org/private", **options))
    (downloaded,) = (tmp_path / "cache").rglob("model.rsr")
    assert downloaded.parent.name == "inner"


# --- without the import -------------------------------------------------------------------------


def test_without_the_import(export: Callable[[str], Path]) -> None:
    code = """
import sys, transformers
try:
    transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
except OSError as error:
    print(error)
"""
    done = run_python(code, export("llama3-1.58"))
    assert "import rsr_runtime.transformers first" in done.stdout, done.stderr


def test_without_the_registration(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing loads the model, not even from what `save_pretrained` wrote."""
    folder = export("llama3-1.58")
    with judge.quiet():
        load(folder).save_pretrained(tmp_path / "saved")
        monkeypatch.delitem(transformers.quantizers.auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "rsr")
        for path in (folder, tmp_path / "saved"):
            for load_it in (
                transformers.AutoModelForCausalLM.from_pretrained,
                transformers.LlamaForCausalLM.from_pretrained,
                lambda path: transformers.pipeline("text-generation", str(path)),
            ):
                with pytest.raises(
                    (OSError, ValueError), match=r"import rsr_runtime\.transformers first"
                ):
                    load_it(path)


# --- generate and pipeline ----------------------------------------------------------------------

GENERATE: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 8},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("options", GENERATE.values(), ids=GENERATE.keys())
def test_generate(pair: Any, options: dict[str, Any]) -> None:
    original, model, batch = pair
    if "prompt_lookup_num_tokens" in options:  # of one text only
        batch = {key: value[:1] for key, value in batch.items()}
    texts = []
    for one in (original, model):
        with judge.quiet():
            torch.manual_seed(5)
            texts.append(one.generate(**batch, max_new_tokens=12, pad_token_id=0, **options))
    assert texts[0].shape[1] > batch["input_ids"].shape[1] + 4
    assert torch.equal(*texts)


def test_pipeline(export: Callable[[str], Path]) -> None:
    folder = export("trilm")
    said = []
    for path in (folder.parent / "model", folder):
        with judge.quiet():
            pipe = transformers.pipeline("text-generation", str(path), dtype=torch.float32)
            said.append(pipe(PROMPTS, max_new_tokens=12, do_sample=False, return_full_text=False))
    assert said[0] == said[1]
    assert all(one[0]["generated_text"] for one in said[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(dtype: str, export: Callable[[str], Path], pair: Any) -> None:
    folder = export("bonsai")
    model = load(folder, dtype, device_map="cpu")
    assert model.dtype == getattr(torch, dtype)
    with judge.quiet():
        found, wanted = model(**pair[2]).logits, pair[0](**pair[2]).logits
    assert found.dtype == getattr(torch, dtype)
    assert (found - wanted).abs().max() <= 3e-2 * wanted.abs().max()
    with judge.quiet():
        assert transformers.AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16


# --- saved and copied ---------------------------------------------------------------------------


def logits(pair: Any, model: Any) -> Any:
    with judge.quiet():
        return model(**pair[2]).logits


@pytest.mark.parametrize("name", ["bonsai", "llama-bias", "llama-norms"])
def test_save_pretrained(name: str, export: Callable[[str], Path], tmp_path: Path) -> None:
    """Sharded, twice to the same directory, and once more from there."""
    model = load(export(name))
    tokens = torch.arange(3, 20)[None]
    with judge.quiet():
        for _ in range(2):
            model.save_pretrained(tmp_path / "a", max_shard_size="2KB")
        model.save_pretrained(tmp_path / "a", False)  # another process of a distributed program
        load(tmp_path / "a").save_pretrained(tmp_path / "b")
        want = model(tokens).logits
    assert len([*(tmp_path / "a").glob("*.safetensors")]) > 1
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert (folder / "model.rsr").samefile(export(name) / "model.rsr")
        with judge.quiet():
            assert torch.equal(load(folder)(tokens).logits, want)


def test_saving_replaces_the_file_of_another_model(
    export: Callable[[str], Path], tmp_path: Path
) -> None:
    with judge.quiet():
        for name in ("bonsai", "bonsai-untied"):
            load(export(name)).save_pretrained(tmp_path)
    assert (tmp_path / "model.rsr").samefile(export("bonsai-untied") / "model.rsr")
    assert (export("bonsai") / "model.rsr").stat().st_size  # the link was replaced, not the file
    load(tmp_path)


def test_pushing_while_saving_is_refused(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"call model\.push_to_hub\(NAME\) instead"):
        pair[1].save_pretrained(tmp_path / "x", push_to_hub=True)
    assert not (tmp_path / "x").exists()


def test_push_to_hub_uploads_all_files(pair: Any) -> None:
    """With an uploader that only looks, in place of the one that needs the Hub."""
    uploaded: set[str] = set()

    def look(directory: str, *arguments: Any, **options: Any) -> None:
        uploaded.update(path.name for path in Path(directory).iterdir())

    with (
        judge.quiet(),
        mock.patch("transformers.utils.hub.hf_api"),
        mock.patch("transformers.utils.hub.create_and_tag_model_card"),
        mock.patch.object(type(pair[1]), "_upload_modified_files", side_effect=look),
    ):
        pair[1].push_to_hub("org/model")
    assert {"config.json", "model.safetensors", "model.rsr"} <= uploaded


def test_copies_and_pickles(pair: Any, tmp_path: Path) -> None:
    model = pair[1]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(logits(pair, other), logits(pair, model))
        folder = tmp_path / str(id(other))
        with judge.quiet():
            other.save_pretrained(folder)
        load(folder)


# --- adapters -----------------------------------------------------------------------------------


def adapted(model: Any, starts_random: bool) -> Any:
    """Return a model with LoRA in all linear layers but the head, always with the same weights."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(7)
    config = peft.LoraConfig(
        r=4,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=not starts_random,
    )
    return peft.get_peft_model(model, config)


# LoRA that is not zero changes the inputs that a BitNet rounds, and so the golden text's clearance.
@pytest.mark.parametrize(("name", "starts_random"), [("trilm", True), ("bitnet-2b", False)])
def test_gradients_of_lora(name: str, starts_random: bool, export: Callable[[str], Path]) -> None:
    """They are those of the original: through float activations, and through rounded ones."""
    folder = export(name)
    with np.load(golden_llm.GOLDEN_DIR / f"{name}.npz") as golden:
        tokens = torch.tensor(golden["tokens"].tolist())[None]
    results = []
    for model in (judge.load(folder.parent / "model"), load(folder)):
        with judge.quiet(), torch.enable_grad():
            trained = adapted(model, starts_random)
            loss = trained(input_ids=tokens, labels=tokens).loss
            loss.backward()
        gradients = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients))
    (loss, wanted), (our_loss, found) = results
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 7 * 2  # A and B of seven layers, twice
    for key, gradient in wanted.items():
        assert gradient.any() == (starts_random or "lora_B" in key)
        assert (found[key] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), key


def test_adapters_that_need_dense_weights_fail(export: Callable[[str], Path]) -> None:
    """They neither change the mapped file nor compute something else."""
    peft = pytest.importorskip("peft")
    folder = export("bonsai")
    before = (folder / "model.rsr").read_bytes()
    with judge.quiet():
        with pytest.raises(RuntimeError):
            adapted(load(folder), starts_random=True).merge_and_unload()
        for options in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
            with pytest.raises((RuntimeError, TypeError, ValueError)):
                peft.get_peft_model(
                    load(folder), peft.LoraConfig(target_modules=["q_proj"], **options)
                )
    assert (folder / "model.rsr").read_bytes() == before


def test_an_adapter_is_trained_saved_and_loaded(pair: Any, tmp_path: Path, export: Any) -> None:
    peft = pytest.importorskip("peft")
    tokens = pair[2]["input_ids"][:1]
    with judge.quiet(), torch.enable_grad():
        trained = adapted(load(export("bonsai")), starts_random=False)
        step = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for _ in range(4):
            loss = trained(input_ids=tokens, labels=tokens).loss
            loss.backward()
            step.step()
            step.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with judge.quiet():
        trained.eval().save_pretrained(tmp_path)
        assert not (tmp_path / "model.rsr").exists()
        again = peft.PeftModel.from_pretrained(load(export("bonsai")), tmp_path)
        want = trained(tokens).logits
        assert torch.equal(again(tokens).logits, want)
        assert not torch.equal(pair[1](tokens).logits, want)


def test_adapters_of_transformers_are_saved_alone(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    # transformers 5.24 asks for a release of peft that is still to come.
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **_: None)
    model = load(export("bonsai"))
    with judge.quiet():
        model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"]))
        model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "adapter_model.safetensors" in names
    assert not names & {"model.rsr", "config.json"}


# --- transformers serve -------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def test_serve(export: Callable[[str], Path]) -> None:
    pytest.importorskip("fastapi")
    folder, port = export("bonsai"), free_port()
    code = "import runpy; runpy.run_module('rsr_runtime.transformers', run_name='__main__')"
    arguments = ["serve", folder, "--port", port, "--dtype", "float32", "--device", "cpu"]
    url = f"http://localhost:{port}"
    with started(code, *arguments) as process:
        wait_until(lambda: answers(f"{url}/health"), process)
        request = {
            "model": str(folder), "messages": [{"role": "user", "content": "the sum"}],
            "max_tokens": 8, "temperature": 0, "stream": False,
        }  # fmt: skip
        answer = httpx.post(f"{url}/v1/chat/completions", json=request, timeout=60).json()
    with judge.quiet():
        pipe = transformers.pipeline(
            "text-generation", str(folder.parent / "model"), dtype=torch.float32
        )
        (said,) = pipe(
            request["messages"], max_new_tokens=8, do_sample=False, return_full_text=False
        )
    # The server does not tell the beginning of an answer, which the template wrote, from the rest.
    assert answer["choices"][0]["message"]["content"].endswith(said["generated_text"])
    assert said["generated_text"]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


# --- the document -------------------------------------------------------------------------------


def test_document(
    export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of docs/transformers.md works, with a small model in place of the 2B one."""
    document = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
    assert "rsrc export-transformers model.rsr bitnet-2b-rsr" in document
    shutil.copytree(export("bitnet-2b"), tmp_path / "bitnet-2b-rsr")
    monkeypatch.chdir(tmp_path)
    codes = blocks("python", document)
    assert len(codes) == 2
    for code in codes:
        with judge.quiet(), torch.enable_grad():
            exec(compile(code, "transformers.md", "exec"), {})
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def folder(export: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of an exported directory, to change."""
    copied = tmp_path / "copied"
    shutil.copytree(export("bonsai"), copied)
    return copied


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"].update(settings)
    path.write_text(json.dumps(config), encoding="utf-8")


def test_the_file_of_another_model(folder: Path, export: Callable[[str], Path]) -> None:
    shutil.copy(export("bonsai-untied") / "model.rsr", folder)
    with pytest.raises(ReplacedError, match=r"model\.rsr is not the file that config\.json was"):
        load(folder)
    (folder / "model.rsr").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.rsr"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"digest": None}, "digest is nothing, expected a string"),
        ({"activations": "int4"}, "activations is 'int4', expected 'float32' or 'int8'"),
        ({"float32_modules": [1]}, "float32_modules is a list, expected a list of module names"),
        ({"use_rms_norm": 1}, "use_rms_norm is 1, expected true or false"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a positive number"),
    ],
)
def test_settings_are_checked(folder: Path, settings: dict[str, Any], message: str) -> None:
    change(folder, **settings)
    with pytest.raises(OptionError, match=f"quantization_config: {message}"):
        load(folder)


def test_an_embedding_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    """Gemma's multiplies its rows by a factor, so its ternary embedding is written as floats."""
    family = dataclasses.replace(FAMILIES["gemma3"], everything=True)
    export_pretrained(family.build(tmp_path), tmp_path / "exported")
    model = load(tmp_path / "exported")
    assert type(model.model.embed_tokens).__name__ == "Gemma3TextScaledWordEmbedding"
    assert type(model.lm_head) is RsrLinear
    tensors = load_file(tmp_path / "exported" / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "exported" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OptionError, match=r"no linear layer of its shape for model\.embed_tokens"):
        load(tmp_path / "exported")


def test_layers_must_fit(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in (("num_hidden_layers", 1), ("intermediate_size", 128)):
        path.write_text(json.dumps({**config, key: value}), encoding="utf-8")
        with pytest.raises(OptionError, match="Qwen3ForCausalLM has no linear layer of its shape"):
            load(folder)


def test_no_weights_are_made_up(export: Callable[[str], Path], tmp_path: Path) -> None:
    """transformers would only warn about a norm or a layer that is in no file."""
    folder = tmp_path / "copied"
    shutil.copytree(export("bitnet-2b"), folder)
    path = folder / "config.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(before), "num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(OptionError, match=r"neither model\.rsr nor .* has model\.layers\.2"):
        load(folder)
    path.write_text(before, encoding="utf-8")
    dense = load_file(folder / "model.safetensors")
    del dense["model.norm.weight"]
    save_file(dense, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(OptionError, match=r"has model\.norm\.weight: export the model again"):
        load(folder)


def test_classes_without_a_head(export: Callable[[str], Path], pair: Any) -> None:
    """They have no use for a head in model.rsr; a new head of a classifier is made up."""
    *_, batch = pair
    folder = export("bonsai-untied")
    with judge.quiet():
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
        plain = transformers.AutoModel.from_pretrained(folder.parent / "model", dtype=torch.float32)
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    found, wanted = (one(**batch).last_hidden_state for one in (model, plain))
    assert (found - wanted).abs().max() <= compare.TOLERANCE * wanted.abs().max()
    assert isinstance(classifier.model.layers[0].mlp.up_proj, RsrLinear)


def test_settings_do_not_replace_methods(folder: Path) -> None:
    change(folder, to_dict=1, activations_of=2, later=3)
    assert load(folder).config.quantization_config.later == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "cuda"}, "device_map: found cuda:0, expected 'cpu'"),
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, "device_map: found disk"),
        ({"dtype": "float64"}, r"dtype: found torch\.float64, expected float32"),
    ],
)
def test_options_of_from_pretrained(
    export: Callable[[str], Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        load(export("bonsai"), **options)
    assert load(export("bonsai"), device_map="auto").device.type == "cpu"


def test_floats_are_not_quantized(export: Callable[[str], Path]) -> None:
    config = rsr_runtime.transformers.RsrConfig(digest="")
    with pytest.raises(ValueError, match="does require the model to be pre-quantized"):
        load(export("trilm").parent / "model", quantization_config=config)
