"""Deltas of models of which a share of the weights changed: sizes and times, beside zstd.

    python benchmarks/deltas.py FOLDER [--shares 0.001,0.01,0.1] [--zstd-level N] [--json]

Writes a random model in the shapes of bitnet-b1.58-2B-4T to FOLDER (six layers and 16,384 words, a
fifth of its weights, unless --layers and --vocab say otherwise), and for each share a copy in which
so many ternary weights, chosen at random, have one of the two other values. Compiles all of them,
and times `rsrc diff`, `rsrc diff --stat` and `rsrc patch`, and `zstd --patch-from` with a window of
2 GiB if zstd is installed. Each runs in a separate process. What `patch` and `zstd` write is
compared with the new file. Removes everything at the end.

The entropy is that of the changes: of which weights change, and one bit for each of them.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

import rsrc
from make_2b_checkpoint import Sizes, config, tensors, ternary_weights, write_file

SIZES = Sizes(layers=6, vocab=16384)
_STEP = 1 << 22  # weights changed at a time


def flip(path: Path, sizes: Sizes, share: float, seed: int) -> int:
    """Give a share of the weights of a checkpoint another value; return how many."""
    rng, changed = np.random.default_rng(seed), 0
    with safe_open(path, framework="numpy") as file:
        found = {t.name: file.get_tensor(t.name) for t in tensors(sizes) if t.fill == "packed"}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r+")
    for name in found:
        start, stop = header[name]["data_offsets"]
        codes = data[8 + size + start : 8 + size + stop]
        for first in range(0, 4 * len(codes), _STEP):
            count = min(_STEP, 4 * len(codes) - first)
            at = first + np.flatnonzero(rng.random(count, np.float32) < share)
            byte, shift = at // 4, (2 * (at % 4)).astype(np.uint8)
            old = codes[byte] >> shift & 3
            new = (old + rng.integers(1, 3, len(at), np.uint8)) % 3
            np.bitwise_xor.at(codes, byte, (old ^ new) << shift)
            changed += len(at)
    data.flush()
    return changed


def entropy(weights: int, changed: int) -> float:
    """Return the bytes that the changes take at least: which weights, and which other digit."""
    p = changed / weights
    return weights * (-p * math.log2(p) - (1 - p) * math.log2(1 - p) + p) / 8


def timed(*command: str | Path) -> float:
    """Run a command; return its seconds."""
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return time.perf_counter() - start


def measure(old: Path, new: Path, scratch: Path, level: int) -> dict[str, float | None]:
    """Make and apply the delta of two files; return sizes and seconds."""
    delta, result = scratch / "d.rsrd", scratch / "result.rsr"
    command = [sys.executable, "-m", "rsrc"]
    found: dict[str, float | None] = {
        "diff_seconds": timed(*command, "diff", old, new, "-o", delta, "--force"),
        "stat_seconds": timed(*command, "diff", old, new, "--stat"),
        "patch_seconds": timed(*command, "patch", old, delta, "-o", result, "--force"),
        "delta_bytes": delta.stat().st_size,
        "zstd_bytes": None,
        "zstd_seconds": None,
    }
    same = filecmp.cmp(new, result, shallow=False)
    if shutil.which("zstd"):
        packed = scratch / "d.zst"
        zstd = ["zstd", "-q", "-f", "--long=31", f"--patch-from={old}"]
        found["zstd_seconds"] = timed(*zstd, f"-{level}", "-T0", new, "-o", packed)
        found["zstd_bytes"] = packed.stat().st_size
        timed(*zstd, "-d", packed, "-o", result)
        same = same and filecmp.cmp(new, result, shallow=False)
    if not same:
        raise SystemExit("a patched file differs from the new one")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="needs room for three times the model")
    parser.add_argument("--shares", default="0.001,0.01,0.1", help="of the weights that change")
    parser.add_argument("--zstd-level", type=int, default=3)
    parser.add_argument(
        "--compile-zstd", type=int, metavar="LEVEL", help="compile compressed files"
    )
    for name in ("layers", "hidden", "ffn", "kv", "vocab"):
        parser.add_argument(f"--{name}", type=int, default=getattr(SIZES, name))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    names = ("layers", "hidden", "ffn", "kv", "vocab")
    sizes = replace(SIZES, **{name: getattr(options, name) for name in names})
    sizes.check()
    scratch = Path(tempfile.mkdtemp(prefix="deltas-", dir=options.folder))
    rows: list[dict[str, Any]] = []
    try:
        source = scratch / "model"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(config(sizes)))
        weights = source / "model.safetensors"
        write_file(weights, tensors(sizes), np.random.default_rng(0))
        old, new = scratch / "old.rsr", scratch / "new.rsr"
        rsrc.compile(source, old, zstd=options.compile_zstd)
        kept = scratch / "kept.safetensors"
        weights.rename(kept)
        for share in map(float, options.shares.split(",")):
            shutil.copyfile(kept, weights)
            changed = flip(weights, sizes, share, seed=1)
            rsrc.compile(source, new, zstd=options.compile_zstd, force=True)
            row = {
                "share": share,
                "weights": ternary_weights(sizes),
                "changed": changed,
                "new_bytes": new.stat().st_size,
                "entropy_bytes": entropy(ternary_weights(sizes), changed),
            }
            rows.append(row | measure(old, new, scratch, options.zstd_level))
    finally:
        shutil.rmtree(scratch)
    if options.json:
        print(json.dumps({"results": rows}, indent=2))
        return
    print("| changed | new file | entropy | `.rsrd` | / entropy | `zstd --patch-from` "
          "| diff | stat | patch | zstd |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        megabytes = [
            "" if r[key] is None else f"{r[key] / 1e6:.3f} MB"
            for key in ("new_bytes", "entropy_bytes", "delta_bytes", "zstd_bytes")
        ]
        megabytes.insert(3, f"{r['delta_bytes'] / r['entropy_bytes']:.3f}")
        keys = ("diff_seconds", "stat_seconds", "patch_seconds", "zstd_seconds")
        seconds = ["" if r[key] is None else f"{r[key]:.2f} s" for key in keys]
        print(f"| {r['share']:.1%} | {' | '.join([*megabytes, *seconds])} |")


if __name__ == "__main__":
    main()
