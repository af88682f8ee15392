"""Runs code in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


def run_python(
    code: str, *arguments: object, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter.

    Keyword arguments are environment variables; None unsets one.
    """
    merged: dict[str, str | None] = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
