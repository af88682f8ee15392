"""Serve a language model to many at once: an OpenAI-compatible server, and its engine.

`Engine` needs the extra `llm` only, `serve` needs the extra `serve`.

Example:
    from rsr_runtime import llm
    from rsr_runtime.serve import Engine, Job
    model = llm.load("model.rsr")
    with Engine(model) as engine:
        streams = [engine.submit(Job(prompt)) for prompt in ("One", "Two")]
        events = [list(stream) for stream in streams]
"""

from ..llm.constraint import Constraint
from ..llm.engine import Engine, EngineStats, JobStream
from ..llm.job import (
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
from .run import serve

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
    "serve",
]
