"""The "bitnet" form: packed layers as transformers stores them (layouts/bitnet.py).

`<name>` holds four rows per byte, and `<name>_scale` one scale; config.json says what it means. An
offline `quantization_config` in the file's config.json stays as it is. Without one:

* A model becomes `bitlinear`, which divides by the scale. transformers can load it in any dtype,
  but `autobitlinear` only in the one of its tensors, most of which it does not cast
  (core_model_loading.py). Where 1 / scale is not a float32, the nearest is written.
* Matrices without config.json become `autobitlinear`, which multiplies: every scale can be stored.
  So do models with layers whose rows are no multiple of 4. But `autobitlinear` scales biases too
  (integrations/bitnet.py), so matrices with biases become `bitlinear`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import numpy.typing as npt

from rsr_formats import RsrFile
from rsr_formats.experts import EXPERTS
from rsr_formats.records import FLOAT_DTYPES, IndexedTensor
from rsr_formats.text import quoted

from ..common.arrays import ByteArray
from ..common.errors import ExportError
from ..layouts.float_bits import from_float32, row_blocks
from ..layouts.two_bit import pack
from ..source.gguf.tokenizer_common import Note
from ..source.quantization import HEADS, Quantization
from ..source.tensor import PIECE
from .dtypes import smallest
from .floats import as_floats
from .model_files import Config, bitnet_rules, bitnet_settings, without
from .reciprocal import nearest_reciprocal
from .tensors import (
    Export,
    OutputTensor,
    as_bytes,
    convert_matrices,
    decode,
    read_scales,
    source_dtype,
    source_tensors,
    value_pieces,
)

# transformers never replaces an embedding by BitLinear; for a head, config.json decides.
_EMBEDDINGS = ("*embed*", "*wte*", "*wpe*")
_ROWS_PER_BYTE = 4
_LARGEST_ERROR = 2.0**-23  # of a scale that is written as its reciprocal, relative
_OTHER_FORMS = "write them with --to int8, --to float or --to gguf"


def export(file: RsrFile, config: Config | None) -> Export:
    """Return linear layers packed, other matrices as floats; dense tensors are unchanged.

    Raises:
        ExportError: a linear layer has several scales, a negative one, or digits of magnitude 2;
            the file has experts, or no ternary linear layer.
        SourceError: config.json has an unknown linear_class, or an unsupported regular expression
            in `modules_to_not_convert`.
    """
    rules = bitnet_rules(config)
    matrices = [t for t in file.header.tensors if isinstance(t, IndexedTensor)]
    linear = [t for t in matrices if _is_linear(t, rules)]
    if not linear:
        raise ExportError(f"{file.path} has no ternary linear layer: there is nothing to pack")
    if experts := [t.name for t in linear if f"{EXPERTS}." in t.name]:
        raise ExportError(
            f"transformers has no BitNet layers for experts: {quoted(experts)}; {_OTHER_FORMS}"
        )
    settings = _new_settings(file, config, rules, linear)
    divide = settings["linear_class"] == "bitlinear"
    _check_digits(linear)
    _check_rows(linear, divide)
    notes: list[str] = []
    scales = _scale_tensors(file, linear, divide, notes.append)
    if others := [t.name for t in matrices if t.name not in scales]:
        notes.append(f"written as floats, because they are not linear layers: {quoted(others)}")
    new_config = _new_config(config, settings)
    if new_config is not config:
        notes.append(
            f"weight_scale {'divides' if divide else 'multiplies'}: config.json now has "
            f"quant_method 'bitnet' with linear_class {settings['linear_class']!r}"
        )

    if config is not None and not divide:
        notes.append(
            "transformers runs layers of linear_class 'autobitlinear' only in the dtype that "
            "config.json names"
        )

    def convert(t: IndexedTensor) -> list[OutputTensor]:
        if t.name not in scales:
            return [as_floats(file, t)]
        return [_packed(file, t), scales[t.name]]

    return Export(convert_matrices(file, convert), new_config, notes)


def _is_linear(t: IndexedTensor, rules: Quantization) -> bool:
    if t.source.layout in ("bitnet", "bitnet-unpacked"):
        return True
    module, _, parameter = t.name.rpartition(".")
    if module and parameter != "weight":  # such as ParetoQ's weight_clip_val
        return False
    if any(fnmatchcase(t.name.lower(), pattern) for pattern in _EMBEDDINGS):
        return False
    return rules.converts(t.name)


# --- config.json --------------------------------------------------------------------------------


def _new_settings(
    file: RsrFile, config: Config | None, rules: Quantization, linear: Sequence[IndexedTensor]
) -> dict[str, object]:
    """Return the `quantization_config` of the packed model; `config` is the file's."""
    before = bitnet_settings(config)
    if before and before.get("quantization_mode", "offline") == "offline":
        linear_class = rules.linear_class
    else:
        names = {t.name for t in file.header.tensors}
        divides = any(_module(t.name) + ".bias" in names for t in linear)
        if config is not None and not any(t.shape[0] % _ROWS_PER_BYTE for t in linear):
            divides = True
        linear_class = "bitlinear" if divides else "autobitlinear"
    settings = {
        **before,
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": "offline",
    }
    floats = _float_modules(file, {t.name for t in linear})
    unlisted = [module for module in floats if rules.converts(f"{module}.weight")]
    listed = before.get("modules_to_not_convert")
    if unlisted and isinstance(listed, list):
        settings["modules_to_not_convert"] = [*listed, *unlisted]
    elif unlisted:  # a list replaces transformers' default, which is the output head
        heads = [module for module in floats if module.rpartition(".")[2].lower() in HEADS]
        settings["modules_to_not_convert"] = list(dict.fromkeys(["lm_head", *heads, *unlisted]))
    return settings


