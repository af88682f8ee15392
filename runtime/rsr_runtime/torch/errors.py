"""Errors of the modules for PyTorch: all are `RsrError`s and also built-in errors."""

from rsr_formats.errors import RsrError


class DeviceError(RsrError, RuntimeError):
    """A module was to be moved to a device on which it cannot compute."""


class AccelerateError(RsrError, ValueError):
    """A file does not fit the model whose layers it should replace."""
