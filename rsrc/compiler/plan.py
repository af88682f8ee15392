"""Stage 3: encoding, direction and k of each tensor, by a cost model.

The model. A product reads its index once, and both encodings are bound by how:

* ranked costs one lookup per row and column block whatever the pattern, at 5 bits per rank: always
  the largest k whose B^k patterns fit 32 table entries (ternary 3, binary 5).
* permuted costs, per column block, one gathered addition per row and an overhead per segment worth
  SEGMENT_COST of them (measured: AVX2, float32, reduce; docs/performance.md), for k columns:
  k minimizes (rows + SEGMENT_COST * B^k) / k.

Ranked is the smaller (1.78 against 3.4 bits per weight at 4096 x 4096) and with SIMD the faster
(float32: 100 against 19 weights/ns with AVX-512), so "auto" chooses it for every target; permuted
is there for comparison with the paper, though in plain C++ it is the faster (12 against 10).

The packing of ranks is the target's (TERNARY_PACKING). AVX-512 looks 32 sums up with one
instruction, which suits the five bits of a w16 rank, and plain code decodes them with a shift and a
mask. AVX2 and NEON look up 16 entries of a byte at once: the 14 magnitudes of n4s1 fit, the 27
ranks do not. n4s1 is for ternary k = 3 and one scale per row or fewer; everything else is packed as
w16 on every target. With AVX-512 the fewer bits of n4s1 win for int8 from main memory (18 % on one
thread, 7 % on two), but lose for float32 (23 %, 7 %), from cache (20 %) and with many vectors,
where VNNI and AMX read w16 alone: w16 it is.

Where a ternary tensor is to be w16 and few enough patterns of LISTED_K columns occur, they are
listed (rsrc/patterns.py): three quarters of the lookups and of the bytes. n4s1 stays as it is:
measured on AVX2, one int8 vector of a 3:4-sparse 4096 x 4096 matrix takes 1.25 times as long with
listed patterns (1.34 bits per weight) as with n4s1 (1.67), from cache and from memory alike, and
float32 2.4 times. Asking for k = LISTED_K lists on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsr_formats.records import DIRECTIONS, ENCODINGS, MAX_PATTERNS, MAX_RANKED_PATTERNS

from ..common.errors import OptionError
from ..layouts import TernaryTensor
from .head import HeadPlan
from .recognize import PassthroughTensor, Recognized
from .target import native_target

# How the ranks of a ternary matrix with k = 3 are packed for each target.
TERNARY_PACKING = {"generic": "w16", "avx2": "n4s1", "avx512": "w16", "neon": "n4s1"}
TARGETS = ("native", *TERNARY_PACKING)
SEGMENT_COST = 2
LISTED_K = 4  # columns of a block of a ternary tensor that lists its patterns


@dataclass(frozen=True)
class IndexPlan:
    """How a ternary tensor is to be indexed.

    With `lists`, another k is better if few enough patterns occur to be listed: only the tensor's
    bytes show that, and rsrc/patterns.py then makes another plan of this one.
    """

    source: TernaryTensor
    encoding: str
    packing: str
    direction: str
    k: int
    lists: bool = False
    pattern_list: bytes | None = None
    stride: int = 1


Plan = IndexPlan | PassthroughTensor | HeadPlan


def plan(
    recognized: Sequence[Recognized | HeadPlan],
    *,
    encoding: str = "auto",
    target: str = "native",
    direction: str = "auto",
    k: int | None = None,
) -> list[Plan]:
    """Choose encoding, packing, direction and k for each ternary tensor.

    Args:
        recognized: what `recognize` returned, and what is planned already.
        encoding: "auto", "ranked" or "permuted".
        target: the kind of machine the products will run on; "native" is this one.
        direction: "auto", "expand" or "reduce" (permuted only; the paper's direction is "reduce").
        k: columns of a column block, or None for the cost model's choice.

    Raises:
        OptionError: an option is unknown, or impossible with the others.
    """
    _check(encoding, ("auto", *ENCODINGS), "encoding")
    _check(target, TARGETS, "target")
    _check(direction, ("auto", *DIRECTIONS), "direction")
    encoding = "ranked" if encoding == "auto" else encoding
    if direction == "auto":
        direction = "expand" if encoding == "ranked" else "reduce"
    if encoding == "ranked" and direction == "reduce":
        raise OptionError("encoding ranked has direction expand only: use --encoding permuted")
    if target == "native":
        target = native_target()
    return [
        t
        if isinstance(t, PassthroughTensor | HeadPlan)
        else _plan_one(t, encoding, target, direction, k)
        for t in recognized
    ]


def _plan_one(
    t: TernaryTensor, encoding: str, target: str, direction: str, k: int | None
) -> IndexPlan:
    if encoding == "permuted" and t.scale is not None and t.scale.columns is not None:
        raise OptionError(
            f"{t.name}: has one scale {t.scale.words}, which encoding permuted cannot hold: use "
            "encoding ranked, or --exclude keeps it dense"
        )
    base = len(t.digits)
    rows = t.shape[0] if direction == "expand" else t.shape[1]
    most = largest_k(base, encoding)
    can_list = encoding == "ranked" and base == 3
    free = k is None
    if k is None:
        k = most if encoding == "ranked" else permuted_k(base, rows)
    if can_list:
        most = LISTED_K
    if not 1 <= k <= most:
        raise OptionError(
            f"{t.name}: k = {k}, expected 1 to {most} for base {base} in encoding {encoding}"
        )
    if encoding == "ranked":
        packing = ranked_packing(base, k, target, t.group_columns is not None)
    else:
        packing = "u16" if rows <= 0xFFFF else "u32"
    lists = can_list and (k == LISTED_K or (free and packing == "w16"))
    return IndexPlan(t, encoding, packing, direction, k, lists)


def ranked_packing(base: int, k: int, target: str, grouped: bool = False) -> str:
    """Return the packing that products on `target` (any but "native") are fastest with.

    Args:
        base: B.
        k: columns of a column block.
        target: where products run.
        grouped: whether groups of columns have their own scales.
    """
    return TERNARY_PACKING[target] if (base, k) == (3, 3) and not grouped else "w16"


def largest_k(base: int, encoding: str) -> int:
    """Return the largest k whose base^k patterns the encoding allows."""
    limit = MAX_RANKED_PATTERNS if encoding == "ranked" else MAX_PATTERNS
    k = 1
    while base ** (k + 1) <= limit:
        k += 1
    return k


def permuted_k(base: int, rows: int) -> int:
    """Return the k that minimizes the cost of a permuted product per column."""
    choices = range(1, largest_k(base, "permuted") + 1)
    return min(choices, key=lambda k: (rows + SEGMENT_COST * base**k) / k)


def _check(value: str, allowed: tuple[str, ...], name: str) -> None:
    if value not in allowed:
        raise OptionError(f"{name}: found {value!r}, expected one of {', '.join(allowed)}")
