"""The decoder: logits do not depend on passes, threads or what else is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime as rsr
from rsr_runtime import llm
from rsr_runtime.llm import PromptError
from rsr_runtime.llm.decoder import MAX_ROWS, BatchItem
from rsr_runtime.llm.kv_cache import KVCache
from rsr_runtime.llm.layers.mlp import Mlp
from rsr_runtime.llm.layers.sublayer import PHASES, Pass
from rsr_runtime.llm.linear import Workspace, short_steps
from rsr_runtime.llm.session import Session
from rsr_testing import models
from rsr_testing.loader import Loader

if TYPE_CHECKING:
    from rsr_runtime.llm import LanguageModel

FloatArray = npt.NDArray[np.float32]

# Int8 activations everywhere: sums of integers, so that not a bit may differ.
BITNETS = ["bitnet-2b", "llama3-1.58", "1bitllm", "falcon3", "bitnet-2b-permuted"]
FLOATS = ["trilm", "bonsai", "gguf-tq2_0"]


def tokens_of(count: int, seed: int = 1) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, 250, count).tolist()
    return found


def one_by_one(model: LanguageModel, tokens: list[int]) -> FloatArray:
    return np.stack([model.next_logits(tokens[: i + 1]) for i in range(len(tokens))])


@pytest.mark.parametrize("kv", ["float16", "float32", "int8"])
@pytest.mark.parametrize("name", BITNETS)
def test_a_prompt_at_once_is_its_tokens_one_by_one(name: str, kv: str, loaded: Loader) -> None:
    """37 tokens are more than a block of positions, and no whole number of blocks."""
    tokens = tokens_of(37)
    together = loaded(name, kv=kv).logits(tokens)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(one_by_one(loaded(name, kv=kv), tokens), together)


@pytest.mark.parametrize("name", FLOATS)
def test_a_prompt_of_a_float_model_at_once_and_one_by_one(name: str, loaded: Loader) -> None:
    tokens = tokens_of(21)
    together = loaded(name, kv="float32").logits(tokens)
    found = one_by_one(loaded(name, kv="float32"), tokens)
    np.testing.assert_allclose(found, together, atol=1e-4 * np.abs(together).max())


@pytest.mark.parametrize("name", ["bitnet-2b", "bonsai"])
def test_passes_of_many_rows(name: str, loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt is cut into passes, which changes nothing."""
    tokens = tokens_of(50)
    whole = loaded(name).logits(tokens)
    monkeypatch.setattr("rsr_runtime.llm.session.MAX_ROWS", 7)
    cut = loaded(name).logits(tokens)
    if name == "bitnet-2b":
        np.testing.assert_array_equal(cut, whole)
    else:
        np.testing.assert_allclose(cut, whole, atol=1e-3 * np.abs(whole).max())
    assert MAX_ROWS == 512


@pytest.mark.parametrize("name", BITNETS)
def test_threads_change_nothing(name: str, loaded: Loader, restore: None) -> None:
    tokens = tokens_of(19)
    found = []
    for count in (1, 2, 3):
        rsr.set_num_threads(count)
        model = loaded(name)
        found.append((model.logits(tokens), one_by_one(loaded(name), tokens)))
    for many, alone in found[1:]:
        np.testing.assert_array_equal(many, found[0][0])
        np.testing.assert_array_equal(alone, found[0][1])


def test_threads_change_nothing_for_floats_either(loaded: Loader, restore: None) -> None:
    found = []
    for count in (1, 2):
        rsr.set_num_threads(count)
        found.append(loaded("bonsai").logits(tokens_of(19)))
    np.testing.assert_array_equal(found[0], found[1])


def step(model: LanguageModel, sequences: list[Session], tokens: list[int]) -> Any:
    """Append a token to each sequence, all in one pass; return the logits after each."""
    batch = []
    for sequence, token in zip(sequences, tokens, strict=True):
        ids = [*sequence.tokens, token]
        first = len(ids) - sequence.missing(ids)
        batch.append(BatchItem(ids[first:], sequence.cache, first, sequence.variant))
    hidden = model._decoder.hidden(batch)
    for sequence, item in zip(sequences, batch, strict=True):
        sequence.append(item.tokens)
    last = np.cumsum([len(item.tokens) for item in batch]) - 1
    return model._decoder.logits(hidden[last]).copy()


