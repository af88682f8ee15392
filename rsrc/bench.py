"""Time products beside their rivals and beside the memory limit: `rsrc bench`.

How it measures (benchmarks/README.md says how to read the result):

* Everything runs in one process, turn and turn about: a round gives each contender a few
  milliseconds, with a plain read of the same bytes beside it, and rounds go on until the time is
  up. What disturbs the machine then disturbs all contenders alike, and ratios within a round are
  steadier than times are.
* Two levels. "cache": one matrix again and again. "memory": copies in rotation, far more than the
  last-level cache holds, so that each product reads main memory. The copies lie in anonymous
  memory in pages of 4 KiB, as a mapped `.rsr` file does.
* Every timed product is checked: int8 exactly, float32 against the bound that `Matrix` promises.
"""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from safetensors.numpy import save_file

import rsr_runtime as rsr
from rsr_formats.errors import RsrError
from rsr_runtime import Matrix, _native

from ._version import __version__
from .errors import OptionError
from .pipeline import compile
from .text import printable

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]
Progress = Callable[[float], None]  # progress(fraction of the measuring that is done)

SCHEMA = 1  # moves when the meaning of a key of the result does

_TURN = 0.008  # seconds of products in one turn
_FEWEST_ROUNDS = 3  # whatever the time box says
_ROTATION = 1_200_000_000  # bytes the copies of a compiled matrix should take
_RIVAL_ROTATION = 512_000_000  # bytes the copies of a rival's matrix should take
_CACHES = 4  # a rotation holds at least this many last-level caches
_MOST_COPIES = 8192
_MOST_GROUPS = 6  # kinds of matrices of a file that are measured one by one
_LABELS = (
    "engine", "matrix", "shape", "encoding", "packing", "direction", "k", "algorithm", "isa",
    "dtype", "threads", "level",
)  # fmt: skip
_SETTLE = 0.03  # seconds that idle threads of a BLAS library may go on spinning
_PANEL = 1 << 24  # weights of a reference product widened at a time
_ALL = "all matrices"  # what the rows of a pass over a whole file have as "matrix"
_TOO_SMALL = "copies that fill the caches would be too many, or too large for this memory"


class WrongResultError(RsrError):
    """A product that was being timed gave a wrong result."""


class MissingPackageError(RsrError):
    """An optional package is not installed."""


# ------------------------------------------------------------------ what is multiplied by what


