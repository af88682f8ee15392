"""The two benchmarks: a random matrix, and the matrices of a file."""

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
from rsr_runtime import Matrix

from .._version import __version__
from ..common.errors import OptionError
from ..common.progress import ProgressFunction
from .lineup import Setting, line_up, line_up_batches, line_up_huge
from .matrices import compile_matrix
from .memory import plan_memory
from .products import ALL, DTYPES, describe, whole_pass
from .rivals import rivals_on_one_thread
from .turns import measure

SCHEMA = 2  # moves when the meaning of a key of the result does

_BATCHES = (4, 16, 64)  # vectors
# Besides the default: the paper's index, and the packing for other instruction sets.
_OTHERS = ({"encoding": "permuted"}, {"target": "avx2"}, {"target": "avx512"})
_MOST_GROUPS = 6  # kinds of matrices of a file that are measured one by one


def bench_shape(
    m: int,
    n: int,
    *,
    seconds: float = 15.0,
    seed: int = 0,
    progress: ProgressFunction | None = None,
) -> dict[str, Any]:
    """Time products with a uniformly random ternary matrix, compiled for the purpose.

    Args:
        m: rows of the matrix, out_features.
        n: its columns, in_features.
        seconds: how long to measure, at least; making matrices and copies comes on top.
        seed: of weights and inputs.
        progress: called as progress(what is measured, thousandths done, 1000).

    Returns:
        What benchmarks/README.md documents, ready for JSON.

    Raises:
        OptionError: an argument is out of its range.
        WrongResultError: a timed product was wrong.
    """
    if m < 1 or n < 1:
        raise OptionError(f"shape: found {m}x{n}, expected at least 1x1")
    report = _report(progress, "", 0, 1)
    report(0.0)  # making matrices and copies takes a while
    threads, rng = rsr.get_num_threads(), np.random.default_rng(seed)
    W = rng.integers(-1, 2, (m, n), np.int8)
    matrix, *others = compile_matrix(W, {}, *_OTHERS)
    others = [w for w in others if (w.encoding, w.packing) != (matrix.encoding, matrix.packing)]
    with rivals_on_one_thread() as rivals:
        rotations = 2 + sum(w.encoding == "ranked" for w in others)  # one is in huge pages
        setting = Setting(threads, rng, rivals, plan_memory(rotations, len(rivals) + 1))
        contenders = line_up(setting, matrix, W, others)
        contenders += line_up_huge(setting, matrix, W)
        contenders += line_up_batches(setting, matrix, W, _BATCHES)
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

    Matrices of one shape and encoding make a group, of which one is measured. Where there are
    several matrices, a pass over all of them is measured too: what they cost per token.

    Args:
        path: the file.
        seconds: how long to measure in all, at least.
        seed: of the inputs.
        progress: called as progress(what is measured, thousandths done, 1000).

    Returns:
        What benchmarks/README.md documents, ready for JSON.

    Raises:
        FormatError: the file breaks a rule of its format.
        OptionError: an argument is out of its range, or the file has no compiled matrix.
        WrongResultError: a timed product was wrong.
        OSError: the file cannot be read.
    """
    threads, rng = rsr.get_num_threads(), np.random.default_rng(seed)
    with rsr.load(path) as model, rivals_on_one_thread() as rivals:
        matrices = [w for w in model.values() if isinstance(w, Matrix) and min(w.shape)]
        if not matrices:
            raise OptionError(f"{path}: holds no compiled matrix to time products with")
        setting = Setting(threads, rng, rivals, plan_memory(1, len(rivals)))
        groups = _groups(matrices)
        if len(groups) > _MOST_GROUPS:
            setting.notes.append(
                f"only the {_MOST_GROUPS} largest of {len(groups)} groups are measured one by one"
            )
        groups = groups[:_MOST_GROUPS]
        several = len(matrices) > 1
        share = 1 / (len(groups) + 2 * several)  # the pass gets the time of two groups
        rows: list[dict[str, Any]] = []
        for i, (w, *_) in enumerate(groups):
            report = _report(progress, w.name, i * share, share)
            report(0.0)  # making copies takes a while
            rows += measure(
                line_up(setting, w, w.to_dense(np.int8)),  # no name: the copies go with the call
                seconds * share,
                report,
            )
        if several:
            contenders = whole_pass(matrices, threads, rng)
            report = _report(progress, ALL, 1 - 2 * share, 2 * share)
            rows += measure(contenders, 2 * seconds * share, report)
    return {
        "file": os.fspath(path),
        "seed": seed,
        "groups": [{**describe(g[0]), "base": g[0].base, "count": len(g)} for g in groups],
        **_result(setting, rows),
    }


def _groups(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Group matrices of one kind, those with most weights first."""

    def kind(w: Matrix) -> tuple[Any, ...]:
        return (*w.shape, w.base, w.encoding, w.packing, w.direction, w.k)

    groups = [list(group) for _, group in groupby(sorted(matrices, key=kind), key=kind)]
    return sorted(groups, key=lambda group: -len(group) * math.prod(group[0].shape))


def _report(
    progress: ProgressFunction | None, name: str, before: float, share: float
) -> Callable[[float], None]:
    """Return what takes the fraction done of a part, and reports that of the whole."""

    def report(fraction: float) -> None:
        if progress is not None:
            progress(name, round(1000 * (before + share * fraction)), 1000)

    return report


def _result(setting: Setting, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Put together the keys both benchmarks have."""
    memory = setting.memory
    levels: dict[str, Any] = {
        "cache": {"what": "one matrix again and again, each turn after one product untimed"},
        "memory": {
            "what": "copies in rotation; of compiled matrices in anonymous memory in pages of "
            "4 KiB, of dense ones as their library allocates them",
            "compiled": setting.copies,
            "bytes_wanted": memory.compiled,
            "rival_bytes_wanted": memory.rival,
            "last_level_cache_bytes": memory.last_level_cache,
            "available_bytes": memory.available,
        },
    }
    if any(row["level"] == "memory-huge" for row in rows):
        levels["memory-huge"] = {"what": "as memory, in pages as `load(memory='huge')` asks for"}
    if rows[-1]["level"] == "model":
        levels["model"] = {"what": "one product with each matrix of the file, as it is mapped"}
    packages = {name: version(name) for name in ("numpy", "torch") if find_spec(name)}
    return {
        "schema": SCHEMA,
        "machine": rsr.cpu_info(),
        "versions": {"rsr-ternary": __version__, **packages},
        "levels": levels,
        "ratio_to_plain_read": _headline(rows),
        "results": rows,
        "notes": setting.notes,
    }


def _headline(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Pick the ratios of the kernels in use on one thread, None for what was not measured.

    Of the pass over all matrices, which comes last, or of the matrix that comes first.
    """
    chosen = rows[-1] if rows[-1]["level"] == "model" else {**rows[0], "level": "memory"}
    wanted = {key: chosen[key] for key in ("engine", "matrix", "encoding", "algorithm", "level")}
    wanted |= {"isa": rsr.cpu_info()["isa"], "threads": 1, "packing": chosen["packing"]}
    found = {r["dtype"]: r["ratio_to_plain_read"] for r in rows if wanted.items() <= r.items()}
    return {dtype: found.get(dtype) for dtype in DTYPES}
