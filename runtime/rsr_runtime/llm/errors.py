"""What running a language model can refuse; all are `RsrError`."""

from rsr_formats.errors import RsrError


class ModelError(RsrError, ValueError):
    """The file cannot be run as a language model."""


class PromptError(RsrError, ValueError):
    """A prompt that cannot be answered: it is empty, or longer than the context."""


class TemplateError(RsrError, ValueError):
    """A chat template failed, or did not end."""


class DependencyError(RsrError, ImportError):
    """A package of the extra `llm` is missing."""
