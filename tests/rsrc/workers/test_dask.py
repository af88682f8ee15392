"""Compiling with Dask workers, two processes on this machine."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.process import SIGINT_RAISES, end_of, started, wait_until
from rsrc.cli.main import main
from rsrc.workers import dask as rsrc_dask

Process = subprocess.Popen[bytes]
T = np.random.default_rng(31).integers(-1, 2, (256, 192)).astype(np.int8)

SCHEDULER = """
import asyncio
from distributed import Scheduler

async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=None, dashboard=False) as s:
        print(s.address, flush=True)
        await s.finished()

asyncio.run(main())
"""

WORKER = """
import asyncio, sys
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1, host="127.0.0.1", dashboard=False) as worker:
        print("ready", flush=True)
        await worker.finished()

asyncio.run(main())
"""


class Cluster:
    """A scheduler and its workers, each in a separate process."""

    def __init__(self, scheduler: Process, url: str, workers: list[Process]) -> None:
        self.scheduler = scheduler
        self.url = url
        self.workers = workers


@contextlib.contextmanager
def running_cluster(workers: int) -> Iterator[Cluster]:
    """Start a cluster, and end it with the block."""

    def start(code: str, *arguments: str) -> tuple[Process, str]:
        """Start a process; return it with the line that it prints when it is ready."""
        process = running.enter_context(started(code, *arguments, stderr=subprocess.DEVNULL))
        assert process.stdout is not None
        return process, process.stdout.readline().decode().strip()

    with contextlib.ExitStack() as running:
        scheduler, address = start(SCHEDULER)
        url = address.replace("tcp://", "dask://")
        yield Cluster(scheduler, url, [start(WORKER, address)[0] for _ in range(workers)])


@pytest.fixture(autouse=True, scope="module")
def distributed() -> Any:
    return pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(distributed: Any) -> Iterator[Cluster]:
    with running_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    tensors: dict[str, Any] = {f"w{i}": np.roll(T, i, 1) for i in range(6)}
    return kit.save(tmp_path / "s.safetensors", tensors | {"norm": np.ones(3, np.float32)})


@pytest.mark.parametrize("zstd", [None, 3])
def test_the_same_bytes(source: Path, tmp_path: Path, cluster: Cluster, zstd: int | None) -> None:
    rsrc.compile(source, tmp_path / "here.rsr", zstd=zstd, threads=1)
    rsrc.compile(source, tmp_path / "there.rsr", zstd=zstd, executor=cluster.url)
    assert (tmp_path / "there.rsr").read_bytes() == (tmp_path / "here.rsr").read_bytes()


def test_both_workers_take_part(
    source: Path, tmp_path: Path, cluster: Cluster, distributed: Any
) -> None:
    """A client works as an executor, as it has `submit`."""
    asked: set[str] = set()

    class Asking:
        def __init__(self, client: Any) -> None:
            self._client = client
            self._workers = list(client.scheduler_info()["workers"])

        def submit(self, function: Any, item: Any) -> Any:
            worker = self._workers[len(asked) % 2]
            asked.add(item.source.name if hasattr(item, "source") else item.name)
            return self._client.submit(function, item, workers=[worker], pure=False)

    with distributed.Client(cluster.url.replace("dask", "tcp"), set_as_default=False) as client:
        assert len(client.scheduler_info()["workers"]) == 2
        rsrc.compile(source, tmp_path / "there.rsr", executor=Asking(client))
    rsrc.compile(source, tmp_path / "here.rsr")
    assert (tmp_path / "there.rsr").read_bytes() == (tmp_path / "here.rsr").read_bytes()


def test_what_a_worker_refuses(kit: Kit, tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitnet"}}')
    tensors: dict[str, Any] = {
        "w": np.full((4, 8), 0xFF, np.uint8),
        "w_scale": np.ones(1, np.float32),
    }
    source = kit.save(tmp_path / "s.safetensors", tensors)
    done = subprocess.run(
        [sys.executable, "-m", "rsrc", "compile", source, "-o", tmp_path / "x.rsr",
         "--executor", cluster.url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    refusal = "rsrc: w: a BitNet weight according to config.json, but it holds the invalid code 3"
    assert done.stderr.startswith(refusal)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.rsr").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_an_interrupt_leaves_nothing(kit: Kit, tmp_path: Path, cluster: Cluster) -> None:
    w = np.random.default_rng(3).integers(-1, 2, (2048, 2048)).astype(np.int8)
    source = kit.save(tmp_path / "s.safetensors", {f"w{i}": w for i in range(8)})
    out = tmp_path / "out"
    out.mkdir()
    code = SIGINT_RAISES + "from rsrc.cli.main import main\nmain()\n"
    options = ("--zstd", "19", "--executor", cluster.url)
    with started(code, "compile", source, "-o", out / "x.rsr", *options) as process:
        wait_until(lambda: bool(list(out.iterdir())), process)
        process.send_signal(signal.SIGINT)
        status, _, error = end_of(process)
    assert status == 130, error
    assert "Traceback" not in error
    assert list(out.iterdir()) == []


def test_a_lost_worker_is_replaced(source: Path, tmp_path: Path) -> None:
    """The other one does its work."""
    killed = False

    def kill_one(name: str, done: int, total: int) -> None:
        nonlocal killed
        if not killed and done > 0:
            fragile.workers[0].kill()
            killed = True

    with running_cluster(2) as fragile:
        report = rsrc.compile(
            source, tmp_path / "x.rsr", executor=fragile.url, progress=kill_one, threads=1
        )
    assert killed
    rsrc.compile(source, tmp_path / "here.rsr", threads=1)
    assert (tmp_path / "x.rsr").read_bytes() == (tmp_path / "here.rsr").read_bytes()
    assert len(report.tensors) == 7


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("workers", "no worker for 1 s"),
        ("scheduler", r"no worker for 1 s|no longer answers|a worker of the executor"),
    ],
)
def test_without_any_worker_it_ends(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, words: str
) -> None:
    monkeypatch.setattr(rsrc_dask, "_ABSENCE", 1.0)

    def kill(name: str, done: int, total: int) -> None:
        for process in fragile.workers if lost == "workers" else [fragile.scheduler]:
            process.kill()

    with running_cluster(1) as fragile:
        start = time.monotonic()
        with pytest.raises(rsrc.ExecutorError, match=words):
            rsrc.compile(source, tmp_path / "x.rsr", executor=fragile.url, progress=kill)
    assert time.monotonic() - start < 40
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_no_scheduler_and_no_workers(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsrc_dask, "_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"dask://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(rsrc.ExecutorError, match="no Dask scheduler answers within"):
            rsrc.compile(source, tmp_path / "x.rsr", executor=url)
    with (
        running_cluster(0) as idle,
        pytest.raises(rsrc.ExecutorError, match="the scheduler has no workers"),
    ):
        rsrc.compile(source, tmp_path / "x.rsr", executor=idle.url)


def test_dask_is_not_installed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = CliRunner().invoke(
        main, ["compile", str(source), "-o", str(tmp_path / "x.rsr"), "--executor", "dask://h:1"]
    )
    assert result.exit_code == 1
    assert "pip install 'rsr-ternary[dask]'" in result.output


def test_dask_is_imported_only_where_it_is_used(kit: Kit) -> None:
    code = "import sys, rsrc, rsrc.cli; print([m for m in sys.modules if 'distributed' in m])"
    assert json.loads(kit.python(code).stdout) == []


@pytest.mark.parametrize(
    "url",
    [
        "dask://", "dask://host", "dask://host:port", "dask://host:0", "dask://host:70000",
        "dask://:8786", "dask://host:1/path", "dask://host:1?x", "tcp://host:1", "host:1", "",
        "dask://[::1:1", "dask" + "x" * 1000,
    ],
)  # fmt: skip
def test_other_addresses(url: str) -> None:
    with pytest.raises(rsrc.OptionError, match=r"expected dask://HOST:PORT") as caught:
        rsrc_dask.check_address(url)
    assert len(str(caught.value)) < 200


def test_addresses() -> None:
    assert rsrc_dask.check_address("dask://host.example:8786") == ("host.example", 8786)
    assert rsrc_dask.check_address("dask://[::1]:8786") == ("[::1]", 8786)
