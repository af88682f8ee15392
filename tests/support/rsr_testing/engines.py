"""What engines give for prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsr_runtime.llm import Engine, Job, LanguageModel
from rsr_runtime.llm.job import Started, TextFinished


def run(model: LanguageModel, folder: Path | None, *prompts: list[int]) -> list[Any]:
    """Return the cached tokens and the generated ones of each prompt, of a new engine."""
    found: list[Any] = []
    with Engine(model, parallel=2, cache_dir=folder) as engine:
        for prompt in prompts:
            for event in engine.submit(Job(prompt, max_tokens=6)):
                if isinstance(event, Started):
                    found.append(event.cached_tokens)
                if isinstance(event, TextFinished):
                    found.append(event.generation.tokens)
    return found
