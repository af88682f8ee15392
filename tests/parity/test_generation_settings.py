"""Settings of generation_config.json: scores, tokens and texts are those of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsrc
from rsr_formats.keys import UNSUPPORTED, USED
from rsr_formats.keys.generation import GENERATION
from rsr_runtime import llm
from rsr_runtime.llm.sampling import Sampling
from rsr_runtime.llm.sampling.chain import chain_of
from rsr_runtime.llm.sampling.filters import candidates
from rsr_testing import models
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers

torch, transformers = torch_and_transformers()

VOCABULARY = 120  # more than top_h looks at
ENDS = [3, 7]
PROMPT = [5, 9, 5, 9, 8, 3, 44]
TEXT = [9, 5, 9, 8, 3, 11, 11, 5]
DRAWN = {"do_sample": True, "top_k": 0}

GREEDY: list[dict[str, Any]] = [
    {"sequence_bias": [[[4], 3.5], [[5, 6], -2.0], [[8, 3, 11], 4.0], [[11, 5, 17], 9.0]]},
    {"encoder_repetition_penalty": 1.7},
    {"encoder_repetition_penalty": 0.6},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 40},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 50},
    {"bad_words_ids": [[3], [10], [5, 21], [9, 8, 3, 4], [7, 7], [11, 5, 0]]},
    {"min_length": 9},
    {"min_length": 500},
    {"min_new_tokens": 1},
    {"min_new_tokens": 9},
    {"forced_bos_token_id": 12},
    {"forced_eos_token_id": 7, "max_length": 12},
    {"forced_eos_token_id": [7, 19], "max_new_tokens": 1},
    {"remove_invalid_values": True, "suppress_tokens": [1, 2]},
    {"exponential_decay_length_penalty": [0, 1.4]},
    {"exponential_decay_length_penalty": [3, 0.5]},
    {"exponential_decay_length_penalty": [-2, -1.1]},
    {"suppress_tokens": [0, 1, 2, 119]},
    {"begin_suppress_tokens": [0, 1, 2, 119]},
    {"begin_suppress_tokens": [4, 5], "forced_bos_token_id": 12},
    {"renormalize_logits": True},
    {
        "sequence_bias": [[[5], -4.0], [[8], 2.0]], "repetition_penalty": 1.2,
        "encoder_repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "min_length": 16,
        "bad_words_ids": [[33]], "remove_invalid_values": True, "suppress_tokens": [50, 51],
        "exponential_decay_length_penalty": [2, 1.1], "renormalize_logits": True,
    },
]  # fmt: skip
SAMPLED: list[dict[str, Any]] = [
    DRAWN,
    {"do_sample": True},
    DRAWN | {"temperature": 0.7, "top_p": 0.8},
    DRAWN | {"top_h": 0.4},
    DRAWN | {"top_h": 0.9, "temperature": 1.7},
    DRAWN | {"typical_p": 0.3},
    DRAWN | {"typical_p": 0.95, "temperature": 2.0},
    DRAWN | {"epsilon_cutoff": 0.01},
    DRAWN | {"epsilon_cutoff": 0.9},
    DRAWN | {"eta_cutoff": 0.02},
    DRAWN | {"eta_cutoff": 0.9, "temperature": 0.5},
    {
        "do_sample": True, "temperature": 1.6, "top_h": 0.95, "top_k": 40, "top_p": 0.97,
        "min_p": 0.002, "typical_p": 0.9, "epsilon_cutoff": 0.003, "eta_cutoff": 0.01,
        "renormalize_logits": True,
    },
    {
        "do_sample": True, "temperature": 1.2, "top_k": 90, "top_p": 0.99, "typical_p": 0.5,
        "epsilon_cutoff": 0.2, "repetition_penalty": 1.5, "no_repeat_ngram_size": 1,
        "min_new_tokens": 20, "bad_words_ids": [[4], [9]],
    },
]  # fmt: skip


def name_of(settings: dict[str, Any]) -> str:
    return json.dumps(settings)[1:60]


def their_scores(
    settings: dict[str, Any], x: npt.NDArray[np.float32], prompt: list[int], tokens: list[int]
) -> npt.NDArray[np.float32]:
    """Return the scores by the processors that `generate` would use."""
    model = transformers.GenerationMixin()
    model.config = transformers.PretrainedConfig()
    with judge.quiet():
        config = transformers.GenerationConfig(**settings)
        config.update(**config._get_default_generation_params(), defaults_only=True)
        if config.max_new_tokens is not None:
            config.max_length = len(prompt) + config.max_new_tokens
        config._eos_token_tensor = torch.tensor(ENDS)
        processors_of = model._get_logits_processor(
            config,
            input_ids_seq_length=len(prompt),
            encoder_input_ids=torch.tensor([prompt]),
            device="cpu",
        )
        scores = processors_of(torch.tensor([tokens]), torch.from_numpy(x.copy())[None])
    found: npt.NDArray[np.float32] = scores[0].numpy()
    return found


def our_scores(
    settings: dict[str, Any], x: npt.NDArray[np.float32], prompt: list[int], tokens: list[int]
) -> tuple[npt.NDArray[np.float32], Sampling]:
    sampling = Sampling.from_generation_config(settings)
    limit = sampling.max_length
    if sampling.max_new_tokens is not None:
        limit = len(prompt) + sampling.max_new_tokens
    scores = x.copy()
    for process in chain_of(sampling, prompt, ENDS, limit):
        process(scores, tokens)
    return scores, sampling


def places() -> Iterator[tuple[npt.NDArray[np.float32], list[int], list[int]]]:
    """Yield random scores, prompts, and tokens of prompt and text."""
    rng = np.random.default_rng(5)
    for prompt in (PROMPT, [9]):
        for length in range(len(TEXT) + 1):
            for spread in (0.5, 3.0):
                x = (rng.standard_normal(VOCABULARY) * spread).astype(np.float32)
                yield x, prompt, prompt + TEXT[:length]


@pytest.mark.parametrize("settings", GREEDY, ids=name_of)
def test_scores(settings: dict[str, Any]) -> None:
    changed = False
    for x, prompt, tokens in places():
        found, _ = our_scores(settings, x, prompt, tokens)
        wanted = their_scores(settings, x, prompt, tokens)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        changed |= not np.array_equal(found, x)
    # None is off by accident, but for sequences that are longer than the text.
    assert changed == (settings.get(next(iter(settings))) not in (40, 50))


def test_scores_that_are_not_finite() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0] * 30, np.float32)
    settings = {"remove_invalid_values": True}
    found, _ = our_scores(settings, x, PROMPT, PROMPT)
    np.testing.assert_array_equal(found, their_scores(settings, x, PROMPT, PROMPT))


@pytest.mark.parametrize("settings", SAMPLED, ids=name_of)
def test_probabilities(settings: dict[str, Any]) -> None:
    """The same tokens may be drawn, with the same probabilities."""
    dropped = 0
    for x, prompt, tokens in places():
        scores, sampling = our_scores(settings, x, prompt, tokens)
        ids, weights = candidates(scores, int(scores.argmax()), sampling)
        p = np.zeros(VOCABULARY)
        p[ids] = weights / weights.sum()
        theirs = their_scores(settings, x, prompt, tokens)
        np.testing.assert_array_equal(np.flatnonzero(p), np.flatnonzero(np.isfinite(theirs)))
        wanted = torch.softmax(torch.from_numpy(theirs).double(), -1).numpy()
        np.testing.assert_allclose(p, wanted, atol=1e-5)
        dropped += VOCABULARY - len(ids)
    assert (dropped > 0) == (settings != DRAWN)


# --- texts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[llm.LanguageModel, Any, Any]]:
    """A random Llama in float32, in both, and transformers' tokenizer."""
    folder = tmp_path_factory.mktemp("trilm")
    with llm.load(models.FAMILIES["trilm"].build(folder), kv="float32") as model, judge.quiet():
        auto: Any = transformers.AutoTokenizer
        yield model, judge.load(folder / "model"), auto.from_pretrained(folder / "model")


