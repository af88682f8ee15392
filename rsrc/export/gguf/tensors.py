"""The tensors of a GGUF file: their names, types and data."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.architectures import DecoderNames, of_gguf
from rsr_formats.records import FLOAT_DTYPES, DenseTensor, IndexedTensor, Tensor
from rsr_formats.text import quoted

from ...common.errors import ExportError
from ...layouts.float_bits import from_float32, row_blocks, to_float32
from ...layouts.scales import ScaleGrid, per_tensor
from ...source.gguf.names import gguf_name, gguf_rows, permuted_heads
from ...source.gguf.tokenizer_common import Note
from ...source.tensor import PIECE
from ..biases import scaled_biases
from ..floats import float_dtype
from ..model_files import Config
from ..tensors import OutputTensor, decode, dense_tensor, model_tensors, read_scales
from .blocks import DEFAULT, TYPES, BlockType
from .experts import expert_name, stacked
from .output import NUMPY, GgufOutput
from .settings import GgufSettings

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]

_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
# Of a matrix that may have a factor of its own; the experts of a layer are one tensor.
_LAYER_WEIGHT = re.compile(r"blk\.[0-9]+\.(?!ffn_[a-z]+_exps\.).*\.weight", re.DOTALL)
_ROPE_FREQS = "rope_freqs.weight"  # a file compiled from GGUF may keep it
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
        ExportError: GGUF has no way to store a dtype, a shape or a scale, two tensors have the same
            name, config.json contradicts the rows of q or k, or the experts of a layer differ.
    """
    architecture = settings.architecture
    own = DecoderNames.find(t.name for t in file.header.tensors)
    biases = scaled_biases(file, config)
    tensors, unnamed = [], []
    unsupported: list[str] = []
    rounding = _ScaleRounding()
    others: dict[str, list[str]] = defaultdict(list)  # what is written instead: tensor names
    for t in model_tensors(file):
        name = t.name
        if name == _ROPE_FREQS and settings.scales_rope:
            continue  # the settings take precedence
        if of_gguf(architecture) is not None and name != _ROPE_FREQS:
            usual = _usual(name, own)
            if (name := expert_name(usual) or gguf_name(usual, architecture)) == usual:
                name = t.name
                unnamed.append(name)
        order = _row_order(t, name, settings)
        if isinstance(t, DenseTensor):
            if t.dtype not in NUMPY:
                unsupported.append(t.name)
            tensor = biases.get(t.name) or dense_tensor(file, t)
            tensors.append(_dense(tensor, name, order))
            continue
        grid = read_scales(file, t)
        wanted = DEFAULT if kind is None else (kind,)
        chosen = next((k for k in wanted if _why_not(TYPES[k], t, grid) is None), None)
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
            data = partial(_blocks, file, t, TYPES[chosen], order, grid)
            tensors.append(GgufOutput(name, chosen, t.shape, data, exact))
        else:
            dtype = float_dtype(file, t)
            data = partial(_floats, file, t, dtype, order)
            tensors.append(GgufOutput(name, dtype, t.shape, data))
        if chosen != wanted[0]:
            others[_instead(tensors[-1].kind, wanted, t, grid)].append(t.name)
    if unsupported:
        raise ExportError(
            f"GGUF has no type for the dtype of {quoted(unsupported)}: compile without them"
        )
    rounding.report(note)
    for words, names in others.items():
        note(f"written as {words}: {quoted(names)}")
    if unnamed:
        note(f"llama.cpp has no name for {quoted(unnamed)}: they keep their own")
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


def _why_not(block: BlockType, t: IndexedTensor, grid: ScaleGrid | None) -> str | None:
    """Return why blocks cannot hold a matrix, or None if they can."""
    if 0 in t.shape:
        return "they are empty"
    if t.digits[0] < -1 or t.digits[-1] > block.highest:
        return f"their digits are {', '.join(map(str, t.digits))}"
    if t.shape[1] % block.weights:
        return f"the length of their rows is not a multiple of {block.weights}"
    if grid is not None and grid.columns is not None and grid.columns % block.weights:
        return f"their scales are {grid.words}"
    return None


