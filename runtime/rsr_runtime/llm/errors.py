"""Errors of language models: all are `RsrError`s and also built-in errors."""

from rsr_formats.errors import RsrError


class ModelError(RsrError, ValueError):
    """A `.rsr` file cannot be run as a language model."""


class PromptError(RsrError, ValueError):
    """A prompt or conversation does not fit the model."""


class TemplateError(RsrError, ValueError):
    """A model's chat template is damaged, fails, or exceeds its limits of time or memory."""


class BusyError(RsrError, RuntimeError):
    """A signal handler or a callback wants what its own thread is using at that moment."""


class DependencyError(RsrError, ImportError):
    """A package of the extra `llm` is not installed."""

    def __init__(self, package: str, why: str) -> None:
        super().__init__(
            f"{why} needs the package {package}: pip install 'rsr-ternary[llm]'", name=package
        )
