"""Describe this installation and the processor it runs on."""

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
    """Describe the processor and the installed versions.

    Returns:
        "cpu", as from `rsr_runtime.cpu_info`; "target" and "packing", the defaults for compiling
        ternary tensors here; "format_version"; and "versions" by package name.

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
