"""Find the tasks of lm-evaluation-harness by name, and load their data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import filter as matching
from itertools import chain
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from rsr_formats.text import listed, printable

from .errors import TaskError

_NEAR = 5  # names that are suggested
_MAX_REASON = 300  # characters of another library's message
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def find(
    names: Sequence[str], include_path: str | os.PathLike[str] | None = None
) -> tuple[Any, list[str]]:
    """Return a manager of tasks, and the names that it knows.

    Args:
        names: of tasks, groups and tags; patterns of names, such as "mmlu_*"; or paths of YAML
            files.
        include_path: a folder with YAML files of further tasks.

    Raises:
        TaskError: a name is unknown, or the folder does not exist.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise TaskError(f"{include_path}: no such folder, expected one with YAML files of tasks")
    if include_path is not None or all(map(_is_file, names)):
        # Reading the harness's own 14,000 tasks takes seconds. Only groups may refer to them.
        manager = TaskManager(include_path=include_path, include_defaults=False)
        found = [_found(name, manager.all_tasks) for name in names]
        if all(found) and not set(manager.all_groups).intersection(chain(*found)):
            return manager, [name for one in found for name in one]
    manager = TaskManager(include_path=include_path)
    every = manager.all_tasks
    chosen = {name: _found(name, every) for name in names}
    for name, one in chosen.items():
        if not one:
            raise TaskError(_unknown(name, every))
    return manager, [name for one in chosen.values() for name in one]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def _found(name: str, every: Sequence[str]) -> list[str]:
    """Return the names that a name or pattern stands for; none if it is unknown."""
    return [name] if _is_file(name) else matching(every, name)


def _unknown(name: str, every: Sequence[str]) -> str:
    near = get_close_matches(name, every, n=_NEAR) or [one for one in every if name in one][:_NEAR]
    advice = f"; similar names: {listed(near)}" if near else ""
    return f"there is no task {printable(name)!r} in lm-evaluation-harness{advice}"


def load(manager: Any, name: str) -> list[Any]:
    """Return a task or group with its data, or the tasks of a tag.

    Raises:
        TaskError: the data cannot be had, the file of the task is damaged, or it is a task that
            this evaluation does not run.
    """
    try:
        loaded = manager.load([name])
    except Exception as error:  # of any library that reads data
        raise TaskError(_unavailable(name, error)) from error
    for task in loaded["tasks"].values():
        _check(task)
    groups, children = loaded.get("groups", {}), loaded.get("group_map", {}).values()
    inner = {child for one in children for child in one}
    return [group for one, group in groups.items() if one not in inner] or [
        *loaded["tasks"].values()
    ]


def _unavailable(name: str, error: Exception) -> str:
    reason = printable(str(error).strip().split("\n")[0][:_MAX_REASON]) or type(error).__name__
    if not isinstance(error, ConnectionError):
        return f"task {name} cannot be loaded: {reason}"
    setting = next((one for one in _OFFLINE if os.environ.get(one, "0") not in ("", "0")), None)
    fix = "check the network" if setting is None else f"unset {setting}"
    return (
        f"task {name} needs data that are not in the cache of datasets and cannot be downloaded "
        f"({reason}): {fix}, or name a task whose data are files (--include-path)"
    )


def _check(task: Any) -> None:
    """Raise TaskError for a task that needs more than a text and a score."""
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task {task.task_name} has images or audio, expected one of text only")
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(
            f"task {task.task_name} runs code that the model writes, which rsrc eval does not: run "
            "lm_eval itself in a sandbox, with rsrc serve as its server"
        )
