"""What a model does where memory is scarce: a smaller context, and a word about it."""

from __future__ import annotations

import warnings

from rsr_formats.pages import available_memory
from rsr_formats.text import size

from ..model import Model
from .errors import ScarceMemoryWarning

_LEAST_CONTEXT = 256  # positions that a context has at least, unless the model's limit is lower
_LEAST_SHARE = 4  # a text gets a cache of 1 / (2 * this) of the memory if the file leaves less


def default_context(model: Model, most: int, position_bytes: int) -> int:
    """Return how many positions a context has if nobody says.

    A text takes at most half of the memory that the file leaves, as other texts and buffers need
    memory, too. A file that does not fit is read again and again, so it leaves a quarter.

    Args:
        model: its file is mapped, or in memory already.
        most: the context if there is enough memory.
        position_bytes: bytes of keys and values of a position.

    Returns:
        `most`, or half of it, a quarter and so on, so that a saved cache fits the next start, too.
    """
    available = available_memory()
    if available is None:
        return most
    left = available.nbytes - model.mapped_bytes()
    share = max(left, available.nbytes // _LEAST_SHARE) // 2
    context = most
    while context > _LEAST_CONTEXT and context * position_bytes > share:
        context //= 2
    if context < most:
        _warn(
            f"the context has {context:,} positions instead of {most:,}, whose keys and values may "
            f"take {size(most * position_bytes)}, because {available}: kv int8 takes half, and a "
            "context that is asked for is not reduced",
            stacklevel=6,
        )
    return context


def warn_if_file_exceeds_memory(model: Model) -> None:
    """Warn if not all of a mapped file can be in memory at once."""
    available, mapped = available_memory(), model.mapped_bytes()
    if available is not None and mapped > available.nbytes:
        _warn(
            f"the file has {size(mapped)}, but {available}: parts of it are read again for every "
            "token, which is slow; free memory, raise the limit, or take a smaller model",
            stacklevel=5,
        )


def _warn(message: str, stacklevel: int) -> None:
    """Warn; `stacklevel` leads to the caller of `load`."""
    warnings.warn(message, ScarceMemoryWarning, stacklevel=stacklevel)
