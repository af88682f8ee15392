"""All kinds of workers: the same bytes, bounded memory, clear errors."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsrc.source.open import open_checkpoint
from rsrc.workers import pool as workers
from rsrc.workers.pool import LocalState, Workers

RNG = np.random.default_rng(21)


@pytest.fixture(scope="module")
def source(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a sharded checkpoint with tensors of every layout and every kind of section."""
    folder = tmp_path_factory.mktemp("source")
    t = RNG.integers(-1, 2, (300, 130))
    zeros = np.where(t == 0, np.where(RNG.random(t.shape) < 0.5, 0.0, -0.0), t).astype(np.float16)
    groups = np.kron(RNG.integers(1, 9, (300, 4)), np.ones((1, 32)))
    first: dict[str, Any] = {
        "embed": RNG.standard_normal((50, 30)).astype(np.float32),
        "int8": t.astype(np.int8),
        "packed": kit.pack(t),
        "negative": zeros,
        "empty": np.zeros(0, np.float32),
    }
    second: dict[str, Any] = {
        "packed_scale": np.ones(1, np.float32),
        "grouped": (t[:, :128] * groups).astype(np.float32),
        "row": (t * RNG.integers(1, 5, (300, 1))).astype(np.float32),
        "last": np.ones(7, np.float32),
    }
    (folder / "config.json").write_text('{"model_type": "test"}')
    kit.save_sharded(folder, {"a.safetensors": first, "b.safetensors": second})
    return folder


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        yield executor


OPTIONS: list[dict[str, Any]] = [{}, {"zstd": 3}, {"encoding": "permuted", "exclude": ["grouped"]}]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_bytes_whoever_works(
    source: Path,
    tmp_path: Path,
    processes: ProcessPoolExecutor,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(**more: Any) -> bytes:
        rsrc.compile(source, tmp_path / "x.rsr", force=True, **options, **more)
        return (tmp_path / "x.rsr").read_bytes()

    expected = compiled(threads=1)
    assert compiled(threads=2) == expected
    assert compiled(threads=9) == expected
    assert compiled(executor=processes) == expected
    with ThreadPoolExecutor(3) as executor:
        assert compiled(executor=executor, threads=1) == expected
    monkeypatch.setattr(workers, "LARGEST", 20_000)  # larger tensors are indexed in panels
    assert compiled(threads=3) == expected
    assert compiled(executor=processes) == expected
    monkeypatch.setattr(workers, "BUDGET", 1)  # one at a time
    assert compiled(threads=3) == expected
    assert rsrc.compile(source, tmp_path / "y.rsr", **options).source == str(source)


def test_a_relative_source_is_found_by_workers_elsewhere(
    source: Path, tmp_path: Path, processes: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)  # the workers are in another folder
    report = rsrc.compile(".", tmp_path / "x.rsr", executor=processes)
    assert report.source == "."


def test_what_a_worker_refuses_is_said_as_it_says_it(
    kit: Kit, tmp_path: Path, processes: ProcessPoolExecutor
) -> None:
    config = {"quantization_config": {"quant_method": "bitnet"}}
    (tmp_path / "config.json").write_text(str(config).replace("'", '"'))
    packed = np.full((4, 8), 0xFF, np.uint8)
    tensors: dict[str, Any] = {"w": packed, "w_scale": np.ones(1, np.float32)}
    source = kit.save(tmp_path / "s.safetensors", tensors)
    for executor in (None, processes):
        with pytest.raises(
            rsrc.SourceError, match=r"w: a BitNet weight .* it holds the invalid code 3"
        ):
            rsrc.compile(source, tmp_path / "x.rsr", executor=executor)
    assert not (tmp_path / "x.rsr").exists()


class Elsewhere:
    """An executor in another folder, which gets its tasks as pickled bytes."""

    def __init__(self, change: Any) -> None:
        self._change = change

    def submit(self, function: Any, item: Any) -> Future[Any]:
        function, item = pickle.loads(pickle.dumps((function, item)))
        self._change()
        future: Future[Any] = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(function(item))))
        except Exception as error:
            future.set_exception(error)
        return future


def test_a_worker_that_sees_another_source(kit: Kit, tmp_path: Path) -> None:
    source = kit.save(tmp_path / "s.safetensors", {"w": np.ones((3, 3), np.int8)})

    def replace() -> None:
        kit.save(source, {"w": np.ones((3, 4), np.int8)})

    with pytest.raises(rsrc.SourceError, match=r"s\.safetensors: a worker finds other tensors"):
        rsrc.compile(source, tmp_path / "x.rsr", executor=Elsewhere(replace))

    with pytest.raises(rsrc.SourceError, match=r"s\.safetensors: no such file"):
        rsrc.compile(source, tmp_path / "x.rsr", executor=Elsewhere(source.unlink))


def test_little_is_sent(source: Path, tmp_path: Path) -> None:
    """Tasks do not contain the headers of the whole checkpoint."""
    sizes: list[int] = []

    class Measured(Elsewhere):
        def submit(self, function: Any, item: Any) -> Future[Any]:
            sizes.append(len(pickle.dumps((function, item))))
            return super().submit(function, item)

    rsrc.compile(source, tmp_path / "x.rsr", executor=Measured(lambda: None), include=["int8"])
    assert len(sizes) == len(open_checkpoint(source).tensors) + 1
    assert max(sizes) < 2000


def die(item: Any) -> None:
    os._exit(1)


class Deadly(ProcessPoolExecutor):
    def submit(self, function: Any, *arguments: Any) -> Future[Any]:  # type: ignore[override]
        return super().submit(die, *arguments)


