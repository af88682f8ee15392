"""The table of `rsrc diff --stat`."""

from __future__ import annotations

import pytest

from rsrc.cli.diff_table import print_statistics
from rsrc.delta.statistics import Counts, Statistics, TensorDifference

LONGEST = "model.layers.15.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (0, "0"),
        (1, "<.0001%"),
        (217 * 10**3, "0.0217%"),
        (12_345_678, "1.23%"),
        (999_999_999, "99.99%"),
        (10**9, "100%"),
    ],
)
def test_the_names_of_layers_fit_80_columns(
    changed: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = Counts(10**9, changed, changed, changed, changed)
    tensor = TensorDifference(LONGEST, "ternary", (2, 2), "changed", counts, changed / 10**9)
    replaced = TensorDifference("v", "ternary", (2, 2), "replaced")
    print_statistics(Statistics((tensor, replaced), ()))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert [LONGEST, *[shown] * 5] in [line.split() for line in lines]
