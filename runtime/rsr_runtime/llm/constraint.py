"""Which tokens may come next in a text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Constraint(Protocol):
    """Which tokens may come next in one text, such as those that continue a valid JSON value.

    An exception that it raises ends the job with `Failed`.
    """

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of tokens that may not come next to -inf.

        Args:
            logits: float32 (vocab_size,), changed in place.
        """

    def accept(self, token: int) -> None:
        """Append the token that was chosen."""
