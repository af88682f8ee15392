"""GGUF: what llama.cpp reads (ggml, docs/gguf.md), written by the package gguf.

Names, the order of rows in q and k, settings and the tokenizer are those of llama.cpp's converter.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.architectures import of_gguf
from rsr_formats.atomic import atomic_file
from rsr_formats.records import FLOATS, DenseTensor, IndexedTensor, Tensor
from rsr_formats.text import quoted

from ..common.errors import ExportError, MissingPackageError, SourceError
from ..layouts.base import Restored
from ..layouts.floats import from_float32, to_float32
from ..layouts.scales import ScaleGrid
from ..source.gguf.config import gguf_metadata, rope_factors
from ..source.gguf.names import gguf_name, gguf_rows, permuted_heads
from ..source.gguf.tokenizer_common import Note
from ..source.gguf.tokenizer_metadata import tokenizer_metadata
from .floats import float_dtype, row_values
from .tensors import (
    Config,
    decode,
    dense_pieces,
    exported,
    find_file,
    read_config,
    read_json,
    read_scales,
    row_windows,
    source_dtype,
)
from .tq import BLOCK, BLOCK_BYTES, encode

if TYPE_CHECKING:
    from gguf import GGUFWriter

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]

_MOST_DIMENSIONS = 4  # of a tensor in ggml
_FILE_TYPES = {"TQ1_0": "MOSTLY_TQ1_0", "TQ2_0": "MOSTLY_TQ2_0"}
_NUMPY = {
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
    "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
}  # fmt: skip


def require_gguf() -> None:
    """Raise `MissingPackageError` unless there is the package gguf."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingPackageError(
            "writing GGUF needs the package gguf: pip install 'rsr-ternary[gguf]'"
        ) from None


@dataclass(frozen=True)
class _Planned:
    """A tensor of the output."""

    name: str
    kind: str  # ggml's name of its type
    shape: tuple[int, ...]
    data: Callable[[], Array]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of `data`: bytes instead of weights where they come in blocks."""
        if self.kind not in BLOCK_BYTES:
            return self.shape
        return (*self.shape[:-1], self.shape[-1] // BLOCK * BLOCK_BYTES[self.kind])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_NUMPY.get(self.kind, np.uint8))

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.stored_shape, dtype=np.int64)) * self.dtype.itemsize


def write_gguf(
    file: RsrFile,
    output: str | os.PathLike[str],
    kind: str,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    note: Note = lambda text: None,
) -> None:
    """Write the model of a `.rsr` file as GGUF, one tensor in memory at a time.

    Args:
        file: the .rsr file.
        output: the GGUF file; it appears only when it is whole.
        kind: "TQ1_0" or "TQ2_0": the type of ternary matrices that have one scale for each 256
            weights of a row. The others are written as the floats that hold them exactly.
        force: replace an existing output.
        progress: called as progress(tensor name, bytes done, bytes in all).
        note: told in words what is different: scales rounded to float16, matrices left as floats.

    Raises:
        ExportError: a tensor has a type, a shape or a scale that GGUF has none for.
        SourceError: config.json is none, or contradicts the tensors.
    """
    import gguf

    config = read_config(file)
    settings = _settings(config, note)
    planned = _plan(file, settings, kind, note)
    if config is not None and settings:
        planned += _factors(config)
    _check(planned)
    metadata = {**settings, **_tokenizer(file, planned, note)}
    architecture = str(metadata.pop("general.architecture", "unknown"))
    total, done = sum(t.nbytes for t in planned), 0
    with atomic_file(output, force) as out:
        # It opens the file by name once more; what it wrote is flushed and renamed with `out`.
        writer = gguf.GGUFWriter(Path(out.name), architecture)
        try:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
            _add_metadata(writer, metadata)
            for t in planned:
                raw = gguf.GGMLQuantizationType[t.kind]
                writer.add_tensor_info(t.name, t.stored_shape, t.dtype, t.nbytes, raw)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for t in planned:
                writer.write_tensor_data(t.data())
                done += t.nbytes
                if progress is not None:
                    progress(t.name, done, total)
        finally:
            writer.close()


def _check(planned: Sequence[_Planned]) -> None:
    seen: set[str] = set()
    for t in planned:
        if t.name in seen:
            raise ExportError(f"two tensors would be named {t.name!r} in the output")
        seen.add(t.name)
        if len(t.shape) > _MOST_DIMENSIONS:
            raise ExportError(
                f"{t.name!r} has {len(t.shape)} dimensions, and GGUF at most {_MOST_DIMENSIONS}"
            )


# --- metadata -----------------------------------------------------------------------------------


def _settings(config: Config | None, note: Note) -> dict[str, Any]:
    """Return what config.json says in GGUF's words, or nothing where they are not known."""
    reason = "the .rsr file has no config.json"
    if config is not None:
        try:
            return dict(gguf_metadata(config))
        except SourceError as error:
            reason = str(error)
    note(f"tensors keep their names, and llama.cpp cannot run the file: {reason}")
    return {}


