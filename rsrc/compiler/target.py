"""What --target native means on this machine."""

from __future__ import annotations

# The target that suits each instruction set of the runtime.
_TARGETS = {
    "amx": "avx512",
    "avx512vnni": "avx512",
    "avx512": "avx512",
    "avx2": "avx2",
    "neon": "neon",
    "scalar": "generic",
}


def native_target() -> str:
    """Return the target that suits the kernels products run on here, RSR_ISA included.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    from rsr_runtime import cpu_info  # on demand: the only thing compiling asks the runtime

    return _TARGETS[cpu_info()["isa"]]
