"""`rsrc bench --model` with a small model and no time: structure and sums, not speed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import rsr_runtime as rsr
from rsr_formats.errors import RsrError
from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.paths import ROOT
from rsrc import bench
from rsrc.bench import language
from rsrc.cli.main import main

README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
PHASES = {"products", "head", "attention", "rest"}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = rsr.get_num_threads()
    rsr.set_num_threads(2)
    yield
    rsr.set_num_threads(threads)


def decoded(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for row in result["results"] for one in row["decode"]]


def keys(value: Any) -> set[str]:
    """Return the keys of all objects within a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_key_is_documented(model_result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(model_result)) == model_result
    part = README[README.index("## `rsrc bench --model`") :]
    assert not [k for k in keys({**model_result, "machine": None}) if f"`{k}`" not in part]


def test_what_is_measured(model_result: dict[str, Any]) -> None:
    assert [row["threads"] for row in model_result["results"]] == [1, 2]
    for row in model_result["results"]:
        assert [one["tokens"] for one in row["prefill"]] == [16, 40]  # 128 are too many here
        assert [one["context"] for one in row["decode"]] == [16, 40]
        assert 0 < row["opening"]["seconds_best"] <= row["opening"]["seconds_median"]
        opened = row["opening_to_first_token"]
        assert row["opening"]["seconds_best"] < opened["seconds_best"] <= opened["seconds_median"]
        for one in row["prefill"]:
            assert 0 < one["seconds_best"] <= one["seconds_median"]
            rate = one["tokens_per_second_median"]
            assert rate * one["seconds_median"] == pytest.approx(one["tokens"])
            assert one["tokens_per_second_best"] >= rate
    settings = models.FAMILIES["bitnet-2b"].settings
    hidden, wide = settings["hidden_size"], settings["intermediate_size"]
    assert settings["num_attention_heads"] == 2 * settings["num_key_value_heads"]
    assert model_result["model"] == {
        "architecture": "BitNetForCausalLM",
        "layers": settings["num_hidden_layers"],
        "hidden_size": hidden,
        "vocab_size": settings["vocab_size"],
        "indexed_weights": settings["num_hidden_layers"] * (3 * hidden + 3 * wide) * hidden,
        "head": "BF16",
    }
    assert model_result["file_bytes"] == Path(model_result["file"]).stat().st_size
    if sys.platform != "win32":
        assert 10 << 20 < model_result["peak_rss_bytes"] < 64 << 30


def test_phases_add_up(model_result: dict[str, Any]) -> None:
    for one in decoded(model_result):
        assert set(one["seconds_by_part"]) == set(one["share_by_part"]) == PHASES
        assert all(seconds > 0 for seconds in one["seconds_by_part"].values())
        assert sum(one["seconds_by_part"].values()) == pytest.approx(one["seconds_median"])
        assert sum(one["share_by_part"].values()) == pytest.approx(1)
        share = one["share_by_part"]
        outside = 1 - share["products"] - share["head"]
        assert one["share_outside_products"] == pytest.approx(outside)
        assert one["rounds"] >= 5


def test_phases_leave_little_out(language_model: Path) -> None:
    """Time outside all phases counts as `rest`: the overhead of a call, not a missing phase."""
    shares = []
    with llm.load(language_model, context=100) as model:
        for token in range(9):  # the process may lose the processor in between
            before, start = sum(model.phase_seconds().values()), perf_counter()
            model.next_logits([token] * 90)  # shares nothing with the prompt before
            seconds = perf_counter() - start
            shares.append((sum(model.phase_seconds().values()) - before) / seconds)
    assert 0.7 < max(shares) <= 1


