"""The layouts in which checkpoints store ternary matrices, one module per family.

To add one, write a subclass of `Layout`, list it here, and write its test.
"""

from .base import Layout, Restored, TernaryTensor
from .bitnet import BitNet, Int8BitNet, UnpackedBitNet
from .floats import Floats
from .gguf import Gguf
from .int8 import Int8
from .mlx import Mlx, MlxBinary
from .paretoq import ParetoQ
from .quantize import QUANTIZERS, Quantizer
from .self_quantizing import SelfQuantizing

# Asked in this order; the first that recognizes a tensor decodes it.
LAYOUTS: tuple[Layout, ...] = (
    Gguf(),
    BitNet(),
    SelfQuantizing(),  # before the layouts of floats: its models quantize ternary floats, too
    ParetoQ(),
    UnpackedBitNet(),
    Int8BitNet(),
    Int8(),
    Mlx(),
    MlxBinary(),
    Floats(),
)

# Layouts by the name that a `.rsr` file records. GGUF blocks are recorded as "float", because they
# are restored as floats.
BY_NAME: dict[str, Layout] = {
    layout.name: layout for layout in (*LAYOUTS, *(rule() for rule in QUANTIZERS.values()))
}

__all__ = ["BY_NAME", "LAYOUTS", "QUANTIZERS", "Layout", "Quantizer", "Restored", "TernaryTensor"]
