"""Vectors of texts: those of sentence-transformers, alone, side by side and from an engine."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_runtime import ClosedError, OptionError
from rsr_runtime.llm import (
    EmbedJob,
    Engine,
    Job,
    LanguageModel,
    ModelError,
    NoHeadError,
    NoPoolingError,
    PromptError,
    TruncatedTextWarning,
    check,
    load,
)
from rsr_runtime.llm.embedding import EmbeddingText
from rsr_runtime.llm.errors import CacheMemoryError, TextTooLongError
from rsr_runtime.llm.job import Embedded, Event, Failed, Finished, Started, TextFinished
from rsr_runtime.llm.kv_cache import KVCache
from rsr_runtime.llm.pooling import Pooling
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, PROMPTS, TEXTS
from rsr_testing.loader import Loader
from rsr_testing.paths import GOLDEN

TOLERANCE = 2e-4  # of the largest number, as of logits

Open = Callable[..., LanguageModel]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embedding")
    return {name: family.build(folder / name) for name, family in EMBEDDING_FAMILIES.items()}


@pytest.fixture
def opened(paths: dict[str, Path]) -> Iterator[Open]:
    models = []

    def open_(name: str, **options: Any) -> LanguageModel:
        models.append(load(paths[name], **options))
        return models[-1]

    yield open_
    for model in models:
        model.close()


@pytest.mark.parametrize("name", EMBEDDING_FAMILIES)
def test_vectors_are_those_of_sentence_transformers(
    name: str, opened: Open, paths: dict[str, Path]
) -> None:
    golden = np.load(GOLDEN / "embeddings" / f"{name}.npz")
    weights = (paths[name].parent / "model" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == str(golden["sha256"])
    model, texts = opened(name, kv="float32"), golden["texts"].tolist()
    found = {"vectors": model.embed(texts)}
    if "queries" in golden and EMBEDDING_FAMILIES[name].prompts:
        found["queries"] = model.embed(texts, prompt_name="query")
        same = model.embed(texts, prompt=PROMPTS["query"])
        np.testing.assert_array_equal(same, found["queries"])
    for key, vectors in found.items():
        assert vectors.dtype == np.float32
        error = np.abs(vectors - golden[key]).max(axis=1)
        assert (error <= TOLERANCE * np.abs(golden[key]).max(axis=1)).all(), key


@pytest.mark.parametrize("name", ["bitnet-embedding-0.6b", "bitnet-embedding-270m"])
def test_a_vector_depends_on_no_other_text(name: str, opened: Open) -> None:
    """Layers with a norm of their own take int8 activations; their products are exact."""
    model = opened(name)
    assert {layer.activations for layer in model.weights.linear} == {"int8"}
    together = model.embed(TEXTS * 4)
    for i, text in enumerate(TEXTS):
        np.testing.assert_array_equal(model.embed([text])[0], together[i])
        np.testing.assert_array_equal(together[i + 3 * len(TEXTS)], together[i])


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "max"])
def test_texts_that_several_passes_compute(pooling: str, loaded: Loader) -> None:
    """Of a model that generates text, by what its decoder computes at once."""
    model = loaded("bitnet-2b")
    rng = np.random.default_rng(1)
    texts: list[list[int]] = [rng.integers(0, 300, n).tolist() for n in (250, 256, 1, 90, 256)]
    passes: list[int] = []
    found = model.embed(texts, pooling=pooling, progress=lambda done, _: passes.append(done))
    assert passes == [512, 853]  # the third text ends in the second pass
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_array_equal(model.embed([text], pooling=pooling)[0], vector)


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_texts_are_cut(side: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that ends a text stays; the model's prompt is part of the text."""
    model = opened("qwen3-embedding")
    monkeypatch.setattr(model.tokenizer, "_cut_side", side)
    text = " ".join(str(i) for i in range(100))
    *tokens, eos = model.tokenizer.encode("Find: " + text)
    kept = tokens[:249] if side == "right" else tokens[-249:]
    message = f"^1 text cut to 250 tokens, .*: text 1 has {len(tokens) + 1}$"
    with pytest.warns(TruncatedTextWarning, match=message):
        _, found = model.embed(["a", text], prompt="Find: ")
    np.testing.assert_array_equal(model.embed([[*kept, eos]])[0], found)


def test_a_prompt_leaves_room(opened: Open) -> None:
    with pytest.raises(PromptError, match=r"text 0 has no room after a prompt of \S+ tokens"):
        opened("qwen3-mean").embed(["a"], prompt="b " * 2000)


