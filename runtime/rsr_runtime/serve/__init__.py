"""Serve a language model to many at once."""

from ..llm.engine import Engine, EngineStats, JobStream
from ..llm.job import (
    Constraint,
    Event,
    Failed,
    Finished,
    Job,
    Logprob,
    PromptScored,
    Started,
    TextFinished,
    TokenAdded,
)

__all__ = [
    "Constraint",
    "Engine",
    "EngineStats",
    "Event",
    "Failed",
    "Finished",
    "Job",
    "JobStream",
    "Logprob",
    "PromptScored",
    "Started",
    "TextFinished",
    "TokenAdded",
]
