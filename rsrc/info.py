"""What this installation runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import rsr_runtime
from rsr_formats.layout import VERSION

from ._version import __version__

_PACKAGES = ("numpy", "msgpack", "zstandard", "safetensors", "click", "rich")


def info() -> dict[str, Any]:
    """Return the processor, the kernels in use and the versions of everything that matters.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    return {
        "cpu": rsr_runtime.cpu_info(),
        "format_version": f"{VERSION[0]}.{VERSION[1]}",
        "versions": {
            "rsr-ternary": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }
