"""What all endpoints share: the model, the engine and the figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..llm.engine import Engine
from ..llm.model import LanguageModel
from .metrics import Metrics
from .token_texts import TokenTexts


@dataclass
class Server:
    """A model that is served.

    Attributes:
        model: the model.
        engine: what generates its texts.
        name: the model's name in responses.
        fingerprint: changes with whatever may change a text, for `system_fingerprint`.
        metrics: the figures of /metrics.
        created: when it was started, in seconds since 1970.
    """

    model: LanguageModel
    engine: Engine
    name: str
    fingerprint: str
    metrics: Metrics = field(default_factory=Metrics)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.token_texts = TokenTexts(self.model.tokenizer)
