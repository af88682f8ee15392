"""The processors that products will run on, and how ranks are packed for them."""

from __future__ import annotations

# Target: how the ranks of a ternary matrix with k = 3 are packed for it. plan.py gives the reasons.
TERNARY_PACKING = {"generic": "w16", "avx2": "n4s1", "avx512": "w16", "neon": "n4s1"}
TARGETS = ("native", *TERNARY_PACKING)

# Instruction set of the runtime: the target that suits it.
TARGET_OF_ISA = {
    "amx": "avx512",
    "avx512vnni": "avx512",
    "avx512": "avx512",
    "avx2": "avx2",
    "neon_i8mm": "neon",
    "neon_dotprod": "neon",
    "neon": "neon",
    "scalar": "generic",
}


def native_target() -> str:
    """Return the target that suits the kernels of this machine, RSR_ISA considered.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    from rsr_runtime import cpu_info  # lazily: importing the compiler loads no kernels

    return TARGET_OF_ISA[cpu_info()["isa"]]
