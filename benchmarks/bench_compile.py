"""Compile a model of the size of bitnet-b1.58-2B-4T, and report time, memory, size and load time.

    python benchmarks/bench_compile.py [--checkpoint DIR] [--json]

Without --checkpoint a random one is made first (1.18 GB in the folder for temporary files, and
1.12 GB more for the result); options not known here go to make_2b_checkpoint.py: --layers 2. The
compiler runs as a process of its own, so that its peak memory is what the system reports for it.
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
TARGETS = {"seconds": 60, "peak_rss_bytes": 1e9, "load_seconds": 0.050, "bits_per_weight": 1.80}

_LOAD = """
import sys, time
import rsr_runtime
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    model = rsr_runtime.load(sys.argv[1])
    print(time.perf_counter() - start)
    model.close()
"""


def run_compiler(source: Path, output: Path) -> tuple[float, int, dict[str, Any]]:
    """Compile in a process of its own.

    Returns:
        Seconds from start to end, imports included; peak resident bytes; the compiler's report.
    """
    command = [sys.executable, "-m", "rsrc", "compile", str(source), "-o", str(output), "--json"]
    with tempfile.TemporaryFile() as report:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=report)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"the compiler failed with exit code {process.returncode}")
        report.seek(0)
        parsed = json.load(report)
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), parsed


def load_times(path: Path) -> list[float]:
    """Return the seconds of several loads in a fresh process, the first one first."""
    command = [sys.executable, "-c", _LOAD, str(path), str(LOADS)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(line) for line in result.stdout.split()]


def measure(source: Path, output: Path) -> dict[str, Any]:
    """Compile `source` and load the result; the keys are documented in README.md."""
    seconds, peak, report = run_compiler(source, output)
    loads = load_times(output)
    indexed = [t for t in report["tensors"] if t["kind"] != "dense"]
    weights = sum(t["shape"][0] * t["shape"][1] for t in indexed)
    result: dict[str, Any] = {
        "seconds": seconds,
        "weights": weights,
        "weights_per_second": weights / seconds,
        "source_bytes_per_second": report["source_bytes"] / seconds,
        "peak_rss_bytes": peak,
        "load_seconds": statistics.median(loads),
        "load_seconds_first": loads[0],
        "bits_per_weight": report["bits_per_weight"],
        "index_bytes": sum(t["bytes"] for t in indexed),
        "source_bytes": report["source_bytes"],
        "output_bytes": report["output_bytes"],
        "threads": report["threads"],
        "targets": TARGETS,
    }
    result["within_targets"] = {key: bool(result[key] <= most) for key, most in TARGETS.items()}
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result for people."""
    lines = {
        "compiled in": f"{result['seconds']:.1f} s on {result['threads']} threads",
        "rate": f"{result['weights_per_second'] / 1e6:,.0f} million weights/s",
        "peak memory": f"{result['peak_rss_bytes'] / 1e6:,.0f} MB",
        "load": f"{result['load_seconds'] * 1e3:.1f} ms "
        f"(the first {result['load_seconds_first'] * 1e3:.1f} ms)",
        "index": f"{result['bits_per_weight']:.3f} bits per ternary weight",
        "file": f"{result['output_bytes'] / 1e9:.3f} GB from {result['source_bytes'] / 1e9:.3f} GB",
    }
    for name, text in lines.items():
        print(f"{name:12}  {text}")
    missed = [name for name, good in result["within_targets"].items() if not good]
    print("targets       " + (f"missed: {', '.join(missed)}" if missed else "all met"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="compile this one instead")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options, sizes = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as folder:
        source = options.checkpoint or Path(folder) / "checkpoint"
        if options.checkpoint is None:
            make = [sys.executable, str(MAKER), "--output", str(source), *sizes]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        result = measure(source, Path(folder) / "model.rsr")
    if options.as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
