"""One module per family of layouts: add a class, list it here, write its test."""

from .base import Layout, Restored, TernaryTensor
from .bitnet import BitNet, Int8BitNet, UnpackedBitNet
from .floats import Floats
from .gguf import Gguf
from .int8 import Int8
from .mlx import Mlx
from .paretoq import ParetoQ
from .quantize import QUANTIZERS, Quantizer
from .self_quantizing import OnlineMaster

# In the order in which they are asked.
LAYOUTS: tuple[Layout, ...] = (
    Gguf(),
    BitNet(),
    OnlineMaster(),  # before layouts of floats: a model quantizes what is ternary already, too
    ParetoQ(),
    UnpackedBitNet(),
    Int8BitNet(),
    Int8(),
    Mlx(),
    Floats(),
)

# What a .rsr file's source records can name: GGUF's block types are floats there, restored by the
# layout of that name.
BY_NAME: dict[str, Layout] = {
    layout.name: layout for layout in (*LAYOUTS, *(rule() for rule in QUANTIZERS.values()))
}

__all__ = ["BY_NAME", "LAYOUTS", "QUANTIZERS", "Layout", "Quantizer", "Restored", "TernaryTensor"]