def test_a_wide_text_needs_a_wide_context(opened: Open) -> None:
    """It is cut to what the model takes, not to what it was loaded with."""
    with pytest.raises(TextTooLongError, match=r"250 tokens, .* 100: load with a larger context"):
        opened("qwen3-embedding", context=100).embed(["b " * 130])


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean", "max", "cls"])
def test_what_all_texts_begin_with_is_computed_once(pooling: str, loaded: Loader) -> None:
    """To the bit, in fewer tokens, beside another request."""
    model = loaded("bitnet-2b")
    rng = np.random.default_rng(4)
    prompt, *others = (rng.integers(3, 300, n).tolist() for n in (150, 20, 1, 90, 33))
    texts = [prompt + text for text in others]
    alone = [model.embed([text], pooling=pooling)[0] for text in texts]
    steps: list[tuple[int, int]] = []
    found = model.embed(texts, pooling=pooling, progress=lambda *done: steps.append(done))
    np.testing.assert_array_equal(found, alone)
    assert steps == [(600, 744), (744, 744)]
    passes = model.new_embedding_passes(2)
    first, second = (
        model.prepared_embeddings(EmbedJob(part, pooling=pooling)) for part in (texts, [prompt])
    )
    for request in (first, second):
        passes.add(request)
    done = passes.step()
    assert (done.rows, done.computed, done.ended) == (300, [first, second], [second])
    done = passes.step()
    assert (done.rows, done.computed, done.ended) == (144, [first], [first])
    np.testing.assert_array_equal(first.vectors(), alone)
    assert first.beginning is not None
    assert all(text.cache is None for text in (first.beginning, *first.texts))


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        ([[1] * 50, [1] * 50], 0),  # saves 49 tokens
        ([[1] * 70, [1] * 70], 69),  # the last token is a text's own
        ([[1] * 70, [1] * 30 + [2] * 40, [1] * 33], 0),
        ([[1] * 70, [1] * 32 + [2] * 40, [1] * 33], 32),
        ([[1] * 200], 0),
    ],
)
def test_when_a_beginning_is_shared(texts: list[list[int]], length: int, loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    passes = model.new_embedding_passes(1)
    request = model.prepared_embeddings(EmbedJob(texts, pooling="mean"))
    passes.add(request)
    assert (request.beginning is not None) == bool(length)
    assert len(request.beginning.ids if request.beginning is not None else ()) == length


def test_a_hybrid_shares_beginnings(loaded: Loader) -> None:
    model = loaded("qwen3.5", kv="float32")
    rng = np.random.default_rng(5)
    prompt = rng.integers(3, 300, 90).tolist()
    texts = [prompt + rng.integers(3, 300, 7).tolist() for _ in range(3)]
    alone = np.concatenate([model.embed([text], pooling="lasttoken") for text in texts])
    found = model.embed(texts, pooling="lasttoken")
    assert np.abs(found - alone).max() <= 1e-4 * np.abs(alone).max()


def test_a_beginning_without_memory(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("bitnet-2b")

    def fails(self: KVCache, *_: object) -> None:
        raise CacheMemoryError("no memory")

    passes = model.new_embedding_passes(1)
    request = model.prepared_embeddings(EmbedJob([[5] * 90] * 3, pooling="mean"))
    monkeypatch.setattr(passes, "_create", fails)
    passes.add(request)
    assert [found for found, _ in passes.step().failed] == [request]
    assert not passes


def test_tokens_take_no_prompt(opened: Open) -> None:
    model = opened("qwen3-embedding")
    tokens = model.tokenizer.encode(TEXTS[0])
    as_text, as_tokens = model.embed([TEXTS[0], np.array(tokens)])
    np.testing.assert_allclose(as_text, as_tokens, atol=1e-6)
    (prompted,) = model.embed([tokens], prompt="Query: ")
    np.testing.assert_allclose(prompted, as_tokens, atol=1e-6)


def test_dimensions_and_length(opened: Open) -> None:
    model = opened("qwen3-embedding")
    whole, cut = model.embed(TEXTS, normalize=False), model.embed(TEXTS, dimensions=8)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-5)
    shortened = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, shortened, rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(whole, axis=1).min() > 2
    assert model.embed([]).shape == (0, 128)
    assert opened("qwen3-mean").embed([], dimensions=200).shape == (0, 200)  # two modes


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("a", {}, PromptError, r"found a single prompt, expected a list: give \[text\], a list"),
        ([3, 4], {}, PromptError, "found the tokens of a single prompt, expected a list"),
        ([[]], {}, PromptError, "text 0 is empty: it has no tokens"),
        (["a", [1 << 20]], {}, PromptError, "found token 1048576, expected a token below"),
        (["a", ["b"]], {}, PromptError, "found a prompt of type list with str in it"),
        (["a", "b " * 130], {"truncate": False}, TextTooLongError, "1 has 261 .* at most 250"),
        (["a", [5] * 251], {}, TextTooLongError, "text 1 has 251 tokens, expected at most 250"),
        (["a"], {"dimensions": 129}, OptionError, "dimensions: found 129, expected 1 to 128"),
        (["a"], {"pooling": "x"}, OptionError, "pooling: found 'x', expected one of cls"),
        (["a"], {"prompt_name": "x"}, OptionError, "found 'x', but the model has 'query', 'doc"),
        (["a"], {"prompt": 3}, PromptError, "found a prompt of type int, expected a string"),
    ],
)
def test_refused(
    texts: Any, options: dict[str, Any], error: type[Exception], message: str, opened: Open
) -> None:
    with pytest.raises(error, match=message):
        opened("qwen3-embedding").embed(texts, **options)


