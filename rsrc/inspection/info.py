"""What this installation runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import rsr_runtime
from rsr_formats.records import VERSION

from .._version import __version__
from ..compiler.target import TERNARY_PACKING, native_target

_PACKAGES = ("numpy", "msgpack", "zstandard", "safetensors", "click", "rich")


def info() -> dict[str, Any]:
    """Return the processor, what compiling for it chooses, and the versions of what matters.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    target = native_target()
    return {
        "cpu": rsr_runtime.cpu_info(),
        "target": target,
        "packing": TERNARY_PACKING[target],
        "format_version": f"{VERSION[0]}.{VERSION[1]}",
        "versions": {
            "rsr-ternary": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }
