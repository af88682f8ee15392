"""Makes the golden data of ``tests/golden/transformers``: BitNet layers by transformers.

    PYTHONPATH=tests/support python -m rsr_testing.parity.golden_layers [CLASS ...] [--output DIR]

The committed data were made with ``torch==2.13.0`` and ``transformers==5.23.0``. For each linear
class of the ``bitnet`` quantization method this builds a small random ``BitNetForCausalLM``,
replaces, packs, saves and loads it with functions of transformers, and records what each quantized
layer received and returned::

    <CLASS>/model/            config.json, model.safetensors, ...
    <CLASS>/activations.npz   <module>/input, <module>/output, input_ids, logits
    <CLASS>/edge_rows.npz     <module>/input, <module>/output of rows made by hand

Everything in the checkpoint is BF16 but the packed codes, as in the published checkpoints. The
recordings are made in float32: BF16 would round the int8 activations' scale and the outputs to 8
bits, and a comparison could not tell a wrong integer from a rounding.

The weights depend on the seed alone. The activations pass through BLAS and may differ in their last
bits on another machine. That does no harm, as the tests replay the recorded inputs.

``tests/parity/test_live.py`` builds other models with the same functions. Tests without torch use
the NumPy helpers, so functions import torch and transformers themselves.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..paths import GOLDEN
from .judge import bitnet_layers, load, quiet

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float32]
Recording = dict[str, Any]  # arrays; Any, as savez has keyword arguments of other types besides

LINEAR_CLASSES = ("bitlinear", "autobitlinear")
GOLDEN_DIR = GOLDEN / "transformers"
GOLDEN_SEED = 20
GOLDEN_TOKENS = (1, 17, 42, 99, 7, 63)
EDGE_MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")

# Largest accepted error of an output, as a share of the largest output of its row.
#
# The integer sums are exact on both sides: |acc| <= 128 * n is far below 2**24. For `bitlinear`
# only the float32 operations around them differ in order: transformers computes acc / (weight_scale
# * s_x) with s_x = 127 * (1 / absmax), the runtime acc * multiplier / s_x. These are at most eight
# roundings of 2**-24, 4.8e-7 in all; 2.4e-7 is the largest error measured. `autobitlinear` divides
# the integers by s_x first and adds n rounded float32 terms, in an order that depends on BLAS;
# 5.2e-7 is the largest error measured, for n from 60 to 2816. An error of 1 in a sum is at least 1
# / (128 * n) of the row's largest, 4.9e-5 for n = 160, and is always caught.
TOLERANCE = {"bitlinear": 1e-6, "autobitlinear": 5e-6}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are those of the golden models."""

    hidden: int = 64
    intermediate: int = 160
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 128
    tied: bool = True


@dataclass(frozen=True)
class Built:
    """A quantized model in memory, with the packed codes of its linear layers by tensor name."""

    model: Any
    packed: dict[str, torch.Tensor]


# --- NumPy helpers ------------------------------------------------------------------------------


def row_error(
    got: FloatArray, want: FloatArray, allowance: npt.NDArray[np.float64] | None = None
) -> float:
    """Return the largest error as a share of the largest wanted value of its row.

    Relative to the row because an output near zero is a difference of large terms. A row that must
    be all zero gives infinity where it is not. ``allowance`` is an absolute error per row that does
    not count.
    """
    if got.shape != want.shape or got.dtype != np.float32 or not np.isfinite(got).all():
        return float("inf")
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).max(axis=-1)
    if allowance is not None:
        difference = np.maximum(difference - allowance, 0.0)
    largest = np.abs(want.astype(np.float64)).max(axis=-1)
    share = np.divide(difference, largest, out=np.zeros_like(difference), where=largest > 0)
    share[(largest == 0) & (difference > 0)] = np.inf
    return float(share.max())


def near_ties(x: FloatArray) -> npt.NDArray[np.int64]:
    """Count per row the activations whose int8 value depends on the last bits of ``s_x``.

    torch computes ``127 / tensor`` as ``127 * (1 / tensor)``, which differs from the division by an
    ulp in a quarter of all rows. Both are right, but next to the middle between two integers they
    may choose different ones.
    """
    wide = x.astype(np.float64)
    absmax = np.abs(wide).max(axis=-1, keepdims=True)
    scaled = np.abs(wide * (127.0 / np.maximum(absmax, np.float32(1e-5))))
    distance = np.abs(scaled - np.floor(scaled) - 0.5)
    counts: npt.NDArray[np.int64] = (distance <= scaled * 2.0**-22).sum(axis=-1, dtype=np.int64)
    return counts