@pytest.mark.parametrize("name", BITNETS)
def test_side_by_side_is_alone(name: str, loaded: Loader) -> None:
    """Three prompts of different lengths, whose tokens then come in one pass."""
    prompts = [tokens_of(5, 1), tokens_of(18, 2), tokens_of(1, 3)]
    later = tokens_of(6, 4)
    model = loaded(name)
    sequences = [new_sequence(model) for _ in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        sequence.follow(prompt)
    steps = []
    for i, token in enumerate(later):
        chosen = [token, (token + 1) % 200 + 3, token]
        logits = step(model, sequences, chosen)
        steps.append(logits)
        for sequence, prompt in zip(sequences, prompts, strict=True):
            assert len(sequence.tokens) == len(prompt) + i + 1
    for row, (sequence, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        alone = loaded(name).logits(sequence.tokens)[len(prompt) :]
        np.testing.assert_array_equal(np.stack(steps)[:, row], alone)


def new_sequence(model: LanguageModel, **changes: Any) -> Session:
    return Session(model._decoder, KVCache(model.config, model.context, "float16"))


def test_items_of_one_pass_have_their_own_positions(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    first, second = tokens_of(20, 1), tokens_of(3, 2)
    caches = [KVCache(model.config, model.context, "float16") for _ in range(2)]
    decoder = model._decoder
    decoder.hidden([BatchItem(first[:15], caches[0], 0)])
    both = decoder.hidden([BatchItem(first[15:], caches[0], 15), BatchItem(second, caches[1], 0)])
    logits = decoder.logits(both).copy()
    np.testing.assert_array_equal(logits[:5], loaded("bitnet-2b").logits(first)[15:])
    np.testing.assert_array_equal(logits[5:], loaded("bitnet-2b").logits(second))


# --- RoPE that depends on the length ---------------------------------------------------------


@pytest.fixture
def longrope(tmp_path: Path) -> Iterator[LanguageModel]:
    """A model whose sequences of more than 16 tokens take other frequencies at all positions."""
    family = models.FAMILIES["trilm"]
    head_dim = family.config["hidden_size"] // family.config["num_attention_heads"]
    scaling = {
        "rope_type": "longrope", "original_max_position_embeddings": 16,
        "short_factor": [1.0] * (head_dim // 2), "long_factor": [4.0] * (head_dim // 2),
    }  # fmt: skip
    family = dataclasses.replace(family, config={**family.config, "rope_scaling": scaling})
    with llm.load(family.build(tmp_path), kv="float32") as model:
        yield model


def test_a_sequence_that_grows_takes_the_frequencies_of_its_length(longrope: LanguageModel) -> None:
    tokens = tokens_of(20)
    for length in (15, 16, 17, 20, 16):
        expected = longrope.logits(tokens[:length])[-1]
        longrope.next_logits(tokens[: length - 1])
        found = longrope.next_logits(tokens[:length])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    short, long = longrope.logits(tokens[:16]), longrope.logits(tokens[:17])
    np.testing.assert_allclose(short[0], long[0], rtol=1e-4)  # position 0 is not rotated
    assert not np.allclose(short[15], long[15], rtol=1e-2)


def test_sequences_side_by_side_change_frequencies_each_for_itself(longrope: LanguageModel) -> None:
    prompts = [tokens_of(15, 1), tokens_of(3, 2), tokens_of(18, 3)]
    sequences = [new_sequence(longrope) for _ in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        sequence.follow(prompt)
    for token in (5, 6, 7):
        logits = step(longrope, sequences, [token] * 3)
    for row, sequence in enumerate(sequences):
        alone = longrope.logits(sequence.tokens)[-1]
        np.testing.assert_allclose(logits[row], alone, atol=2e-3 * np.abs(alone).max())


# --- sessions --------------------------------------------------------------------------------


def test_a_prompt_that_diverges_gives_what_a_new_one_gives(loaded: Loader) -> None:
    """Before, at and after the border of a block of 16 positions; and one that is shorter."""
    model, tokens = loaded("bitnet-2b"), tokens_of(40)
    fresh = loaded("bitnet-2b")
    for at in (0, 1, 15, 16, 17, 31, 39):
        for other in ([*tokens[:at], 7, 8, 9], tokens[: at + 1], tokens, [*tokens, 3]):
            found = model.next_logits(other)
            np.testing.assert_array_equal(found, fresh.logits(other)[-1])


def test_a_known_beginning_is_not_computed_again(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = loaded("bitnet-2b"), tokens_of(30)
    computed = []
    hidden = model._decoder.hidden

    def counting(batch: Any) -> FloatArray:
        computed.append(sum(len(item.tokens) for item in batch))
        return hidden(batch)

    monkeypatch.setattr(model._decoder, "hidden", counting)
    for prompt in (tokens, [*tokens, 5], [*tokens, 5], tokens[:20], [*tokens[:10], 9], [9]):
        model.next_logits(prompt)
    assert computed == [30, 1, 1, 1, 1, 1]
    model.next_logits(tokens)
    assert computed[-1] == 30


def test_an_interrupted_pass_leaves_a_sequence_that_can_go_on(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = loaded("bitnet-2b"), tokens_of(30)
    before = model.next_logits(tokens[:20])
    record = Mlp.record

    def interrupted(mlp: Mlp, current: Pass) -> FloatArray:
        record(mlp, current)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Mlp, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.next_logits([*tokens[:10], *tokens])
    np.testing.assert_array_equal(model.next_logits(tokens[:20]), before)
    expected = loaded("bitnet-2b").logits([*tokens[:10], *tokens])[-1]
    np.testing.assert_array_equal(model.next_logits([*tokens[:10], *tokens]), expected)


# --- the steps of a pass -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bitnet-2b", "bitnet-2b-permuted", "bonsai", "llama-bias"])
def test_a_pass_may_be_cut_into_steps(
    name: str, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float activations, the last bits depend on the number of rows of a step.

    The cache is float32: rounded to float16, they could differ by a step.
    """
    tokens = tokens_of(100, 3)
    expected = loaded(name, kv="float32").logits(tokens)
    monkeypatch.setattr("rsr_runtime.llm.linear._STEP", 1)
    for least in ("linear._LEAST_INT8", "linear._LEAST_FLOAT", "decoder._LEAST_ROWS"):
        monkeypatch.setattr(f"rsr_runtime.llm.{least}", 7)
    # Tiles of bfloat16 keep 16 bits of an activation.
    off = 1e-3 if rsr.cpu_info()["isa"] == "amx" else 1e-5
    np.testing.assert_allclose(
        loaded(name, kv="float32").logits(tokens), expected, rtol=1e-4, atol=off
    )
    sessions = [loaded(name, kv="float32").new_session() for _ in range(2)]
    for session in sessions:
        np.testing.assert_allclose(session.follow(tokens), expected[-1], rtol=1e-4, atol=off)


@pytest.mark.parametrize("least", [8, 64, 128])
@pytest.mark.parametrize("products", [1, 6912 * 2560, 128_256 * 2560, 1 << 40])
def test_steps_are_as_short_as_is_fast(products: int, least: int) -> None:
    steps = [part.stop - part.start for part in short_steps(512, products, least)]
    assert sum(steps) == 512
    assert max(steps) - min(steps) <= 1
    assert max(steps) <= least or max(steps) * products <= 1 << 31
    assert len(steps) == 1 or min(steps) >= least // 2


# --- the context --------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 16, 17])
def test_all_positions_of_a_context_can_be_used(context: int, loaded: Loader) -> None:
    tokens = tokens_of(context)
    full = loaded("bitnet-2b", context=context)
    np.testing.assert_array_equal(full.logits(tokens), loaded("bitnet-2b").logits(tokens))
    np.testing.assert_array_equal(full.next_logits(tokens), full.logits(tokens)[-1])
    for call in (full.logits, full.next_logits):
        with pytest.raises(PromptError, match=f"{context + 1} tokens and leaves no room"):
            call(tokens_of(context + 1))


def test_the_whole_context_of_the_model(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    assert model.context == model.config.max_position_embeddings == 256
    assert np.isfinite(model.logits(tokens_of(256))).all()


# --- caches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bitnet-2b", "bonsai", "trilm"])
def test_float16_keys_and_values_are_close_to_float32(name: str, loaded: Loader) -> None:
    """In a BitNet an activation may be rounded to another integer, which differs more."""
    tokens = tokens_of(60)
    wide = loaded(name, kv="float32").logits(tokens)
    half = loaded(name, kv="float16").logits(tokens)
    assert not np.array_equal(wide, half)
    error = np.abs(wide - half).max(axis=1) / np.abs(wide).max()
    assert np.median(error) < 0.02
    assert error.max() < 0.2


def test_where_the_time_goes(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    assert not any(model.phase_seconds().values())
    model.next_logits(tokens_of(9))
    seconds = model.phase_seconds()
    assert set(seconds) == set(PHASES)
    assert all(value > 0 for value in seconds.values())
    model.next_logits(tokens_of(10))
    assert all(model.phase_seconds()[part] > seconds[part] for part in PHASES)


def test_bytes_of_a_token(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    assert model.bytes_per_token(0) > model._model.dense("model.embed_tokens.weight").nbytes
    # Two layers of two heads of 16 keys and 16 values in float16.
    assert model.bytes_per_token(10) - model.bytes_per_token(0) == 10 * 2 * 2 * 32 * 2


def test_logits_of_every_token_whatever_was_computed_before(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    tokens = tokens_of(9)
    first = model.logits(tokens)
    assert first.shape == (9, model.config.vocab_size)
    np.testing.assert_array_equal(model.logits(tokens), first)


def test_buffers_of_one_name_are_one_memory() -> None:
    workspace = Workspace()
    small = workspace.take("a", 2, 3)
    large = workspace.take("a", 4, 3)
    again, whole = workspace.take("a", 2, 3), workspace.take("a", 12, dtype=np.int8)
    assert not np.shares_memory(small, large)  # the first was too small
    assert np.shares_memory(again, large)
    assert np.shares_memory(whole, large)
    assert not np.shares_memory(workspace.take("b", 4, 3), large)
    assert workspace.take("a", 4, 3) is large