def _factors(config: Config) -> list[_Planned]:
    """Return the tensor in which GGUF has Llama 3's rope scaling."""
    factors = rope_factors(config)
    if factors is None:
        return []
    return [_Planned("rope_freqs.weight", "F32", factors.shape, lambda: factors)]


def _tokenizer(file: RsrFile, planned: Sequence[_Planned], note: Note) -> dict[str, Any]:
    entry = find_file(file, "tokenizer.json")
    if entry is None:
        return {}
    config: Config = {}
    if (settings := find_file(file, "tokenizer_config.json")) is not None:
        config = dict(read_json(file, settings))
    template = find_file(file, "chat_template.jinja")  # wins, as it does in transformers
    if template is not None:
        text = file.section(template.section).tobytes().decode(errors="replace")
        config["chat_template"] = text
    rows = next((t.shape[0] for t in planned if t.name == "token_embd.weight" and t.shape), None)
    return tokenizer_metadata(read_json(file, entry), config, rows, note)


def _add_metadata(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    for key, value in metadata.items():
        _check_value(key, value)
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value) if value < 1 << 32 else writer.add_uint64(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _check_value(key: str, value: Any) -> None:
    texts = value if isinstance(value, list) else [value]
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        raise ExportError(f"{key}: half of a surrogate pair is no text") from None
    if isinstance(value, int) and not 0 <= value < 1 << 64:
        raise ExportError(f"{key}: {str(value)[:40]} is no unsigned 64-bit number")


# --- tensors ------------------------------------------------------------------------------------


def _plan(file: RsrFile, settings: Mapping[str, Any], kind: str, note: Note) -> list[_Planned]:
    """Say how each tensor is written; all that cannot be is refused here, before anything is."""
    architecture = str(settings.get("general.architecture", ""))
    planned, same_names = [], []
    wrong: list[str] = []
    scales = _Float16Scales()
    floats: dict[str, list[str]] = defaultdict(list)  # reason: names
    for t in exported(file):
        name = gguf_name(t.name, architecture)
        if name == t.name and of_gguf(architecture) is not None:
            same_names.append(t.name)
        rows = _row_order(t, name, settings)
        if isinstance(t, DenseTensor):
            if t.dtype not in _NUMPY:
                wrong.append(t.name)
            planned.append(_dense(file, t, name, rows))
            continue
        grid = read_scales(file, t)
        reason = _why_not_blocks(t, grid)
        if reason is None:
            scales.add(t.name, grid)
            planned.append(_Planned(name, kind, t.shape, _Blocks(file, t, kind, rows)))
        else:
            dtype = float_dtype(file, t)
            floats[f"{reason}, in {dtype}"].append(t.name)
            planned.append(_Planned(name, dtype, t.shape, _Floats(file, t, dtype, rows)))
    if wrong:
        raise ExportError(
            f"GGUF has no type for the dtype of {quoted(wrong)}: compile without them"
        )
    scales.report(note)
    for reason, names in floats.items():
        note(f"not {kind} but plain floats, because of {reason}: {quoted(names)}")
    if same_names:
        note(f"no name in llama.cpp is known for {quoted(same_names)}: they keep their own")
    return planned


def _why_not_blocks(t: IndexedTensor, grid: ScaleGrid | None) -> str | None:
    if 0 in t.shape:
        return "having no weights"
    if t.shape[1] % BLOCK:
        return f"rows that are no multiple of {BLOCK} long"
    if grid is not None and grid.columns is not None and grid.columns % BLOCK:
        return f"scales {grid.words}"
    return None


def _row_order(t: Tensor, name: str, settings: Mapping[str, Any]) -> Rows | None:
    """Return where each row of the output comes from, or None: they stay in order."""
    architecture = str(settings.get("general.architecture", ""))
    heads = int(settings.get(f"{architecture}.attention.head_count", 0))
    kv_heads = int(settings.get(f"{architecture}.attention.head_count_kv", heads))
    found = permuted_heads(name, architecture, heads, kv_heads)
    if found is None or 0 in t.shape or not t.shape:
        return None
    if not found or t.shape[0] % (2 * found):
        raise ExportError(
            f"{t.name!r} has {t.shape[0]} rows, which config.json's {found} heads cannot share"
        )
    return gguf_rows(t.shape[0], found)


def _dense(file: RsrFile, t: DenseTensor, name: str, rows: Rows | None) -> _Planned:
    """Return a tensor as it is; llama.cpp wants vectors, which are norms and biases, in F32."""
    widened = len(t.shape) <= 1 and t.dtype in FLOATS
    dtype = source_dtype(t)

    def data() -> Array:
        raw = (
            np.concatenate(list(dense_pieces(file, t))) if t.quantized else file.section(t.section)
        )
        values: Array = to_float32(raw, dtype) if widened else raw.view(_NUMPY[dtype])
        values = values.reshape(t.shape or (1,))
        return values if rows is None else values[rows]

    return _Planned(name, "F32" if widened else dtype, t.shape or (1,), data)


@dataclass(frozen=True)
class _Blocks:
    """Makes the blocks of a ternary matrix."""

    file: RsrFile
    t: IndexedTensor
    kind: str
    rows: Rows | None

    def __call__(self) -> Array:
        r = decode(self.file, self.t)
        codes = (np.array(self.t.digits, np.int8) + 1).astype(np.uint8)
        per_row = self.t.shape[1] // BLOCK
        out = np.empty((self.t.shape[0], per_row * BLOCK_BYTES[self.kind]), np.uint8)
        for window in row_windows(self.t.shape):
            source = window if self.rows is None else self.rows[window]
            scales = _block_scales(r, source, per_row)
            digits = r.digits[source]
            blocks = encode(self.kind, codes[digits].reshape(-1, BLOCK), scales)
            out[window] = blocks.reshape(len(digits), -1)
        return out


def _block_scales(r: Restored, rows: slice | Rows, per_row: int) -> npt.NDArray[np.float16]:
    """Return the scale of each block of some rows, (rows * per_row,)."""
    count = len(range(rows.start, rows.stop)) if isinstance(rows, slice) else len(rows)
    if r.scale is None:
        return np.ones(count * per_row, np.float16)
    scale = r.scale.astype(np.float16)  # checked when the tensor was planned
    if scale.ndim == 1 and len(scale) == 1:
        return np.repeat(scale, count * per_row)
    scale = scale[rows].reshape(count, -1)
    group = np.arange(per_row) * BLOCK // r.record.group_columns if r.record.is_grouped else 0
    return np.broadcast_to(scale[:, group].reshape(count, -1), (count, per_row)).reshape(-1)


@dataclass(frozen=True)
class _Floats:
    """Makes the plain floats of a ternary matrix."""

    file: RsrFile
    t: IndexedTensor
    dtype: str
    rows: Rows | None

    def __call__(self) -> Array:
        r = decode(self.file, self.t)
        out = np.empty(self.t.shape, _NUMPY[self.dtype])
        for window in row_windows(self.t.shape):
            source = window if self.rows is None else self.rows[window]
            out[window] = from_float32(row_values(r, source), self.dtype)
        return out


class _Float16Scales:
    """Rounds scales to float16, and remembers what that did."""

    def __init__(self) -> None:
        self.count = self.inexact = 0
        self.largest = 0.0  # relative error
        self.lost: list[str] = []  # names of tensors with scales beyond float16

    def add(self, name: str, grid: ScaleGrid | None) -> None:
        """Round the scales of a tensor."""
        if grid is None:
            return
        values = grid.values.astype(np.float64)
        with np.errstate(over="ignore"):
            rounded = grid.values.astype(np.float16).astype(np.float64)
        if (np.isinf(rounded) | ((rounded == 0) & (values != 0))).any():
            self.lost.append(name)
            return
        different = values[rounded != values]
        self.count += values.size
        self.inexact += different.size
        if different.size:
            errors = np.abs(rounded[rounded != values] / different - 1)
            self.largest = max(self.largest, float(errors.max()))

    def report(self, note: Note) -> None:
        """Say how many scales were rounded.

        Raises:
            ExportError: names the tensors with scales that become infinite or 0.
        """
        if self.lost:
            raise ExportError(
                "GGUF's ternary types have float16 scales, in which those of "
                f"{quoted(self.lost)} are infinite or 0: write them with --to float or --to int8"
            )
        if self.inexact:
            note(
                f"{self.inexact:,} of {self.count:,} scales are rounded to float16, with a "
                f"relative error of at most {self.largest:.1e}"
            )