def tie_allowance(x: FloatArray, multiplier: float) -> npt.NDArray[np.float64]:
    """Return per row how far an output moves if every near tie rounds the other way."""
    absmax = np.maximum(np.abs(x).max(axis=-1), np.float32(1e-5)).astype(np.float64)
    allowance: npt.NDArray[np.float64] = near_ties(x) * multiplier * absmax / 127.0
    return allowance


def edge_rows(n: int) -> FloatArray:
    """Return rows at the corners of the activation quantizer.

    Every row's scale is exact in float32 (a power of two, or fixed by the floor of 1e-5), so that
    no result depends on how the division is done.
    """
    rng = np.random.default_rng(n)
    ties = rng.integers(-127, 127, size=n).astype(np.float32) + np.float32(0.5)
    ties[0] = 127.0  # s_x = 1: every other value is a tie and rounds to even
    odd = 2 * rng.integers(-127, 127, size=n).astype(np.float32) + np.float32(1)
    odd[-1] = -254.0  # s_x = 0.5: ties again, with a negative extreme
    single = np.zeros(n, dtype=np.float32)
    single[n // 2] = -508.0
    constant = np.full(n, 2.0**100, dtype=np.float32)  # saturates every value; s_x is 127 * 2**-100
    floor = np.full(n, 1e-5, dtype=np.float32)  # the largest row that the floor of 1e-5 affects
    below = rng.integers(-9, 10, size=n).astype(np.float32) * np.float32(1e-7)
    below[1] = 9e-7  # far below the floor: the values stay small integers
    tiny = np.full(n, 1e-30, dtype=np.float32)  # rounds to zeros
    zero = np.zeros(n, dtype=np.float32)
    return np.stack([ties, odd, single, constant, floor, below, tiny, zero])


# --- transformers -------------------------------------------------------------------------------


def build(linear_class: str, shape: Shape, seed: int) -> Built:
    """Build a random BF16 model and quantize it with the functions of transformers.

    None of them makes ternary weights from masters offline; that line is the formula of its
    ``WeightQuant``.
    """
    with quiet():
        import torch
        import transformers
        from transformers import BitNetConfig, BitNetQuantConfig
        from transformers.integrations.bitnet import pack_weights, replace_with_bitnet_linear
        from transformers.quantizers.base import get_keys_to_not_convert

        config = BitNetConfig(
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocab,
            tie_word_embeddings=shape.tied,
            max_position_embeddings=64,
            initializer_range=0.05,  # wider than usual: keeps the MLP well above the norms' epsilon
            bos_token_id=1,
            eos_token_id=2,
        )
        torch.manual_seed(seed)
        # not `.to(bfloat16)`: that would round the rotary frequencies too, which loading does not
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_config(config, dtype=torch.bfloat16).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all ones otherwise, which would hide a norm that is not applied
                parameter.add_(0.1 * torch.randn_like(parameter))
        masters = {name: value.clone() for name, value in model.state_dict().items()}

        quantization = BitNetQuantConfig(linear_class=linear_class, quantization_mode="offline")
        replace_with_bitnet_linear(model, get_keys_to_not_convert(model), quantization)
        # Only the config: with `model.hf_quantizer` set, save_pretrained would drop its argument
        # `state_dict`, and there is no other way to have it write AutoBitLinear weights packed.
        model.config.quantization_config = quantization

        packed = {}
        for name, module in bitnet_layers(model).items():
            master = masters[f"{name}.weight"].float()
            mean = master.abs().mean().clamp(min=1e-5)
            ternary = (master * (1.0 / mean)).round().clamp(-1, 1)
            codes = pack_weights(ternary.to(torch.int8))  # a copy: pack_weights adds 1 in place
            packed[f"{name}.weight"] = codes
            if linear_class == "bitlinear":
                module.weight.copy_(codes)
                module.weight_scale.copy_(1.0 / mean)  # rounds to BF16
            else:
                module.weight.copy_(ternary)
                module.weight_scale.copy_(mean)
        return Built(model, packed)


def save(built: Built, folder: Path, *, pack: bool = True, max_shard_size: str = "1GB") -> None:
    """Write the checkpoint; without ``pack`` as transformers writes it by default.

    By default it writes the codes of a BitLinear, but -1, 0 and 1 in BF16 for an AutoBitLinear.
    """
    with quiet():
        state = {**built.model.state_dict(), **(built.packed if pack else {})}
        built.model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)


