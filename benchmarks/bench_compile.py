"""Compile a model of the size of bitnet-b1.58-2B-4T; report time, memory, size and load time.

    python benchmarks/bench_compile.py [--checkpoint DIR] [--threads N] [--json]

Without --checkpoint, a random one is made first: it takes 1.18 GB in the folder for temporary
files, and the result 1.12 GB more. Options not listed here, such as --layers 2, are passed to
make_2b_checkpoint.py. The compiler runs in a separate process, so that the system reports its peak
memory. That peak starts at the memory of the parent process, so this script imports little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAKER = Path(__file__).with_name("make_2b_checkpoint.py")
LOADS = 9
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
TARGETS = {
    "seconds": 60,
    "peak_rss_bytes": 1e9,
    "load_seconds": 0.020,
    "load_rss_bytes": 40e6,
    "bits_per_weight": 1.80,
}

_LOAD = """
import resource, sys, time
import rsr_runtime
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    model = rsr_runtime.load(sys.argv[1])
    print(time.perf_counter() - start)
    matrices = [model[name] for name in sys.stdin.read().splitlines()]  # empty after the first time
    model.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def with_bytecode(folder: Path) -> dict[str, str]:
    """Return an environment whose modules are compiled, as those of an installed package are."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", "import rsrc.cli.compile, rsr_runtime.llm"]
    subprocess.run(command, check=True, env=environment)
    return environment


def run_compiler(
    source: Path, output: Path, options: Sequence[str]
) -> tuple[float, float, int, dict[str, Any]]:
    """Compile in a separate process.

    Returns:
        Seconds from start to end, imports included; seconds of processor time; peak resident
        bytes; the compiler's report.
    """
    command = [sys.executable, "-m", "rsrc", "compile", str(source), "-o", str(output), "--json"]
    command += options
    with tempfile.TemporaryFile() as report:
        environment = with_bytecode(output.parent / "bytecode")
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=report, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # usage of this child only
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"the compiler failed with exit code {process.returncode}")
        report.seek(0)
        parsed = json.load(report)
    return seconds, usage.ru_utime + usage.ru_stime, _RSS_UNIT * usage.ru_maxrss, parsed


def load(path: Path, matrices: Sequence[str]) -> tuple[list[float], int]:
    """Load a file several times in a fresh process, and create all its matrices once.

    Returns:
        The seconds of each load, in order; the peak resident bytes of the process.
    """
    command = [sys.executable, "-c", _LOAD, str(path), str(LOADS)]
    names = "\n".join(matrices)
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=names)
    *times, peak = done.stdout.split()
    return [float(t) for t in times], _RSS_UNIT * int(peak)


def measure(source: Path, output: Path, options: Sequence[str]) -> dict[str, Any]:
    """Compile `source` and load the result; README.md documents the keys."""
    seconds, processor_seconds, peak, report = run_compiler(source, output, options)
    indexed = [t for t in report["tensors"] if t["kind"] != "dense"]
    loads, load_peak = load(output, [t["name"] for t in indexed])
    weights = sum(t["shape"][0] * t["shape"][1] for t in indexed)
    result: dict[str, Any] = {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "weights": weights,
        "weights_per_second": weights / seconds,
        "source_bytes_per_second": report["source_bytes"] / seconds,
        "peak_rss_bytes": peak,
        "load_seconds": statistics.median(loads),
        "load_seconds_first": loads[0],
        "load_rss_bytes": load_peak,
        "bits_per_weight": report["bits_per_weight"],
        "index_bytes": sum(t["bytes"] for t in indexed),
        "source_bytes": report["source_bytes"],
        "output_bytes": report["output_bytes"],
        "threads": report["threads"],
        "targets": TARGETS,
    }
    result["within_targets"] = {key: bool(result[key] <= limit) for key, limit in TARGETS.items()}
    return result


def show(result: dict[str, Any]) -> None:
    lines = {
        "compiled in": f"{result['seconds']:.1f} s with --threads {result['threads']}, "
        f"{result['processor_seconds']:.1f} s of processor time",
        "rate": f"{result['weights_per_second'] / 1e6:,.0f} million weights/s",
        "peak memory": f"{result['peak_rss_bytes'] / 1e6:,.0f} MB",
        "load": f"{result['load_seconds'] * 1e3:.1f} ms "
        f"(the first {result['load_seconds_first'] * 1e3:.1f} ms)",
        "load memory": f"{result['load_rss_bytes'] / 1e6:,.0f} MB with all matrices",
        "index": f"{result['bits_per_weight']:.3f} bits per ternary weight",
        "file": f"{result['output_bytes'] / 1e9:.3f} GB from {result['source_bytes'] / 1e9:.3f} GB",
    }
    for name, text in lines.items():
        print(f"{name:12}  {text}")
    missed = [name for name, good in result["within_targets"].items() if not good]
    print("targets       " + (f"missed: {', '.join(missed)}" if missed else "all met"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="compile this one instead")
    parser.add_argument("--threads", metavar="N", help="passed to the compiler")
    parser.add_argument("--quantize", metavar="RULE", help="passed to the compiler")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options, sizes = parser.parse_known_args(arguments)
    given = {"--threads": options.threads, "--quantize": options.quantize}
    passed = [word for name, value in given.items() if value for word in (name, value)]
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as folder:
        source = options.checkpoint or Path(folder) / "checkpoint"
        if options.checkpoint is None:
            make = [sys.executable, str(MAKER), "--output", str(source), *sizes]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        result = measure(source, Path(folder) / "model.rsr", passed)
    if options.as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
