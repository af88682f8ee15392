"""The embedded example: the answers of the .rsr files are those of the dense checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import rsr_runtime
import rsrc
from rsrc.demo.digits import classify
from rsrc.demo.examples import example_folder


def test_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rsrc", "demo"],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
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
    assert list(tmp_path.iterdir()) == []


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
            found = classify(layers, x)
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
