"""Errors of products and loaded models: all are `RsrError`s and also built-in errors."""

from rsr_formats.errors import RsrError


class ClosedError(RsrError, ValueError):
    """The model was closed."""


class ReplacedError(RsrError):
    """The file of a pickled model or matrix has other contents now."""


class IsaError(RsrError, ValueError):
    """The instruction set is unknown, or this processor does not support it."""


class InputTypeError(RsrError, TypeError):
    """The dtype of an input or output array is not supported."""


class InputShapeError(RsrError, ValueError):
    """The shape of an input or output array does not fit the matrix."""


class OutOfRangeError(RsrError, IndexError):
    """A matrix has no row, column or column block of the given number."""


class UnknownNameError(RsrError, KeyError):
    """A model has no tensor, or no file, of the given name."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument
        return str(self.args[0])


class OptionError(RsrError, ValueError):
    """The value of an argument is not allowed."""
