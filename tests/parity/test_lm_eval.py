"""Log-likelihoods that lm-eval's `local-completions` gets of the server: those of the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_runtime import llm
from rsr_testing.models import FAMILIES
from rsr_testing.servers import serving

pytest.importorskip("lm_eval")

PAIRS = [
    ("The weights of a trained network", " never change."),
    ("Sort the rows", " of each block of columns by their pattern, once 🙂"),
    ("", "and the sums that a product needs"),
]


@pytest.mark.parametrize("family", ["bitnet-2b", "1bitllm"])
def test_log_likelihoods_are_those_of_the_logits(family: str, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    with llm.load(FAMILIES[family].build(tmp_path)) as model, serving(model) as found:
        judge = LocalCompletionsAPI(
            model="tiny", base_url=f"{found.url}/v1/completions", tokenizer_backend="remote",
            max_length=128, num_concurrent=1,
        )  # fmt: skip
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
        for (context, continuation), result in zip(
            PAIRS, judge.loglikelihood(requests), strict=True
        ):
            before, after = (
                judge._encode_pair(context, continuation)
                if context
                else ([judge.prefix_token_id], judge.tok_encode(continuation))
            )
            assert result == pytest.approx(expected(model, before, after), abs=1e-4)


def expected(model: llm.LanguageModel, before: list[int], after: list[int]) -> Any:
    """Return the log-likelihood of tokens after others, and whether each is the most likely."""
    rows = model.logits([*before, *after])[len(before) - 1 : -1].astype(np.float64)
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    return rows[np.arange(len(after)), after].sum(), bool((rows.argmax(1) == after).all())
