"""`rsrc bench --model`: small models and no time; structure and what must add up, not speed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import rsr_runtime as rsr
from rsr_formats.errors import RsrError
from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.paths import ROOT
from rsrc import bench
from rsrc.bench import language
from rsrc.cli.main import main

README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
PARTS = {"products", "head", "attention", "rest"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def build(folder: Path) -> Callable[[str], Path]:
    """Return what writes and compiles a family of tests/parity/models.py, once."""

    def build(name: str) -> Path:
        made = folder / name / "model.rsr"
        return made if made.exists() else Path(models.FAMILIES[name].build(folder / name))

    return build


@pytest.fixture(scope="module")
def path(build: Callable[[str], Path]) -> Path:
    return build("bitnet-2b")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = rsr.get_num_threads()
    rsr.set_num_threads(2)
    yield
    rsr.set_num_threads(threads)


@pytest.fixture(scope="module")
def result(path: Path) -> dict[str, Any]:
    return bench.bench_model(path, context=40, threads=[1, 2], seconds=0.0)


def decoded(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for row in result["results"] for one in row["decode"]]


def keys(value: Any) -> set[str]:
    """Return the keys of all objects within a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_key_is_documented(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result)) == result
    part = README[README.index("## `rsrc bench --model`") :]
    assert not [k for k in keys({**result, "machine": None}) if f"`{k}`" not in part]


def test_what_is_measured(result: dict[str, Any]) -> None:
    assert [row["threads"] for row in result["results"]] == [1, 2]
    for row in result["results"]:
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
    assert result["model"] == {
        "architecture": "BitNetForCausalLM",
        "layers": settings["num_hidden_layers"],
        "hidden_size": hidden,
        "vocab_size": settings["vocab_size"],
        "indexed_weights": settings["num_hidden_layers"] * (3 * hidden + 3 * wide) * hidden,
        "head": "BF16",
    }
    assert result["file_bytes"] == Path(result["file"]).stat().st_size
    if sys.platform != "win32":
        assert 10 << 20 < result["peak_rss_bytes"] < 64 << 30


def test_parts_add_up(result: dict[str, Any]) -> None:
    for one in decoded(result):
        assert set(one["seconds_by_part"]) == set(one["share_by_part"]) == PARTS
        assert all(seconds > 0 for seconds in one["seconds_by_part"].values())
        assert sum(one["seconds_by_part"].values()) == pytest.approx(one["seconds_median"])
        assert sum(one["share_by_part"].values()) == pytest.approx(1)
        share = one["share_by_part"]
        outside = 1 - share["products"] - share["head"]
        assert one["share_outside_products"] == pytest.approx(outside)
        assert one["rounds"] >= 5


def test_the_clock_leaves_little_out(path: Path) -> None:
    """What no part accounts for goes to `rest`: a call's overhead, not a forgotten part."""
    shares = []
    with llm.load(path, context=100) as model:
        for _ in range(7):  # the process may lose the processor in between
            model.next_logits(range(64))
            before, start = sum(model.phase_seconds().values()), perf_counter()
            for end in range(65, 81):
                model._session.follow(range(end))
            seconds = perf_counter() - start
            shares.append((sum(model.phase_seconds().values()) - before) / seconds)
    assert 0.7 < max(shares) <= 1


def test_the_limit(result: dict[str, Any], path: Path) -> None:
    with llm.load(path, context=57) as model:
        for one in decoded(result):
            assert one["bytes_per_token"] == model.bytes_per_token(one["context"] + 8)
    for one in decoded(result):
        assert one["plain_read_seconds"] > 0
        assert one["ratio_to_plain_read"] > 0
        for seconds, rate in (
            ("seconds_median", "gigabytes_per_second"),
            ("plain_read_seconds", "plain_read_gigabytes_per_second"),
        ):
            assert one[rate] * one[seconds] * 1e9 == pytest.approx(one["bytes_per_token"])
    small, large = result["results"][0]["decode"]
    settings = models.FAMILIES["bitnet-2b"].settings
    kept = settings["hidden_size"] // 2  # features of keys: two heads of queries share one
    grown = large["bytes_per_token"] - small["bytes_per_token"]
    assert grown == 24 * settings["num_hidden_layers"] * 2 * kept * 2  # and of values; float16