def test_the_limit(model_result: dict[str, Any], language_model: Path) -> None:
    with llm.load(language_model, context=57) as model:
        for one in decoded(model_result):
            assert one["bytes_per_token"] == model.bytes_per_token(one["context"] + 8)
    for one in decoded(model_result):
        assert one["plain_read_seconds"] > 0
        assert one["ratio_to_plain_read"] > 0
        for seconds, rate in (
            ("seconds_median", "gigabytes_per_second"),
            ("plain_read_seconds", "plain_read_gigabytes_per_second"),
        ):
            assert one[rate] * one[seconds] * 1e9 == pytest.approx(one["bytes_per_token"])
    small, large = model_result["results"][0]["decode"]
    settings = models.FAMILIES["bitnet-2b"].settings
    kept = settings["hidden_size"] // 2  # features of the keys: two query heads share a key head
    grown = large["bytes_per_token"] - small["bytes_per_token"]
    assert grown == 24 * settings["num_hidden_layers"] * 2 * kept * 2  # and of values; float16


def test_prompts_are_computed_anew(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt finds none of its tokens in the KV cache, a decoded token finds its context."""
    computed: list[int] = []
    before: dict[int, list[int]] = {}  # tokens by model
    right = llm.LanguageModel.next_logits

    def counted(self: llm.LanguageModel, tokens: list[int]) -> Any:
        pairs = zip(before.get(id(self), []), tokens[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        computed.append(len(tokens) - common)
        before[id(self)] = tokens
        return right(self, tokens)

    monkeypatch.setattr(llm.LanguageModel, "next_logits", counted)
    bench.bench_model(language_model, context=40, threads=[1], seconds=0.0)
    opened = 1 + 3  # the page cache is warmed once, the file opened three times
    run = [1] * 16
    assert computed[opened:] == 5 * [1, 40, *run, 1, 16, *run]


def test_defaults(language_model: Path) -> None:
    found = bench.bench_model(language_model, context=7, seconds=0.0)
    assert [row["threads"] for row in found["results"]] == [1, 2]
    for row in found["results"]:
        assert [one["tokens"] for one in row["prefill"]] == [7]
        assert [one["context"] for one in row["decode"]] == [7]
    assert (found["activations"], found["kv"]) == ("trained", "float16")
    assert rsr.get_num_threads() == 2
    assert rsr.cpu_info()["isa"] == found["machine"]["isa"]


def test_memory_huge_and_a_medium_prompt(language_model: Path) -> None:
    found = bench.bench_model(language_model, context=200, memory="huge", threads=[3], seconds=0.0)
    assert found["memory"] == "huge"
    assert [one["tokens"] for one in found["results"][0]["prefill"]] == [16, 128, 200]
    with pytest.raises(RsrError, match="memory: found 'tiny'"):
        bench.bench_model(language_model, context=9, memory="tiny", seconds=0.0)


@pytest.mark.parametrize("context", [0, 240, 512])
def test_context_is_checked(language_model: Path, context: int) -> None:
    expected = "at least 1" if context == 0 else "at most 239: the model's limit is 256 tokens"
    with pytest.raises(RsrError, match=f"context: found {context}, expected {expected}"):
        bench.bench_model(language_model, context=context, seconds=0.0)


def test_the_default_context_fits_the_model(language_model: Path) -> None:
    found = bench.bench_model(language_model, threads=[1], seconds=0.0)
    assert found["context"] == 239
    assert [one["tokens"] for one in found["results"][0]["prefill"]] == [16, 128, 239]


@pytest.mark.parametrize("wrong", ["differ between runs", "are not finite"])
def test_wrong_logits_are_noticed(
    language_model: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = llm.LanguageModel.next_logits

    def changed(self: llm.LanguageModel, tokens: list[int]) -> Any:
        logits = right(self, tokens)
        if wrong == "are not finite":
            logits[3] = np.inf
        elif rsr.get_num_threads() == 2:
            logits[3] += 1
        return logits

    monkeypatch.setattr(llm.LanguageModel, "next_logits", changed)
    with pytest.raises(bench.WrongResultError, match=f"{wrong}.*after 56 tokens"):
        bench.bench_model(language_model, context=40, seconds=0.0)


def test_progress_goes_up_to_the_end(language_model: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bench.bench_model(
        language_model, context=9, seconds=0.0, progress=lambda *args: seen.append(args)
    )
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert all(total == 1000 for _, _, total in seen)
    assert seen[0] == ("reading the file", 0, 1000)
    assert seen[-1] == ("", 1000, 1000)
    names = [name for name, _, _ in seen]
    assert names.count("opening the file") == 2 * 3
    assert names.count("a prompt of 9 tokens") == 2 * 5
    assert names.count("tokens after a context of 9") == 2 * 5
    assert len({done for _, done, _ in seen}) > 12  # steps are small


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(main, ["bench", *map(str, arguments)], prog_name="rsrc")

    def test_json(
        self, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("matplotlib")
        given: dict[str, Any] = {}

        def quick(file: Path, **options: Any) -> dict[str, Any]:
            given.update(options)
            return language.bench_model(file, seconds=0.0, **options)

        monkeypatch.setattr(bench, "bench_model", quick)
        options = ["--context", 20, "--memory", "huge", "--threads", 2, "--threads", 1]
        options += ["--activations", "float32", "--kv", "int8"]
        picture = tmp_path / "x.png"
        done = self.run("--model", language_model, *options, "--plot", picture, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.output)
        assert (found["context"], found["memory"]) == (20, "huge")
        assert (found["activations"], found["kv"]) == ("float32", "int8")
        assert [row["threads"] for row in found["results"]] == [1, 2]
        assert picture.exists()
        done = self.run("--model", language_model, "--context", 20)
        assert "of read" in done.output

    @pytest.mark.parametrize(
        "arguments",
        [
            ["x.rsr", "--model", "y.rsr"],
            ["--shape", "3x3", "--model", "y.rsr"],
            ["x.rsr", "--context", "9"],
            ["--shape", "3x3", "--memory", "map"],
            ["x.rsr", "--threads", "2"],
            ["--model", "y.rsr", "--context", "0"],
            ["--model", "y.rsr", "--threads", "0"],
            ["--model", "y.rsr", "--memory", "tiny"],
            ["x.rsr", "--activations", "float32"],
            ["--model", "y.rsr", "--activations", "int8"],
        ],
    )
    def test_wrong_usage_exits_2(self, arguments: list[str]) -> None:
        done = self.run(*arguments)
        assert done.exit_code == 2
        assert "Usage: rsrc bench" in done.output

    @pytest.mark.parametrize("measured", [["--shape", "3x3"], ["x.rsr"], ["--model", "y.rsr"]])
    @pytest.mark.parametrize("name", ["p.xyz", "p", "missing/p.png"])
    def test_pictures_are_checked_before_measuring(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str], name: str
    ) -> None:
        for function in ("bench_shape", "bench_file", "bench_model"):
            monkeypatch.setattr(bench, function, lambda *_, **__: pytest.fail("was measured"))
        done = self.run(*measured, "--plot", tmp_path / name)
        assert done.exit_code == 2
        assert "Invalid value for '--plot': found " in done.output
        expected = "a directory that exists" if "missing" in name else ".png, .svg or .pdf"
        assert done.output.endswith(f"{expected}\n")
        assert not list(tmp_path.iterdir())

    def test_what_is_no_language_model_is_refused(self, tmp_path: Path) -> None:
        source = ROOT / "examples" / "digits" / "model.safetensors"
        made = CliRunner().invoke(main, ["compile", str(source), "-o", str(tmp_path / "d.rsr")])
        assert made.exit_code == 0, made.output
        done = self.run("--model", tmp_path / "d.rsr")
        assert done.exit_code == 1
        assert "config.json" in done.output
        assert self.run("--model", tmp_path / "missing.rsr").exit_code == 1

    def test_help_is_documented(self) -> None:
        text = self.run("--help").output
        documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
        for option in ("--model", "--context", "--memory", "--activations", "--threads"):
            assert option in text
            assert option in documented
        assert "`rsrc bench --model FILE.rsr" in documented
