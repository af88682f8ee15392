"""One module per family of layouts: add a class, list it here, write its test."""

from .absmean import AbsMean
from .base import Layout, Restored, TernaryTensor
from .bitnet import BitNet, UnpackedBitNet
from .floats import Floats
from .gguf import Gguf
from .int8 import Int8

# In the order in which they are asked.
LAYOUTS: tuple[Layout, ...] = (Gguf(), BitNet(), UnpackedBitNet(), Int8(), Floats())

# What a .rsr file's source records can name: GGUF's block types are floats there, restored by the
# layout of that name. Which tensors absmean took is settled by then.
BY_NAME: dict[str, Layout] = {layout.name: layout for layout in (*LAYOUTS, AbsMean(chosen=True))}

__all__ = ["BY_NAME", "LAYOUTS", "AbsMean", "Layout", "Restored", "TernaryTensor"]
