"""Fuzz the readers with damaged files: each must be read or refused in bounded time and memory.

    python tests/fuzz/run.py --executions 10000 --seed 1 [--target open --target use]
    python tests/fuzz/run.py --target use --seed 1 --replay 1234

A seed determines all of the damage. Each execution runs in a worker process whose CPU time per file
and whose memory (beyond that for an undamaged file) are limited. An outcome that is neither success
nor an `RsrError` is a finding, and so is a worker that crashes or hangs. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

# Last on the path, so that the installed packages are fuzzed if there are any.
ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests" / "support")]

from rsr_formats import RsrError  # noqa: E402
from tests.fuzz.mutators import Sample, mutate  # noqa: E402
from tests.fuzz.targets import TARGETS, Target  # noqa: E402

SECONDS = 2  # of CPU time per file
HANG = 60  # seconds without progress
UNFIT = 3  # exit code of a worker whose undamaged samples fail
MEMORY = 64 << 20  # bytes beyond the size of the files
THREADS = 16 << 20  # bytes of address space for the stacks of new threads
_COUNTER = struct.Struct("<Q")


class TooSlow(BaseException):
    """An execution exceeded its CPU time."""


@dataclass
class Result:
    """The outcomes of the executions of one target."""

    executions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # "accepted" or the class of the error
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def sample_of(samples: list[Sample], seed: int, number: int) -> Sample:
    """Return the mutated sample of one execution."""
    rng = Random(f"{seed}/{number}")
    return mutate(rng, rng.choice(samples))


def execute(target: Target, sample: Sample, folder: Path) -> str | None:
    """Run a target on one sample; return the class of the error, or None if it is accepted."""
    folder.mkdir()
    try:
        for name, data in sample.items():
            (folder / name).write_bytes(data)
        target.execute(folder)
    except RsrError as error:
        return type(error).__name__
    finally:
        shutil.rmtree(folder)
    return None


def work(target: Target, seed: int, first: int, stop: int, scratch: Path) -> None:
    """Run executions `first` to `stop` - 1; print findings and outcomes as lines of JSON."""
    os.fsync = lambda fd: None  # waiting for the disk finds nothing
    try:
        samples = target.samples(scratch)
        refused = [execute(target, sample, scratch / "files") for sample in samples]
        if any(refused):
            raise RuntimeError(f"undamaged samples are refused: {refused}")
    except Exception:
        traceback.print_exc()
        sys.exit(UNFIT)
    _limit_memory(max(sum(map(len, sample.values())) for sample in samples))
    signal.signal(signal.SIGPROF, _too_slow)
    counter = os.open(scratch.with_suffix(".counter"), os.O_WRONLY | os.O_CREAT)
    outcomes: Counter[str] = Counter()
    for number in range(first, stop):
        os.pwrite(counter, _COUNTER.pack(number), 0)
        sample = sample_of(samples, seed, number)
        try:
            with _limited_time():
                outcome = execute(target, sample, scratch / "files")
        except (Exception, TooSlow) as error:
            shutil.rmtree(scratch / "files", ignore_errors=True)
            trace = "".join(traceback.format_exception(error)[-4:])
            text = f"{type(error).__name__}: {error}"
            print(json.dumps({"number": number, "error": text[:500], "trace": trace}), flush=True)
            continue
        outcomes[outcome or "accepted"] += 1
        if number % 1000 == 999 or number + 1 == stop:
            print(json.dumps({"outcomes": outcomes}), flush=True)
            outcomes.clear()


def _limit_memory(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY + THREADS + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextmanager
def _limited_time() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_slow(number: int, frame: object) -> None:
    raise TooSlow(f"more than {SECONDS} s of CPU time")


def supervise(target: Target, seed: int, executions: int) -> Result:
    """Run a target in worker processes; a new one starts after an execution that ends one."""
    result = Result(executions)
    start, first = time.monotonic(), 0
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        while first < executions:
            scratch = Path(folder) / str(first)
            scratch.mkdir()
            first = run_worker(target, seed, first, executions, scratch, result)
    result.seconds = time.monotonic() - start
    return result


def run_worker(
    target: Target, seed: int, first: int, stop: int, scratch: Path, result: Result
) -> int:
    """Run a worker until it ends; return the number of the next execution."""
    counter = scratch.with_suffix(".counter")
    counter.write_bytes(_COUNTER.pack(first))
    numbers = [str(n) for n in (seed, first, stop)]
    command = [sys.executable, __file__, "--worker", target.name, *numbers, str(scratch)]
    # One malloc arena: an arena per thread would reserve address space, which is limited.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        hung = _wait(worker, counter)
        out.seek(0)
        errors.seek(0)
        lines = [json.loads(line) for line in out]
        said = errors.read()[-2000:]
    result.findings += [line for line in lines if "error" in line]
    for line in lines:
        result.outcomes.update(line.get("outcomes", {}))
    if worker.returncode == UNFIT:
        raise RuntimeError(said)
    if worker.returncode == 0:
        return stop
    (number,) = _COUNTER.unpack(counter.read_bytes())
    what = "hangs" if hung else f"the worker ended with {worker.returncode}"
    result.findings.append({"number": number, "error": what, "trace": said})
    return int(number) + 1


def _wait(worker: subprocess.Popen[bytes], counter: Path) -> bool:
    """Wait for a worker; if it makes no progress, kill it and return True."""
    seen, since = b"", time.monotonic()
    while True:
        try:
            worker.wait(1)
        except subprocess.TimeoutExpired:
            if (now := counter.read_bytes()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > HANG:
                worker.kill()
                worker.wait()
                return True
        else:
            return False


def show(target: str, seed: int, result: Result) -> None:
    """Print a row of the table and the findings."""
    accepted = result.outcomes.pop("accepted", 0)
    refused = ", ".join(f"{name} {count:,}" for name, count in result.outcomes.most_common())
    print(
        f"| {target} | {seed} | {result.executions:,} | {accepted:,} "
        f"| {refused} | {len(result.findings)} |",
        flush=True,
    )
    for finding in result.findings[:20]:
        print(f"  execution {finding['number']}: {finding['error']}\n{finding['trace']}")


def main() -> int:
    """Run the command line; return exit code 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--executions", type=int, default=10_000, help="executions per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--target",
        action="append",
        choices=sorted(TARGETS),
        help="target to run, repeatable; default: all",
    )
    parser.add_argument(
        "--replay", type=int, metavar="NUMBER", help="run one execution without limits"
    )
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, *numbers, scratch = arguments.worker
        seed, first, stop = map(int, numbers)
        work(TARGETS[name], seed, first, stop, Path(scratch))
        return 0
    names = arguments.target or list(TARGETS)
    if arguments.replay is not None:
        with tempfile.TemporaryDirectory() as folder:
            samples = TARGETS[names[0]].samples(Path(folder))
            sample = sample_of(samples, arguments.seed, arguments.replay)
            print(execute(TARGETS[names[0]], sample, Path(folder) / "files") or "accepted")
        return 0
    print("| target | seed | executions | accepted | refused | findings |")
    print("|---|---|---|---|---|---|")
    found = 0
    for name in names:
        result = supervise(TARGETS[name], arguments.seed, arguments.executions)
        show(name, arguments.seed, result)
        found += len(result.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
