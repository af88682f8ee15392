"""What --target native means on this machine."""

from __future__ import annotations

# Instruction sets of the runtime that are targets of the compiler. One that is not here is an
# extension of one that the processor has too.
_TARGETS = {"avx512": "avx512", "avx2": "avx2", "neon": "neon", "scalar": "generic"}


def native_target() -> str:
    """Return the target that suits the kernels products run on here, RSR_ISA included.

    Raises:
        IsaError: RSR_ISA names an unknown or unsupported instruction set.
    """
    from rsr_runtime import cpu_info  # on demand: the only thing compiling asks the runtime

    cpu = cpu_info()
    best_first = cpu["supported_isas"]
    usable = best_first[best_first.index(cpu["isa"]) :]
    return next(_TARGETS[isa] for isa in usable if isa in _TARGETS)
