"""Train a ternary multilayer perceptron on 8x8 handwritten digits and export it.

The network is 64 -> 512 -> 512 -> 10, without biases, with a ReLU between layers. It is trained
like BitNet b1.58: every forward pass rounds the weights to {-1, 0, +1} times one scale per matrix,
and the inputs of every layer to int8 with one scale per image. Gradients pass straight through both
roundings.

The held-out accuracy is computed from the two exported files alone, in NumPy with exact integer
accumulation (`predict`), so an error in the training code cannot inflate it.

Usage:
    pip install torch scikit-learn safetensors
    python train.py            # train, write both files, print the held-out accuracy
    python train.py --check    # only recompute the accuracy from the files
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Int8Array = NDArray[np.int8]

SEED: Final = 20241111
WIDTHS: Final = (64, 512, 512, 10)
NUM_CLASSES: Final = 10
HELD_OUT_PER_CLASS: Final = 45
PIXEL_MAX: Final = 16
SCALE_FLOOR: Final = 1e-5

EPOCHS: Final = 120
BATCH_SIZE: Final = 64
LEARNING_RATE: Final = 5e-3
LABEL_SMOOTHING: Final = 0.05

# Augmentation: one-pixel shifts (rows, columns). No shift is as likely as all others together.
SHIFTS: Final = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
SHIFT_PROBABILITIES: Final = (0.5, 0.125, 0.125, 0.125, 0.125)

MODEL_FILE: Final = "model.safetensors"
DATA_FILE: Final = "digits_test.npz"
DESCRIPTION: Final = (
    "Ternary MLP 64-512-512-10 (no biases, ReLU between layers) for 8x8 handwritten digits; "
    "every weight is -s, 0 or +s with one s per tensor."
)


# --------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Images (uint8, 0..16) and labels (uint8), split into a training and a held-out part."""

    train_images: ByteArray
    train_labels: ByteArray
    test_images: ByteArray
    test_labels: ByteArray


def load_split() -> Split:
    """Load the digits and hold out `HELD_OUT_PER_CLASS` images of each class, always the same.

    Both parts keep the order of the original data set.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = np.asarray(images).astype(np.uint8).reshape(-1, 8, 8)
    classes = np.asarray(labels).astype(np.uint8)

    rng = np.random.default_rng(SEED)
    held_out = np.zeros(len(classes), dtype=np.bool_)
    for digit in range(NUM_CLASSES):
        members = np.flatnonzero(classes == digit)
        held_out[rng.permutation(members)[:HELD_OUT_PER_CLASS]] = True
    return Split(pixels[~held_out], classes[~held_out], pixels[held_out], classes[held_out])


def shifted_copies(images: Tensor) -> Tensor:
    """Return all `SHIFTS` of `images` [N, 8, 8], zero-filled, as [len(SHIFTS), N, 64]."""
    padded = functional.pad(images, (1, 1, 1, 1))
    height, width = images.shape[1:]
    copies = [
        padded[:, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]
        for rows, columns in SHIFTS
    ]
    return torch.stack(copies).flatten(start_dim=2)


# --------------------------------------------------------------------------------------
# Quantization-aware training
# --------------------------------------------------------------------------------------


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ternary values of `weight` (-1, 0, +1 as floats) and the inverse scale.

    The inverse scale is 1 / mean|W|, so `values / inverse_scale` approximates `weight`.
    """
    inverse_scale = 1.0 / weight.abs().mean().clamp(min=SCALE_FLOOR)
    return (weight * inverse_scale).round().clamp(-1, 1), inverse_scale


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """Ternarize in the forward pass; be the identity in the backward pass."""
    values, inverse_scale = ternarize(weight.detach())
    return weight + (values / inverse_scale - weight).detach()


def fake_quantize_activation(x: Tensor) -> Tensor:
    """Round each row to int8 in the forward pass; be the identity in the backward pass."""
    scale = 127.0 / x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=SCALE_FLOOR)
    quantized = (x.detach() * scale).round().clamp(-128, 127) / scale
    return x + (quantized - x).detach()


# Without torch installed, the base class has no type: only then the error appears that is ignored.
class TernaryLinear(nn.Linear):  # type: ignore[misc, unused-ignore]
    """A linear layer without bias, with ternary weights and int8 inputs in the forward pass."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to rows of `input`."""
        return functional.linear(fake_quantize_activation(input), fake_quantize_weight(self.weight))


class TernaryMlp(nn.Module):  # type: ignore[misc, unused-ignore]
    """Ternary linear layers with a ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TernaryLinear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of rows of `x`."""
        for index, layer in enumerate(self.layers):
            x = layer(functional.relu(x) if index else x)
        return x


