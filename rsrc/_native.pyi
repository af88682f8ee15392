from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


def pack_w16(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, out: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu')], listed: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None) -> None:
    """
    Encode packing w16 of encoding `ranked`: three ranks of 5 bits per word.

    Args:
        digits: (rows, columns) of digits below `base`, any strides.
        base: 2 to 5.
        k: columns of a column block; base^k is at most 32, or 243 if patterns are listed.
        pad: the digit of padding rows and columns.
        out: (ceil(blocks / 3) * rows padded to a multiple of 32,), receives the words.
        listed: (n, k), n <= 32, the digits of the patterns that have a rank; None: all have one.

    Raises:
        ValueError: a digit is not below the base, a pattern is not listed, or a size does not fit.
    """

def mark_patterns(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, stride: int, seen: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Set seen[p] to 1 for each pattern p that occurs: k digits, read as a number in base B.

    Args:
        digits: (rows, columns) of digits below `base`, any strides.
        base: 2 to 5.
        k: columns of a column block; base^k is at most 243.
        stride: from one column of a block to its next; `columns` is a multiple of k * stride.
        seen: (256,).

    Raises:
        ValueError: a digit is not below the base, or a size does not fit.
    """

def pack_n4s1(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], group_blocks: int = 0) -> None:
    """
    Encode packing n4s1 of encoding `ranked`: base 3, k = 3, padding digit 1.

    Args:
        digits: (rows, columns) of digits 0, 1, 2, any strides. Each group of columns is padded to whole
            column blocks.
        out: (bytes of a row * rows padded to a multiple of 32,), receives the bytes. Without groups, a
            row has 5 * ceil(columns / 24) bytes.
        group_blocks: column blocks of a group, which has units of its own; 0: there are no groups.

    Raises:
        ValueError: a digit is above 2, or `out` has another length.
    """

@overload
def sort_blocks(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, permutation: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

@overload
def sort_blocks(digits: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), device='cpu', writable=False)], base: int, k: int, pad: int, permutation: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    Sort the rows of each column block by their patterns, stably (encoding `permuted`).

    Args:
        digits: (rows, columns) of digits below `base`, any strides.
        base: 2 to 5.
        k: columns of a column block; base^k is at most 65536.
        pad: the digit of the columns that the last block lacks.
        permutation: (blocks, rows), receives the rows in the order of their patterns.
        segments: (blocks, base^k + 1), receives the segment lists.

    Raises:
        ValueError: a digit is not below the base, a shape does not fit, or there are more rows than
            the index type can number.
    """

@overload
def scan(bits: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), device='cpu', writable=False)], largest: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu')]) -> tuple[int, bool, bool, bool, bool]: ...

@overload
def scan(bits: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), device='cpu', writable=False)], largest: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu')]) -> tuple[int, bool, bool, bool, bool]:
    """
    Find what occurs in a float matrix whose rows should have one nonzero magnitude each.

    Args:
        bits: bit patterns, (rows, columns), rows contiguous; uint16 for F16 and BF16, uint32 for F32.
        largest: (rows,), receives the bits of the largest magnitude of each row up to row `mixed`.

    Returns:
        (mixed, negative, zero, positive, negative_zero): the first row with several nonzero
        magnitudes, or the number of rows if there is none; and which signs occur in the rows before
        it, where `zero` is +0.0 or -0.0.

    Raises:
        ValueError: rows are not contiguous, or `largest` has another length.
    """

@overload
def sign_digits(bits: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), device='cpu', writable=False)], base: int, lowest: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

@overload
def sign_digits(bits: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), device='cpu', writable=False)], base: int, lowest: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    Compute the digits of floats -s, 0, s from sign and zero alone.

    Args:
        bits: bit patterns, (rows, columns), rows contiguous; uint16 for F16 and BF16, uint32 for F32.
        base: 3 for the alphabet {-s, 0, s}, 2 for {-s, s} or {0, s}.
        lowest: -1 or 0, the first digit's sign.
        out: (rows, columns), receives the digits.

    Raises:
        ValueError: rows are not contiguous, or `out` has another shape.
    """

@overload
def negative_zeros(bits: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> int: ...

@overload
def negative_zeros(bits: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> int:
    """
    Write one bit per zero, set for -0.0, the first into bit 0 of byte 0.

    Args:
        bits: bit patterns, (count,); uint16 for F16 and BF16, uint32 for F32.
        out: (count // 8 + 8,); the bytes after those of the last zero are undefined.

    Returns:
        The number of zeros.

    Raises:
        ValueError: `out` has another length.
    """

@overload
def sum_of_magnitudes(values: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> float: ...

@overload
def sum_of_magnitudes(values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> float:
    """
    Return the sum of |values|, accumulated in float64.

    Args:
        values: (count,), float32, or BF16 as uint16 bits.
    """

@overload
def rounded_digits(values: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), device='cpu', writable=False)], s: float, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

@overload
def rounded_digits(values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], s: float, out: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    Compute clip(round_half_even(values * s), -1, 1) + 1 in float32.

    Args:
        values: (rows, columns), rows contiguous; float32, or BF16 as uint16 bits.
        s: multiplier, float32.
        out: (rows, columns), receives the digits.

    Raises:
        ValueError: rows are not contiguous, or `out` has another shape.
    """

def join(values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], height: int, width: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> bool:
    """
    Join each cell of height x width entries into its one nonzero value, 0 if there is none.

    Args:
        values: (rows, columns), rows contiguous.
        height: rows of a cell; the last cell may have fewer.
        width: columns of a cell; the last cell may have fewer.
        out: (ceil(rows / height), ceil(columns / width)), zeros on entry.

    Returns:
        False if a cell holds two different nonzero values; `out` is then undefined.

    Raises:
        ValueError: rows are not contiguous, a size is 0, or `out` has another shape.
    """
