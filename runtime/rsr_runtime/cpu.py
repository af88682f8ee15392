"""The instruction set and the number of threads of products."""

from __future__ import annotations

import os
import platform
from typing import Any

from rsr_formats.processors import processor_quota, usable_processors

from . import _native
from .errors import IsaError, OptionError

_ISA_VARIABLE = "RSR_ISA"
_chosen = False
_threads_chosen = False
_MOST_THREADS = 1024

# Threads beyond the quota of a control group would use up the time of a period early, and all would
# stand still until the next one.
_quota = processor_quota()
if _quota is not None:
    _native.set_num_threads(min(usable_processors(), _MOST_THREADS))


def ensure_isa() -> None:
    """On the first call, choose the kernels that RSR_ISA names, or the best for this processor.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    global _chosen
    if not _chosen:
        name = os.environ.get(_ISA_VARIABLE)
        if name:
            use_isa(name, f"{_ISA_VARIABLE}: ")
        _chosen = True


def use_isa(name: str, where: str = "") -> None:
    """Use the kernels of an instruction set from now on, in the whole process.

    Args:
        name: one of `cpu_info()["supported_isas"]`.
        where: prefix of an error message.

    Raises:
        IsaError: the instruction set is unknown, or this processor does not support it.
    """
    global _chosen
    try:
        _native.use_isa(name)
    except ValueError as error:
        raise IsaError(f"{where}{error}") from None
    except TypeError:
        raise IsaError(f"found {name!r}, expected the name of an instruction set") from None
    _chosen = True


def set_num_threads(n: int) -> None:
    """Set how many threads a product may use, 1 to 1024, including the calling thread.

    The default is the number of processors available to this process, by its affinity and the
    quotas of its control groups. Results do not depend on it.

    Raises:
        OptionError: `n` is out of range.
    """
    global _threads_chosen
    try:
        _native.set_num_threads(n)
    except (ValueError, TypeError):
        raise OptionError(f"set_num_threads: found {n!r}, expected an integer, 1 to 1024") from None
    _threads_chosen = True


def suggest_num_threads(n: int) -> None:
    """Let products use up to n threads, within the quota, unless `set_num_threads` was called."""
    if not _threads_chosen:
        _native.set_num_threads(min(n, _quota or _MOST_THREADS, _MOST_THREADS))


def get_num_threads() -> int:
    """Return how many threads a product may use."""
    return _native.num_threads()


def cpu_info() -> dict[str, Any]:
    """Describe the machine that products run on.

    Returns:
        "machine": architecture; "processor": name, "" if unknown; "isa": instruction set in use;
        "supported_isas" and "compiled_isas": lists, widest first; "threads": as `get_num_threads`
        returns; "processors": logical processors of the machine.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    ensure_isa()
    return {
        "machine": platform.machine(),
        "processor": _processor_name(),
        "isa": _native.isa(),
        "supported_isas": _native.supported_isas(),
        "compiled_isas": _native.compiled_isas(),
        "threads": _native.num_threads(),
        "processors": os.cpu_count() or 1,
    }


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
