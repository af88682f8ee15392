"""The embedded examples: the .rsr files give the answers of the dense checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import rsr_runtime
import rsrc
from rsrc.cli.main import main
from rsrc.demo import digits, language
from rsrc.demo.examples import example_folder


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []

    @contextmanager
    def recorded(stage: str) -> Iterator[None]:
        stages.append(stage)
        yield

    monkeypatch.setattr(digits, "announced", recorded)
    monkeypatch.setattr(language, "announced", recorded)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["demo"], prog_name="rsrc")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    rows = re.findall(
        r"│ ([\w.][\w., ]*?) +│ +([\d.]+ \w+) │ +([\d.]+) % │ +(\d+) of (\d+) │ +(\d+) us │",
        done.stdout,
    )
    names, _, accuracies, equal, images, _ = zip(*rows, strict=True)
    assert names == ("dense checkpoint", ".rsr, ranked", ".rsr, permuted")
    assert len(set(accuracies)) == 1
    assert float(accuracies[0]) >= 96
    assert equal == images
    assert "█" in done.stdout  # digits are drawn
    assert re.search(rf"{language.PROMPT}.+\n.*100 tokens, \d+ tokens/s", done.stdout, re.DOTALL)
    assert [stage.split()[0] for stage in stages] == ["compiling", "classifying", "compiling"]
    assert list(tmp_path.iterdir()) == []


def test_answers_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = digits.classify, 0

    def wrong(layers: list[digits.Layer], x: digits.FloatArray) -> digits.Answers:
        nonlocal calls
        calls += len(x) > 1  # not while timing
        return right(layers, x) + (calls == 3)

    monkeypatch.setattr(digits, "classify", wrong)
    with pytest.raises(rsrc.MismatchError, match=r"dense checkpoint's: .rsr, permuted$"):
        digits.run()


def test_answers_image_by_image(tmp_path: Path, digits_source: Path) -> None:
    """The same comparison with a dense network written out here, from the decompiled weights."""
    with np.load(example_folder("digits") / "digits_test.npz") as data:
        x = (data["images"].reshape(-1, 64) / 16).astype(np.float32)
        labels = data["labels"]
    expected = None
    for encoding in ("ranked", "permuted"):
        path = tmp_path / f"{encoding}.rsr"
        rsrc.compile(digits_source, path, encoding=encoding)
        with rsr_runtime.load(path, verify=True) as model:
            matrices = [w for w in model.values() if isinstance(w, rsr_runtime.Matrix)]
            assert [w.shape for w in matrices] == [(512, 64), (512, 512), (10, 512)]
            layers = [lambda x, w=w: w.linear(x, activations="int8") for w in matrices]
            found = digits.classify(layers, x)
            if expected is None:
                h = x.astype(np.float64)
                for i, w in enumerate(matrices):
                    s = np.float32(127) * (np.float32(1) / np.abs(h).max(axis=1, keepdims=True))
                    q = np.clip(np.rint(h.astype(np.float32) * s.astype(np.float32)), -128, 127)
                    h = q @ w.to_dense(np.int8).T.astype(np.float64) * float(w.scale) / s
                    h = np.maximum(h, 0) if i < 2 else h
                expected = h.argmax(axis=1)
        assert (found == labels).mean() >= 0.96
        np.testing.assert_array_equal(found, expected)