def record(model: Any, tokens: tuple[int, ...]) -> Recording:
    """Run ``tokens`` through the model; return inputs and outputs of each quantized layer."""
    with quiet():
        import torch

        recording: Recording = {}

        def hook_for(name: str) -> Any:
            def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                recording[f"{name}/input"] = inputs[0].numpy().copy()
                recording[f"{name}/output"] = output.numpy().copy()

            return hook

        modules = bitnet_layers(model)
        handles = [m.register_forward_hook(hook_for(name)) for name, m in modules.items()]
        try:
            ids = torch.tensor([tokens])
            recording["logits"] = model(ids, use_cache=False).logits.numpy().copy()
            recording["input_ids"] = ids.numpy()
        finally:
            for handle in handles:
                handle.remove()
        return recording


def record_edge_rows(model: Any, names: tuple[str, ...]) -> Recording:
    """Feed :func:`edge_rows` to the named layers directly."""
    with quiet():
        import torch

        modules = bitnet_layers(model)
        recording: Recording = {}
        for name in names:
            rows = edge_rows(modules[name].in_features)
            recording[f"{name}/input"] = rows
            recording[f"{name}/output"] = modules[name](torch.from_numpy(rows)).numpy()
        return recording


def unpack(codes: torch.Tensor) -> npt.NDArray[np.int8]:
    """Unpack codes with ``unpack_weights`` of transformers."""
    with quiet():
        import torch
        from transformers.integrations.bitnet import unpack_weights

        ternary: npt.NDArray[np.int8] = unpack_weights(codes, dtype=torch.int8).numpy()
        return ternary


# --- the golden data ----------------------------------------------------------------------------


def _linear_int8(
    x: FloatArray, ternary: npt.NDArray[np.int8], multiplier: np.float32
) -> FloatArray:
    """Compute a layer by the formula, to check a recording before it is kept."""
    absmax: FloatArray = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-5))
    scale = np.float32(127) / absmax
    quantized = np.clip(np.rint(x * scale), -128, 127).astype(np.int64)
    accumulated = (quantized @ ternary.T.astype(np.int64)).astype(np.float32)
    result: FloatArray = accumulated * multiplier / scale
    return result


def _check(linear_class: str, built: Built, recording: Recording) -> float:
    """Return the worst row error of ``recording`` against :func:`_linear_int8`."""
    modules = bitnet_layers(built.model)
    worst = 0.0
    for key in recording:
        if not key.endswith("/input"):
            continue
        name = key.removesuffix("/input")
        stored = np.float32(modules[name].weight_scale.item())
        multiplier = np.float32(1) / stored if linear_class == "bitlinear" else stored
        mine = _linear_int8(recording[key], unpack(built.packed[f"{name}.weight"]), multiplier)
        output = recording[f"{name}/output"]
        if output.dtype != np.float32 or recording[key].dtype != np.float32:
            raise RuntimeError(f"{name} was not computed in float32")
        worst = max(worst, row_error(mine, output))
    return worst


def make(linear_class: str, folder: Path) -> None:
    """Make and check the golden data of one linear class in ``folder``."""
    built = build(linear_class, Shape(), GOLDEN_SEED)
    model_dir = folder / "model"
    save(built, model_dir)

    ids = GOLDEN_TOKENS
    with quiet():
        import torch

        tokens = torch.tensor([ids])
        if not torch.equal(built.model(tokens).logits, load(model_dir, "bfloat16")(tokens).logits):
            raise RuntimeError("the saved model does not give the logits of the one in memory")

    reference = load(model_dir)
    for file_name, recording in (
        ("activations.npz", record(reference, ids)),
        ("edge_rows.npz", record_edge_rows(reference, EDGE_MODULES)),
    ):
        if file_name == "activations.npz":
            inputs = [value for key, value in recording.items() if key.endswith("/input")]
            if any(near_ties(value).any() for value in inputs):
                raise RuntimeError("an activation lies on a rounding boundary: choose another seed")
        worst = _check(linear_class, built, recording)
        print(f"{linear_class}/{file_name}: worst row error of the plain formula {worst:.3g}")
        if worst > TOLERANCE[linear_class]:
            raise RuntimeError("the recording does not follow the formula")
        np.savez_compressed(folder / file_name, **recording)


def main() -> None:
    """Replace the golden data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("linear_class", nargs="*", default=LINEAR_CLASSES, help="default: both")
    parser.add_argument("--output", type=Path, default=GOLDEN_DIR)
    arguments = parser.parse_args()
    for linear_class in arguments.linear_class:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make(linear_class, folder)
            output = arguments.output / linear_class
            shutil.rmtree(output, ignore_errors=True)  # only now: a failed run leaves the old data
            shutil.copytree(folder, output)
            for path in output.rglob("*.*"):
                path.chmod(0o644)  # safetensors writes its files readable by their owner only


if __name__ == "__main__":
    main()
