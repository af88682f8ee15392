"""A ternary network that reads handwritten digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
from rich.console import Console
from rich.table import Table

import rsr_runtime as rsr
import rsrc
from rsr_formats.numerics import widen_bf16

from ..common.console import announced, console, size
from ..common.errors import MismatchError
from ..common.scratch import scratch_folder
from .examples import example_folder

FloatArray = npt.NDArray[np.float32]
Answers = npt.NDArray[np.intp]
Layer = Callable[[FloatArray], FloatArray]

_SHADES = " ░▒▓█"
_SHOWN = 8  # digits drawn, if the terminal is wide enough
_WIDTH = 16  # columns of a digit: two per pixel


def run() -> None:
    """Compile the network twice, classify all test images three ways, and compare the answers."""
    out = console()
    folder = example_folder("digits")
    source = folder / "model.safetensors"
    with np.load(folder / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    x = (images.reshape(len(images), -1) / 16).astype(np.float32)
    with scratch_folder() as scratch:
        ranked, permuted = scratch / "digits.rsr", scratch / "digits-permuted.rsr"
        with announced("compiling the network that reads digits"):
            reports = {
                ".rsr, ranked": rsrc.compile(source, ranked),
                ".rsr, permuted": rsrc.compile(source, permuted, encoding="permuted"),
            }
        with rsr.load(ranked, verify=True) as model, rsr.load(permuted) as paper:
            networks = {
                "dense checkpoint": _dense_layers(source),
                ".rsr, ranked": _rsr_layers(model),
                ".rsr, permuted": _rsr_layers(paper),
            }
            with announced(f"classifying {len(images)} images with three networks"):
                predictions = {name: classify(layers, x) for name, layers in networks.items()}
                times = {name: _seconds_per_image(layers, x) for name, layers in networks.items()}
    sizes = {name: sum(t.bytes for t in report.tensors) for name, report in reports.items()}
    sizes["dense checkpoint"] = sum(t.source_bytes for t in reports[".rsr, ranked"].tensors)
    first = predictions["dense checkpoint"]
    table = Table("weights")
    for column in ("size", "accuracy", "same as dense", "time per image"):
        table.add_column(column, justify="right")
    for name, found in predictions.items():
        table.add_row(
            name,
            size(sizes[name]),
            f"{100 * np.mean(found == labels):.2f} %",
            f"{np.sum(found == first)} of {len(labels)}",
            f"{1e6 * times[name]:.0f} us",
        )
    out.print(
        f"1/2 A ternary network with layers of 64, 512, 512 and 10 units reads {len(labels)} "
        "handwritten digits.\nBelow each image is the answer of the compiled network:\n"
    )
    _draw(out, images, labels, predictions[".rsr, ranked"])
    out.print(table)
    wrong = [name for name, found in predictions.items() if (found != first).any()]
    if wrong:
        raise MismatchError(f"answers differ from the dense checkpoint's: {', '.join(wrong)}")


def classify(layers: Sequence[Layer], x: FloatArray) -> Answers:
    """Return the digits that a network reads in images x (n, 64), with ReLU between layers."""
    for layer in layers[:-1]:
        x = np.maximum(layer(x), 0)
    return np.asarray(layers[-1](x).argmax(axis=1))


def _rsr_layers(model: rsr.Model) -> list[Layer]:
    return [partial(w.linear, activations="int8") for w in model.matrices()]


def _dense_layers(source: Path) -> list[Layer]:
    """Return the layers of the checkpoint's own BF16 weights, with the same int8 activations."""

    def linear(W: FloatArray, x: FloatArray) -> FloatArray:
        q, s = rsr.kernels.quantize_int8(x)
        y: FloatArray = np.divide(q.astype(np.float32) @ W.T, s, dtype=np.float32)
        return y

    tensors = dict(safetensors.deserialize(source.read_bytes()))  # type: ignore[no-untyped-call]
    weights = [
        widen_bf16(np.frombuffer(tensors[name]["data"], "<u2")).reshape(tensors[name]["shape"])
        for name in sorted(tensors)
    ]
    return [partial(linear, W) for W in weights]


def _seconds_per_image(layers: Sequence[Layer], x: FloatArray) -> float:
    """Classify images one by one, as they would arrive; return the best of three rounds."""
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
    predictions: Answers,
) -> None:
    """Draw images of several digits and of wrong answers, with the answers below."""
    count = max(1, min(_SHOWN, (out.width + 1) // (_WIDTH + 1)))
    wrong = np.flatnonzero(predictions != labels)[: count // 4]
    right = [int(np.flatnonzero((labels == d) & (predictions == d))[0]) for d in range(10)]
    shown = [*right[: count - len(wrong)], *map(int, wrong)]
    for row in range(8):
        cells = ("".join(_SHADES[v * 4 // 16] * 2 for v in images[i, row]) for i in shown)
        out.print(" ".join(cells))
    captions = []
    for i in shown:
        good = predictions[i] == labels[i]
        text = f"{predictions[i]}" if good else f"{predictions[i]}, is {labels[i]}"
        captions.append(text.center(_WIDTH))
    out.print(" ".join(captions))
    out.print()
