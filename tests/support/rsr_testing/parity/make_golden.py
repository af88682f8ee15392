"""Make the golden data of ``tests/golden/transformers`` with ``transformers`` itself as the judge.

Run it from anywhere (needs ``torch==2.13.0``, ``transformers==5.23.0`` and ``accelerate``, without
which ``from_pretrained`` refuses a BitNet checkpoint)::

    python tests/parity/make_golden.py

For both linear classes of the ``bitnet`` quantization method it builds a small random
``BitNetForCausalLM``, replaces, packs, saves and loads it with the functions of ``transformers``,
and records what each quantized linear layer received and returned::

    tests/golden/transformers/<linear_class>/model/            config.json, model.safetensors, ...
    tests/golden/transformers/<linear_class>/activations.npz   <module>/input, <module>/output,
                                                               input_ids, logits
    tests/golden/transformers/<linear_class>/edge_rows.npz     the same keys, rows made by hand

Everything in the checkpoint is BF16 but the packed codes, as in the published checkpoints. The
recordings are made in float32: in BF16 both the int8 quantization of the activations and the output
would be rounded to 8 bits, and a comparison could not tell a wrong integer from a rounding.

The weights depend on the seed alone. The activations may differ in their last bits on another
machine (they pass through BLAS), which harms nothing: the tests replay the recorded inputs.

``tests/parity/test_live.py`` builds other models with the same functions, and both test files use
the NumPy helpers; hence ``torch`` and ``transformers`` are only imported inside functions.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..paths import GOLDEN

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
# The integer part is exact on both sides: |acc| <= 128 * n stays far below 2**24. For `bitlinear`
# only the order of the float32 operations around it differs: transformers computes
# acc / (weight_scale * s_x) with s_x = 127 * (1 / absmax), the runtime acc * multiplier / s_x. That
# is at most eight roundings of 2**-24, 4.8e-7 in all; 2.4e-7 is the most that was measured.
# `autobitlinear` divides the integers by s_x first and adds n rounded float32 terms, in an order
# that depends on BLAS; 5.2e-7 was the most, for n from 60 to 2816.
# One unit in the integer part is worth at least 1 / (128 * n), 4.9e-5 for n = 160: always caught.
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

    Relative to the row because an output near zero is a difference of large terms; a row wanted to
    be all zero must be exactly that, and answers infinity otherwise. ``allowance`` is an absolute
    error per row that does not count.
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
    """Count per row the activations whose int8 value hangs on the last bits of ``s_x``.

    torch computes ``127 / tensor`` as ``127 * (1 / tensor)``, which is off by an ulp from the plain
    division for a quarter of all rows. Both are right, but next to a rounding boundary they may
    choose neighboring integers.
    """
    wide = x.astype(np.float64)
    absmax = np.abs(wide).max(axis=-1, keepdims=True)
    scaled = np.abs(wide * (127.0 / np.maximum(absmax, np.float32(1e-5))))
    distance = np.abs(scaled - np.floor(scaled) - 0.5)
    counts: npt.NDArray[np.int64] = (distance <= scaled * 2.0**-22).sum(axis=-1, dtype=np.int64)
    return counts


def tie_allowance(x: FloatArray, multiplier: float) -> npt.NDArray[np.float64]:
    """Return per row by how much an output may move if every near tie rounds the other way."""
    absmax = np.maximum(np.abs(x).max(axis=-1), np.float32(1e-5)).astype(np.float64)
    allowance: npt.NDArray[np.float64] = near_ties(x) * multiplier * absmax / 127.0
    return allowance


def edge_rows(n: int) -> FloatArray:
    """Return rows at the corners of the activation quantizer.

    Every row has a scale that is exact in float32 (a power of two, or one fixed by the 1e-5 floor),
    so that no result hangs on how the division was done.
    """
    rng = np.random.default_rng(n)
    ties = rng.integers(-127, 127, size=n).astype(np.float32) + np.float32(0.5)
    ties[0] = 127.0  # s_x = 1: every other value lies half-way, and must go to the even neighbor
    odd = 2 * rng.integers(-127, 127, size=n).astype(np.float32) + np.float32(1)
    odd[-1] = -254.0  # s_x = 0.5: half-way again, the extreme value being negative
    single = np.zeros(n, dtype=np.float32)
    single[n // 2] = -508.0
    constant = np.full(n, 2.0**100, dtype=np.float32)  # saturates every value; s_x is 127 * 2**-100
    floor = np.full(n, 1e-5, dtype=np.float32)  # the largest row the 1e-5 floor still touches
    below = rng.integers(-9, 10, size=n).astype(np.float32) * np.float32(1e-7)
    below[1] = 9e-7  # far below the floor: the values stay small integers
    tiny = np.full(n, 1e-30, dtype=np.float32)  # rounds to nothing at all
    zero = np.zeros(n, dtype=np.float32)
    return np.stack([ties, odd, single, constant, floor, below, tiny, zero])


# --- transformers -------------------------------------------------------------------------------


@contextlib.contextmanager
def transformers_ready() -> Iterator[None]:
    """Make transformers quiet and its arithmetic the plain one.

    ``force_eager`` runs its ``@torch.compile`` functions as they are written: no C++ compiler is
    needed and no fused multiply-add can slip in. One thread, as sums depend on how they are split.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        logging: Any = transformers.utils.logging  # it is untyped; as is AutoModelForCausalLM below
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(1)
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield


def quantized_modules(model: Any) -> dict[str, Any]:
    """Return the BitNet linear layers of ``model`` by module name."""
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    kinds = (BitLinear, AutoBitLinear)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def build(linear_class: str, shape: Shape, seed: int) -> Built:
    """Build a random BF16 model and quantize it, leaving each step to transformers where it has it.

    It has no function that turns master weights into ternary ones offline, so that line is the
    formula of its ``WeightQuant``.
    """
    with transformers_ready():
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
        for name, module in quantized_modules(model).items():
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
    """Write the checkpoint; without ``pack`` in the form transformers would give it unasked.

    That form holds the codes of a BitLinear, but the bare -1, 0, 1 of an AutoBitLinear in BF16.
    """
    with transformers_ready():
        state = {**built.model.state_dict(), **(built.packed if pack else {})}
        built.model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)


def load(folder: Path, dtype: str) -> Any:
    """Load a checkpoint and insist that no tensor was missing or left over."""
    with transformers_ready():
        import torch
        import transformers

        auto: Any = transformers.AutoModelForCausalLM
        model, info = auto.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
        )
        problems = {key: value for key, value in info.items() if value}
        if problems:
            raise RuntimeError(f"{folder} was not loaded in full: {problems}")
        if dtype == "float32":
            # A quantized checkpoint keeps its stored dtypes whatever `dtype` says (only the modules
            # made by the quantizer follow it), and PreTrainedModel.float() is blocked; so float()
            # of the base class, which widens the BF16 values and leaves the uint8 codes alone.
            torch.nn.Module.float(model)
        return model.eval()


def record(model: Any, tokens: tuple[int, ...]) -> Recording:
    """Run ``tokens`` through the model and return what each quantized layer got and gave."""
    with transformers_ready():
        import torch

        recording: Recording = {}

        def hook_for(name: str) -> Any:
            def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                recording[f"{name}/input"] = inputs[0].numpy().copy()
                recording[f"{name}/output"] = output.numpy().copy()

            return hook

        modules = quantized_modules(model)
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
    with transformers_ready():
        import torch

        modules = quantized_modules(model)
        recording: Recording = {}
        for name in names:
            rows = edge_rows(modules[name].in_features)
            recording[f"{name}/input"] = rows
            recording[f"{name}/output"] = modules[name](torch.from_numpy(rows)).numpy()
        return recording


def unpack(codes: torch.Tensor) -> npt.NDArray[np.int8]:
    """Return the ternary values of packed codes as ``unpack_weights`` of transformers sees them."""
    with transformers_ready():
        import torch
        from transformers.integrations.bitnet import unpack_weights

        ternary: npt.NDArray[np.int8] = unpack_weights(codes, dtype=torch.int8).numpy()
        return ternary


# --- the golden data ----------------------------------------------------------------------------


def _linear_int8(
    x: FloatArray, ternary: npt.NDArray[np.int8], multiplier: np.float32
) -> FloatArray:
    """Compute a layer from the formula alone, to check the recording before it is kept."""
    absmax: FloatArray = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-5))
    scale = np.float32(127) / absmax
    quantized = np.clip(np.rint(x * scale), -128, 127).astype(np.int64)
    accumulated = (quantized @ ternary.T.astype(np.int64)).astype(np.float32)
    result: FloatArray = accumulated * multiplier / scale
    return result


def _check(linear_class: str, built: Built, recording: Recording) -> float:
    """Return the worst row error of ``recording`` against :func:`_linear_int8`."""
    modules = quantized_modules(built.model)
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
    with transformers_ready():
        import torch

        tokens = torch.tensor([ids])
        if not torch.equal(built.model(tokens).logits, load(model_dir, "bfloat16")(tokens).logits):
            raise RuntimeError("the saved model does not give the logits of the one in memory")

    reference = load(model_dir, "float32")
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
    """Replace the golden data, or write it elsewhere to look at it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=GOLDEN_DIR)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory() as scratch:
        for linear_class in LINEAR_CLASSES:
            folder = Path(scratch) / linear_class
            folder.mkdir()
            make(linear_class, folder)
        for linear_class in LINEAR_CLASSES:  # only now: a failed run leaves the old data in place
            shutil.rmtree(output / linear_class, ignore_errors=True)
            shutil.copytree(Path(scratch) / linear_class, output / linear_class)
            for path in (output / linear_class).rglob("*.*"):
                path.chmod(0o644)  # safetensors writes its files readable by their owner only


if __name__ == "__main__":
    main()
