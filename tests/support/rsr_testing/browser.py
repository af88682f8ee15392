"""Finds the browser of the tests of the chat page, or installs it::

PYTHONPATH=tests/support python -m rsr_testing.browser
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NOT_FOUND = (
    "the tests of the chat page need a browser: found none of "
    f"{', '.join(_NAMES)} on the path. Install Chromium (Debian: apt-get install chromium) or "
    "Chrome"
)


def find() -> str | None:
    """Return the path of Chromium or Chrome."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def _install() -> str | None:
    """Install Debian's Chromium if this user may; return why there is no browser."""
    if find():
        return None
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return NOT_FOUND
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "-qq", *command], env=environment)
        if done.returncode:
            return f"{NOT_FOUND}. Tried: apt-get {' '.join(command)} (status {done.returncode})"
    return None if find() else NOT_FOUND


if __name__ == "__main__":
    sys.exit(_install())
