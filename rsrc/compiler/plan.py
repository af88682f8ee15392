"""Stage 3: choose encoding, packing, direction and k of each tensor by a cost model.

A product reads its index once. Its cost depends on the encoding:

* ranked: one lookup per row and column block, at 5 bits per rank. The best k is the largest whose
  B^k patterns fit 32 table entries (ternary 3, binary 5, four or five values 2).
* permuted: per column block, one gathered addition per row and an overhead per segment equal to
  SEGMENT_COST additions (measured: AVX2, float32, reduce; docs/lab-notes.md). The best k
  minimizes (rows + SEGMENT_COST * B^k) / k.

Measured at 4096 x 4096, float32:

| | bits per weight | AVX-512, weights/ns | plain C++, weights/ns |
|---|---|---|---|
| ranked | 1.78 | 100 | 10 |
| permuted | 3.4 | 19 | 12 |

So "auto" is ranked for every target; permuted serves for comparison with the paper.

The target decides how ranks are packed (TERNARY_PACKING). AVX-512 looks up 32 sums with one
instruction, which suits the five bits of a w16 rank; plain C++ decodes them with a shift and a
mask. AVX2 and NEON look up 16 bytes at once: the 14 magnitudes of n4s1 fit, the 27 ranks do not.
n4s1 is for ternary tensors with k = 3; everything else is w16 on every target. With
AVX-512, n4s1 reads fewer bits and is faster for int8 from main memory (18 % on one thread, 7 % on
two), but slower for float32 (23 %, 7 %) and from cache (20 %), and the VNNI and AMX kernels for
many vectors read only w16.

If a ternary tensor is to be w16 and at most 32 patterns of LISTED_K columns occur in it, they are
listed (patterns.py), which saves a quarter of the lookups and of the bytes. n4s1 is not replaced:
with AVX2, a 3:4-sparse 4096 x 4096 matrix times one int8 vector takes 1.25 times as long with
listed patterns (1.34 bits per weight) as with n4s1 (1.67), from cache and from memory; with float32
2.4 times. With scales of groups of 256 columns, it takes 1.5 times as long from cache, with float32
1.2 times. k = LISTED_K lists patterns on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsr_formats.records import largest_k

from ..common.errors import OptionError
from ..layouts import TernaryTensor
from .head import HeadPlan
from .options import CompileOptions
from .recognize import PassthroughTensor, Recognized
from .target import TERNARY_PACKING, native_target

SEGMENT_COST = 2
LISTED_K = 4  # k of a ternary tensor that lists its patterns


@dataclass(frozen=True)
class IndexPlan:
    """How to index a ternary tensor.

    Attributes:
        source: the tensor.
        encoding: "ranked" or "permuted".
        packing: of ranks ("w16", "n4s1") or of permutations ("u16", "u32").
        direction: "expand" or "reduce".
        k: columns of a column block.
        lists: whether a list of patterns would be better. Only the tensor's bytes show whether few
            enough patterns occur; `patterns.list_patterns` then replaces this plan.
        pattern_list: the numbers of the listed patterns, one byte each.
        stride: distance between the columns of a column block.
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
    recognized: Sequence[Recognized | HeadPlan], options: CompileOptions | None = None
) -> list[Plan]:
    """Choose encoding, packing, direction and k of each ternary tensor.

    Args:
        recognized: what `recognize` and `plan_head` returned.
        options: None for the defaults.

    Raises:
        OptionError: an option is impossible for a tensor.
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    options = options or CompileOptions()
    target = native_target() if options.target == "native" else options.target
    return [
        _plan_one(t, options, target) if isinstance(t, TernaryTensor) else t for t in recognized
    ]


def _plan_one(t: TernaryTensor, options: CompileOptions, target: str) -> IndexPlan:
    encoding = "ranked" if options.encoding == "auto" else options.encoding
    direction = options.direction
    if direction == "auto":  # the paper's is reduce
        direction = "expand" if encoding == "ranked" else "reduce"
    if encoding == "permuted" and t.scale is not None and t.scale.columns is not None:
        raise OptionError(
            f"{t.name}: has one scale {t.scale.words}, which encoding permuted cannot represent: "
            "use encoding ranked, or keep the tensor dense with --exclude"
        )
    base = len(t.digits)
    rows = t.shape[0] if direction == "expand" else t.shape[1]
    max_k = largest_k(base, encoding)
    can_list = encoding == "ranked" and base == 3
    k = options.k
    if k is None:
        k = max_k if encoding == "ranked" else permuted_k(base, rows)
    if can_list:
        max_k = LISTED_K
    if not 1 <= k <= max_k:
        raise OptionError(
            f"{t.name}: k = {k}, expected 1 to {max_k} for base {base} in encoding {encoding}"
        )
    if encoding == "ranked":
        packing = ranked_packing(base, k, target)
    else:
        packing = "u16" if rows <= 0xFFFF else "u32"
    lists = can_list and (k == LISTED_K or (options.k is None and packing == "w16"))
    return IndexPlan(t, encoding, packing, direction, k, lists)


def ranked_packing(base: int, k: int, target: str) -> str:
    """Return the packing of ranks that is fastest on `target`.

    Args:
        base: B, 2 to 5.
        k: columns of a column block.
        target: any target but "native".
    """
    return TERNARY_PACKING[target] if (base, k) == (3, 3) else "w16"


def permuted_k(base: int, rows: int) -> int:
    """Return the k that minimizes the cost of a permuted product per column."""
    choices = range(1, largest_k(base, "permuted") + 1)
    return min(choices, key=lambda k: (rows + SEGMENT_COST * base**k) / k)
