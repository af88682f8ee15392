"""What a model does where memory is scarce: it reduces its context, and warns."""

from __future__ import annotations

import warnings

from rsr_formats.pages import available_memory
from rsr_formats.text import size

from .errors import ScarceMemoryWarning

_LEAST_CONTEXT = 256  # positions that a context has at least, unless the model's limit is lower
_LEAST_SHARE = 4  # a text gets 1 / (2 * this) of the memory if the weights leave less


def default_context(most: int, position_bytes: int, mapped: int, kv: str) -> int:
    """Return the default context, in positions.

    A text takes at most half of the memory that the weights leave, as other texts and buffers need
    memory, too. Weights that do not fit are read again and again, so they leave a quarter.

    Args:
        most: the context if there is enough memory.
        position_bytes: bytes of keys and values of a position.
        mapped: bytes of the weights of a mapped file, 0 if they are in memory already.
        kv: data type of keys and values.

    Returns:
        `most`, or half of it, a quarter and so on down to 256, so that a saved cache fits the next
        start, too.
    """
    available = available_memory()
    if available is None:
        return most
    left = available.nbytes - mapped
    share = max(left, available.nbytes // _LEAST_SHARE) // 2
    context = most
    while context > _LEAST_CONTEXT and context * position_bytes > share:
        context = max(context // 2, _LEAST_CONTEXT)
    if context < most:
        advice = "" if kv == "int8" else "kv int8 takes half, and "
        _warn(
            f"the context has {context:,} positions instead of {most:,}, whose keys and values may "
            f"take {size(most * position_bytes)}, because {available}: {advice}a "
            "context that is asked for is not reduced",
            stacklevel=6,
        )
    return context


def warn_if_mapped_exceed_memory(mapped: int) -> None:
    """Warn if so many bytes of a file, which texts read, cannot be in memory at once."""
    available = available_memory()
    if available is not None and mapped > available.nbytes:
        _warn(
            f"the weights have {size(mapped)}, but {available}: parts of them are read from the "
            "file again for every token, which is slow; free memory, raise the limit, or take a "
            "smaller model",
            stacklevel=5,
        )


def _warn(message: str, stacklevel: int) -> None:
    """Warn; `stacklevel` leads to the caller of `load`."""
    warnings.warn(message, ScarceMemoryWarning, stacklevel=stacklevel)
