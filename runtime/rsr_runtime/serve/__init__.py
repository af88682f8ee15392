"""Serve a language model to many at once."""

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
    "Event",
    "Failed",
    "Finished",
    "Job",
    "Logprob",
    "PromptScored",
    "Started",
    "TextFinished",
    "TokenAdded",
]
