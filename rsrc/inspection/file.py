"""Describe a `.rsr` file, one of its tensors or one column block, as JSON-ready dicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rsr_formats import RsrFile
from rsr_formats.decode import decode_block
from rsr_formats.packing import pattern_values
from rsr_formats.records import DenseTensor, IndexedTensor, Tensor, largest_k
from rsr_runtime import IsaError

from ..common.errors import OptionError
from ..compiler.plan import ranked_packing
from ..compiler.support import check_file
from ..compiler.target import native_target
from .survey import unknown_tensor

_Path = str | os.PathLike[str]


def inspect_file(path: _Path) -> dict[str, Any]:
    """Describe the whole file.

    Returns:
        "path", "bytes", "version", "producer", "metadata"; "files", each with "name" and "bytes";
        "tensors", each as from `inspect_tensor` but without "sections"; "stacks", the "name" and
        "shape" of the source's tensors of three dimensions, which the file holds cut up; "advice",
        a sentence if recompiling for this machine would make products faster, else None; and the
        fields of `rsr_runtime.llm.Support.to_dict`.

    Raises:
        FormatError: the header is damaged.
        OSError: reading failed.
    """
    file = RsrFile(path)
    header = file.header
    return {
        "path": str(path),
        "bytes": file.path.stat().st_size,
        "version": ".".join(map(str, file.version)),
        "producer": header.producer,
        "metadata": header.metadata,
        "files": [{"name": f.name, "bytes": header.sections[f.section].size} for f in header.files],
        "tensors": [_describe(t) for t in header.tensors],
        "stacks": [{"name": s.name, "shape": list(s.shape)} for s in header.stacks],
        "advice": _advice(header.tensors),
        **check_file(file).to_dict(),
    }


def inspect_tensor(path: _Path, name: str) -> dict[str, Any]:
    """Describe one tensor.

    Returns:
        "name", "kind", "shape", "dtype" (of the source), "bytes", and "sections", each with "role",
        "offset", "size", "stored_size", "codec" and "sha256".

        A dense tensor also has "quantised": None, or for an int8 head the "rule", and the name
        ("of") and "dtype" of the source tensor.

        An indexed tensor also has "layout", "digits", "base", "k", "direction", "encoding",
        "packing", "blocks", "bits_per_weight", "scales" (their number) and "scale": None, or the
        "rows" and "columns" that share a scale (columns None: all of them) and its "dtype".

    Raises:
        OptionError: the file has no tensor of that name.
        FormatError: the header is damaged.
    """
    file = RsrFile(path)
    t = _find(file, path, name)
    return _describe(t) | {"sections": _sections(file, t)}


def inspect_block(path: _Path, name: str, j: int) -> dict[str, Any]:
    """Describe one column block of an indexed tensor, in either encoding.

    Returns:
        The fields of `inspect_tensor` without "sections", and "block"; "columns", first and last
        + 1; "stride", the distance between two columns; "patterns", the digit values of each
        segment (all B^k, or those that the tensor lists); "permutation" (sigma); and "segments",
        the segment list (L).

    Raises:
        OptionError: the file has no such tensor or block, or the tensor is dense.
        FormatError: the header or the index is damaged.
    """
    file = RsrFile(path)
    t = _find(file, path, name)
    if isinstance(t, DenseTensor):
        raise OptionError(f"tensor {name!r} is dense: it has no column blocks")
    if not 0 <= j < t.blocks:
        raise OptionError(f"tensor {name!r} has {t.blocks} column blocks, 0 to {t.blocks - 1}")
    block = decode_block(t, file.index_arrays(t), j)
    columns = t.block_columns(j)
    return _describe(t) | {
        "block": j,
        "columns": [columns[0], columns[-1] + 1],
        "stride": t.stride,
        "patterns": pattern_values(t.digits, t.k, t.pattern_list).tolist(),
        "permutation": block.permutation.tolist(),
        "segments": block.segments.tolist(),
    }


def _advice(tensors: Sequence[Tensor]) -> str | None:
    try:
        target = native_target()
    except IsaError:  # a bad RSR_ISA must not keep a file from being listed
        return None
    ranked = [t for t in tensors if isinstance(t, IndexedTensor) and t.encoding == "ranked"]
    other = [t.packing for t in ranked if t.packing != _best_packing(t, target)]
    if not other:
        return None
    return (
        f"{len(other)} of {len(ranked)} ranked tensors are in packing {other[0]}: recompile with "
        f"--target {target} for faster products on this processor"
    )


def _best_packing(t: IndexedTensor, target: str) -> str:
    # A pattern list replaces the k on which the choice of a packing depends.
    k = t.k if t.pattern_list is None else largest_k(t.base, "ranked")
    return ranked_packing(t.base, k, target)


def _find(file: RsrFile, path: _Path, name: str) -> Tensor:
    for t in file.header.tensors:
        if t.name == name:
            return t
    raise unknown_tensor(path, name, [t.name for t in file.header.tensors])


def _describe(t: Tensor) -> dict[str, Any]:
    if isinstance(t, DenseTensor):
        return {
            "name": t.name,
            "kind": "dense",
            "shape": list(t.shape),
            "dtype": t.dtype,
            "bytes": t.nbytes,
            "quantised": None if t.quantized is None else asdict(t.quantized),
        }
    same = ("base", "k", "direction", "encoding", "packing", "blocks", "bits_per_weight", "scales")
    scale = t.scale and {"rows": t.scale.rows, "columns": t.scale.columns, "dtype": t.scale.dtype}
    return {
        "name": t.name,
        "kind": t.kind,
        "shape": list(t.shape),
        "dtype": t.source.dtype,
        "bytes": t.nbytes,
        "layout": t.source.layout,
        "digits": list(t.digits),
        **{name: getattr(t, name) for name in same},
        "scale": scale,
    }


def _sections(file: RsrFile, t: Tensor) -> list[dict[str, Any]]:
    numbers = {"data": t.section} if isinstance(t, DenseTensor) else t.all_sections()
    described = []
    for role, number in numbers.items():
        fields = asdict(file.header.sections[number])
        described.append({"role": role, **fields, "sha256": fields["sha256"].hex()})
    return described
