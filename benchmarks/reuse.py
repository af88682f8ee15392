"""Compile a model of the size of bitnet-b1.58-2B-4T with --reuse; report time and memory.

    python benchmarks/reuse.py [--checkpoint DIR] [--rounds 3] [--zstd LEVEL] [--json]

Without --checkpoint, a random one is made; else DIR/model.safetensors is copied, with packed (U8)
matrices. One weight is changed in none, a tenth and all of the matrices, and the model is compiled
from nothing and with the file of the unchanged model. Options not listed here, such as --layers 2,
are passed to make_2b_checkpoint.py. It takes 4.6 GB in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_compile import MAKER, run_compiler

SHARES = {"nothing changed": 0.0, "a tenth changed": 0.1, "all changed": 1.0}


def matrices(path: Path) -> list[int]:
    """Return where the bytes of the packed matrices of a .safetensors file begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = [t for t in header.values() if t.get("dtype") == "U8"]
    return [8 + size + t["data_offsets"][0] for t in tensors]


def change(path: Path, share: float) -> None:
    """Change the first weight of a share of the matrices."""
    places = matrices(path)
    with path.open("r+b") as file:
        for place in places[: round(share * len(places))]:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte & 0xFC | (byte + 1) % 4 % 3]))


def measure(source: Path, folder: Path, rounds: int, options: Sequence[str]) -> dict[str, Any]:
    """Compile in turns; README.md documents the keys."""
    old, out = folder / "old.rsr", folder / "new.rsr"
    weights = source / "model.safetensors"
    run_compiler(source, old, options)
    original = folder / "original"
    shutil.copyfile(weights, original)
    runs: dict[str, list[tuple[float, float, int, dict[str, Any]]]] = {}
    for _ in range(rounds):
        for name, share in {"from nothing": 0.0, **SHARES}.items():
            shutil.copyfile(original, weights)
            change(weights, share)
            os.sync()
            reuse = [] if name == "from nothing" else ["--reuse", str(old)]
            runs.setdefault(name, []).append(run_compiler(source, out, [*options, *reuse]))
            out.unlink()
    return {
        name: {
            "seconds": statistics.median(run[0] for run in found),
            "processor_seconds": statistics.median(run[1] for run in found),
            "peak_rss_bytes": max(run[2] for run in found),
            "reused": found[0][3]["reused"],
        }
        for name, found in runs.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a copy of this one instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zstd", metavar="LEVEL", help="passed to the compiler")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options, sizes = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-reuse-") as name:
        source = Path(name) / "checkpoint"
        if options.checkpoint is None:
            make = [sys.executable, str(MAKER), "--output", str(source), *sizes]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        else:
            shutil.copytree(options.checkpoint, source)
        zstd = ["--zstd", options.zstd] if options.zstd else []
        result = measure(source, Path(name), options.rounds, zstd)
    if options.as_json:
        print(json.dumps(result, indent=2))
        return
    for name, r in result.items():
        print(
            f"{name:16}  {r['seconds']:5.2f} s, {r['processor_seconds']:5.2f} s of processor time, "
            f"{r['peak_rss_bytes'] / 1e6:4.0f} MB, {r['reused']['tensors']} tensors reused"
        )


if __name__ == "__main__":
    main()
