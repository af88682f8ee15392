"""Errors of products and loaded models: all are `RsrError`s and also built-in errors."""

from rsr_formats.errors import RsrError


class ClosedError(RsrError, ValueError):
    """The model was closed."""


class IsaError(RsrError, ValueError):
    """The instruction set is unknown, or this processor does not support it."""


class InputTypeError(RsrError, TypeError):
    """The dtype of an input or output array is not supported."""


class InputShapeError(RsrError, ValueError):
    """The shape of an input or output array does not fit the matrix."""


class OptionError(RsrError, ValueError):
    """The value of an argument is not allowed."""