def texts(pair: Any, settings: dict[str, Any], prompt: list[int], count: int) -> list[list[int]]:
    """Return the tokens of both."""
    model, theirs, tokenizer = pair
    ends = list(model.config.eos_token_ids)
    with judge.quiet():
        config = transformers.GenerationConfig(
            **({"max_new_tokens": count} | settings), eos_token_id=ends, pad_token_id=0
        )
        ids = torch.tensor([prompt])
        wanted = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            tokenizer=tokenizer,
        )[0].tolist()
    sampling = Sampling.from_generation_config({"max_new_tokens": count} | settings)
    return [model.generate(prompt, sampling=sampling).tokens, wanted[len(prompt) :]]


def test_greedy_texts(pair: Any) -> None:
    """Settings made of the tokens of the plain text, so that each changes it."""
    model = pair[0]
    prompt = model.encode(models.TEXT)[:14]
    plain, wanted = texts(pair, {}, prompt, 24)
    assert plain == wanted
    assert len(plain) == 24
    end = model.config.eos_token_ids[0]
    unchanged = []
    for settings in (
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": plain[:2]},
        {"begin_suppress_tokens": plain[:1]},
        {"bad_words_ids": [plain[3:5], plain[8:9]]},
        {"sequence_bias": [[plain[2:4], -100.0], [[plain[5]], -0.5]]},
        {"repetition_penalty": 1.5},
        {"encoder_repetition_penalty": 3.0},
        {"forced_eos_token_id": end},
        {"forced_eos_token_id": [end, 9], "max_length": 20, "max_new_tokens": None},
        {"max_length": 20, "max_new_tokens": None},
        {"exponential_decay_length_penalty": [3, 1.5]},
        {"sequence_bias": [[[end], 100.0]], "min_new_tokens": 5},
        {"sequence_bias": [[[end], 100.0]], "min_length": 20},
        {"sequence_bias": [[[end], 100.0]], "min_length": 20, "min_new_tokens": 0},
        {"stop_strings": [model.decode(plain[4:7])]},
        {"stop_strings": ["<s>"], "sequence_bias": [[[1], 100.0]], "min_new_tokens": 5},
        {"remove_invalid_values": True, "renormalize_logits": True, "repetition_penalty": 2.0},
    ):
        found, wanted = texts(pair, settings, prompt, 24)
        assert found == wanted, settings
        if found == plain:
            unchanged.append(settings)
    assert not unchanged


