"""What the compiler refuses; every class is an `RsrError`."""

from rsr_formats.errors import RsrError


class SourceError(RsrError):
    """The source is missing, damaged, unsafe or of a kind the compiler does not read."""


class NothingToCompileError(RsrError):
    """No tensor of the source is ternary or binary."""


class OptionError(RsrError, ValueError):
    """An option has a value it cannot have, alone or with the others."""


class ExecutorError(RsrError):
    """The executor cannot be reached or used, or lost its workers."""


class MismatchError(RsrError):
    """A `.rsr` file does not hold the tensors of the source it is compared with."""


class ExportError(RsrError):
    """A form that `decompile` was asked for cannot hold what the `.rsr` file holds."""


class MissingPackageError(RsrError):
    """An optional package is not installed."""
