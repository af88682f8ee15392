"""The compiler's errors; every class is an `RsrError`. How an error reads on the command line."""

from rsr_formats.errors import RsrError


class SourceError(RsrError):
    """The source is missing, damaged, unsafe or not supported."""


class NothingToCompileError(RsrError):
    """No tensor of the source is ternary or binary."""


class OptionError(RsrError, ValueError):
    """An option has an invalid value, alone or combined with others."""


class ExecutorError(RsrError):
    """The executor cannot be reached or used, or lost its workers."""


class MismatchError(RsrError):
    """A `.rsr` file does not hold the tensors of the source it is compared with."""


class DeltaError(RsrError):
    """A `.rsrd` file is damaged: it breaks a rule of formats/SPEC.md section 14."""


class WrongBaseError(RsrError):
    """A `.rsrd` file was made for another `.rsr` file."""


class ExportError(RsrError):
    """The form that `decompile` writes cannot represent what the `.rsr` file holds."""


class MissingPackageError(RsrError):
    """An optional package is not installed."""


def reason(error: Exception) -> str:
    """Return the message of an error in one sentence, which names the file of an OSError."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        if isinstance(error, IsADirectoryError):
            return f"{where}a directory, expected a file"
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__