def test_the_last_token_is_never_the_prompts(opened: Open) -> None:
    """Two models with the same weights, one of which leaves out the prompt."""
    options: dict[str, Any] = {"prompt": "Find: ", "pooling": "lasttoken", "normalize": False}
    found, expected = (
        opened(name).embed(TEXTS, **options) for name in ("qwen3-mean", "qwen3-embedding")
    )
    np.testing.assert_array_equal(found, expected)


def test_empty_and_long_texts(opened: Open) -> None:
    model = opened("qwen3-mean")  # whose tokenizer ends every text with EOS
    empties: tuple[Any, ...] = ("", [], np.array([], np.int64))
    for empty in empties:
        with pytest.raises(PromptError, match="text 1 is empty"):
            model.embed(["a", empty], prompt="in")
    model = opened("qwen3-embedding", context=20)
    with pytest.raises(TextTooLongError, match=r"larger context \(the model's limit is 250\)"):
        model.embed(["the weights of a trained network"])


def test_a_model_without_a_head_generates_nothing(opened: Open) -> None:
    model = opened("bitnet-embedding-270m")
    with Engine(model) as engine:
        asked: list[Callable[[], object]] = [
            lambda: model.stream("a"),
            lambda: model.generate_all(["a"]),
            lambda: model.next_logits("a"),
            lambda: model.logits("a"),
            lambda: model.perplexity("a b"),
            lambda: model.log_likelihoods([([1], [2])]),
            lambda: engine.submit(Job("a")),
        ]
        for ask in asked:
            with pytest.raises(NoHeadError, match=r"no output head: it embeds texts \(rsrc embed"):
                ask()
    error = pickle.loads(pickle.dumps(TextTooLongError(1, 2, 3, 4)))
    assert (error.number, error.tokens, error.most, error.limit) == (1, 2, 3, 4)


def test_a_model_for_text_embeds_if_asked(loaded: Loader) -> None:
    model = loaded("trilm", kv="float32")
    with pytest.raises(NoPoolingError, match="does not say how to pool the states"):
        model.embed(["a"])
    (found,) = model.embed(["a"], pooling="mean")
    assert found.shape == (64,)
    assert np.linalg.norm(found) > 2


def test_what_is_said_beforehand(paths: dict[str, Path], loaded: Loader) -> None:
    folder = paths["qwen3-embedding"].parent / "model"
    names = ("config.json", "modules.json", "tokenizer.json", "tokenizer_config.json")
    files = {name: (folder / name).read_bytes() for name in names}
    files["1_Pooling.config.json"] = (folder / "1_Pooling" / "config.json").read_bytes()
    with load(paths["qwen3-embedding"]) as model:
        facts = {name: _facts(model, name) for name in model._model}
    found = check(files, facts)
    assert found.embed_reasons == ()
    assert found.to_dict()["embeds"] == {"ok": True, "reasons": []}
    assert len(found.run_reasons) == 1
    assert found.sentences() == [f"rsrc run cannot run it: {found.run_reasons[0]}"]
    broken = check({**files, "modules.json": b"[]"}, facts)
    assert len(broken.embed_reasons) == 1
    assert f"rsrc embed cannot use it: {broken.embed_reasons[0]}" in broken.sentences()
    head = {**facts, "lm_head.weight": facts["embed_tokens.weight"]}
    (reason,) = check(files, head).embed_reasons
    assert "lm_head.weight, but Qwen3Model has no output head" in reason


def _facts(model: LanguageModel, name: str) -> Any:
    from rsr_runtime.llm.tensors import ModelFacts

    return ModelFacts(model._model)[name]


def test_a_damaged_modules_json_refuses_vectors_alone(
    tmp_path: Path, paths: dict[str, Path]
) -> None:
    import rsrc

    folder = paths["qwen3-embedding"].parent / "model"
    original = (folder / "modules.json").read_bytes()
    try:
        (folder / "modules.json").write_text("[]")
        rsrc.compile(folder, tmp_path / "x.rsr")
    finally:
        (folder / "modules.json").write_bytes(original)
    with load(tmp_path / "x.rsr") as model, pytest.raises(ModelError, match=r"modules are none"):
        model.embed(["a"])


