"""Counters and histograms in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)


class Histogram:
    """How often values were at most each of some bounds.

    Args:
        bounds: in ascending order.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """Return its lines, without the comments before them."""
        lines, total = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.9g}", f"{name}_count {total}"]


class Metrics:
    """What the server counts since it was started.

    The engine's thread counts tokens and seconds, that of the event loop counts responses.

    Attributes:
        prompt_tokens: tokens of prompts, and of texts that were embedded.
        cached_tokens: how many of these were not computed again.
        prompt_seconds: seconds until first tokens, without the time in the queue, and seconds of
            embedding.
        predicted_tokens: generated tokens.
        predicted_seconds: seconds of texts after their first token.
        first_token: seconds from request to first token.
        between_tokens: seconds between the tokens of a text.
        responses: number of HTTP responses by status.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.prompt_seconds = 0.0
        self.predicted_tokens = 0
        self.predicted_seconds = 0.0
        self.first_token = Histogram(_FIRST_TOKEN)
        self.between_tokens = Histogram(_BETWEEN)
        self.responses: dict[int, int] = {}

    def text(self, processing: int, deferred: int) -> str:
        """Return the text of /metrics.

        Args:
            processing: number of requests that are being answered.
            deferred: number of requests in the queue.
        """
        counters = {
            "prompt_tokens_total": (self.prompt_tokens, "Tokens of prompts."),
            "prompt_tokens_cached_total": (self.cached_tokens, "Tokens of prompts in the cache."),
            "prompt_seconds_total": (self.prompt_seconds, "Seconds of reading prompts."),
            "tokens_predicted_total": (self.predicted_tokens, "Generated tokens."),
            "tokens_predicted_seconds_total": (
                self.predicted_seconds, "Seconds of generating after first tokens.",
            ),
        }  # fmt: skip
        gauges = {
            "requests_processing": (processing, "Requests that are being answered."),
            "requests_deferred": (deferred, "Requests in the queue."),
        }
        histograms = {
            "time_to_first_token_seconds": (self.first_token, "Seconds from request to token."),
            "inter_token_seconds": (self.between_tokens, "Seconds between tokens of a text."),
        }
        lines = [*_values("counter", counters), *_values("gauge", gauges)]
        lines += _head("counter", "responses_total", "HTTP responses by status.")
        for status, count in sorted(self.responses.items()):
            lines.append(f'rsr_responses_total{{status="{status}"}} {count}')
        for name, (histogram, what) in histograms.items():
            lines += _head("histogram", name, what) + histogram.lines(f"rsr_{name}")
        return "\n".join(lines) + "\n"


def _head(kind: str, name: str, what: str) -> list[str]:
    return [f"# HELP rsr_{name} {what}", f"# TYPE rsr_{name} {kind}"]


def _values(kind: str, values: Mapping[str, tuple[float, str]]) -> list[str]:
    lines = []
    for name, (value, what) in values.items():
        lines += [*_head(kind, name, what), f"rsr_{name} {value:.9g}"]
    return lines
