"""Time the log-likelihoods of an evaluation, beside lm-eval's own model for transformers (HFLM).

    python benchmarks/evaluation.py FOLDER MODEL.rsr [--questions 4] [--dtype auto] [--threads N]

FOLDER is the checkpoint that MODEL.rsr was compiled from, such as one of `make_2b_checkpoint.py`;
no tokenizer is needed. Requests are random tokens in the shapes of real tasks. Those of the column
"nothing shared" have as many tokens, but each begins with a token of its own. Needs the extra
`parity`. HFLM computes batches of 8, loaded with --dtype.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import rsr_runtime as rsr
from reporting import Lines, Row, measuring_parser, report
from rsr_runtime import llm

SEED = 7
BATCH = 8
Requests = list[tuple[list[int], list[int]]]

# Tokens of the examples before every question, of a question, and of each of its answers.
SHAPES = {
    "5 examples, 4 answers of a token": (400, 60, 4, 1),
    "5 examples, 4 answers": (400, 60, 4, 8),
    "no examples, 4 answers": (0, 60, 4, 8),
    "texts of 256 tokens": (0, 1, 1, 256),
}


def requests(shape: tuple[int, int, int, int], questions: int, vocab: int) -> Requests:
    """Return random requests: questions with all their answers."""
    rng = np.random.default_rng(SEED)
    examples, question, answers, length = shape

    def tokens(count: int) -> list[int]:
        found: list[int] = rng.integers(0, vocab, count).tolist()
        return found

    begin = tokens(examples)
    contexts = [begin + tokens(question) for _ in range(questions)]
    return [(context, tokens(length)) for context in contexts for _ in range(answers)]


def unshared(shared: Requests) -> Requests:
    """Return the requests, each with a first token of its own."""
    return [([i, *context[1:]], tokens) for i, (context, tokens) in enumerate(shared)]


def hflm(folder: str, dtype: str) -> Any:
    """Return lm-eval's model for transformers, with a tokenizer that nothing uses."""
    import tokenizers
    import transformers
    from lm_eval.models.huggingface import HFLM

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a")
    return HFLM(
        pretrained=folder, tokenizer=tokenizer, dtype=dtype, device="cpu", batch_size=BATCH,
        max_length=4096,
    )  # fmt: skip


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def measure(model: llm.LanguageModel, judge: Any, questions: int) -> Iterator[Row]:
    """Yield the times of each kind of task."""
    for what, shape in SHAPES.items():
        asked = requests(shape, questions, model.config.vocab_size)
        ours, found = seconds_of(partial(model.log_likelihoods, asked))
        alone, _ = seconds_of(partial(model.log_likelihoods, unshared(asked)))
        named = [(None, *one) for one in asked]
        theirs, expected = seconds_of(
            partial(judge._loglikelihood_tokens, named, disable_tqdm=True)
        )
        error = max(abs(a[0] - b[0]) / abs(b[0]) for a, b in zip(found, expected, strict=True))
        yield {
            "task": what, "requests": len(asked), "seconds": ours, "seconds_unshared": alone,
            "seconds_hflm": theirs, "unshared_ratio": alone / ours, "hflm_ratio": theirs / ours,
            "relative_difference": error,
        }  # fmt: skip


def main() -> None:
    """Measure and report."""
    parser = measuring_parser(__doc__, 0, "(not used)")
    parser.add_argument("folder", help="the checkpoint, for transformers")
    parser.add_argument("model", help="the .rsr file compiled from it")
    parser.add_argument("--questions", type=int, default=4, help="of each kind of task (4)")
    parser.add_argument("--dtype", default="auto", help="of HFLM (auto: that of the checkpoint)")
    parser.add_argument("--threads", type=int, help="(all processors)")
    options = parser.parse_args()
    import torch

    threads = options.threads or len(os.sched_getaffinity(0))
    rsr.set_num_threads(threads)
    torch.set_num_threads(threads)
    judge = hflm(options.folder, options.dtype)
    with llm.load(options.model, context=1024) as model:
        first = requests((0, 9, 1, 1), 1, model.config.vocab_size)
        model.log_likelihoods(first)
        judge._loglikelihood_tokens([(None, *one) for one in first], disable_tqdm=True)
        rows = list(measure(model, judge, options.questions))
    names = ["requests", "number", "rsr, s", "nothing shared, s", "ratio", "HFLM, s", "ratio"]
    lines: Lines = [
        [
            one["task"], str(one["requests"]), f"{one['seconds']:.2f}",
            f"{one['seconds_unshared']:.2f}", f"{one['unshared_ratio']:.1f}",
            f"{one['seconds_hflm']:.2f}", f"{one['hflm_ratio']:.1f}",
        ]
        for one in rows
    ]  # fmt: skip
    report(options, rows, [("Log-likelihoods of an evaluation", [names, *lines])])


if __name__ == "__main__":
    main()
