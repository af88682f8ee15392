"""How the next token is chosen from logits.

`Sampling` has the settings. `chain` applies those that change scores, one processor after another
in the order of ``transformers``; `filters` drops unlikely tokens; `Sampler` takes or draws a token.
"""

from .sampler import Sampler
from .settings import Sampling

__all__ = ["Sampler", "Sampling"]
