"""Run tasks of lm-evaluation-harness."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lm_eval
from lm_eval import evaluator

from rsr_formats.errors import RsrError
from rsr_formats.text import printable

from ..llm import LanguageModel
from . import tasks as all_tasks
from .errors import TaskError
from .lm import Progress, RsrLM, ignore


def evaluate(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    include_path: str | os.PathLike[str] | None = None,
    apply_chat_template: bool = False,
    adapter: str | Sequence[str] | None = None,
    progress: Progress = ignore,
) -> dict[str, Any]:
    """Return the results of tasks, as `lm_eval.simple_evaluate` does.

    Args:
        model: a loaded model with an output head and a tokenizer.
        tasks: names of tasks, groups or tags of lm-evaluation-harness, patterns of names, or paths
            of YAML files.
        num_fewshot: examples before each question; None: as each task says.
        limit: the first documents of each task only; None: all.
        include_path: a folder with YAML files of further tasks.
        apply_chat_template: put requests into the model's chat template; examples become earlier
            turns of the conversation.
        adapter: as for `LanguageModel.stream`.
        progress: called with what is done, how much of it, and how much there is.

    Returns:
        lm-eval's results: "results" by task and metric, "groups", "versions", "n-shot", "config",
        ...; besides, "truncated": number of requests that lost tokens at their beginning, because
        they were longer than the context.

    Raises:
        TaskError: a task is unknown, its data cannot be had, or it cannot be run.
        NoHeadError, ModelError: the model generates no text, or has no tokenizer, or no chat
            template although it is to be applied.
        OptionError: the model lacks an adapter.
    """
    judged = RsrLM(model, progress, adapter)
    if apply_chat_template:
        model.template  # noqa: B018 (raises an error if there is none)
    manager, names = all_tasks.find(tasks, include_path)
    loaded = []
    for number, name in enumerate(names):
        progress(f"loading {name}", number, len(names))
        loaded += all_tasks.load(manager, name)
    try:
        with _quiet_git():
            results: dict[str, Any] = lm_eval.simple_evaluate(
                judged,
                tasks=loaded,
                num_fewshot=num_fewshot,
                limit=limit,
                apply_chat_template=apply_chat_template,
                task_manager=manager,
                log_samples=False,
            )
    except (RsrError, OSError, MemoryError):
        raise
    except Exception as error:  # of the code of a task or of a metric
        reason = printable(str(error)) or type(error).__name__
        raise TaskError(f"lm-evaluation-harness failed: {reason}") from error
    results["config"]["model"] = "rsr"
    return {**results, "truncated": judged.truncated}


@contextmanager
def _quiet_git() -> Iterator[None]:
    """Keep what git says outside of a repository off stderr: lm-eval asks it for the commit."""
    asked = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = _commit
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asked


def _commit() -> str | None:
    """Return the commit of the repository that the current folder is in, if it is in one."""
    try:
        command = ["git", "describe", "--always"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None
