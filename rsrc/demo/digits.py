"""A ternary network that reads handwritten digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import rsr_runtime
from rsr_runtime.matrix import Matrix
from rsr_runtime.reference import quantize_int8

from ..cli.tables import console, size
from ..common.errors import SourceError
from ..common.scratch import scratch_folder
from ..compiler.pipeline import compile
from ..layouts.floats import to_float32
from ..source.open import open_checkpoint
from .examples import example_folder

FloatArray = npt.NDArray[np.float32]
Layer = Callable[[FloatArray], FloatArray]

_SHADES = " ░▒▓█"
_SHOWN = 8  # digits drawn, where the terminal is wide enough
_WIDTH = 16  # columns a digit takes: two per pixel


def run() -> None:
    """Compile the example twice, classify all test images three ways, and show the comparison."""
    out = console()
    folder = example_folder("digits")
    source = folder / "model.safetensors"
    with np.load(folder / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    x = (images.reshape(len(images), -1) / 16).astype(np.float32)
    with scratch_folder() as scratch:
        ranked, permuted = scratch / "digits.rsr", scratch / "digits-permuted.rsr"
        report = compile(source, ranked)
        other = compile(source, permuted, encoding="permuted")
        with rsr_runtime.load(ranked, verify=True) as model, rsr_runtime.load(permuted) as paper:
            networks = {
                "dense checkpoint": _dense_layers(source),
                ".rsr, ranked": _rsr_layers(model),
                ".rsr, permuted": _rsr_layers(paper),
            }
            predictions = {name: classify(layers, x) for name, layers in networks.items()}
            times = {name: _seconds_per_image(layers, x) for name, layers in networks.items()}
    sizes = {
        "dense checkpoint": sum(t.source_bytes for t in report.tensors),
        ".rsr, ranked": sum(t.bytes for t in report.tensors),
        ".rsr, permuted": sum(t.bytes for t in other.tensors),
    }
    first = predictions["dense checkpoint"]
    table = Table("weights", title="handwritten digits, a ternary network 64-512-512-10")
    for column in ("size", "accuracy", "same answers", "time per image"):
        table.add_column(column, justify="right")
    for name, found in predictions.items():
        table.add_row(
            name,
            size(sizes[name]),
            f"{100 * np.mean(found == labels):.2f} %",
            f"{np.sum(found == first)} of {len(labels)}",
            f"{1e6 * times[name]:.0f} us",
        )
    _draw(out, images, labels, predictions[".rsr, ranked"])
    out.print(table)
    wrong = [name for name, found in predictions.items() if (found != first).any()]
    if wrong:
        raise SourceError(f"answers differ from the dense checkpoint's: {', '.join(wrong)}")


def classify(layers: Sequence[Layer], x: FloatArray) -> npt.NDArray[np.intp]:
    """Return the answers for images x (n, 64), rectifying between layers."""
    for layer in layers[:-1]:
        x = np.maximum(layer(x), 0)
    return np.asarray(layers[-1](x).argmax(axis=1))


def _rsr_layers(model: rsr_runtime.Model) -> list[Layer]:
    matrices = [w for w in model.values() if isinstance(w, Matrix)]
    return [lambda x, w=w: w.linear(x, activations="int8") for w in matrices]  # type: ignore[misc]


def _dense_layers(source: Path) -> list[Layer]:
    """The checkpoint's own float weights, with the same int8 activations."""

    def linear(x: FloatArray, W: FloatArray) -> FloatArray:
        q, s = quantize_int8(x)
        y: FloatArray = np.divide(q.astype(np.float32) @ W.T, s, dtype=np.float32)
        return y

    weights = [
        to_float32(t.read(), t.dtype).reshape(t.shape)
        for t in open_checkpoint(source).tensors.values()
    ]
    return [lambda x, W=W: linear(x, W) for W in weights]  # type: ignore[misc]


def _seconds_per_image(layers: Sequence[Layer], x: FloatArray) -> float:
    """Classify one image after the other, as they would arrive; best of three rounds."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for i in range(len(x)):
            classify(layers, x[i : i + 1])
        best = min(best, (time.perf_counter() - start) / len(x))
    return best


def _draw(
    out: Console,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    predictions: npt.NDArray[np.intp],
) -> None:
    """Draw one image of several digits, with the prediction below, and any that went wrong."""
    count = max(1, min(_SHOWN, (out.width + 1) // (_WIDTH + 1)))
    wrong = np.flatnonzero(predictions != labels)[: count // 4]
    right = [int(np.flatnonzero((labels == d) & (predictions == d))[0]) for d in range(10)]
    shown = [*right[: count - len(wrong)], *map(int, wrong)]
    for row in range(8):
        cells = ("".join(_SHADES[v * 4 // 16] * 2 for v in images[i, row]) for i in shown)
        out.print(" ".join(cells), highlight=False)
    captions = []
    for i in shown:
        good = predictions[i] == labels[i]
        text = f"{predictions[i]}" if good else f"{predictions[i]}, is {labels[i]}"
        captions.append(text.center(_WIDTH))
    out.print(" ".join(captions), highlight=False)
    out.print()