# --- in an engine ---------------------------------------------------------------------------------


def test_an_engine_embeds_beside_other_jobs(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    rng = np.random.default_rng(2)
    texts: list[list[int]] = [rng.integers(0, 300, n).tolist() for n in (3, 250, 40, 1)]
    expected = model.embed(texts, pooling="mean", dimensions=9)
    prompt: list[int] = rng.integers(3, 200, 40).tolist()
    alone = model.generate(prompt, max_tokens=20).tokens
    with Engine(model, parallel=2) as engine:
        job = EmbedJob(texts, pooling="mean", dimensions=9)
        streams = [engine.submit(job) for _ in range(5)]
        text = engine.submit(Job(prompt, max_tokens=20))
        for stream in streams:
            started, embedded, last = list(stream)
            assert isinstance(started, Started)
            assert started.prompt_tokens == 294
            assert isinstance(embedded, Embedded)
            np.testing.assert_array_equal(embedded.vectors, expected)
            assert last == Finished()
        (ended,) = [e.generation for e in text if isinstance(e, TextFinished)]
        assert ended.tokens == alone
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.prompt_tokens == 5 * 294 + 40


def test_requests_take_turns(loaded: Loader) -> None:
    """A request of many texts does not hold up one of a single text."""
    model = loaded("bitnet-2b")
    passes = model.new_embedding_passes(2)
    long, short, third = (
        model.prepared_embeddings(
            EmbedJob([[3 + i] * n for i, n in enumerate(sizes)], pooling="mean")
        )
        for sizes in ((250,) * 6, (40,), (1,))
    )
    for request in (long, short, third):
        passes.add(request)
    done = passes.step()
    assert (done.rows, done.computed, done.ended) == (512, [long, short], [short])
    assert passes.step().ended == [third]
    passes.remove(long)
    assert not passes
    assert all(text.cache is None for text in long.texts)


def test_cancel_and_close(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    ended: list[Event] = []
    job = EmbedJob([[3] * 250] * 40, pooling="mean")
    with Engine(model) as engine:
        stream = engine.submit(job)
        stream.cancel()
        assert list(stream)[-1] == Finished(canceled=True)
        engine.submit(job, ended.append)
    assert isinstance(ended[-1], Failed)
    assert isinstance(ended[-1].error, ClosedError)


def test_without_memory_only_the_vectors_fail(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bitnet-2b")

    def fails(self: EmbeddingText, *_: object) -> None:
        raise CacheMemoryError("no memory")

    with Engine(model) as engine:
        monkeypatch.setattr(engine._worker()._embedding, "_create", fails)
        last = list(engine.submit(EmbedJob(["a"], pooling="mean")))[-1]
        assert isinstance(last, Failed)
        assert isinstance(last.error, CacheMemoryError)
        assert list(engine.submit(Job("a", max_tokens=1)))[-1] == Finished()


def test_a_request_without_memory_fails_alone(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bitnet-2b")
    passes = model.new_embedding_passes(3)
    create = passes._create

    def fails(positions: int) -> KVCache:
        if positions == 9:
            raise CacheMemoryError("no memory")
        return create(positions)

    monkeypatch.setattr(passes, "_create", fails)
    first, lacking, last = (
        model.prepared_embeddings(EmbedJob([[3] * n for n in sizes], pooling="mean"))
        for sizes in ((5,), (4, 9), (7,))
    )
    for request in (first, lacking, last):
        passes.add(request)
    done = passes.step()
    assert done.ended == [first, last]
    assert [(request, str(error)) for request, error in done.failed] == [(lacking, "no memory")]
    assert all(text.cache is None for text in lacking.texts)
    passes.add(model.prepared_embeddings(EmbedJob([[3] * 9], pooling="mean")))
    assert len(passes.step().failed) == 1
    assert not passes
    monkeypatch.setattr(model, "new_embedding_passes", lambda _: passes)
    with pytest.raises(CacheMemoryError, match="no memory"):
        model.embed([[3] * 9], pooling="mean")


def test_an_empty_job_is_refused(loaded: Loader) -> None:
    with Engine(loaded("bitnet-2b")) as engine, pytest.raises(PromptError, match="found no texts"):
        engine.submit(EmbedJob([], pooling="mean"))


def test_pooling_needs_only_the_last_state() -> None:
    assert not EmbeddingText([1], Pooling(("lasttoken",)), 0).needs_all
    assert EmbeddingText([1], Pooling(("mean", "lasttoken")), 0).needs_all
