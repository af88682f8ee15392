"""Errors of evaluations."""

from rsr_formats.errors import RsrError


class TaskError(RsrError, ValueError):
    """A task is unknown, its data cannot be had, or it asks for what is not supported."""
