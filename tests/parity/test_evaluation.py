"""Results of lm-evaluation-harness with a `.rsr` file: those of its own model for transformers.

The tasks are in the folder tasks. In a BitNet, an input next to the middle between two integers may
be rounded either way (``rsr_testing.parity.judge``), so its log-likelihoods are compared strictly
only where transformers met no such input.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.adapters import write_adapter
from rsr_testing.commands import done, refused, rsrc
from rsr_testing.language_models import LanguageModels
from rsr_testing.parity import judge

torch, transformers = judge.torch_and_transformers()
pytest.importorskip("lm_eval")

from lm_eval import evaluator  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from rsr_runtime.evaluation import RsrLM, TaskError  # noqa: E402
from rsr_runtime.evaluation.run import _quiet_git  # noqa: E402

TASKS = Path(__file__).parent / "tasks"
TOLERANCE = 1e-3  # of a log-likelihood, a sum over tokens, and of a metric
OF_A_TIE = 5e-3  # of a log-likelihood that depends on a rounding, relative


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run where the data files of the tasks are, and keep what datasets makes of them apart."""
    import datasets

    cache = str(tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.chdir(TASKS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        with judge.quiet():
            yield
    finally:
        logging.disable(logging.NOTSET)


def judge_of(folder: Path, max_length: int) -> Any:
    """Return lm-eval's model for transformers, which notes how near each request was to a tie."""
    from lm_eval.models.huggingface import HFLM

    class Watched(HFLM):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.clearances: list[float] = []

        def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> Any:
            answers = []
            for request in requests:
                with judge.watched(self.model) as distances:
                    answers += super()._loglikelihood_tokens([request], **options)
                self.clearances.append(min((float(one.min()) for one in distances), default=1.0))
            return answers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = judge.load(folder)
    return Watched(
        pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=1, device="cpu"
    )


def results_of(lm: Any, tasks: list[str], **options: Any) -> dict[str, Any]:
    import lm_eval

    manager = TaskManager(include_path=TASKS, include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        lm, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options
    )
    return found


def responses(results: dict[str, Any], task: str) -> list[Any]:
    samples = results["samples"][task]
    return [one for sample in samples for found in sample["resps"] for one in found]


def numbers(results: dict[str, Any], task: str) -> dict[str, float]:
    metrics = results["results"][task].items()
    return {metric: value for metric, value in metrics if isinstance(value, float)}


# "qwen3.5": layers whose states cannot be truncated.
@pytest.mark.parametrize(
    ("family", "chat"),
    [("bitnet-2b", True), ("llama3-1.58", False), ("bonsai", True), ("qwen3.5", True)],
)
def test_results_are_those_of_transformers(family: str, chat: bool, tmp_path: Path) -> None:
    tasks = ["rsr_choice", "rsr_rolling", "rsr_text"]
    options = {"apply_chat_template": chat, "log_samples": True}
    path = models.FAMILIES[family].build(tmp_path)
    with quiet(), llm.load(path, kv="float32") as model:
        hf = judge_of(tmp_path / "model", model.context)
        expected = results_of(hf, tasks, **options)
        found = results_of(RsrLM(model), tasks, **options)
    for task in tasks:
        asked = [[sample["arguments"] for sample in r["samples"][task]] for r in (found, expected)]
        assert asked[0] == asked[1]
        assert numbers(found, task) == pytest.approx(numbers(expected, task), rel=TOLERANCE)
    assert responses(found, "rsr_text") == responses(expected, "rsr_text")
    assert any(responses(found, "rsr_text"))
    assert responses(found, "rsr_rolling") == pytest.approx(
        responses(expected, "rsr_rolling"), rel=OF_A_TIE
    )
    tolerance: dict[str, Any] = {"abs": TOLERANCE}
    if models.FAMILIES[family].is_bitnet:
        tolerance = {"rel": OF_A_TIE}
    answers = [responses(results, "rsr_choice") for results in (found, expected)]
    for one, other in zip(*answers, strict=True):
        assert one[0] == pytest.approx(other[0], **tolerance)
        assert one[1] == other[1]


@pytest.mark.parametrize("family", ["bitnet-2b", "llama3-1.58", "1bitllm"])
def test_short_requests_of_a_bitnet(family: str, tmp_path: Path) -> None:
    """So short that many meet no input next to a tie; those agree as floats do."""
    words = ["The", " rows", " of", " a", " block", " are", " sorted", " once", "!"]
    pairs = instances("loglikelihood", *[(one, other) for one in words for other in words])
    path = models.FAMILIES[family].build(tmp_path)
    with quiet(), llm.load(path, kv="float32") as model:
        hf = judge_of(tmp_path / "model", model.context)
        expected, found = hf.loglikelihood(pairs), RsrLM(model).loglikelihood(pairs)
    clear = [clearance >= judge.CLEARANCE for clearance in hf.clearances]
    assert sum(clear) > 20
    for one, other, is_clear in zip(found, expected, clear, strict=True):
        assert not is_clear or one == pytest.approx(other, abs=TOLERANCE)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_requests_longer_than_the_context(tmp_path: Path) -> None:
    """They lose tokens at the beginning, as in transformers, and are counted."""
    path = models.FAMILIES["bonsai"].build(tmp_path)
    long = "the rows of a block " * 30
    pairs = instances("loglikelihood", (long, " are sorted"), ("", "the rows"), (" rows", " a b c"))
    texts = instances("loglikelihood_rolling", (long,), ("",))
    prompts = instances("generate_until", (long, {"until": ["\n"], "max_gen_toks": 9}))
    with quiet(), llm.load(path, context=48, kv="float32") as model:
        hf, lm = judge_of(tmp_path / "model", 48), RsrLM(model)
        expected = hf.loglikelihood(pairs)
        for one, other in zip(lm.loglikelihood(pairs), expected, strict=True):
            assert one == pytest.approx(other, abs=TOLERANCE)
        assert lm.truncated == 1
        assert lm.loglikelihood_rolling(texts) == pytest.approx(
            hf.loglikelihood_rolling(texts), abs=TOLERANCE
        )
        assert lm.truncated == 1  # windows leave nothing out
        assert lm.generate_until(prompts) == hf.generate_until(prompts)
        assert lm.truncated == 2
        with pytest.raises(TaskError, match=r"a continuation has \d+ tokens, expected at most 48"):
            lm.loglikelihood(instances("loglikelihood", ("rows", long)))
        with pytest.raises(TaskError, match="48 tokens, which leaves no room"):
            lm.generate_until(instances("generate_until", ("a", {"max_gen_toks": 48})))


def test_an_answer_that_goes_on(tmp_path: Path) -> None:
    """A conversation whose last message is the beginning of an answer, as transformers cuts it."""
    messages = [
        {"role": "user", "content": "What is a rank?"},
        {"role": "assistant", "content": "A rank is a"},
    ]
    for family in ("bitnet-2b", "bonsai", "1bitllm"):
        path = models.FAMILIES[family].build(tmp_path / family)
        with quiet(), llm.load(path) as model:
            tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / family / "model")
            for count in (1, 2):
                options = {"add_generation_prompt": count == 1}
                expected = tokenizer.apply_chat_template(
                    messages[:count], tokenize=False, continue_final_message=count == 2, **options
                )
                lm = RsrLM(model)
                assert lm.apply_chat_template(messages[:count], **options) == expected


def test_drawn_texts(tmp_path: Path) -> None:
    """Repeats of a request differ; the seed that lm-eval sets repeats them all."""
    path = models.FAMILIES["bitnet-2b"].build(tmp_path)
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.95, "max_gen_toks": 12}
    requests = instances(
        "generate_until", *[("The rows", settings)] * 3, ("The", {"max_gen_toks": 9})
    )
    with llm.load(path) as model:
        lm = RsrLM(model)
        random.seed(1)
        first = lm.generate_until(requests)
        random.seed(1)
        assert lm.generate_until(requests) == first
        assert len(set(first[:3])) == 3
        expected = model.generate("The", max_tokens=9, sampling=llm.Sampling())
        assert first[3] == model.decode(expected.tokens)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 4}, "not supported: num_beams = 4"),
        ({"max_length": 40, "foo": 1}, "not supported: max_length = 40, foo = 1"),
        ({"max_gen_toks": 9, "do_sample": True, "temperature": 1, "top_p": 7}, "top_p"),
    ],
)
def test_settings_that_are_not_supported(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    refused = pytest.raises(TaskError, match=f"generation_kwargs of a task: .*{words}")
    with llm.load(models.FAMILIES["bitnet-2b"].build(tmp_path)) as model, refused:
        RsrLM(model).generate_until(instances("generate_until", ("a", settings)))


def test_by_its_registered_name(tmp_path: Path) -> None:
    path = models.FAMILIES["bitnet-2b"].build(tmp_path)
    with quiet():
        found = results_of("rsr", ["rsr_choice"], model_args={"model": str(path), "context": 256})
    assert found["results"]["rsr_choice"]["acc_norm,none"] == pytest.approx(0.4)
    assert np.isfinite(found["results"]["rsr_choice"]["acc,none"])


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.FAMILIES["bitnet-2b"].build(tmp_path_factory.mktemp("model"))


def test_the_command(path: Path, tmp_path: Path) -> None:
    """The table on stdout, or JSON; the same JSON in a file; and what was cut, on stderr."""
    output = tmp_path / "results.json"
    asked = ("eval", path, "--tasks", "rsr_c*, rsr_text.yaml", "--include-path", TASKS)
    run = rsrc(*asked, "--limit", 3, "--num-fewshot", 1, "--context", 60, "-o", output)
    table = done(run)
    rows = [line for line in table.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["rsr_choice"] * 2 + ["rsr_text"]
    cut = re.search(
        r"rsrc: (\d+) requests lost tokens at the beginning, to fit 60 tokens", run.stderr
    )
    assert cut is not None
    printed = json.loads(done(rsrc(*asked, "--limit", 3, "--context", 60, "--json")))
    written = json.loads(output.read_text())
    assert printed["config"]["model_args"] == {
        "context": 60, "kv": "float16", "activations": "trained", "memory": "auto",
    }  # fmt: skip
    assert written["truncated"] == int(cut[1])
    assert printed["file"] == written["file"] == str(path)
    for name in ("acc_norm,none", "acc,none", "sample_len"):
        assert written["results"]["rsr_choice"][name] >= 0
    assert written["results"]["rsr_choice"]["sample_len"] == 3
    assert (written["n-shot"]["rsr_choice"], printed["n-shot"]["rsr_choice"]) == (1, 2)
    assert set(printed) == set(written)


def test_an_adapter(path: Path, tmp_path: Path) -> None:
    with llm.load(path) as model:
        adapter = write_adapter(tmp_path / "one", model)
    asked = ("eval", path, "--tasks", "rsr_rolling.yaml", "--limit", 2, "--json")
    alone, adapted = (json.loads(done(rsrc(*asked, *more))) for more in ((), ("--lora", adapter)))
    assert adapted["config"]["model_args"]["adapters"] == {"one": str(adapter)}
    assert "adapters" not in alone["config"]["model_args"]
    assert adapted["results"]["rsr_rolling"] != alone["results"]["rsr_rolling"]


def test_git_is_silent_outside_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    asked = evaluator.get_git_commit_hash
    with _quiet_git():
        assert evaluator.get_git_commit_hash() is None
    assert capfd.readouterr().err == ""
    assert evaluator.get_git_commit_hash is asked


def test_groups_and_templates(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the 14,000 tasks of lm-eval, which take seconds to read; a group may refer to them.
    monkeypatch.setattr(
        "rsr_runtime.evaluation.tasks.TaskManager", partial(TaskManager, include_defaults=False)
    )
    asked = ("eval", path, "--include-path", TASKS, "--limit", 1)
    table = done(rsrc(*asked, "--tasks", "rsr_group", "--apply-chat-template"))
    names = [line.split("│")[1].rstrip() for line in table.splitlines() if line.startswith("│")]
    group, choice, text = " rsr_group", "   rsr_choice", "   rsr_text"
    assert names == [group, choice, choice, text, group]
    said = refused(rsrc(*asked, "--tasks", "rsr_chioce"))
    assert "no task 'rsr_chioce' in lm-evaluation-harness; similar names: rsr_choice" in said


def test_data_that_cannot_be_had(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    task = "task: far\ndataset_path: nobody/far\noutput_type: loglikelihood_rolling\n"
    (tmp_path / "far.yaml").write_text(task)
    said = refused(rsrc("eval", path, "--tasks", tmp_path / "far.yaml"))
    assert "needs data that are not in the cache of datasets and cannot be downloaded" in said
    assert "unset HF_HUB_OFFLINE" in said
    monkeypatch.chdir(tmp_path)
    said = refused(rsrc("eval", path, "--tasks", TASKS / "rsr_choice.yaml"))
    assert "rsr_choice.yaml cannot be loaded: Unable to find" in said
    unsafe = (TASKS / "rsr_choice.yaml").read_text() + "\nunsafe_code: true\n"
    (tmp_path / "unsafe.yaml").write_text(unsafe)
    monkeypatch.chdir(TASKS)
    said = refused(rsrc("eval", path, "--tasks", tmp_path / "unsafe.yaml"))
    assert "runs code that the model writes" in said
    said = refused(rsrc("eval", path, "--tasks", "a", "--include-path", tmp_path / "nowhere"))
    assert "no such folder" in said


def test_a_model_without_a_template(tmp_path: Path) -> None:
    made = LanguageModels(tmp_path)
    settings = b'{"bos_token": "<s>", "eos_token": "</s>"}'
    files = {"tokenizer_config.json": settings, "chat_template.jinja": None}
    bare = made.variant("1bitllm", tmp_path / "bare", files)
    asked = ("eval", bare, "--tasks", "rsr_choice", "--include-path", TASKS)
    assert "no chat template" in refused(rsrc(*asked, "--apply-chat-template"))
