"""An adapter: its tensors, compared with the linear layers of a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsr_formats.architectures import DecoderNames
from rsr_formats.model_files import check_size
from rsr_formats.text import quoted, shown

from ...errors import OptionError
from ..linear import Linear, LowRank
from ..weights import Weights
from .errors import AdapterError
from .settings import CONFIG, MAX_CONFIG, LoraSettings, read_settings

TENSORS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

_EXPECTED = f"a LoRA adapter of PEFT, a directory with {CONFIG} and {TENSORS}"

_WRAPPER = "base_model.model."  # PEFT's, before the names of the model's modules
_HALVES = (".lora_A.weight", ".lora_B.weight")
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_BF16_INFINITE = 0x7F80  # the bits of the exponent, all set
_TILE = 16  # rows of B side by side
_LINE = 64  # bytes of a cache line
_MAX_NAMED = 3  # modules that a message names


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an adapter adds to the linear layers of a model.

    Attributes:
        name: by which requests choose it.
        path: its directory.
        products: by the names of linear layers, as `Linear.name` has them.
    """

    name: str
    path: Path
    products: Mapping[str, LowRank]

    @cached_property
    def digest(self) -> bytes:
        """A hash of all that it adds."""
        found = hashlib.sha256()
        for module, product in sorted(self.products.items()):
            found.update(f"{module} {product.scale!r}".encode())
            for half in (product.a, product.b):
                found.update(f" {half.dtype} {half.shape} ".encode())
                found.update(half.data)
        return found.digest()


