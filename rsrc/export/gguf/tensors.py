"""The tensors of a GGUF file: their names, types and data."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.architectures import DecoderNames, of_gguf
from rsr_formats.records import FLOAT_DTYPES, DenseTensor, IndexedTensor
from rsr_formats.text import quoted

from ...common.errors import ExportError
from ...layouts.float_bits import from_float32, row_blocks, to_float32
from ...layouts.scales import ScaleGrid, per_tensor
from ...source.gguf.names import gguf_name
from ...source.gguf.tokenizer_common import Note
from ...source.tensor import PIECE
from ..biases import scaled_biases
from ..floats import float_dtype
from ..model_files import Config
from ..tensors import OutputTensor, decode, dense_tensor, model_tensors, read_scales
from .blocks import DEFAULT, TYPES, BlockType
from .conversion import Conversion, Indices, conversion
from .experts import expert_name, stacked
from .output import NUMPY, GgufOutput
from .settings import ELSEWHERE, GgufSettings

Array = npt.NDArray[Any]

_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
# Of a matrix that may have a factor of its own; the experts of a layer are one tensor.
_LAYER_WEIGHT = re.compile(r"blk\.[0-9]+\.(?!ffn_[a-z]+_exps\.).*\.weight", re.DOTALL)
_ROPE_FREQS = "rope_freqs.weight"  # a file compiled from GGUF may keep it
_FREQUENCIES = "rotary_emb.inv_freq"  # old checkpoints keep them
# `general.file_type` of files without blocks; of the files with them, see `BlockType`.
_FLOAT_FILES = {"F32": 0, "F16": 1, "BF16": 32}


def plan(
    file: RsrFile,
    config: Config | None,
    settings: GgufSettings,
    kind: str | None,
    note: Note,
) -> list[GgufOutput]:
    """Decide how each tensor of a model is written.

    Args:
        file: the .rsr file.
        config: its config.json.
        settings: what `model_settings` returned.
        kind: one of `TYPES`, or None for the smallest of `DEFAULT` that holds a matrix's scales.
        note: takes each sentence for the user.

    Raises:
        ExportError: GGUF has no way to store a dtype, a shape or a scale, or no name for a tensor;
            two tensors have the same name, config.json contradicts a shape, or the experts of a
            layer differ.
    """
    architecture = settings.architecture
    own = DecoderNames.find(t.name for t in file.header.tensors)
    biases = scaled_biases(file, config)
    tensors, unnamed = [], []
    unsupported: list[str] = []
    rounding = _ScaleRounding()
    others: dict[str, list[str]] = defaultdict(list)  # what is written instead: tensor names
    for t in model_tensors(file):
        name = usual = t.name
        if name == _ROPE_FREQS and settings.scales_rope:
            continue  # the settings take precedence
        if of_gguf(architecture) is not None and name != _ROPE_FREQS:
            usual = own.usual(name)
            if usual.endswith(_FREQUENCIES):
                continue  # they follow from the settings
            if (name := expert_name(usual) or gguf_name(usual, architecture)) == usual:
                unnamed.append(t.name)
                continue
        change = conversion(t, usual, name, settings)
        if isinstance(t, DenseTensor):
            if t.dtype not in NUMPY:
                unsupported.append(t.name)
            tensor = biases.get(t.name) or dense_tensor(file, t)
            tensors.append(_dense(tensor, name, change))
            continue
        grid = read_scales(file, t)
        wanted = DEFAULT if kind is None else (kind,)
        reasons = {k: _why_not(block, t, grid, change.columns) for k, block in TYPES.items()}
        chosen = next((k for k in wanted if reasons[k] is None), None)
        if chosen is not None:
            exact = None
            if grid is not None and _needs_float32(name, grid):
                if settings.has_scale_tensors:
                    scale = f"{name.removesuffix('weight')}scale"
                    data = partial(np.ravel, grid.values)
                    tensors.append(GgufOutput(scale, "F32", (1,), data))
                    grid = None
                else:
                    exact = float(grid.values[0, 0])
            rounding.add(t.name, grid)
            data = partial(_blocks, file, t, TYPES[chosen], change, grid)
            tensors.append(GgufOutput(name, chosen, t.shape, data, exact))
        else:
            dtype = float_dtype(file, t)
            data = partial(_floats, file, t, dtype, change)
            tensors.append(GgufOutput(name, dtype, t.shape, data))
        if chosen != wanted[0]:
            others[_instead(tensors[-1].kind, wanted, reasons)].append(t.name)
    if unnamed:
        raise ExportError(
            f"llama.cpp has no name for {quoted(unnamed)} in architecture {architecture!r}, and "
            f"loads no file with other tensors. {ELSEWHERE}"
        )
    if unsupported:
        raise ExportError(
            f"GGUF has no type for the dtype of {quoted(unsupported)}: compile without them"
        )
    rounding.report(note)
    for words, names in others.items():
        note(f"written as {words}: {quoted(names)}")
    for name, factors in settings.tensors.items():
        data = partial(np.asarray, factors)
        tensors.append(GgufOutput(name, "F32", factors.shape, data))
    tensors = stacked(tensors)
    _check(tensors)
    return tensors


def file_type(tensors: Iterable[GgufOutput]) -> int:
    """Return `general.file_type`: that of the type which most weights of matrices have."""
    weights: Counter[str] = Counter()
    for t in tensors:
        if len(t.shape) > 1 and (t.kind in TYPES or t.kind in _FLOAT_FILES):
            weights[t.kind] += math.prod(t.shape)
    kind = max(weights, key=weights.__getitem__, default="F32")
    return TYPES[kind].file_type if kind in TYPES else _FLOAT_FILES[kind]


def _check(tensors: list[GgufOutput]) -> None:
    seen: set[str] = set()
    for t in tensors:
        if t.name in seen:
            raise ExportError(f"two tensors would be named {t.name!r} in the output")
        seen.add(t.name)
        if len(t.shape) > _MAX_DIMENSIONS:
            raise ExportError(
                f"{t.name!r} has {len(t.shape)} dimensions, and GGUF at most {_MAX_DIMENSIONS}"
            )


def _why_not(
    block: BlockType, t: IndexedTensor, grid: ScaleGrid | None, columns: Indices | None
) -> str | None:
    """Return why blocks cannot hold a matrix, or None if they can."""
    if 0 in t.shape:
        return "they are empty"
    if t.digits[0] < -1 or t.digits[-1] > block.highest:
        return f"their digits are {', '.join(map(str, t.digits))}"
    if t.shape[1] % block.weights:
        return f"the length of their rows is not a multiple of {block.weights}"
    if grid is None or grid.columns is None:
        return None
    if columns is not None:
        groups = (columns // grid.columns).reshape(-1, block.weights)
        if (groups != groups[:, :1]).any():
            return f"their scales are {grid.words}, and llama.cpp has the columns in another order"
    elif grid.columns % block.weights:
        return f"their scales are {grid.words}"
    return None


def _instead(found: str, wanted: Sequence[str], reasons: Mapping[str, str | None]) -> str:
    """Say why a matrix has type `found` rather than one of `wanted`.

    Args:
        found: the type that it has.
        wanted: the types that were to hold it.
        reasons: what `_why_not` returned of each type.
    """
    refused = wanted[0] if found in TYPES else wanted[-1]
    words = f"{found} instead of {refused}, because {reasons[refused]}"
    able = [kind for kind, reason in reasons.items() if reason is None]
    if found not in TYPES and able:
        return f"{words} (types that hold them: {', '.join(able)})"
    return words


# --- data ---------------------------------------------------------------------------------------


def _dense(tensor: OutputTensor, name: str, change: Conversion) -> GgufOutput:
    """Return a dense tensor in its dtype; vectors in F32, which llama.cpp expects of them."""
    is_vector = len(tensor.shape) <= 1 or change.is_float32 or change.value is not None
    widened = is_vector and tensor.dtype in FLOAT_DTYPES
    shape = tensor.shape or (1,)

    def data() -> Array:
        raw = tensor.read()
        values: Array = to_float32(raw, tensor.dtype) if widened else raw.view(NUMPY[tensor.dtype])
        return change.apply(values.reshape(shape))

    return GgufOutput(name, "F32" if widened else tensor.dtype, change.shape or shape, data)


def _windows(t: IndexedTensor, order: Indices | None) -> Iterator[tuple[slice, Indices]]:
    """Yield windows of output rows, each with the source rows that it holds."""
    for window in row_blocks(t.shape, PIECE):
        rows = np.arange(window.start, window.stop) if order is None else order[window]
        yield window, rows


def _in_order(weights: Array, columns: Indices | None) -> Array:
    return weights if columns is None else weights[:, columns]


def _floats(file: RsrFile, t: IndexedTensor, dtype: str, change: Conversion) -> Array:
    r = decode(file, t)
    out = np.empty(t.shape, NUMPY[dtype])
    for window, rows in _windows(t, change.rows):
        weights = _in_order(r.weights(rows), change.columns)
        out[window] = from_float32(weights + np.float32(0), dtype)  # no -0.0
    return out


def _needs_float32(name: str, grid: ScaleGrid) -> bool:
    """Return whether a matrix in a layer has one scale that float16 does not hold."""
    if grid.values.size != 1 or not _LAYER_WEIGHT.fullmatch(name):
        return False
    with np.errstate(over="ignore"):
        return bool(grid.values.astype(np.float16).astype(np.float32) != grid.values)


def _blocks(
    file: RsrFile, t: IndexedTensor, block: BlockType, change: Conversion, grid: ScaleGrid | None
) -> Array:
    digits = decode(file, t).digits
    codes = (np.array(t.digits, np.int8) + 1).astype(np.uint8)
    grid = grid or per_tensor(1, t.shape[0])
    first = np.arange(0, t.shape[1], block.weights)  # columns of blocks
    if change.columns is not None:
        first = change.columns[first]
    groups = first // (grid.columns or t.shape[1])
    out = np.empty((t.shape[0], len(groups) * block.nbytes), np.uint8)
    for window, rows in _windows(t, change.rows):
        scales = grid.values[np.ix_(rows // grid.rows, groups)]
        # `_ScaleRounding` has found the scales in the range of float16.
        ordered = _in_order(codes[digits[rows]], change.columns)
        blocks = block.encode(
            ordered.reshape(-1, block.weights), scales.reshape(-1).astype(np.float16)
        )
        out[window] = blocks.reshape(len(rows), -1)
    return out


class _ScaleRounding:
    """What rounding scales to float16 loses."""

    def __init__(self) -> None:
        self._count = self._inexact = 0
        self._largest = 0.0  # relative error
        self._lost: list[str] = []  # tensors with a scale beyond float16

    def add(self, name: str, grid: ScaleGrid | None) -> None:
        """Round the scales of a tensor."""
        if grid is None:
            return
        values = grid.values.astype(np.float64)
        with np.errstate(over="ignore"):
            rounded = grid.values.astype(np.float16).astype(np.float64)
        if (np.isinf(rounded) | ((rounded == 0) & (values != 0))).any():
            self._lost.append(name)
            return
        inexact = rounded != values
        self._count += values.size
        self._inexact += int(np.count_nonzero(inexact))
        if inexact.any():
            errors = np.abs(rounded[inexact] / values[inexact] - 1)
            self._largest = max(self._largest, float(errors.max()))

    def report(self, note: Note) -> None:
        """Note how many scales were rounded.

        Raises:
            ExportError: names the tensors with scales that become infinite or 0.
        """
        if self._lost:
            raise ExportError(
                "GGUF's ternary types have float16 scales, in which those of "
                f"{quoted(self._lost)} are infinite or 0: write them with --to float or --to int8"
            )
        if self._inexact:
            note(
                f"{self._inexact:,} of {self._count:,} scales are rounded to float16, with a "
                f"relative error of at most {self._largest:.1e}"
            )
