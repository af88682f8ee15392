"""Check the arrays that callers pass; an error says which expression converts the argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputTypeError

Array = npt.NDArray[Any]

_NUMBERS = "biufO"  # dtype kinds that astype(np.float32) converts, besides extension types


def plain_array(name: str, x: object, dtypes: Sequence[type[np.generic]]) -> Array:
    """Return `x` as a plain NumPy array, without copying it, if it has one of `dtypes`.

    Args:
        name: the expression that stands for x in an error.
        x: the argument.
        dtypes: float32, int8 or both, the preferred one first.

    Raises:
        InputTypeError: x is not an array of these dtypes. Values are never converted silently.
    """
    if type(x) is np.ndarray and x.dtype in dtypes:
        return x
    if isinstance(x, np.ndarray) and x.dtype in dtypes and not isinstance(x, np.ma.MaskedArray):
        return np.asarray(x)  # a plain view of np.memmap, np.matrix, ...
    expected = " or ".join(dtype.__name__ for dtype in dtypes)
    if isinstance(x, np.ndarray):
        found, fix = _of_array(name, x, dtypes)
        message = f"{name} has {found}, expected {expected}"
    else:
        found, fix = _of_object(name, x, dtypes)
        message = f"{name} is {found}, expected a NumPy array of {expected}"
    raise InputTypeError(f"{message}: pass {fix}" if fix else message)


def kind_of(value: object) -> str:
    """Return "a dict", "an int", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _of_array(name: str, x: Array, dtypes: Sequence[type[np.generic]]) -> tuple[str, str]:
    """Describe an array that is refused, and the expression to pass instead ("" if none)."""
    if isinstance(x, np.ma.MaskedArray):
        return "a mask", f"{name}.filled(0)"
    dtype = x.dtype
    found = f"dtype {dtype!s:.60}"
    if dtype.kind == "c":
        return found, f"{name}.real and {name}.imag as float32, one after the other"
    # Kind "V" of ml_dtypes (bfloat16) has a scalar type of its own; structures and bytes do not.
    is_extension = dtype.kind == "V" and dtype.type is not np.void
    if dtypes[0] is not np.float32 or not (dtype.kind in _NUMBERS or is_extension):
        return found, ""
    return found, f"{name}.astype(np.{_first(dtypes)})"


def _of_object(name: str, x: object, dtypes: Sequence[type[np.generic]]) -> tuple[str, str]:
    """Describe an object that is not an array, and the expression to pass instead ("" if none)."""
    package = type(x).__module__.partition(".")[0]
    if package == "torch" and hasattr(x, "requires_grad"):
        return f"a torch.Tensor of {_torch_dtype(x)}", _from_torch(name, x, dtypes)
    if package in ("jax", "jaxlib"):
        return "a JAX array", f"np.asarray({name}, np.{_first(dtypes)})"
    if package == "cupy":
        return "a CuPy array", f"{name}.get()"
    found = kind_of(x)
    if package == "rsr_runtime":
        if hasattr(x, "to_dense"):
            return found, f"{name}.to_dense()"
        return (found, f"{name}.to_float32()") if hasattr(x, "to_float32") else (found, "")
    if hasattr(x, "toarray"):  # a sparse matrix of SciPy
        return found, f"{name}.toarray().astype(np.{_first(dtypes)})"
    is_numeric = isinstance(x, (list, tuple)) or hasattr(x, "__array__")
    return found, f"np.asarray({name}, np.{_first(dtypes)})" if is_numeric else ""


def _torch_dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def _from_torch(name: str, x: Any, dtypes: Sequence[type[np.generic]]) -> str:
    steps = [name]
    if x.requires_grad:
        steps.append("detach()")
    if x.device.type != "cpu":
        steps.append("cpu()")
    if _torch_dtype(x) not in [dtype.__name__ for dtype in dtypes]:
        steps.append("float()" if dtypes[0] is np.float32 else f"to(torch.{_first(dtypes)})")
    return ".".join([*steps, "numpy()"])


def _first(dtypes: Sequence[type[np.generic]]) -> str:
    return dtypes[0].__name__