@dataclass(frozen=True)
class Operand:
    """One copy of the weights in the form some engine wants, and the bytes it consists of."""

    weights: Any
    parts: tuple[Bytes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes a product reads."""
        return sum(len(p) for p in self.parts)


class Rotation:
    """Copies of one operand, handed out one after the other."""

    def __init__(self, operands: Sequence[Operand]) -> None:
        self.operands = operands
        self._next = 0

    def take(self) -> Operand:
        """Return the copy that was not used for the longest time."""
        operand = self.operands[self._next]
        self._next = (self._next + 1) % len(self.operands)
        return operand


@dataclass
class Contender:
    """One row of the result: an engine with its settings, on one rotation.

    `labels` are the row's keys that say what it is. `multiply` takes an operand's weights;
    `check` takes what it returned, and returns what is wrong with it, in words, or None.
    """

    labels: dict[str, Any]
    rotation: Rotation
    weights: int
    multiply: Callable[[Any], Any]
    check: Callable[[Any], str | None]
    isa: str | None = None
    settle: float = 0.0
    turns: list[tuple[float, float]] = field(default_factory=list)  # seconds: product, plain read

    @property
    def warm(self) -> bool:
        """Whether the caches should hold what they can of the operand when a turn begins."""
        return bool(self.labels["level"] == "cache")

    @property
    def threads(self) -> int:
        """Threads of a product, and of the plain read beside it."""
        return int(self.labels["threads"])

    def row(self) -> dict[str, Any]:
        """Summarise the turns: the keys that benchmarks/README.md documents."""
        products = [product for product, _ in self.turns]
        median = statistics.median(products)
        plain = statistics.median(plain for _, plain in self.turns)
        nbytes = self.rotation.operands[0].nbytes
        return {
            **self.labels,
            "rounds": len(self.turns),
            "seconds_best": min(products),
            "seconds_median": median,
            "weights": self.weights,
            "weights_per_ns": self.weights / median / 1e9,
            "index_bytes": nbytes,
            "bits_per_weight": 8 * nbytes / self.weights,
            "gigabytes_per_second": nbytes / median / 1e9,
            "plain_read_gigabytes_per_second": nbytes / plain / 1e9,
            "ratio_to_plain_read": statistics.median(
                plain / product for product, plain in self.turns
            ),
        }


# -------------------------------------------------------------------------- taking turns


def _measure(
    contenders: Sequence[Contender], seconds: float, progress: Progress | None = None
) -> None:
    """Give all contenders turns, round after round, for `seconds`; each keeps its times."""
    active, threads = rsr.cpu_info()["isa"], rsr.get_num_threads()
    most = max((c.threads for c in contenders), default=1)
    start, rounds = time.perf_counter(), 0
    try:
        with ThreadPoolExecutor(max(1, most - 1)) as pool:
            while rounds < _FEWEST_ROUNDS or time.perf_counter() - start < seconds:
                first = rounds % max(1, len(contenders))
                for c in (*contenders[first:], *contenders[:first]):
                    _turn(c, rounds % 2 == 0, pool)
                rounds += 1
                if progress is not None:
                    progress(min(1.0, (time.perf_counter() - start) / max(seconds, 1e-9)))
    finally:
        rsr.use_isa(active)
        rsr.set_num_threads(threads)


def _turn(c: Contender, product_first: bool, pool: ThreadPoolExecutor) -> None:
    """Time products for a few milliseconds and plain reads of as many copies, in either order."""
    if product_first:
        product, count = _time_products(c)
        plain = _time_plain_reads(c, count, pool)
    else:
        count = max(1, round(_TURN / c.turns[-1][0]))
        plain = _time_plain_reads(c, count, pool)
        product, _ = _time_products(c)
    c.turns.append((product, plain))


def _time_products(c: Contender) -> tuple[float, int]:
    """Return seconds per product, and how many there were; only `multiply` is timed.

    The median of a turn: a product that lost the processor to another process does not count.
    """
    if c.isa is not None:
        rsr.use_isa(c.isa)
    rsr.set_num_threads(c.threads)
    if c.warm:
        _check(c, c.multiply(c.rotation.take().weights))
    times: list[float] = []
    end = time.perf_counter() + _TURN
    while not times or (time.perf_counter() < end and len(times) < _MOST_COPIES):
        weights = c.rotation.take().weights
        start = time.perf_counter()
        y = c.multiply(weights)
        times.append(time.perf_counter() - start)
        _check(c, y)
    if c.settle:
        time.sleep(c.settle)
    return statistics.median(times), len(times)


def _check(c: Contender, y: Any) -> None:
    wrong = c.check(y)
    if wrong is not None:
        what = ", ".join(f"{k} {v}" for k, v in c.labels.items() if v is not None)
        raise WrongResultError(f"a product that was timed is wrong: {wrong} ({what})")


def _time_plain_reads(c: Contender, count: int, pool: ThreadPoolExecutor) -> float:
    """Return seconds per plain read of one operand, by as many threads as the product has.

    It is always read with the best instruction set: the limit is the machine's.
    """
    rsr.use_isa(rsr.cpu_info()["supported_isas"][0])
    operands = [c.rotation.take() for _ in range(count)]
    if c.warm:
        _plain_read(operands[0].parts)
    if c.threads > 1:  # in one go, as handing out the work takes time
        start = time.perf_counter()
        others = [
            pool.submit(_plain_read, _share(operands, i, c.threads)) for i in range(1, c.threads)
        ]
        _plain_read(_share(operands, 0, c.threads))
        for other in others:
            other.result()
        return (time.perf_counter() - start) / count
    times = []
    for operand in operands:
        start = time.perf_counter()
        _plain_read(operand.parts)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _plain_read(parts: Sequence[Bytes]) -> None:
    for part in parts:
        _native.plain_read(part)


def _share(operands: Sequence[Operand], i: int, of: int) -> list[Bytes]:
    """Return the i-th of `of` equal shares of every operand's bytes."""
    parts = [p for operand in operands for p in operand.parts]
    return [p[len(p) * i // of : len(p) * (i + 1) // of] for p in parts]


# -------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Memory:
    """How many bytes of copies the level "memory" takes. Sizes in bytes."""

    last_level_cache: int | None
    available: int
    compiled: int  # of the copies of a compiled matrix
    rival: int  # of the copies of a rival's matrix
    fewest: int  # below this there is no such level

    def copies(self, nbytes: int, compiled: bool) -> int:
        """Return how many copies of `nbytes` to rotate over, 0 for no level "memory".

        One needs no copy: it is larger than the caches by itself.
        """
        limit = self.compiled if compiled else self.rival
        count = min(-(-limit // nbytes), _MOST_COPIES) if nbytes <= limit else 1
        return count if count * nbytes >= self.fewest else 0


def plan_memory(rivals: int, nbytes: int | None = None) -> Memory:
    """Decide how much memory copies may take: at most a quarter of what is available, in all.

    Args:
        rivals: how many kinds of rivals' matrices get copies at the same time.
        nbytes: take this for every rotation instead, and ask for no least size (tests).
    """
    cache, available = _last_level_cache(), _available_memory()
    if nbytes is not None:
        return Memory(cache, available, nbytes, nbytes, 0)
    fewest = _CACHES * (cache or 32 << 20)
    compiled, rival = max(_ROTATION, fewest), max(_RIVAL_ROTATION, fewest)
    shrink = min(1.0, available / 4 / (compiled + rivals * rival))
    return Memory(cache, available, int(compiled * shrink), int(rival * shrink), fewest)


def _last_level_cache() -> int | None:
    """Return the size of the largest cache that processor 0 uses, None if it is not known."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=None)


def _available_memory() -> int:
    """Return the bytes that can be allocated without swapping; a cautious guess if unknown."""
    found = [4 << 30]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = [int(line.split()[1]) << 10]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, or no control group
        pass
    return max(0, min(found))


def _small_pages(nbytes: int) -> Bytes:
    """Return anonymous memory in pages of 4 KiB, as a mapped file has them.

    NumPy's own arrays would not do: it asks for huge pages where they are large.
    """
    memory = mmap.mmap(-1, max(1, nbytes))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8)


# ---------------------------------------------------------- this runtime as a contender


def _operand(matrix: Matrix) -> Operand:
    """Return a matrix with the bytes of its index and scales."""
    scaled = matrix._tensor.scale is not None
    arrays = [a for part, a in matrix._arrays.items() if part != "scale" or scaled]
    return Operand(matrix, tuple(a.reshape(-1).view(np.uint8) for a in arrays))


def _copies(matrix: Matrix, count: int) -> Rotation:
    """Return `count` copies of a loaded matrix, each array at the start of a page."""
    if count == 1:
        return Rotation([_operand(matrix)])
    arrays = matrix._arrays
    step = sum(-(-a.nbytes // 4096) * 4096 for a in arrays.values())
    memory = _small_pages(count * step)
    operands, offset = [], 0
    for _ in range(count):
        copy = {}
        for part, a in arrays.items():
            copy[part] = memory[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)
            copy[part][...] = a
            offset += -(-a.nbytes // 4096) * 4096
        operands.append(_operand(Matrix(matrix._tensor, copy, lambda: False)))
    return Rotation(operands)


@dataclass(frozen=True)
class Truth:
    """Inputs for one matrix, and what its products must be."""

    x: dict[str, Array]  # by data type
    exact: Array  # int32 (m,): W x for the int8 input
    real: Float64  # (m,): scale * W x for the float32 input
    bound: Float64  # (m,): how far a float32 product may be from `real`

    def check_int8(self, y: Array) -> str | None:
        """Say what is wrong with an int8 product: it must be exact."""
        if y.dtype == np.int32 and np.array_equal(y.reshape(-1), self.exact):
            return None
        return f"{np.count_nonzero(y.reshape(-1) != self.exact)} sums differ from the exact ones"

    def check_float32(self, y: Array, bound: Float64 | None = None) -> str | None:
        """Say what is wrong with a float32 product: it must be within its bound."""
        error = np.abs(y - self.real)
        wrong = ~(error <= (self.bound if bound is None else bound))
        if not wrong.any():
            return None
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        return (
            f"{np.count_nonzero(wrong)} sums are out of bounds; sum {worst} by {error[worst]:.3g}"
        )

    def check(self, dtype: str) -> Callable[[Array], str | None]:
        """Return the check for a data type."""
        return self.check_int8 if dtype == "int8" else self.check_float32


def _inputs(n: int, rng: np.random.Generator) -> dict[str, Array]:
    return {
        "int8": rng.integers(-128, 128, n).astype(np.int8),
        "float32": rng.standard_normal(n).astype(np.float32),
    }


def _truth(W: Array, scale: Array, rng: np.random.Generator) -> Truth:
    """Compute what products must be: `W` int8 (m, n), in float64, which is exact for int8."""
    m, n = W.shape
    x = _inputs(n, rng)
    columns = np.stack([x["int8"].astype(np.float64), x["float32"].astype(np.float64)], axis=1)
    height = max(1, _PANEL // n)
    panels = [W[r : r + height].astype(np.float64) @ columns for r in range(0, m, height)]
    products = np.concatenate(panels)
    return Truth(
        x,
        products[:, 0].astype(np.int32),
        products[:, 1] * scale,
        np.broadcast_to(_bound(x["float32"]) * np.abs(scale), (m,)),
    )


def _bound(x: Array) -> float:
    """Return the bound on a float32 product's error, without the scale (see `Matrix`)."""
    return float(len(x) * 2.0**-24 * np.abs(x).sum(dtype=np.float64))


def _settings(threads: int, others: bool = True) -> list[tuple[str, int]]:
    """List (instruction set, threads): one thread each, and all threads for the one in use."""
    info = rsr.cpu_info()
    active = info["isa"]
    isas = [active, *(isa for isa in info["supported_isas"] if isa != active and others)]
    return [(isa, 1) for isa in isas] + ([(active, threads)] if threads > 1 else [])


def _labels(matrix: Matrix | None, **labels: Any) -> dict[str, Any]:
    """Return the keys that say what a row is, all of them in order, None where there is nothing."""
    own: dict[str, Any] = {"matrix": _ALL, "algorithm": "rsr++"}
    if matrix is not None:
        index = ("encoding", "packing", "direction", "k")
        own |= {"matrix": matrix.name, "shape": list(matrix.shape)}
        own |= {key: getattr(matrix, key) for key in index}
    return {**dict.fromkeys(_LABELS), "engine": "rsr-ternary", **own, **labels}


def _own_contenders(
    rotation: Rotation, level: str, truth: Truth, settings: Sequence[tuple[str, int]]
) -> list[Contender]:
    """List the contenders of this runtime on one rotation of a ranked or permuted matrix."""
    found = [
        _own(rotation, level, truth, isa, dtype, threads)
        for isa, threads in settings
        for dtype in ("int8", "float32")
    ]
    if rotation.operands[0].weights.encoding == "permuted":
        found.append(_own(rotation, level, truth, settings[0][0], "float32", 1, "rsr"))
    return found


def _own(
    rotation: Rotation,
    level: str,
    truth: Truth,
    isa: str,
    dtype: str,
    threads: int,
    algorithm: str | None = None,
) -> Contender:
    matrix: Matrix = rotation.operands[0].weights
    x = truth.x[dtype]
    out = np.empty(matrix.shape[0], np.int32 if dtype == "int8" else np.float32)

    def multiply(copy: Matrix) -> Array:
        return copy.matvec(x, out, algorithm=algorithm)

    labels = _labels(
        matrix, algorithm=algorithm or "rsr++", isa=isa, dtype=dtype, threads=threads, level=level
    )
    weights = matrix.shape[0] * matrix.shape[1]
    return Contender(labels, rotation, weights, multiply, truth.check(dtype), isa)


# ---------------------------------------------------------------------- the dense rivals


@dataclass(frozen=True)
class Rival:
    """A dense engine: how it wants the weights and what it does with them."""

    engine: str
    dtype: str
    threads: int
    convert: Callable[[Array], Operand]  # from float32 (m, n), or int8 for dtype int8
    copy: Callable[[Operand], Operand]
    itemsize: int
    multiply: Callable[[Any], Any]
    check: Callable[[Any], str | None]
    settle: float = 0.0


def _rivals(truth: Truth, blas_threads: int) -> list[Rival]:
    """List the dense engines there are on this machine."""
    x = truth.x["float32"]
    out = np.empty(len(truth.exact), np.float32)

    def multiply(W: Array) -> Array:
        return np.matmul(W, x, out=out)

    numpy_rival = Rival(
        "numpy", "float32", blas_threads, _numpy_operand, _numpy_copy, 4,
        multiply, truth.check_float32,
        _SETTLE if blas_threads > 1 else 0.0,
    )  # fmt: skip
    return [numpy_rival, *_torch_rivals(truth)]


def _numpy_operand(W: Array) -> Operand:
    return Operand(W, (W.reshape(-1).view(np.uint8),))


def _numpy_copy(operand: Operand) -> Operand:
    return _numpy_operand(operand.weights.copy())


def _torch_rivals(truth: Truth) -> list[Rival]:
    if importlib.util.find_spec("torch") is None:
        return []
    torch = importlib.import_module("torch")

    def operand(t: Any) -> Operand:
        return Operand(t, (t.view(torch.uint8).numpy().reshape(-1),))

    def rival(dtype: str, itemsize: int, multiply: Any, check: Any) -> Rival:
        kind = getattr(torch, dtype)
        return Rival(
            "torch", dtype, 1,
            lambda W: operand(torch.from_numpy(W).to(kind)),
            lambda o: operand(o.weights.clone()),
            itemsize, multiply, check,
        )  # fmt: skip

    x = torch.from_numpy(truth.x["float32"])
    short = x.to(torch.bfloat16)
    x8 = torch.from_numpy(truth.x["int8"])[None]
    # Input and output are rounded to 8 bits: wide enough for that, narrow enough for mistakes.
    loose = 2.0**-8 * (np.abs(truth.real) + float(x.abs().sum()))

    def check_loosely(y: Any) -> str | None:
        return truth.check_float32(y.float().numpy(), loose)

    rivals = [
        rival("float32", 4, lambda W: torch.mv(W, x), lambda y: truth.check_float32(y.numpy())),
        rival("bfloat16", 2, lambda W: torch.mv(W, short), check_loosely),
    ]
    if hasattr(torch, "_int_mm"):

        def multiply(W: Any) -> Any:
            return torch._int_mm(x8, W.t())

        rivals.append(rival("int8", 1, multiply, lambda y: truth.check_int8(y.numpy())))
    return rivals


def _rival_contenders(
    rivals: Sequence[Rival], W: Array, matrix: Matrix, memory: Memory, notes: list[str]
) -> list[Contender]:
    """Make the rivals' operands from the digit values `W`, as far as memory allows."""
    found: list[Contender] = []
    for rival in rivals:
        nbytes = rival.itemsize * W.size
        if 4 * W.size > memory.available / 4:
            notes.append(f"{rival.engine} {rival.dtype} is left out: the dense matrix is too large")
            continue
        operand = rival.convert(W if rival.dtype == "int8" else _scaled(W, matrix.scale))
        wrong = _try(rival, operand)
        if wrong is not None:
            notes.append(f"{rival.engine} {rival.dtype} is left out: {wrong}")
            continue
        rotations = {"cache": Rotation([operand])}
        count = memory.copies(nbytes, compiled=False)
        if count:
            copies = [rival.copy(operand) for _ in range(count - 1)]
            rotations["memory"] = Rotation([operand, *copies])
        else:
            notes.append(f"{rival.engine} {rival.dtype} has no level memory: {_TOO_SMALL}")
        for level, rotation in rotations.items():
            labels = _labels(
                matrix, engine=rival.engine, encoding="dense", packing=None, direction=None,
                k=None, algorithm=None, dtype=rival.dtype, threads=rival.threads, level=level,
            )  # fmt: skip
            found.append(
                Contender(
                    labels, rotation, W.size, rival.multiply, rival.check, settle=rival.settle
                )
            )
    return found


def _try(rival: Rival, operand: Operand) -> str | None:
    """Say why a rival cannot take part with this shape (PyTorch's int8 is wrong for some)."""
    try:
        return rival.check(rival.multiply(operand.weights))
    except RuntimeError as error:
        return str(error).partition("\n")[0]


def _scaled(W: Array, scale: Array) -> Array:
    dense = W.astype(np.float32)
    dense *= scale[:, None] if scale.ndim else scale
    return dense


@contextmanager
def _rivals_on_one_thread() -> Iterator[int]:
    """Limit the rivals to one thread as far as that is possible; yield NumPy's number of threads.

    NumPy reads its environment variables when it is imported, which is too late here: only
    threadpoolctl, where it is installed, can limit it.
    """
    torch_threads = 0
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    limits: Any = nullcontext()
    blas = _environment_threads() or os.cpu_count() or 1
    if importlib.util.find_spec("threadpoolctl") is not None:
        limits = importlib.import_module("threadpoolctl").threadpool_limits(1, "blas")
        blas = 1
    if torch is not None:
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
    try:
        with limits:
            yield blas
    finally:
        if torch is not None:
            torch.set_num_threads(torch_threads)


def _environment_threads() -> int | None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value):
            return int(value)
    return None


# ------------------------------------------------------------------------ the benchmarks


def bench_shape(
    m: int,
    n: int,
    *,
    threads: int | None = None,
    seconds: float = 13.0,
    seed: int = 0,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time products with a uniformly random ternary matrix, compiled for the purpose.

    Args:
        m: rows of the matrix, out_features.
        n: its columns, in_features.
        threads: for the rows with several threads; None takes all processors.
        seconds: how long to measure, at least; making matrices and copies comes on top.
        seed: of weights and inputs.
        memory_bytes: bytes of copies for each rotation of the level "memory", whatever the size
            of the caches; None chooses.
        progress: called as progress(fraction of the measuring that is done).

    Returns:
        What benchmarks/README.md documents, ready for JSON.

    Raises:
        OptionError: an argument is out of its range.
        WrongResultError: a timed product was wrong.
    """
    threads = _check_options(m, n, threads, seconds)
    rng = np.random.default_rng(seed)
    W = rng.integers(-1, 2, (m, n), np.int8)
    with tempfile.TemporaryDirectory(prefix="rsrc-bench-", ignore_cleanup_errors=True) as folder:
        ranked = _compile(W, Path(folder), "ranked")
        permuted = _compile(W, Path(folder), "permuted")
    bench = _Bench(threads, rng, memory_bytes)
    with _rivals_on_one_thread() as blas:
        contenders = bench.contenders(ranked, W, blas, permuted)
        _measure(contenders, seconds, progress)
    return {
        "shape": [m, n],
        "seed": seed,
        **bench.result([c.row() for c in contenders], ranked),
    }


def bench_file(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    seconds: float = 14.0,
    seed: int = 0,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time products with the matrices of a `.rsr` file.

    Matrices of one shape and encoding make a group, of which one is measured. Where there are
    several matrices, a pass over all of them is measured too: what they cost per token.

    Args:
        path: the file.
        threads: for the rows with several threads; None takes all processors.
        seconds: how long to measure in all, at least.
        seed: of the inputs.
        memory_bytes: as for `bench_shape`.
        progress: called as progress(fraction of the measuring that is done).

    Returns:
        What benchmarks/README.md documents, ready for JSON.

    Raises:
        FormatError: the file breaks a rule of its format.
        OptionError: an argument is out of its range, or the file has no compiled matrix.
        WrongResultError: a timed product was wrong.
        OSError: the file cannot be read.
    """
    threads = _check_options(1, 1, threads, seconds)
    bench = _Bench(threads, np.random.default_rng(seed), memory_bytes)
    with rsr.load(path) as model, _rivals_on_one_thread() as blas:
        matrices = [w for w in model.values() if isinstance(w, Matrix) and w.shape[0] * w.shape[1]]
        if not matrices:
            raise OptionError(f"{path}: holds no compiled matrix to time products with")
        groups = _groups(matrices, bench.notes)
        pieces = len(groups) + 2 * (len(matrices) > 1)  # the pass gets the time of two groups
        rows: list[dict[str, Any]] = []
        for i, group in enumerate(groups):
            part = _part_of(progress, i / pieces, 1 / pieces)
            contenders = bench.contenders(group[0], group[0].to_dense(np.int8), blas)
            _measure(contenders, seconds / pieces, part)
            rows += [c.row() for c in contenders]
            contenders.clear()  # and with them the copies
        if len(matrices) > 1:
            part = _part_of(progress, len(groups) / pieces, 2 / pieces)
            contenders = bench.whole_pass(matrices)
            _measure(contenders, seconds * 2 / pieces, part)
            rows += [c.row() for c in contenders]
    headline = matrices[0] if len(matrices) == 1 else None
    return {
        "file": os.fspath(path),
        "seed": seed,
        "groups": [_describe(group) for group in groups],
        **bench.result(rows, headline),
    }


class _Bench:
    """What the two benchmarks share: settings, inputs, and what is worth saying about the run."""

    def __init__(self, threads: int, rng: np.random.Generator, memory_bytes: int | None) -> None:
        self.threads = threads
        self.notes: list[str] = []
        self._rng = rng
        self._memory_bytes = memory_bytes
        self._levels: dict[str, Any] = {}
        self._memory = plan_memory(1, memory_bytes)

    def contenders(
        self, matrix: Matrix, W: Array, blas_threads: int, permuted: Matrix | None = None
    ) -> list[Contender]:
        """List all contenders for one matrix, whose digit values are `W`, int8."""
        truth = _truth(W, matrix.scale.astype(np.float64), self._rng)
        rivals = _rivals(truth, blas_threads)
        self._memory = plan_memory(len(rivals) + (permuted is not None), self._memory_bytes)
        found = self._own(matrix, truth, _settings(self.threads), compiled=True)
        if permuted is not None:
            active = rsr.cpu_info()["isa"]
            both = self._own(permuted, truth, [(active, 1)], compiled=False)
            found += [c for c in both if c.labels["dtype"] == "float32"]
        return found + _rival_contenders(rivals, W, matrix, self._memory, self.notes)

    def _own(
        self,
        matrix: Matrix,
        truth: Truth,
        settings: Sequence[tuple[str, int]],
        compiled: bool,
    ) -> list[Contender]:
        operand = _operand(matrix)
        found = _own_contenders(Rotation([operand]), "cache", truth, settings)
        count = self._memory.copies(operand.nbytes, compiled)
        if not count:
            self.notes.append(
                f"{matrix.name} ({matrix.encoding}) has no level memory: {_TOO_SMALL}"
            )
            return found
        if compiled:
            self._levels[str(matrix.name)] = {"copies": count, "bytes": count * operand.nbytes}
        return found + _own_contenders(_copies(matrix, count), "memory", truth, settings)

    def whole_pass(self, matrices: Sequence[Matrix]) -> list[Contender]:
        """List the contenders for one product with each matrix: int8 and float32."""
        inputs = {w.shape[1]: _inputs(w.shape[1], self._rng) for w in matrices}
        operands = [_operand(w) for w in matrices]
        whole = Operand(matrices, tuple(part for o in operands for part in o.parts))
        rotation = Rotation([whole])
        return [
            _pass_contender(rotation, matrices, inputs, dtype, isa, threads)
            for dtype in ("int8", "float32")
            for isa, threads in _settings(self.threads, others=False)
        ]

    def result(self, rows: list[dict[str, Any]], headline: Matrix | None) -> dict[str, Any]:
        """Put together the keys both benchmarks have; no headline matrix: the whole pass."""
        memory = self._memory
        levels: dict[str, Any] = {
            "cache": {"what": "one matrix again and again, each turn after one product untimed"},
            "memory": {
                "what": "copies in rotation; of compiled matrices in anonymous memory in pages "
                "of 4 KiB, of dense ones as their library allocates them",
                "compiled": self._levels,
                "bytes_wanted": memory.compiled,
                "rival_bytes_wanted": memory.rival,
                "last_level_cache_bytes": memory.last_level_cache,
                "available_bytes": memory.available,
            },
        }
        if any(row["level"] == "model" for row in rows):
            levels["model"] = {"what": "one product with each matrix of the file, as it is mapped"}
        return {
            "schema": SCHEMA,
            "machine": rsr.cpu_info(),
            "versions": _versions(),
            "levels": levels,
            "ratio_to_plain_read": _headline(rows, headline),
            "results": rows,
            "notes": list(dict.fromkeys(self.notes)),
        }


def _pass_contender(
    rotation: Rotation,
    matrices: Sequence[Matrix],
    inputs: dict[int, dict[str, Array]],
    dtype: str,
    isa: str,
    threads: int,
) -> Contender:
    """One product with each matrix, checked against the plain C++ kernels.

    Those were checked against dense matrices with one of each group.
    """
    product = np.int32 if dtype == "int8" else np.float32
    outs = [np.empty(w.shape[0], product) for w in matrices]
    work = [(inputs[w.shape[1]][dtype], out) for w, out in zip(matrices, outs, strict=True)]
    with _instruction_set("scalar"):
        expected = [w.matvec(x) for w, (x, _) in zip(matrices, work, strict=True)]
    # Both sides of the comparison may be off by the bound.
    bounds = [
        np.float64(0) if dtype == "int8" else 2 * np.abs(w.scale.astype(np.float64)) * _bound(x)
        for w, (x, _) in zip(matrices, work, strict=True)
    ]

    def multiply(weights: Sequence[Matrix]) -> list[Array]:
        for w, (x, out) in zip(weights, work, strict=True):
            w.matvec(x, out)
        return outs

    def check(ys: list[Array]) -> str | None:
        for w, y, e, bound in zip(matrices, ys, expected, bounds, strict=True):
            if not (np.abs(y.astype(np.float64) - e) <= bound).all():
                return f"the product with {w.name!r} differs from that of the plain C++ kernels"
        return None

    labels = _labels(None, isa=isa, dtype=dtype, threads=threads, level="model")
    weights = sum(w.shape[0] * w.shape[1] for w in matrices)
    return Contender(labels, rotation, weights, multiply, check, isa)


@contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    before = rsr.cpu_info()["isa"]
    rsr.use_isa(name)
    try:
        yield
    finally:
        rsr.use_isa(before)


def _check_options(m: int, n: int, threads: int | None, seconds: float) -> int:
    if m < 1 or n < 1:
        raise OptionError(f"shape: found {m}x{n}, expected at least 1x1")
    if threads is not None and not 1 <= threads <= 1024:
        raise OptionError(f"threads: found {threads}, expected 1 to 1024")
    if not seconds >= 0:
        raise OptionError(f"seconds: found {seconds}, expected 0 or more")
    return threads or int(rsr.cpu_info()["processors"])


def _compile(W: Array, folder: Path, encoding: str) -> Matrix:
    """Compile a matrix the way a user would, and load it (the mapping outlives the file)."""
    source, output = folder / "random.safetensors", folder / f"{encoding}.rsr"
    if not source.exists():
        save_file({"random": W}, source)
    compile(source, output, encoding=encoding)
    matrix = rsr.load(output)["random"]
    assert isinstance(matrix, Matrix)
    return matrix


def _kind(w: Matrix) -> tuple[Any, ...]:
    return (*w.shape, w.base, w.encoding, w.packing, w.direction, w.k)


def _groups(matrices: Sequence[Matrix], notes: list[str]) -> list[list[Matrix]]:
    """Group matrices of one kind, those with most weights first; only the first few groups."""
    groups = [list(g) for _, g in groupby(sorted(matrices, key=_kind), key=_kind)]
    groups.sort(key=lambda g: -len(g) * g[0].shape[0] * g[0].shape[1])
    if len(groups) > _MOST_GROUPS:
        notes.append(
            f"only the {_MOST_GROUPS} largest of {len(groups)} groups are measured one by one"
        )
    return groups[:_MOST_GROUPS]


def _describe(group: Sequence[Matrix]) -> dict[str, Any]:
    w = group[0]
    return {
        "matrix": w.name,
        "shape": list(w.shape),
        "count": len(group),
        "base": w.base,
        "encoding": w.encoding,
        "packing": w.packing,
        "direction": w.direction,
        "k": w.k,
    }


def _part_of(progress: Progress | None, start: float, size: float) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda fraction: report(start + size * fraction)


def _headline(rows: Sequence[dict[str, Any]], matrix: Matrix | None) -> dict[str, float | None]:
    """Pick the ratios for the instruction set in use on one thread: from memory, or a pass's."""
    wanted = {
        "engine": "rsr-ternary",
        "matrix": _ALL if matrix is None else matrix.name,
        "encoding": None if matrix is None else matrix.encoding,
        "algorithm": "rsr++",
        "isa": rsr.cpu_info()["isa"],
        "threads": 1,
        "level": "model" if matrix is None else "memory",
    }
    found: dict[str, float | None] = {"int8": None, "float32": None}
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            found[row["dtype"]] = row["ratio_to_plain_read"]
    return found


def _versions() -> dict[str, str]:
    found = {"rsr-ternary": __version__, "numpy": np.__version__}
    if importlib.util.find_spec("torch") is not None:
        found["torch"] = version("torch")
    return found


# ------------------------------------------------------------------------- showing them


def render_table(result: dict[str, Any]) -> RenderableType:
    """Return the result of a benchmark for people: a table for each matrix and level."""
    parts: list[RenderableType] = [_heading(result)]
    for title, rows in _sections(result):
        table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1))
        table.add_column("")
        for name in (
            "dtype",
            "threads",
            "bits/weight",
            "time",
            "weights/ns",
            "GB/s",
            "of plain read",
        ):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*_cells(row))
        parts += ["", table]
    parts += ["", *map(printable, result["notes"])] if result["notes"] else []
    return Group(*parts)


def _heading(result: dict[str, Any]) -> str:
    machine, memory = result["machine"], result["levels"]["memory"]
    cache = memory["last_level_cache_bytes"]
    lines = [
        f"{machine['processor'] or machine['machine']}, {machine['isa']}, "
        f"{machine['processors']} processors, "
        + (f"last-level cache {cache / 2**20:.0f} MiB" if cache else "caches unknown")
    ]
    used = [f"{use['bytes'] / 1e9:.2f} GB" for use in memory["compiled"].values()]
    if used:
        lines.append(f"level memory: copies of {', '.join(used)} in pages of 4 KiB")
    lines.append("median times; every product was checked")
    return "\n".join(lines)


def _sections(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (title, rows) for each matrix and level, fastest first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["results"]:
        found.setdefault((row["matrix"], row["level"]), []).append(row)
    titles = []
    for (matrix, level), rows in found.items():
        shape = rows[0]["shape"]
        what = printable(matrix) if "file" in result else ""
        size = f"{shape[0]} x {shape[1]}" if shape else f"{rows[0]['weights']:,} weights"
        text = ", ".join(part for part in (what, size) if part)
        rows.sort(key=lambda row: -row["weights_per_ns"])
        titles.append((text if level == "model" else f"{text}, from {level}", rows))
    return titles


def _label(row: dict[str, Any]) -> str:
    """Name a row's engine for people."""
    if row["engine"] != "rsr-ternary":
        return {"numpy": "NumPy", "torch": "PyTorch"}[row["engine"]]
    if row["encoding"] == "permuted":
        return f"permuted k={row['k']} {row['algorithm'].upper()} ({row['isa']})"
    return f"{row['encoding'] or 'rsr-ternary'} ({row['isa']})"


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        _label(row),
        row["dtype"],
        str(row["threads"]),
        f"{row['bits_per_weight']:.2f}",
        _duration(row["seconds_median"]),
        f"{row['weights_per_ns']:.1f}",
        f"{row['gigabytes_per_second']:.1f}",
        f"{row['ratio_to_plain_read']:.0%}",
    ]


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms"


_COLOURS = {
    ("ranked", "int8"): "#12558c",
    ("ranked", "float32"): "#3f8fcf",
    ("permuted", "int8"): "#5f9ea0",
    ("permuted", "float32"): "#9cc5c7",
    "numpy": "#9a9a9a",
    "torch": "#d98c4a",
}


def plot(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw weights per nanosecond, a bar for each engine, with the memory limit marked.

    Args:
        result: what `bench_shape` or `bench_file` returned.
        path: the picture; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError(
            'drawing needs Matplotlib: pip install "rsr-ternary[plot]"'
        ) from None
    sections = _sections(result)
    if "file" in result and len(sections) > 2:  # a panel for each matrix is enough
        sections = [s for s in sections if s[1][0]["level"] != "cache"]
    heights = [len(rows) for _, rows in sections]
    figure = Figure((9, 1.3 + sum(0.27 * h + 0.7 for h in heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sections), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(panels, sections, strict=True):
        marks = _draw_panel(axes, title, rows)
    machine = result["machine"]
    figure.suptitle(
        f"Ternary matrix times vector on {machine['processor'] or machine['machine']}",
        fontsize=12,
    )
    panels[-1].set_xlabel("weights per nanosecond, median (share of the limit)", fontsize=9)
    label = "limit: a plain read of the same bytes by as many threads"
    figure.legend([marks], [label], loc="outside lower right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Any, title: str, rows: Sequence[dict[str, Any]]) -> Any:
    """Draw the bars of one table; return the marks, for the legend."""
    places = range(len(rows))
    rates = [row["weights_per_ns"] for row in rows]
    limits = [rate / row["ratio_to_plain_read"] for rate, row in zip(rates, rows, strict=True)]
    axes.barh(places, rates, color=[_colour(row) for row in rows], height=0.72)
    marks = axes.scatter(limits, places, marker="|", s=150, color="#c0392b", linewidths=2, zorder=3)
    right = max(*limits, *rates) * 1.15
    for place, rate, limit, row in zip(places, rates, limits, rows, strict=True):
        text = f"{rate:.1f}  ({row['ratio_to_plain_read']:.0%})"
        beside = max(rate, limit) if limit < rate + 0.15 * right else rate
        axes.annotate(
            text, (beside, place), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [_full_label(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, right)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    return marks


def _colour(row: dict[str, Any]) -> str:
    if row["engine"] != "rsr-ternary":
        return _COLOURS[row["engine"]]
    return _COLOURS[row["encoding"] or "ranked", row["dtype"]]


def _full_label(row: dict[str, Any]) -> str:
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    return f"{_label(row)} {row['dtype']}{threads}"
