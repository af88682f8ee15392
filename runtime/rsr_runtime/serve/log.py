"""What the server writes to its log: never the text of a request or an answer."""

from __future__ import annotations

import logging
import traceback

from .errors import api_error

LOG = logging.getLogger("rsr_runtime.serve")


def log_fault(error: BaseException) -> None:
    """Log an error that is the server's fault: where it was raised, not what it says."""
    if api_error(error).status != 500:
        return
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    LOG.error("a request failed: %s at %s", type(error).__name__, where)