def _instead(found: str, wanted: Sequence[str], t: IndexedTensor, grid: ScaleGrid | None) -> str:
    """Say why a matrix has type `found` rather than one of `wanted`."""
    refused = wanted[0] if found in TYPES else wanted[-1]
    words = f"{found} instead of {refused}, because {_why_not(TYPES[refused], t, grid)}"
    able = [kind for kind, block in TYPES.items() if _why_not(block, t, grid) is None]
    if found not in TYPES and able:
        return f"{words} (types that hold them: {', '.join(able)})"
    return words


def _usual(name: str, names: DecoderNames) -> str:
    """Return the name of a tensor in a class with a head, wherever its checkpoint has it."""
    module, _, suffix = name.rpartition(".")
    if module == names.head:
        return f"lm_head.{suffix}"
    return f"model.{name.removeprefix(names.prefix)}" if name.startswith(names.prefix) else name


def _row_order(t: Tensor, name: str, settings: GgufSettings) -> Rows | None:
    """Return the source row of each output row, or None if rows keep their order."""
    architecture, metadata = settings.architecture, settings.metadata
    heads = int(metadata.get(f"{architecture}.attention.head_count", 0))
    kv_heads = int(metadata.get(f"{architecture}.attention.head_count_kv", heads))
    permuted = permuted_heads(name, architecture, heads, kv_heads)
    if permuted is None or 0 in t.shape or not t.shape:
        return None
    if not permuted or t.shape[0] % (2 * permuted):
        raise ExportError(
            f"{t.name!r} has {t.shape[0]} rows, expected a multiple of 2 for each of the "
            f"{permuted} heads in config.json"
        )
    return gguf_rows(t.shape[0], permuted)


# --- data ---------------------------------------------------------------------------------------


def _dense(tensor: OutputTensor, name: str, order: Rows | None) -> GgufOutput:
    """Return a dense tensor in its dtype; vectors in F32, which llama.cpp expects of them."""
    widened = len(tensor.shape) <= 1 and tensor.dtype in FLOAT_DTYPES
    shape = tensor.shape or (1,)

    def data() -> Array:
        raw = tensor.read()
        values: Array = to_float32(raw, tensor.dtype) if widened else raw.view(NUMPY[tensor.dtype])
        values = values.reshape(shape)
        return values if order is None else values[order]

    return GgufOutput(name, "F32" if widened else tensor.dtype, shape, data)


def _windows(t: IndexedTensor, order: Rows | None) -> Iterator[tuple[slice, Rows]]:
    """Yield windows of output rows, each with the source rows that it holds."""
    for window in row_blocks(t.shape, PIECE):
        rows = np.arange(window.start, window.stop) if order is None else order[window]
        yield window, rows


def _floats(file: RsrFile, t: IndexedTensor, dtype: str, order: Rows | None) -> Array:
    r = decode(file, t)
    out = np.empty(t.shape, NUMPY[dtype])
    for window, rows in _windows(t, order):
        out[window] = from_float32(r.weights(rows) + np.float32(0), dtype)  # no -0.0
    return out


def _needs_float32(name: str, grid: ScaleGrid) -> bool:
    """Return whether a matrix in a layer has one scale that float16 does not hold."""
    if grid.values.size != 1 or not _LAYER_WEIGHT.fullmatch(name):
        return False
    with np.errstate(over="ignore"):
        return bool(grid.values.astype(np.float16).astype(np.float32) != grid.values)


def _blocks(
    file: RsrFile, t: IndexedTensor, block: BlockType, order: Rows | None, grid: ScaleGrid | None
) -> Array:
    digits = decode(file, t).digits
    codes = (np.array(t.digits, np.int8) + 1).astype(np.uint8)
    grid = grid or per_tensor(1, t.shape[0])
    groups = np.arange(0, t.shape[1], block.weights) // (grid.columns or t.shape[1])
    out = np.empty((t.shape[0], len(groups) * block.nbytes), np.uint8)
    for window, rows in _windows(t, order):
        scales = grid.values[np.ix_(rows // grid.rows, groups)]
        # `_ScaleRounding` has found the scales in the range of float16.
        blocks = block.encode(
            codes[digits[rows]].reshape(-1, block.weights), scales.reshape(-1).astype(np.float16)
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