def test_a_lost_worker_is_an_error(source: Path, tmp_path: Path) -> None:
    with (
        Deadly(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(rsrc.ExecutorError, match=r"a worker of the executor ended .*BrokenProcess"),
    ):
        rsrc.compile(source, tmp_path / "x.rsr", executor=executor)
    with pytest.raises(rsrc.ExecutorError, match="BrokenProcess"):  # raised by `submit`
        rsrc.compile(source, tmp_path / "x.rsr", executor=executor)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_executor(source: Path, tmp_path: Path) -> None:
    thing: Any
    for thing, words in ((3, "found int"), ("slurm://x:1", r"expected dask://HOST:PORT")):
        with pytest.raises(rsrc.OptionError, match=words):
            rsrc.compile(source, tmp_path / "x.rsr", executor=thing)


class TestMap:
    def test_order(self) -> None:
        def late(i: int) -> int:
            time.sleep(0.002 * (i % 3))
            return i * i

        expected = [(i, i * i) for i in range(40)]
        with ThreadPoolExecutor(4) as pool:
            assert list(Workers(pool, 4).map(late, range(40))) == expected
            assert list(Workers(pool, 4).map(late, [])) == []
        assert list(Workers().map(late, range(40))) == expected

    @pytest.mark.parametrize("ahead", [1, 3])
    def test_lookahead_is_bounded(self, ahead: int) -> None:
        begun: list[int] = []
        with ThreadPoolExecutor(8) as pool:
            for taken, _ in enumerate(Workers(pool, ahead).map(begun.append, range(30))):
                time.sleep(0.001)
                assert len(begun) <= taken + ahead + 1

    def test_an_exception_ends_it(self) -> None:
        begun: list[int] = []
        gate = threading.Event()

        def fail_at_two(i: int) -> int:
            begun.append(i)
            if i == 2:
                raise KeyError(i)
            if i > 2:
                gate.wait(10)
            return i

        with ThreadPoolExecutor(1) as pool:
            values = Workers(pool, 5).map(fail_at_two, range(100))
            assert [next(values), next(values)] == [(0, 0), (1, 1)]
            with pytest.raises(KeyError):
                next(values)
            gate.set()
        assert len(begun) <= 5  # waiting items were canceled

    @pytest.mark.parametrize("executor", [True, False])
    def test_what_has_no_cost_is_not_given_away(self, executor: bool) -> None:
        def cost(i: int) -> int | None:
            return None if i % 3 else 1

        with ThreadPoolExecutor(2) as pool:
            found = list(Workers(pool if executor else None, 2).map(str, range(7), cost))
        assert [result for _, result in found] == ["0", None, None, "3", None, None, "6"]

    @pytest.mark.parametrize("most", [1, 4, 9])
    def test_bytes_under_way_are_bounded(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        monkeypatch.setattr(workers, "BUDGET", most)
        costs = [1, 2, 3, 1, 4, 1, 1, 1, 9, 2, 2, 1]
        begun: list[int] = []

        class Counting(Executor):
            def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
                begun.append(arguments[0])
                future: Future[Any] = Future()
                future.set_result(function(*arguments))
                return future

        for taken, (cost, _) in enumerate(Workers(Counting(), 99).map(str, costs, int)):
            under_way = begun[taken:]  # the item that was yielded still counts
            assert sum(under_way) <= max(most, cost)
        assert begun == costs

    def test_the_caller_processes_what_is_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it takes counts as under way, too."""
        monkeypatch.setattr(workers, "BUDGET", 9)
        monkeypatch.setattr(workers, "LARGEST", 4)
        begun: list[int] = []
        with ThreadPoolExecutor(1) as pool:
            found = []
            for cost, _ in Workers(pool, 99).map(begun.append, [1, 2, 9, 3, 4, 5, 4], int):
                time.sleep(0.01)
                found.append((cost, [*begun]))
        assert found == [
            (1, [1, 2]),
            (2, [1, 2]),
            (9, [1, 2]),  # alone
            (3, [1, 2, 3, 4]),
            (4, [1, 2, 3, 4]),
            (5, [1, 2, 3, 4, 4]),
            (4, [1, 2, 3, 4, 4]),
        ]

    def test_the_first_failure_in_order_counts(self) -> None:
        gate = threading.Event()
        begun: list[int] = []

        def work(i: int) -> int:
            begun.append(i)
            if i == 2:
                gate.wait(10)
                raise KeyError("two")
            if i == 3:
                gate.set()
                raise KeyError("three")
            return i

        with (
            ThreadPoolExecutor(2) as pool,
            closing(Workers(pool, 3).map(work, range(100))) as values,
        ):
            assert [next(values)[0], next(values)[0]] == [0, 1]
            with pytest.raises(KeyError, match="two"):
                next(values)
        assert len(begun) <= 7  # waiting items were canceled

    def test_stop(self) -> None:
        local = LocalState()
        pieces = local.until_stopped(iter(range(10)))
        assert next(pieces) == 0
        local.stop()
        with pytest.raises(InterruptedError):
            next(pieces)


class TestMemory:
    def test_it_is_used_again(self) -> None:
        local = LocalState()
        with local.buffer(100) as first, local.buffer(50) as second:
            assert (len(first), len(second)) == (100, 50)
            assert not np.shares_memory(first, second)
        with local.buffer(30) as third, local.buffer(40) as fourth:
            assert third is first
            assert fourth is second

    def test_what_is_free_is_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "BUDGET", 100)
        local = LocalState()
        with local.buffer(40), local.buffer(41), local.buffer(10):
            assert local._held == 91
        with local.buffer(60):
            assert local._held <= 100

    def test_what_is_large_is_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "LARGEST", 50)
        local = LocalState()
        with local.buffer(50):
            pass
        with local.buffer(60):
            assert local._held == 60
        assert local._held == 0