@pytest.mark.parametrize("name", ["bitnet-2b", "bonsai", "llama-kept", "bitnet-2b-permuted"])
def test_what_a_token_reads(build: Callable[[str], Path], name: str) -> None:
    with llm.load(build(name), context=64) as model:
        for positions in (1, 16, 41, 64):
            operand = language.what_a_token_reads(model, positions)
            # A matrix without a scale counts one nevertheless.
            matrices = len(model.weights.linear)
            missing = model.bytes_per_token(positions) - operand.nbytes
            assert 0 <= missing <= 4 * matrices
            starts = [(p.ctypes.data, len(p)) for p in operand.parts]
            for (start, size), (after, _) in pairwise(sorted(starts)):
                assert start + size <= after  # nothing twice


def test_keys_and_values_of_a_token_are_what_attention_wrote(path: Path) -> None:
    with llm.load(path, context=64) as model:
        model.next_logits([5] * 41)
        *_, whole = language.what_a_token_reads(model, 41).parts
        *_, more = language.what_a_token_reads(model, 42).parts
    values = whole.view(np.float16).reshape(41, -1)
    assert values.any(axis=1).all()
    assert not more.view(np.float16).reshape(42, -1)[41].any()


def test_prompts_are_computed_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt finds nothing of its own in the cache, a token all that is before it."""
    computed: list[int] = []
    right = llm.LanguageModel.next_logits

    def counted(self: llm.LanguageModel, tokens: list[int]) -> Any:
        have = self._session._common(tokens)
        computed.append(len(tokens) - have)
        return right(self, tokens)

    monkeypatch.setattr(llm.LanguageModel, "next_logits", counted)
    bench.bench_model(path, context=40, threads=[1], seconds=0.0)
    opened = 1 + 3 * 1
    run = [1] * 16
    assert computed[opened:] == 5 * [1, 40, *run, 1, 16, *run]


def test_defaults(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench.bench_model(path, context=7, seconds=0.0)
    assert [row["threads"] for row in found["results"]] == [1, 2]
    for row in found["results"]:
        assert [one["tokens"] for one in row["prefill"]] == [7]
        assert [one["context"] for one in row["decode"]] == [7]
    assert rsr.get_num_threads() == 2
    assert rsr.cpu_info()["isa"] == found["machine"]["isa"]


def test_memory_huge_and_a_medium_prompt(path: Path) -> None:
    found = bench.bench_model(path, context=200, memory="huge", threads=[3], seconds=0.0)
    assert found["memory"] == "huge"
    assert [one["tokens"] for one in found["results"][0]["prefill"]] == [16, 128, 200]
    with pytest.raises(RsrError, match="memory: found 'tiny'"):
        bench.bench_model(path, context=9, memory="tiny", seconds=0.0)


@pytest.mark.parametrize("context", [0, 240, 512])
def test_context_is_checked(path: Path, context: int) -> None:
    expected = "at least 1" if context == 0 else "at most 239: the model's limit is 256 tokens"
    with pytest.raises(RsrError, match=f"context: found {context}, expected {expected}"):
        bench.bench_model(path, context=context, seconds=0.0)


@pytest.mark.parametrize("wrong", ["differ from run to run", "are not finite"])
def test_wrong_logits_are_noticed(path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
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
        bench.bench_model(path, context=40, seconds=0.0)


def test_progress_goes_up_to_the_end(path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bench.bench_model(path, context=9, seconds=0.0, progress=lambda *args: seen.append(args))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert all(total == 1000 for _, _, total in seen)
    assert seen[0] == ("reading the file", 0, 1000)
    assert seen[-1] == ("", 1000, 1000)
    names = [name for name, _, _ in seen]
    assert names.count("opening the file") == 2 * 3
    assert names.count("a prompt of 9 tokens") == 2 * 5
    assert names.count("tokens behind a context of 9") == 2 * 5
    assert len({done for _, done, _ in seen}) > 12  # no step is much of the whole


def test_table(result: dict[str, Any]) -> None:
    text = table(result)
    assert "BitNetForCausalLM, 2 layers of 64" in text
    assert "a prompt of 40 tokens" in text
    for one in decoded(result):
        assert f"{one['ratio_to_plain_read']:.0%}" in text
        assert f" {one['share_by_part']['attention']:.0%} " in text


def table(result: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, markup=False)
    with console.capture() as capture:
        console.print(bench.render_model_table(result))
    return capture.get()


def timed(result: dict[str, Any], ratio: float) -> dict[str, Any]:
    """Return a result as if plain reads took a share of the time."""
    changed: dict[str, Any] = json.loads(json.dumps({**result, "file": "m.rsr"}))
    for one in decoded(changed):
        one["ratio_to_plain_read"] = ratio
    return changed


@pytest.mark.parametrize("milliseconds", [0.004, 4.0, 9876.5])
@pytest.mark.parametrize("rate", [0.1, 98.765, 98765.4])
def test_table_fits_80_columns(result: dict[str, Any], milliseconds: float, rate: float) -> None:
    changed = timed(result, 1.33)
    for one in decoded(changed):
        one["context"] = 131072
        one["seconds_median"] = milliseconds / 1e3
        one["seconds_by_part"] = dict.fromkeys(PARTS, milliseconds / 1e3)
        one["tokens_per_second_median"] = one["tokens_per_second_best"] = rate
    changed["model"] = {**changed["model"], "layers": 30, "indexed_weights": 2_084_044_800}
    changed["machine"] = {**changed["machine"], "processor": "Any"}
    text = table(changed)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    # Nothing is folded either: the lines are those of a wide terminal.
    wide = [line.rstrip() for line in table(changed, 200).splitlines()]
    assert [line.rstrip() for line in text.splitlines()] == wide


@pytest.mark.parametrize(("ratio", "said"), [(1.33, True), (1.0, False)])
def test_table_says_what_is_in_cache(result: dict[str, Any], ratio: float, said: bool) -> None:
    assert ("in the caches; such a read is no limit" in table(timed(result, ratio))) == said


def test_plot(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench.plot_model(result, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("ratio", "said", "unsaid"),
    [(0.5, "50% of the limit", "in cache"), (1.33, "in cache", "the limit")],
)
def test_plot_has_no_limit_above_the_time(
    result: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    said: str,
    unsaid: str,
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text
    bench.plot_model(timed(result, ratio), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert text.count(said) == len(decoded(result))
    assert unsaid not in text
    assert all(f">{part}</text>" in text for part in PARTS)


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(main, ["bench", *map(str, arguments)], prog_name="rsrc")

    def test_json(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib")
        given: dict[str, Any] = {}

        def quick(file: Path, **options: Any) -> dict[str, Any]:
            given.update(options)
            return language.bench_model(file, seconds=0.0, **options)

        monkeypatch.setattr(bench, "bench_model", quick)
        options = ["--context", 20, "--memory", "huge", "--threads", 2, "--threads", 1]
        picture = tmp_path / "x.png"
        done = self.run("--model", path, *options, "--plot", picture, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.output)
        assert (found["context"], found["memory"]) == (20, "huge")
        assert [row["threads"] for row in found["results"]] == [1, 2]
        assert picture.exists()
        done = self.run("--model", path, "--context", 20)
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
        expected = "a folder that exists" if "missing" in name else ".png, .svg or .pdf"
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
        for option in ("--model", "--context", "--memory", "--threads"):
            assert option in text
            assert option in documented
        assert "`rsrc bench --model FILE.rsr" in documented
