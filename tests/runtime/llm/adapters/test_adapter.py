"""Adapters of models: files that are refused, and texts that take different ones."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_formats.numerics import widen_bf16
from rsr_runtime import OptionError
from rsr_runtime.llm import AdapterError, Engine, Job, LanguageModel, Sampling, load
from rsr_runtime.llm.job import Started, TextFinished
from rsr_testing.adapters import RANK, Tensors, stored, write_adapter
from rsr_testing.language_models import LanguageModels
from rsr_testing.loader import Loader

FAMILY = "bitnet-2b"
Q = "base_model.model.model.layers.0.self_attn.q_proj"
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GREEDY = Sampling(temperature=0.0)


def tokens_of(count: int, seed: int) -> list[int]:
    result: list[int] = np.random.default_rng(seed).integers(3, 200, count).tolist()
    return result


PROMPT = tokens_of(90, 1)


@pytest.fixture
def folders(loaded: Loader, tmp_path: Path) -> list[Path]:
    """Two adapters: one of attention, one of all layers."""
    model = loaded(FAMILY)
    return [
        write_adapter(tmp_path / "one", model, 1),
        write_adapter(tmp_path / "two", model, 2, EVERY),
    ]


def test_a_sum_is_what_linear_layers_add(loaded: Loader, tmp_path: Path) -> None:
    """Two adapters of rank 4 are one of rank 8 with both side by side."""
    model = loaded("trilm")
    one = write_adapter(tmp_path / "one", model, 1, EVERY)
    two = write_adapter(tmp_path / "two", model, 2, EVERY, lora_alpha=2)

    def join(tensors: Tensors) -> None:
        from safetensors.numpy import load_file

        first, second = (load_file(path / "adapter_model.safetensors") for path in (one, two))
        for name in tensors:
            parts = [first[name], second[name]]
            if "lora_B" in name:
                parts[1] = parts[1] / np.float32(4)  # the scale of both is that of the first
            tensors[name] = np.ascontiguousarray(np.concatenate(parts, int("lora_B" in name)))

    both = write_adapter(tmp_path / "both", model, 0, EVERY, join, r=2 * RANK, lora_alpha=16)
    model = loaded("trilm", kv="float32", adapters=[one, two, both])
    found = model.logits(PROMPT, adapter=["one", "two"])
    wanted = model.logits(PROMPT, adapter="both")
    scale = np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= 2e-5 * scale
    assert np.abs(found - model.logits(PROMPT)).max() > 0.05 * scale


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_16_bits_are_kept(dtype: str, loaded: Loader, tmp_path: Path) -> None:
    """They take half the memory of the same numbers in float32, and add the same bits."""

    def narrow(tensors: Tensors) -> None:
        tensors.update({name: stored(values, dtype) for name, values in tensors.items()})

    def widen(tensors: Tensors) -> None:
        narrow(tensors)
        for name, values in tensors.items():
            wide = widen_bf16(values) if dtype == "BF16" else values.astype(np.float32)
            tensors[name] = wide

    model = loaded("trilm")
    paths = [
        write_adapter(tmp_path / name, model, 1, EVERY, change, lora_alpha=0.3)
        for name, change in (("narrow", narrow), ("wide", widen))
    ]
    model = loaded("trilm", adapters=paths)
    np.testing.assert_array_equal(
        model.logits(PROMPT, adapter="narrow"), model.logits(PROMPT, adapter="wide")
    )
    found = model.weights.linear[0].adapters
    assert 2 * found["narrow"].a.nbytes == found["wide"].a.nbytes
    assert 2 * found["narrow"].b.nbytes == found["wide"].b.nbytes


def test_texts_with_different_adapters_side_by_side(loaded: Loader, folders: list[Path]) -> None:
    """Each is the text that it is alone, whatever the others take and whatever they share."""
    choices: list[Any] = [None, "one", "two", ["two", "one"], "one", None]
    prompts = [PROMPT] * 4 + [PROMPT[:40], PROMPT[:40]]
    options: dict[str, Any] = {"max_tokens": 12, "sampling": GREEDY}
    alone = [
        loaded(FAMILY, adapters=folders).generate(prompt, adapter=choice, **options).tokens
        for prompt, choice in zip(prompts, choices, strict=True)
    ]
    assert len({tuple(tokens) for tokens in alone[:4]}) == 4
    model = loaded(FAMILY, adapters=folders)
    together = model.generate_all(prompts, adapter=choices, **options)
    assert [text.tokens for text in together] == alone
    # One after the other, in sessions that held others.
    for prompt, choice, tokens in zip(prompts, choices, alone, strict=True):
        text = model.generate(prompt, adapter=choice, speculate="ngram", **options)
        assert text.tokens == tokens


def run(model: LanguageModel, folder: Path, *adapters: Any) -> list[Any]:
    """Return the cached tokens and the text of a job for each choice of adapters."""
    found: list[Any] = []
    with Engine(model, parallel=4, cache_dir=folder) as engine:
        jobs = [
            engine.submit(Job(PROMPT, max_tokens=6, sampling=GREEDY, adapter=one))
            for one in adapters
        ]
        for job in jobs:
            for event in job:
                if isinstance(event, Started):
                    found.append(event.cached_tokens)
                if isinstance(event, TextFinished):
                    found.append(event.generation.tokens)
    return found


def test_saved_caches_are_those_of_an_adapter(
    loaded: Loader, folders: list[Path], tmp_path: Path
) -> None:
    caches = tmp_path / "caches"
    first = run(loaded(FAMILY, adapters=folders), caches, None, "one", "two", ["one", "two"])
    assert first[::2] == [0, 0, 0, 0]
    last = len(PROMPT) - 1
    model = loaded(FAMILY, adapters=folders)
    again = run(model, caches, "one", ["one", "two"], None, "two")
    assert again == [last, first[3], last, first[7], last, first[1], last, first[5]]
    assert run(loaded(FAMILY), caches, None) == [last, first[1]]
    # Of the same name, but with other values.
    other = write_adapter(tmp_path / "other", model, 3)
    assert run(loaded(FAMILY, adapters={"one": other}), caches, "one")[0] == 0


def test_names(loaded: Loader, folders: list[Path], tmp_path: Path) -> None:
    model = loaded(FAMILY, adapters={"b": folders[1], "a": folders[0]})
    assert model.adapters == ("b", "a")
    assert model.chosen_adapters(["a", "b", "a"]) == ("b", "a")
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        again.next_logits(PROMPT, adapter="a"), model.next_logits(PROMPT, adapter="a")
    )
    again.close()
    for choice in ("one", ["a", "one"], 3, b"", b"a"):
        with pytest.raises(OptionError, match=r"adapter: found .*, expected .*b.*a"):
            model.next_logits(PROMPT, adapter=choice)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="the model was loaded without adapters"):
        loaded(FAMILY).stream(PROMPT, adapter="a")
    for choice in (3, b""):
        with pytest.raises(OptionError, match=r"adapter: found .*, expected"):
            model.generate_all([PROMPT], adapter=choice)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one for each prompt"):
        model.generate_all([PROMPT], adapter=["a", "b"])
    with pytest.raises(OptionError, match="are both named 'one'"):
        loaded(FAMILY, adapters=[folders[0], tmp_path / "." / "one"])
    for wrong in (str(folders[0]), 3, [3], [""], {"": folders[0]}, {"a\n": folders[0]}):
        with pytest.raises(OptionError, match="adapters: found"):
            loaded(FAMILY, adapters=wrong)


def test_a_link_names_an_adapter(loaded: Loader, folders: list[Path], tmp_path: Path) -> None:
    """Checkpoints of different trainings often have the same name."""
    links = [tmp_path / "poems", tmp_path / "sql"]
    for link in links:
        link.symlink_to(folders[0], target_is_directory=True)
    assert loaded(FAMILY, adapters=links).adapters == ("poems", "sql")
    (folders[0] / "inner").mkdir()
    assert loaded(FAMILY, adapters=[folders[0] / "inner" / ".."]).adapters == ("one",)


def without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if name in key]:
            del tensors[key]

    return change


def replaced(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return lambda tensors: tensors.update({name: np.zeros(shape, dtype)})


def valued(value: float, dtype: str = "F32") -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        name = f"{Q}.lora_B.weight"
        tensors[name][2, 1] = value
        tensors[name] = stored(tensors[name], dtype)

    return change


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (valued(np.nan), {}, "lora_B.weight has values that are NaN or infinite"),
        (valued(np.inf, "F16"), {}, "lora_B.weight has values that are NaN or infinite"),
        (valued(-np.inf, "BF16"), {}, "lora_B.weight has values that are NaN or infinite"),
        (None, {"lora_alpha": 2e39}, r"the scale 5e\+38 of .*q_proj exceeds float32"),
        (without(f"{Q}.lora_A"), {}, "lora_B.weight.* without its other half"),
        (without("layers.0."), {}, "found no tensors for .*, which target_modules"),
        (without("lora"), {}, "found no tensors"),
        (replaced(f"{Q}.lora_A.weight", (RANK, 8)), {}, "takes 8 inputs .* another model"),
        (replaced(f"{Q}.lora_B.weight", (8, RANK)), {}, "to 8 outputs, .* another model"),
        (replaced(f"{Q}.lora_B.weight", (64, 2)), {}, "expected the rank 4"),
        (replaced(f"{Q}.lora_A.weight", (RANK,)), {}, "has the shape 4, expected a matrix"),
        (replaced(f"{Q}.lora_A.weight", ()), {}, "has the shape a scalar"),
        (replaced(f"{Q}.lora_A.weight", (RANK, 64), np.int8), {}, "is I8, expected one of F32"),
        (replaced(f"{Q}.lora_magnitude_vector", (64,)), {}, "only the two matrices of LoRA"),
        (
            lambda tensors: [
                replaced(f"base_model.model.model.layers.9.self_attn.q_proj.{half}.weight", shape)(
                    tensors
                )
                for half, shape in (("lora_A", (RANK, 64)), ("lora_B", (64, RANK)))
            ],
            {},
            "the model has no linear layer .*layers.9.*: the adapter was made for another model",
        ),
        (None, {"r": 8}, "lora_A of .* is 4x.*, expected the rank 8"),
        (None, {"target_modules": ["q_proj", "v_proj", "k_proj"]}, "found no tensors for .*k_proj"),
    ],
)
def test_tensors_that_are_refused(
    change: Any, settings: dict[str, Any], sentence: str, loaded: Loader, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "adapter", loaded(FAMILY), change=change, **settings)
    with pytest.raises(AdapterError, match=sentence):
        loaded(FAMILY, adapters=[path])


def test_files_that_are_refused(
    loaded: Loader, tmp_path: Path, language_models: LanguageModels
) -> None:
    path = write_adapter(tmp_path / "adapter", loaded(FAMILY))
    file = path / "adapter_model.safetensors"
    whole = file.read_bytes()
    for data in (b"", whole[:4], whole[:200], whole[:-1], whole + b"\0", b"\xff" * 64):
        file.write_bytes(data)
        with pytest.raises(AdapterError, match="not a valid safetensors file"):
            load(language_models.path(FAMILY), adapters=[path])
    os.truncate(path / "adapter_config.json", 1 << 42)  # a hole, which takes no room on the disk
    with pytest.raises(AdapterError, match="4,398,046,511,104 bytes, the limit is"):
        loaded(FAMILY, adapters=[path])
    file.rename(path / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"found no adapter_model\.safetensors.*can run code"):
        loaded(FAMILY, adapters=[path])
    with pytest.raises(AdapterError, match=r"found no adapter_config\.json"):
        loaded(FAMILY, adapters=[tmp_path])
    with pytest.raises(AdapterError, match=r"nothing: no such directory"):
        loaded(FAMILY, adapters=[tmp_path / "nothing"])
    config = path / "adapter_config.json"
    with pytest.raises(AdapterError, match=f"found a file, expected .*: pass {path}$"):
        loaded(FAMILY, adapters=[config])


def test_an_adapter_of_another_family_is_refused(
    loaded: Loader, folders: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="made for another model"):
        loaded("trilm", adapters=folders)
    of_experts = write_adapter(tmp_path / "experts", loaded("qwen3-moe"), 0, ("gate_proj",))
    with pytest.raises(AdapterError, match="is an expert of a mixture"):
        loaded("qwen3-moe", adapters=[of_experts])
