from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


def pack_w16(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, out: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

def pack_n4s1(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

@overload
def sort_blocks(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, permutation: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

@overload
def sort_blocks(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, permutation: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...
