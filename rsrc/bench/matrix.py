"""The benchmarks of matrices: one random matrix, or the matrices of a file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import numpy as np

import rsr_runtime as rsr
import rsrc
from rsr_runtime import Matrix

from ..common.errors import OptionError
from ..common.progress import ProgressFunction
from .baselines import single_threaded_baselines
from .compiled import ALL, compile_matrix, describe, whole_pass
from .expected import DTYPES
from .lineup import Setting, line_up, line_up_batches, line_up_huge
from .memory import plan_memory
from .timing import measure

SCHEMA = 2  # grows when the meaning of a key of the result changes

BATCHES = (4, 16, 64)  # vectors
# Besides the default: the paper's index, and the packings for other instruction sets.
_OTHERS = ({"encoding": "permuted"}, {"target": "avx2"}, {"target": "avx512"})
_MAX_GROUPS = 6  # groups of matrices of a file that are measured one by one


def bench_shape(
    m: int,
    n: int,
    *,
    seconds: float = 15.0,
    seed: int = 0,
    batches: Sequence[int] = BATCHES,
    compare: bool = True,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Time products with a uniformly random ternary matrix, compiled for the purpose.

    Args:
        m: out_features.
        n: in_features.
        seconds: how long to measure, at least; preparing matrices and copies takes longer.
        seed: of weights and inputs.
        batches: numbers of vectors to multiply at once, besides one.
        compare: False leaves out the baselines, other encodings, packings and instruction sets,
            and huge pages: what remains are the kernels in use.
        progress: called as progress("", thousandths done, 1000).

    Returns:
        The result that benchmarks/README.md documents, ready for JSON.

    Raises:
        OptionError: an argument is out of range.
        WrongResultError: a timed product was wrong.
    """
    if m < 1 or n < 1:
        raise OptionError(f"shape: found {m}x{n}, expected at least 1x1")
    report = _reporter(progress, "", 0, 1)
    report(0.0)  # preparing matrices and copies takes a while
    threads, rng = rsr.get_num_threads(), np.random.default_rng(seed)
    W = rng.integers(-1, 2, (m, n), np.int8)
    matrix, *others = compile_matrix(W, {}, *(_OTHERS if compare else ()))
    others = [w for w in others if (w.encoding, w.packing) != (matrix.encoding, matrix.packing)]
    with single_threaded_baselines() as baselines:
        if not compare:
            baselines.clear()
        # Huge pages take a rotation of their own, and the permuted matrix takes one.
        rotations = 1 + compare + sum(w.encoding == "ranked" for w in others)
        memory = plan_memory(rotations, len(baselines) + compare)
        setting = Setting(threads, rng, baselines, memory)
        contenders = line_up(setting, matrix, W, others)
        if compare:
            contenders += line_up_huge(setting, matrix, W)
        else:
            isa = rsr.cpu_info()["isa"]
            contenders = [c for c in contenders if c.label.isa == isa]
        contenders += line_up_batches(setting, matrix, W, batches)
        rows = measure(contenders, seconds, report)
    return {"shape": [m, n], "seed": seed, **_result(setting, rows)}


