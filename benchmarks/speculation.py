"""Time text generation with and without speculation, for texts that follow their guesses so often.

    python benchmarks/speculation.py MODEL.rsr [--odds 0,30,70,90] [--threads N] [--seconds 15]

A random model writes no text that repeats itself as a trained one does, so the texts are forced:
each token is the guessed one with the given probability, and else another token of the text. The
model computes all logits, and speculation decides as it does for a BitNet in `rsrc run --speculate
ngram`. Two texts grow in turns, 8 tokens at a time, one without speculation. The model needs no
tokenizer: `make_2b_checkpoint.py` writes one.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

import rsr_runtime as rsr
from reporting import Lines, Row, measuring_parser, report
from rsr_runtime import llm
from rsr_runtime.llm.speculation import PassTimes, Speculation, longest_match

PROMPT = 256  # tokens
TURN = 8  # tokens
SEED = 5


class ForcedText:
    """A text whose next token is the guessed one with a given probability."""

    def __init__(self, model: llm.LanguageModel, odds: float) -> None:
        self._odds = odds
        self._rng = np.random.default_rng(SEED)
        self._session = model.new_session()
        self._tokens = np.empty(model.context, np.int64)
        self.ids: list[int] = self._rng.integers(0, model.config.vocab_size, PROMPT).tolist()
        self._tokens[:PROMPT] = self.ids
        self.passes = 0
        self.seconds = 0.0
        self._session.follow(self.ids)

    def grow(self, speculation: Speculation | None) -> None:
        """Add the tokens of a turn."""
        end = len(self.ids) + TURN
        while len(self.ids) < end:
            now, last = len(self.ids), self._session.last_pass
            start = time.perf_counter()
            if speculation is None:
                logits = self._session.follow(self.ids)
            else:
                room = len(self._tokens) - now - 1
                logits = speculation.follow(self._session, self.ids, self._tokens[:now], room)
            logits.argmax()  # as a sampler would
            self.seconds += time.perf_counter() - start
            self.passes += self._session.last_pass is not last
            token = self._tokens[now] = self._next(self._tokens[:now])
            self.ids.append(token)

    def _next(self, tokens: npt.NDArray[np.int64]) -> int:
        source, length = longest_match(tokens)
        if length and self._rng.random() < self._odds:
            return int(tokens[source])
        return int(self._rng.choice(tokens[tokens != tokens[source]] if length else tokens))


def measure(model: llm.LanguageModel, times: PassTimes, odds: float, seconds: float) -> Row:
    """Time texts of one probability for `seconds`, or until the context is full."""
    plain, guessed = ForcedText(model, odds), ForcedText(model, odds)
    plain.grow(None)  # the first passes are recorded
    plain.seconds, before = 0.0, len(plain.ids)
    speculation, start = Speculation(times), len(guessed.ids)
    while plain.seconds + guessed.seconds < seconds and len(plain.ids) + TURN <= model.context:
        plain.grow(None)
        guessed.grow(speculation)
    tokens = len(guessed.ids) - start
    one, other = (len(plain.ids) - before) / plain.seconds, tokens / guessed.seconds
    return {
        "odds": odds, "tokens": tokens, "drafted": speculation.drafted,
        "accepted": speculation.accepted, "passes": guessed.passes,
        "tokens_per_second": other, "tokens_per_second_without": one, "ratio": other / one,
    }  # fmt: skip


def main() -> None:
    """Measure and report."""
    parser = measuring_parser(__doc__, 15, "probability")
    parser.add_argument("model", help="a .rsr file of a language model")
    parser.add_argument("--odds", default="0,30,70,90", help="per cent (0,30,70,90)")
    parser.add_argument("--threads", type=int, help="(all processors)")
    parser.add_argument("--memory", choices=("auto", "map", "huge"), default="map", help="(map)")
    options = parser.parse_args()
    if options.threads:
        rsr.set_num_threads(options.threads)
    with llm.load(options.model, context=4096, memory=options.memory) as model:
        times = PassTimes()
        odds = [float(each) / 100 for each in options.odds.split(",")]
        rows = [measure(model, times, each, options.seconds) for each in odds]
    names = ["guesses right", "accepted", "tokens per pass", "tokens/s", "without", "ratio"]
    lines: Lines = [
        [
            f"{one['odds']:.0%}", f"{one['accepted']} of {one['drafted']}",
            f"{one['tokens'] / one['passes']:.2f}", f"{one['tokens_per_second']:.1f}",
            f"{one['tokens_per_second_without']:.1f}", f"{one['ratio']:.2f}",
        ]
        for one in rows
    ]  # fmt: skip
    report(options, rows, [("Speculation", [names, *lines])])


if __name__ == "__main__":
    main()