class _Half(NamedTuple):
    """A tensor of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]


def named_paths(adapters: object) -> dict[str, Path]:
    """Return the directories of adapters by name.

    Args:
        adapters: paths, whose last parts are the names; or a map of names to paths.

    Raises:
        OptionError: it is neither, two have one name, or a name cannot be one.
    """
    if isinstance(adapters, (str, bytes)) or not isinstance(adapters, Iterable):
        raise OptionError(
            f'adapters: found {shown(adapters)}, expected a list of directories: adapters=["DIR"]'
        )
    pairs = adapters.items() if isinstance(adapters, Mapping) else [(None, p) for p in adapters]
    found: dict[str, Path] = {}
    for given, directory in pairs:
        if not isinstance(directory, (str, os.PathLike)) or directory == "":
            raise OptionError(f"adapters: found {shown(directory)}, expected a directory")
        path = Path(directory)
        name = name_of(path) if given is None else given
        if not isinstance(name, str) or not name or not name.isprintable():
            raise OptionError(f"adapters: found the name {shown(name)}, expected a printable text")
        if name in found:
            raise OptionError(
                f"adapters: {found[name]} and {path} are both named {name!r}: give them different "
                'names: adapters={"one": "DIR", "two": "DIR"} (rsrc: --lora NAME=DIR)'
            )
        found[name] = path
    return found


def name_of(path: Path) -> str:
    """Return the name of an adapter that is given none: that of its directory, or of a link to it.

    Links are not followed: checkpoints of different trainings often have the same name.
    """
    return path.name if path.name not in ("", "..") else path.resolve().name


def attached(weights: Weights, paths: Mapping[str, Path]) -> tuple[Weights, list[Adapter]]:
    """Read adapters, and return the weights of a model with them.

    Args:
        weights: of the model.
        paths: directories by name.

    Raises:
        AdapterError: an adapter is damaged, of a kind that is not supported, or made for another
            model.
        OSError: a file cannot be read.
    """
    adapters = [_read(name, path, weights) for name, path in paths.items()]
    if not adapters:
        return weights, adapters

    def change(layer: Linear) -> Linear:
        found = {a.name: a.products[layer.name] for a in adapters if layer.name in a.products}
        return replace(layer, adapters=found) if found else layer

    layers = tuple(layer.changed(change) for layer in weights.layers)
    return replace(weights, layers=layers), adapters


def _read(name: str, path: Path, weights: Weights) -> Adapter:
    config, file = path / CONFIG, path / TENSORS
    if not path.exists():
        raise AdapterError(f"{path}: no such directory, expected {_EXPECTED}")
    if not path.is_dir():
        fix = f": pass {path.parent}" if path.name in (CONFIG, TENSORS) else ""
        raise AdapterError(f"{path}: found a file, expected {_EXPECTED}{fix}")
    for part in (config, file):
        if not part.is_file():
            more = ""
            if (path / _PICKLE).is_file():
                more = (
                    f"; {_PICKLE} can run code when it is read: load it with PEFT, and save it "
                    "with save_pretrained, which writes safetensors"
                )
            raise AdapterError(f"{path}: found no {part.name}, expected {_EXPECTED}{more}")
    check_size(config.stat().st_size, str(config), MAX_CONFIG, AdapterError)
    settings = read_settings(str(config), config.read_bytes())
    matched = _Matcher(file, settings, weights).matched(_header(file))
    return Adapter(name, path, _in_one_block(dict(_products(file, settings, matched))))


def _header(file: Path) -> dict[str, _Half]:
    """Return the tensors of a safetensors file by name, without their values."""
    from safetensors import SafetensorError, safe_open  # not with the package, which stays light

    try:
        with safe_open(file, "numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            return {
                key: _Half(key, str(one.get_dtype()), tuple(one.get_shape()))
                for key, one in slices.items()
            }
    except SafetensorError as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: object) -> AdapterError:
    return AdapterError(f"{file}: not a valid safetensors file: {error}: download it again")


class _Matched(NamedTuple):
    """The tensors of a module."""

    layer: Linear
    module: str  # its name in the model that was trained
    a: _Half
    b: _Half


class _Matcher:
    """Compares the tensors of an adapter with a model; each problem is an AdapterError."""

    def __init__(self, file: Path, settings: LoraSettings, weights: Weights) -> None:
        self._file, self._settings = file, settings
        own = [one for one in weights.linear if one is not weights.lm_head]
        names = DecoderNames.find(f"{one.name}.weight" for one in own)
        self._layers = {names.usual(one.name): one for one in own}

    def matched(self, tensors: Mapping[str, _Half]) -> list[_Matched]:
        halves = self._halves(tensors)
        names = DecoderNames.find(f"{module}.weight" for module in halves)
        usual = {names.usual(module): module for module in halves}
        other = [module for name, module in usual.items() if name not in self._layers]
        if other:
            raise self._error(
                f"the model has no linear layer {quoted(other, _MAX_NAMED)}: {self._advice(other)}"
            )
        if self._settings.targets is not None:
            missing = [name for name in self._expected() if name not in usual]
            if missing:
                raise self._error(
                    f"found no tensors for {quoted(missing, _MAX_NAMED)}, which target_modules of "
                    f"{CONFIG} names: the adapter was made for another model, or is incomplete"
                )
        return [  # in the order of a pass
            self._checked(layer, usual[name], *halves[usual[name]])
            for name, layer in self._layers.items()
            if name in usual
        ]

    def _halves(self, tensors: Mapping[str, _Half]) -> dict[str, tuple[_Half, _Half]]:
        """Return A and B by module."""
        found: dict[str, dict[str, _Half]] = {}
        for key, tensor in tensors.items():
            half = next((half for half in _HALVES if key.endswith(half)), None)
            if half is None:
                raise self._error(
                    f"found the tensor {quoted([key])}, expected names that end with "
                    f"{' or '.join(_HALVES)}: only the two matrices of LoRA are supported, no "
                    "embeddings, biases, magnitudes of DoRA or whole modules; train without them"
                )
            module = key.removesuffix(half).removeprefix(_WRAPPER)
            if half in found.setdefault(module, {}):
                raise self._error(f"two tensors are {half[1:]} of {quoted([module])}")
            found[module][half] = tensor
        if not found:
            raise self._error("found no tensors")
        for halves in found.values():
            if len(halves) < len(_HALVES):
                (only,) = halves.values()
                raise self._error(
                    f"found {quoted([only.key])} without its other half: the file is incomplete"
                )
        return {
            module: (halves[_HALVES[0]], halves[_HALVES[1]]) for module, halves in found.items()
        }

    def _expected(self) -> Iterator[str]:
        """Yield the layers that the settings name."""
        for name, layer in self._layers.items():
            # PEFT finds no experts: their weights are parameters of one module.
            if layer.share == 1 and self._settings.is_target(name):
                yield name

    def _advice(self, modules: Sequence[str]) -> str:
        if any(module.split(".")[-1] == "lm_head" for module in modules):
            return "adapters of the output head are not supported: train without lm_head"
        return "the adapter was made for another model"

    def _checked(self, layer: Linear, module: str, a: _Half, b: _Half) -> _Matched:
        if layer.share != 1:
            raise self._error(
                f"{module} is an expert of a mixture: adapters of experts are not supported; train "
                "one of attention alone"
            )
        for half in (a, b):
            if half.dtype not in _DTYPES:
                raise self._error(
                    f"{half.key} is {half.dtype}, expected one of {', '.join(_DTYPES)}"
                )
            if len(half.shape) != 2:
                raise self._error(f"{half.key} has the shape {_in_words(half)}, expected a matrix")
        rank, expected = a.shape[0], self._settings.rank_of(module)
        if rank != expected or b.shape[1] != rank:
            raise self._error(
                f"lora_A of {module} is {_in_words(a)} and lora_B is {_in_words(b)}, expected the "
                f"rank {expected} of {CONFIG} as rows of the first and columns of the second"
            )
        rows, columns = layer.weight.shape
        if a.shape[1] != columns or b.shape[0] != rows:
            raise self._error(
                f"{module} takes {a.shape[1]:,} inputs to {b.shape[0]:,} outputs, the layer of the "
                f"model {columns:,} to {rows:,}: the adapter was made for another model"
            )
        return _Matched(layer, module, a, b)

    def _error(self, what: str) -> AdapterError:
        return AdapterError(f"{self._file}: {what}")


def _in_words(half: _Half) -> str:
    return "x".join(f"{n:,}" for n in half.shape) or "a scalar"


def _products(
    file: Path, settings: LoraSettings, matched: Sequence[_Matched]
) -> Iterator[tuple[str, LowRank]]:
    """Read the tensors, which were checked, and yield the products of layers."""
    from safetensors import SafetensorError, deserialize

    try:
        found: dict[str, Any] = dict(deserialize(file.read_bytes()))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _damaged(file, error) from None

    def values(half: _Half) -> npt.NDArray[Any]:
        spec = found.get(half.key)
        if spec is None or (spec["dtype"], tuple(spec["shape"])) != (half.dtype, half.shape):
            raise AdapterError(f"{file}: it changed while it was read: try again")
        stored = np.frombuffer(spec["data"], _DTYPES[half.dtype]).reshape(half.shape)
        if half.dtype == "BF16":
            is_finite = (stored & _BF16_INFINITE) != _BF16_INFINITE
        else:
            is_finite = np.isfinite(stored)
        if not is_finite.all():
            raise AdapterError(f"{file}: {half.key} has values that are NaN or infinite")
        return stored

    for one in matched:
        scale = settings.scale_of(one.module, one.a.shape[0])
        if abs(scale) > float(np.finfo(np.float32).max):
            raise AdapterError(f"{file}: the scale {scale:g} of {one.module} exceeds float32")
        yield one.layer.name, LowRank(values(one.a), tiled(values(one.b)), scale)


def _in_one_block(products: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """Return copies of the arrays, one after the other in a block, each from a cache line on.

    Large blocks lie in huge pages, where the system has any. A pass reads one from begin to end.
    """

    def lines(array: npt.NDArray[Any]) -> int:
        return -(-array.nbytes // _LINE)

    total = sum(lines(product.a) + lines(product.b) for product in products.values())
    block = np.empty((total + 1) * _LINE, np.uint8)
    block = block[-block.ctypes.data % _LINE :]

    def moved(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        nonlocal block
        copy = block[: array.nbytes].view(array.dtype).reshape(array.shape)
        copy[:] = array
        block = block[lines(array) * _LINE :]
        return copy

    return {
        name: LowRank(moved(product.a), moved(product.b), product.scale)
        for name, product in products.items()
    }


def tiled(b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return B (rows, rank) as the native module takes it.

    Returns:
        (rows / 16 rounded up, rank, 16) of its dtype: tiles of 16 rows, the last padded with zeros.
    """
    rows, rank = b.shape
    padded = np.zeros((-(-rows // _TILE) * _TILE, rank), b.dtype)
    padded[:rows] = b
    return np.ascontiguousarray(padded.reshape(-1, _TILE, rank).transpose(0, 2, 1))