def bench_file(
    path: str | os.PathLike[str],
    *,
    seconds: float = 14.0,
    seed: int = 0,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Time products with the matrices of a `.rsr` file.

    Matrices of one shape, base, encoding and packing form a group, and one matrix of each group is
    measured. If there are several matrices, a pass over all of them is measured too: their cost for
    one token.

    Args:
        path: the file.
        seconds: how long to measure in all, at least.
        seed: of the inputs.
        progress: called as progress(name of the matrix, thousandths done, 1000).

    Returns:
        The result that benchmarks/README.md documents, ready for JSON.

    Raises:
        FormatError: the file breaks a rule of its format.
        OptionError: an argument is out of range, or the file holds no compiled matrix.
        WrongResultError: a timed product was wrong.
        OSError: the file cannot be read.
    """
    threads, rng = rsr.get_num_threads(), np.random.default_rng(seed)
    with rsr.load(path) as model, single_threaded_baselines() as baselines:
        matrices = [w for w in model.matrices() if min(w.shape)]
        if not matrices:
            raise OptionError(f"{path}: found no compiled matrix to measure")
        setting = Setting(threads, rng, baselines, plan_memory(1, len(baselines)))
        groups = _groups(matrices)
        if len(groups) > _MAX_GROUPS:
            reason = f"only the {_MAX_GROUPS} groups with most weights are measured one by one"
            setting.omit("figures", f"{len(groups) - _MAX_GROUPS} groups of matrices", reason)
        groups = groups[:_MAX_GROUPS]
        several = len(matrices) > 1
        share = 1 / (len(groups) + 2 * several)  # the pass takes the time of two groups
        rows: list[dict[str, Any]] = []
        for i, (w, *_) in enumerate(groups):
            report = _reporter(progress, w.name, i * share, share)
            report(0.0)  # preparing copies takes a while
            rows += measure(
                line_up(setting, w, w.to_dense(np.int8)),  # unnamed, so that copies are freed
                seconds * share,
                report,
            )
        if several:
            contenders = whole_pass(matrices, threads, rng)
            report = _reporter(progress, ALL, 1 - 2 * share, 2 * share)
            rows += measure(contenders, 2 * seconds * share, report)
    return {
        "file": os.fspath(path),
        "seed": seed,
        "groups": [{**describe(g[0]), "base": g[0].base, "count": len(g)} for g in groups],
        **_result(setting, rows),
    }


def _groups(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Group matrices of one kind; groups with most weights come first."""

    def kind(w: Matrix) -> tuple[Any, ...]:
        return (*w.shape, w.base, w.encoding, w.packing, w.direction, w.k)

    groups = [list(group) for _, group in groupby(sorted(matrices, key=kind), key=kind)]
    return sorted(groups, key=lambda group: -len(group) * math.prod(group[0].shape))


def _reporter(
    progress: ProgressFunction | None, name: str, before: float, share: float
) -> Callable[[float], None]:
    """Return a function that takes the fraction done of a part and reports that of the whole."""

    def report(fraction: float) -> None:
        if progress is not None:
            progress(name, round(1000 * (before + share * fraction)), 1000)

    return report


def _result(setting: Setting, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys that both benchmarks share."""
    memory = setting.memory
    levels: dict[str, Any] = {
        "cache": {"what": "one matrix repeatedly; each turn starts with an untimed product"},
        "memory": {
            "what": "copies in rotation; compiled matrices lie in anonymous memory in pages of "
            "4 KiB, dense ones as their library allocates them",
            "compiled": setting.copies,
            "bytes_wanted": memory.ranked,
            "rival_bytes_wanted": memory.other,
            "last_level_cache_bytes": memory.last_level_cache,
            "available_bytes": memory.available,
        },
    }
    if any(row["level"] == "memory-huge" for row in rows):
        levels["memory-huge"] = {"what": "like memory, in huge pages"}
    if rows[-1]["level"] == "model":
        levels["model"] = {"what": "one product with each matrix of the file, as mapped"}
    packages = {name: version(name) for name in ("numpy", "torch") if find_spec(name)}
    return {
        "schema": SCHEMA,
        "machine": rsr.cpu_info(),
        "versions": {"rsr-ternary": rsrc.__version__, **packages},
        "levels": levels,
        "ratio_to_plain_read": _headline(rows),
        "results": rows,
        "notes": setting.notes(),
    }


def _headline(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Pick the ratios of the kernels in use on one thread, None for a dtype not measured.

    They are those of the pass over all matrices, the last rows, or else of the first matrix from
    memory.
    """
    chosen = rows[-1] if rows[-1]["level"] == "model" else {**rows[0], "level": "memory"}
    wanted = {key: chosen[key] for key in ("engine", "matrix", "encoding", "algorithm", "level")}
    wanted |= {"isa": rsr.cpu_info()["isa"], "threads": 1, "packing": chosen["packing"]}
    found = {r["dtype"]: r["ratio_to_plain_read"] for r in rows if wanted.items() <= r.items()}
    return {dtype: found.get(dtype) for dtype in DTYPES}
