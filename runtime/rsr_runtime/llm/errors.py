"""What a language model can refuse; all are `RsrError`, and each also a built-in error."""

from rsr_formats.errors import RsrError


class ModelError(RsrError, ValueError):
    """A `.rsr` file cannot be run as a language model."""


class PromptError(RsrError, ValueError):
    """A prompt or conversation is not one that the model can take."""


class TemplateError(RsrError, ValueError):
    """A model's chat template is damaged, fails, or takes more time or memory than it may."""


class DependencyError(RsrError, ImportError):
    """A package that language models need is not installed."""

    def __init__(self, package: str, why: str) -> None:
        super().__init__(
            f"{why} needs the package {package}: pip install 'rsr-ternary[llm]'", name=package
        )
