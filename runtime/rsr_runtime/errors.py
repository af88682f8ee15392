"""What a product or a loaded model can refuse; all are `RsrError`, most also a built-in error."""

from rsr_formats.errors import RsrError


class ClosedError(RsrError, ValueError):
    """The model was closed."""


class IsaError(RsrError, ValueError):
    """An instruction set is unknown or not supported by this processor."""


class InputTypeError(RsrError, TypeError):
    """An input has a data type that products do not take."""


class InputShapeError(RsrError, ValueError):
    """An input or output array does not have the shape that the matrix asks for."""


class OptionError(RsrError, ValueError):
    """An argument has a value that is not one of its choices."""