def train(images: ByteArray, labels: ByteArray) -> TernaryMlp:
    """Train on `images` and `labels`; the result depends only on them and the constants."""
    torch.manual_seed(SEED)
    model = TernaryMlp(WIDTHS)
    inputs = shifted_copies(torch.from_numpy(images.astype(np.float32) / PIXEL_MAX))
    targets = torch.from_numpy(labels.astype(np.int64))
    shift_probabilities = torch.tensor(SHIFT_PROBABILITIES)

    count = len(targets)
    steps = EPOCHS * -(-count // BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

    for epoch in range(1, EPOCHS + 1):
        total_loss = 0.0
        shifts = torch.multinomial(shift_probabilities, count, replacement=True)
        order = torch.randperm(count)
        for start in range(0, count, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            logits = model(inputs[shifts[batch], batch])
            loss = functional.cross_entropy(logits, targets[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(batch)
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}/{EPOCHS}  training loss {total_loss / count:.4f}", flush=True)
    return model


# --------------------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------------------


def export_weights(model: TernaryMlp) -> dict[str, Tensor]:
    """Return every weight as bfloat16 with the exact values -s, +0 and +s, s = bf16(mean|W|)."""
    tensors = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        values, _ = ternarize(weight)
        scale = weight.abs().mean().to(torch.bfloat16)
        # The cast to an integer type removes the negative zeros that `round` leaves.
        tensors[name] = (values.to(torch.int8).to(torch.bfloat16) * scale).contiguous()
    return tensors


def safetensors_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Serialize bfloat16 tensors, with equal bytes for equal tensors.

    The safetensors package does not fix the order of the metadata.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", "description": DESCRIPTION}}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.view(torch.int16).numpy().astype("<i2").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


def write_files(folder: Path, model: TernaryMlp, images: ByteArray, labels: ByteArray) -> None:
    """Write the weights and the held-out images into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(safetensors_bytes(export_weights(model)))
    np.savez_compressed(folder / DATA_FILE, images=images, labels=labels)


# --------------------------------------------------------------------------------------
# Evaluation: NumPy arithmetic with exact integer accumulation
# --------------------------------------------------------------------------------------


class TernaryLayer(NamedTuple):
    """A matrix of -1, 0 and +1 [out, in], and its scale."""

    values: Int8Array
    scale: np.float32


def read_layers(path: Path) -> list[TernaryLayer]:
    """Read the layers of a model file, checking that every tensor is {-s, +0, +s} in bfloat16."""
    tensors = load_file(path)
    layers = []
    for index in range(len(tensors)):
        tensor = tensors[f"layers.{index}.weight"]
        if tensor.dtype != torch.bfloat16:
            raise ValueError(f"layer {index}: expected bfloat16, found {tensor.dtype}")
        weight: FloatArray = tensor.float().numpy()
        if np.any(np.signbit(weight) & (weight == 0)):
            raise ValueError(f"layer {index}: contains a negative zero")
        values = np.sign(weight).astype(np.int8)
        scale = np.float32(np.abs(weight).max())
        if not np.array_equal(values.astype(np.float32) * scale, weight):
            raise ValueError(f"layer {index}: not ternary with a single scale")
        layers.append(TernaryLayer(values, scale))
    return layers


def predict(layers: Sequence[TernaryLayer], images: ByteArray) -> NDArray[np.intp]:
    """Classify `images` [N, 8, 8]; the reference for the inference arithmetic."""
    x: FloatArray = images.reshape(len(images), -1).astype(np.float32) / np.float32(PIXEL_MAX)
    for index, (values, scale) in enumerate(layers):
        if index:
            x = np.maximum(x, np.float32(0))
        largest: FloatArray = np.abs(x).max(axis=1, keepdims=True)
        floored: FloatArray = np.maximum(largest, np.float32(SCALE_FLOOR))
        input_scale = np.float32(127) / floored
        q = np.clip(np.rint(x * input_scale), -128, 127).astype(np.int8)
        accumulated = q.astype(np.int32) @ values.T.astype(np.int32)
        x = accumulated.astype(np.float32) * scale / input_scale
    classes: NDArray[np.intp] = np.argmax(x, axis=1)
    return classes


def check_files(folder: Path) -> float:
    """Report on the files in `folder` and return the held-out accuracy."""
    layers = read_layers(folder / MODEL_FILE)
    with np.load(folder / DATA_FILE) as data:
        images, labels = data["images"], data["labels"]
    for index, (values, scale) in enumerate(layers):
        rows, columns = values.shape
        zeros = np.mean(values == 0)
        print(f"layer {index}: {rows:3d} x {columns:3d}  scale {scale:.6f}  zeros {zeros:.1%}")
    correct = int(np.sum(predict(layers, images) == labels))
    accuracy = correct / len(labels)
    print(f"held-out accuracy: {correct}/{len(labels)} = {accuracy:.2%}")
    return accuracy


def main() -> None:
    """Train, unless only a check is asked for, and check the files."""
    parser = argparse.ArgumentParser(description="Train the ternary digits example.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder of the model and data files (default: the folder of this script)",
    )
    parser.add_argument(
        "--check", action="store_true", help="only check the files that are already there"
    )
    arguments = parser.parse_args()

    if not arguments.check:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        split = load_split()
        model = train(split.train_images, split.train_labels)
        write_files(arguments.out, model, split.test_images, split.test_labels)
    check_files(arguments.out)


if __name__ == "__main__":
    main()