def test_greedy_texts_without_the_words_of_the_prompt(pair: Any) -> None:
    model = pair[0]
    prompt = model.encode(models.TEXT)[:14]
    copying: dict[str, Any] = {"sequence_bias": [[prompt[i : i + 2], 50.0] for i in range(1, 13)]}
    copying["sequence_bias"].append([[prompt[1]], 25.0])
    copied, wanted = texts(pair, copying, prompt, 12)
    assert copied == wanted
    assert {*copied} <= {*prompt}
    for size in (1, 2, 3):
        found, wanted = texts(pair, copying | {"encoder_no_repeat_ngram_size": size}, prompt, 12)
        assert found == wanted != copied


def test_greedy_texts_after_one_token(pair: Any) -> None:
    prompt = [pair[0].tokenizer.bos_id]
    plain, _ = texts(pair, {}, prompt, 8)
    for settings in (
        {"forced_bos_token_id": 40},
        {"forced_bos_token_id": 40, "begin_suppress_tokens": [40, *plain]},
    ):
        found, wanted = texts(pair, settings, prompt, 8)
        assert found == wanted != plain, settings


@pytest.mark.parametrize("has_file", [False, True])
def test_settings_in_config_json(has_file: bool, tmp_path: Path) -> None:
    """transformers takes them only where there is no generation_config.json."""
    models.FAMILIES["trilm"].build(tmp_path)
    folder = tmp_path / "model"
    config = json.loads((folder / "config.json").read_text())
    config |= {"no_repeat_ngram_size": 1, "forced_eos_token_id": 7, "max_new_tokens": 12}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    if has_file:
        (folder / "generation_config.json").write_text('{"max_new_tokens": 9, "eos_token_id": 2}')
    rsrc.compile(folder, tmp_path / "changed.rsr")
    with llm.load(tmp_path / "changed.rsr", kv="float32") as model, judge.quiet():
        prompt = model.encode(models.TEXT)[:14]
        ids = torch.tensor([prompt])
        theirs = judge.load(folder).generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0
        )
        found = model.generate(prompt).tokens
        assert prompt + found == theirs[0].tolist()
        assert (len(found), found[-1] == 7) == ((9, False) if has_file else (12, True))


# --- the table ----------------------------------------------------------------------------------


def test_every_setting_of_transformers_is_in_the_table() -> None:
    with judge.quiet():
        fields = set(vars(transformers.GenerationConfig()))
    assert len(fields) > 60
    assert not fields - GENERATION.keys()


def test_used_settings_are_fields_of_sampling() -> None:
    used = {key for key, meaning in GENERATION.items() if meaning.kind == USED}
    fields = vars(Sampling()).keys()
    assert used - fields == {"do_sample", "eos_token_id"}
    assert fields - used == {"seed", "presence_penalty", "frequency_penalty", "logit_bias"}


def test_neutral_values_are_the_defaults_of_transformers() -> None:
    for key, value in transformers.GenerationConfig._get_default_generation_params().items():
        assert not GENERATION[key].has_effect(value), key
    assert sum(meaning.kind == UNSUPPORTED for meaning in GENERATION.values()) > 10
