"""The shares of changed weights equal those of the dense matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_testing.matrices import Spec
from rsrc.delta.statistics import Counts, statistics

from .conftest import SPECS, Changed, Pair


def expected(old: np.ndarray, new: np.ndarray) -> Counts:
    return Counts(
        old.size,
        int((old != new).sum()),
        int((np.sign(old) * np.sign(new) < 0).sum()),
        int(((old != 0) & (new == 0)).sum()),
        int(((old == 0) & (new != 0)).sum()),
    )


def test_counts(pair: Pair, tmp_path: Path) -> None:
    """Scales differ, too, and do not count as weights."""
    old, new = pair(share=0.1)
    found = {t.name: t for t in statistics(old, new).tensors}
    truth = [Changed(tmp_path, share).write(old, SPECS) for share in (0, 0.1)]
    for spec in SPECS:
        counts = expected(truth[0][spec.key][0], truth[1][spec.key][0])
        assert found[spec.key].counts == counts
        assert found[spec.key].status == ("changed" if counts.changed else "same")
    assert found["quinary"].counts.changed > sum(
        getattr(found["quinary"].counts, key)
        for key in ("changed_sign", "became_zero", "became_nonzero")
    )  # from 1 to 2, for example


@pytest.mark.parametrize(
    "other",
    [
        Spec((60, 64), name="w", packing="n4s1"),
        Spec((60, 64), name="w", encoding="permuted", k=4, direction="reduce"),
        Spec((60, 64), name="w", digits=(-1, 1), k=5),
    ],
)
def test_other_encodings_are_compared_by_value(other: Spec, tmp_path: Path) -> None:
    a, b = tmp_path / "a.rsr", tmp_path / "b.rsr"
    old = Changed(tmp_path, 0).write(a, [Spec((60, 64), name="w")])["w"][0]
    new = Changed(tmp_path, 0.2).write(b, [other])["w"][0]
    (found,) = statistics(a, b).tensors
    assert found.counts == expected(old, new)
    assert (rsr.load(b).matrix("w").to_dense() == new).all()


def test_other_tensors(pair: Pair) -> None:
    dense = np.arange(10, dtype="<f4")
    changed = dense.copy()
    changed[3:5] = 7
    old, new = pair(
        [Spec((9, 9), name="scaled", scale="row"), Spec((9, 9), name="same")],
        share=0,
        old={
            "dense": [
                ("a", "F32", (10,), dense.tobytes()),
                ("gone", "U8", (1,), b"x"),
                ("type", "U8", (2,), b"xx"),
            ],
            "files": {"a.json": b"1", "b.json": b"1", "c.json": b"1"},
        },
        new={
            "dense": [
                ("a", "F32", (10,), changed.tobytes()),
                ("new", "U8", (1,), b"x"),
                ("type", "I8", (2,), b"xx"),
            ],
            "files": {"a.json": b"1", "b.json": b"2", "d.json": b"1"},
        },
    )
    found = statistics(old, new)
    by_name = {t.name: t for t in found.tensors}
    status = {name: t.status for name, t in by_name.items()}
    assert status == {
        "scaled": "same", "same": "same", "a": "changed", "gone": "removed", "new": "added",
        "type": "replaced",
    }  # fmt: skip
    assert by_name["a"].to_dict() == {
        "name": "a", "kind": "dense", "shape": [10], "status": "changed", "weights": 10,
        "changed": 0.2,
    }  # fmt: skip
    assert found.files == ("b.json", "c.json", "d.json")
    assert found.counts.weights == 2 * 81


def test_scales(tmp_path: Path) -> None:
    a, b = tmp_path / "a.rsr", tmp_path / "b.rsr"
    for path, seed in ((a, 0), (b, 1)):
        made = Changed(tmp_path, 0)
        made._rng = np.random.default_rng(seed)
        made.write(path, [Spec((9, 9), name="w", scale="row", fill="lowest")])
    (found,) = statistics(a, b).tensors
    assert (found.status, found.counts.changed, found.scales_changed) == ("changed", 0, 1.0)