def _float_modules(file: RsrFile, linear: set[str]) -> list[str]:
    """Return the modules whose matrix is written as floats."""
    return [
        _module(t.name)
        for t in source_tensors(file)
        if t.name not in linear
        and len(t.shape) == 2
        and (isinstance(t, IndexedTensor) or source_dtype(t) in FLOAT_DTYPES)
        and t.name.endswith(".weight")
    ]


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _new_config(config: Config | None, settings: dict[str, object]) -> Config | None:
    """Return config.json with the settings in it: itself if it has them already."""
    before = (config or {}).get("quantization_config")
    defaults = {"linear_class": "bitlinear", "quantization_mode": "offline"}
    if isinstance(before, dict) and {**defaults, **before} == settings:
        return config
    return {**(without(config, "quantization") or {}), "quantization_config": settings}


# --- scales -------------------------------------------------------------------------------------


def _scale_tensors(
    file: RsrFile, linear: Sequence[IndexedTensor], divide: bool, note: Note
) -> dict[str, OutputTensor]:
    """Return the tensor `<name>_scale` of each layer.

    Raises:
        ExportError: names the layers with several scales, a negative one, or one that is beyond
            the reciprocals of float32.
    """
    several, negative, inexact, lost = [], [], [], []
    tensors = {}
    for t in linear:
        grid = read_scales(file, t)
        values = np.ones(1, np.float32) if grid is None else np.unique(grid.values)
        if len(values) > 1:
            several.append(t.name)
            continue
        scale = values[0] if len(values) else np.float32(1)
        if scale == 0:
            scale = np.float32(1)  # every weight is 0, and readers expect a positive scale
        if scale < 0:
            negative.append(t.name)
            continue
        stored = scale
        if divide:
            stored = nearest_reciprocal(scale)
            error = abs(np.float64(np.float32(1) / stored) - scale)
            if not error <= _LARGEST_ERROR * scale:
                lost.append(t.name)
            elif error:
                inexact.append(t.name)
        tensors[t.name] = _scale_tensor(t.name, stored)
    if several:
        raise ExportError(
            "the bitnet layout has one scale per matrix, and there are several for "
            f"{quoted(several)}: {_OTHER_FORMS}"
        )
    if negative:
        raise ExportError(
            f"the bitnet layout has only positive scales, and those of {quoted(negative)} are "
            f"negative: {_OTHER_FORMS}"
        )
    if lost:
        raise ExportError(
            "bitlinear layers divide by weight_scale, and no float32 has a reciprocal near the "
            f"scale of {quoted(lost)}: {_OTHER_FORMS}"
        )
    if inexact:
        note(
            f"bitlinear layers divide by weight_scale: for {len(inexact):,} of {len(tensors):,} "
            f"scales, the nearest reciprocal is off by up to {_LARGEST_ERROR:.1e} of the scale"
        )
    return tensors


def _scale_tensor(name: str, value: np.float32) -> OutputTensor:
    values = value.reshape(1)
    dtype = smallest(values)
    stored = from_float32(values, dtype)
    return OutputTensor(f"{name}_scale", dtype, stored.shape, lambda: [as_bytes(stored)])


# --- codes --------------------------------------------------------------------------------------


def _check_digits(linear: Sequence[IndexedTensor]) -> None:
    if others := [t.name for t in linear if t.largest_digit > 1]:
        raise ExportError(
            f"codes of BitNet are -1, 0 and 1, and these have digits of magnitude 2: "
            f"{quoted(others)}: write them with --to float, --to int8 or --to gguf"
        )


def _check_rows(linear: Sequence[IndexedTensor], divide: bool) -> None:
    uneven = [t.name for t in linear if t.shape[0] % _ROWS_PER_BYTE]
    if divide and uneven:
        raise ExportError(
            f"bitlinear layers need a multiple of 4 rows, which these do not have: {quoted(uneven)}"
        )


def _packed(file: RsrFile, t: IndexedTensor) -> OutputTensor:
    """Return four codes per byte; where 4 does not divide the rows, transformers reads floats."""
    if t.shape[0] % _ROWS_PER_BYTE:
        values = from_float32(_values(file, t).astype(np.float32), "BF16")
        return OutputTensor(t.name, "BF16", t.shape, partial(value_pieces, file, t, values))
    shape = (t.shape[0] // _ROWS_PER_BYTE, t.shape[1])
    return OutputTensor(t.name, "U8", shape, partial(_packed_pieces, file, t))


def _values(file: RsrFile, t: IndexedTensor) -> npt.NDArray[np.int8]:
    """Return the value of each digit: 0 throughout if the scale is 0."""
    grid = read_scales(file, t)
    zero = grid is not None and not grid.values.any()
    return np.array([0] * len(t.digits) if zero else t.digits, np.int8)


def _packed_pieces(file: RsrFile, t: IndexedTensor) -> Iterator[ByteArray]:
    """Yield bytes of which bits 2i and 2i + 1 are value + 1 of quarter i of the rows."""
    shape = (t.shape[0] // _ROWS_PER_BYTE, t.shape[1])
    codes = (_values(file, t) + 1).astype(np.uint8)
    quarters = decode(file, t).digits.reshape(_ROWS_PER_BYTE, *shape)
    for rows in row_blocks(shape, PIECE):
        yield as_bytes(pack(codes[quarters[:, rows]]))
