"""Generate text from a `.rsr` file; needs the extra `llm` (tokenizers, jinja2).

Example:
    from rsr_runtime import llm
    model = llm.load("model.rsr")
    for piece in model.stream("Once upon a time", max_tokens=100):
        print(piece, end="", flush=True)
"""

from .adapters.errors import AdapterError
from .chat import Chat
from .embedding import EmbedJob
from .engine import Engine, EngineStats, JobStream
from .errors import (
    BusyError,
    CacheMemoryError,
    ContextFullError,
    DependencyError,
    ModelError,
    NoHeadError,
    NoPoolingError,
    PromptError,
    QueueFullError,
    ScarceMemoryWarning,
    TemplateError,
    TruncatedTextWarning,
)
from .generate import Generation, Stream
from .job import Job
from .likelihood import LogLikelihood
from .model import ChatPrompt, LanguageModel, load
from .perplexity import Perplexity
from .pooling import EmbeddingConfig, read_embedding_config
from .sampling import Sampling
from .support import Support, check
from .tensors import TensorFacts

__all__ = [
    "AdapterError",
    "BusyError",
    "CacheMemoryError",
    "Chat",
    "ChatPrompt",
    "ContextFullError",
    "DependencyError",
    "EmbedJob",
    "EmbeddingConfig",
    "Engine",
    "EngineStats",
    "Generation",
    "Job",
    "JobStream",
    "LanguageModel",
    "LogLikelihood",
    "ModelError",
    "NoHeadError",
    "NoPoolingError",
    "Perplexity",
    "PromptError",
    "QueueFullError",
    "Sampling",
    "ScarceMemoryWarning",
    "Stream",
    "Support",
    "TemplateError",
    "TensorFacts",
    "TruncatedTextWarning",
    "check",
    "load",
    "read_embedding_config",
]
