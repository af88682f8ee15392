"""Operators and modules for PyTorch against dense float64, and PyTorch's own checks of operators.

Matrices are those of `rsr_testing.matrices`, in every encoding and packing.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_formats.records import QUINARY
from rsr_runtime.reference import quantize_int8
from rsr_testing import models
from rsr_testing.matrices import Built, Spec, Workshop, matrix_of
from rsr_testing.parity.judge import torch_and_transformers
from rsr_testing.process import run_python

torch, _ = torch_and_transformers()

from rsr_runtime.torch import DeviceError, RsrLinear, linear_all  # noqa: E402

SPECS = {
    "one scale": Spec((24, 37), scale="tensor"),
    "scales of rows": Spec((40, 64), scale="row", k=2),
    "groups": Spec((21, 64), scale="row", group=32),
    "n4s1": Spec((70, 65), scale="tensor", packing="n4s1"),
    "five digits": Spec((16, 20), digits=QUINARY, k=2, scale="row"),
    "permuted": Spec((24, 37), scale="row", encoding="permuted", k=4),
    "transposed": Spec((24, 37), scale="tensor", encoding="permuted", direction="reduce", k=4),
}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, np.random.default_rng(20260801))


@pytest.fixture(params=list(SPECS.values()), ids=list(SPECS))
def built(request: pytest.FixtureRequest, workshop: Workshop) -> Built:
    return workshop.build([request.param])[0]


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def layer_of(matrix: rsr.Matrix, activations: str = "float32", seed: int = 0) -> Any:
    """Return a layer with a bias that takes gradients."""
    bias = torch.randn(matrix.shape[0], generator=torch.manual_seed(seed))
    return RsrLinear(matrix, torch.nn.Parameter(bias), activations)


def arguments(layer: Any, x: Any) -> tuple[Any, ...]:
    return x, layer.weight, layer.bias, layer.handle, layer.out_features, layer.activations


# --- products -----------------------------------------------------------------------------------

# Largest relative error of a rounded result.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_products(built: Built, dtype: Any) -> None:
    """Each is as near to the exact result as a float32 product, then rounded once to its dtype."""
    x = torch.randn(3, 2, built.spec.shape[1], generator=torch.manual_seed(1)).to(dtype)
    layer = layer_of(built.matrix)
    y = layer(x)
    assert (y.dtype, tuple(y.shape)) == (dtype, (3, 2, built.spec.shape[0]))
    rows = x.float().numpy().reshape(6, -1)
    bias = layer.bias.detach().numpy()
    exact = rows.astype(np.float64) @ built.scaled.T + bias
    error = np.abs(y.detach().double().numpy().reshape(6, -1) - exact)
    allowed = built.bound(rows.T).T + 2.0**-23 * np.abs(exact) + ROUNDING[dtype] * np.abs(exact)
    assert (error <= allowed * (1 + 1e-6)).all()


@pytest.mark.parametrize("activations", ["float32", "int8", "int8-group"])
def test_products_are_those_of_the_matrix(built: Built, activations: str) -> None:
    x = torch.randn(5, built.spec.shape[1], generator=torch.manual_seed(1))
    layer = RsrLinear(built.matrix, activations=activations)
    wanted = built.matrix.linear(x.numpy(), activations)
    np.testing.assert_array_equal(layer(x).numpy(), wanted)
    np.testing.assert_array_equal(layer(x.T.contiguous().T).numpy(), wanted)
    np.testing.assert_array_equal(
        layer(x[0]).numpy(), built.matrix.linear(x[0].numpy(), activations)
    )
    assert layer(x[:0]).shape == (0, layer.out_features)


def test_several_at_once(workshop: Workshop) -> None:
    specs = [Spec((rows, 48), scale="row", name=f"w{rows}") for rows in (16, 24, 40)]
    layers = [layer_of(one.matrix, "int8") for one in workshop.build(specs)]
    layers[1].bias = None
    x = torch.randn(2, 3, 48, generator=torch.manual_seed(1))
    for found, layer in zip(linear_all(layers, x), layers, strict=True):
        assert torch.equal(found, layer(x))
    layers[0].activations = "float32"
    with pytest.raises(rsr.OptionError, match=r"\['float32', 'int8'\], expected one kind"):
        linear_all(layers, x)


def test_a_rotated_basis(tmp_path: Path) -> None:
    """The layer is x @ (W Q).T, its gradient with respect to x is y @ W Q."""
    model = rsr.load(models.FAMILIES["bonsai-2"].build(tmp_path))
    matrix = model.matrix("model.layers.0.self_attn.q_proj.weight")
    assert matrix.rotation is not None
    Q = matrix.rotation.apply(np.eye(matrix.shape[1], dtype=np.float32)).T.astype(np.float64)
    W = torch.from_numpy(matrix.to_dense().astype(np.float64) @ Q)
    x = torch.randn(4, matrix.shape[1], generator=torch.manual_seed(1), requires_grad=True)
    y = RsrLinear(matrix)(x)
    g = torch.randn(y.shape, generator=torch.manual_seed(2))
    y.backward(g)
    torch.testing.assert_close(y.double(), x.double() @ W.T, rtol=0, atol=2e-5)
    torch.testing.assert_close(x.grad.double(), g.double() @ W, rtol=0, atol=2e-5)
    for found in linear_all([RsrLinear(matrix)] * 2, x):
        assert torch.equal(found, y)


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_gradients(built: Built, activations: str) -> None:
    """That of x is y @ W, also where activations are quantized; weights have none."""
    layer = layer_of(built.matrix, activations)
    x = torch.randn(2, 3, built.spec.shape[1], generator=torch.manual_seed(1), requires_grad=True)
    y = layer(x)
    g = torch.randn(y.shape, generator=torch.manual_seed(2))
    y.backward(g)
    rows = g.numpy().reshape(6, -1)
    exact = rows.astype(np.float64) @ built.scaled
    bound = len(rows.T) * 2.0**-23 * (np.abs(rows).astype(np.float64) @ np.abs(built.scaled))
    assert (np.abs(x.grad.numpy().reshape(6, -1) - exact) <= bound).all()
    torch.testing.assert_close(layer.bias.grad, g.sum((0, 1)))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert not layer.weight.requires_grad


def test_gradients_of_a_vector_and_of_half_floats(workshop: Workshop) -> None:
    (built,) = workshop.build([SPECS["groups"]])
    layer = layer_of(built.matrix)
    x = torch.randn(64, generator=torch.manual_seed(1)).bfloat16().requires_grad_()
    layer(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    np.testing.assert_allclose(x.grad.float().numpy(), built.scaled.sum(0), rtol=2.0**-7, atol=1e-5)


def test_second_derivatives(built: Built) -> None:
    """A product is linear in x, and its gradient in that of y."""
    layer = RsrLinear(built.matrix)
    x = torch.randn(2, built.spec.shape[1], generator=torch.manual_seed(1), requires_grad=True)
    g = torch.randn(2, built.spec.shape[0], generator=torch.manual_seed(2), requires_grad=True)
    (of_x,) = torch.autograd.grad(layer(x), x, g, create_graph=True)
    v = torch.randn(x.shape, generator=torch.manual_seed(3))
    (of_g,) = torch.autograd.grad(of_x, g, v)
    assert torch.equal(of_g, layer(v))


# --- PyTorch's own checks -----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["one scale", "permuted"])
def test_opcheck(workshop: Workshop, encoding: str) -> None:
    (built,) = workshop.build([SPECS[encoding]])
    for activations in ("float32", "int8"):
        layer = layer_of(built.matrix, activations)
        x = torch.randn(2, 3, layer.in_features, requires_grad=True)
        torch.library.opcheck(torch.ops.rsr.linear.default, arguments(layer, x))
    layers = [layer, layer_of(built.matrix, "int8", 1)]
    many = [[getattr(one, name) for one in layers] for name in ("weight", "bias", "handle")]
    widths = [one.out_features for one in layers]
    torch.library.opcheck(torch.ops.rsr.linear_all.default, (x, *many, widths, "int8"))
    y = torch.randn(4, layer.out_features, requires_grad=True)
    torch.library.opcheck(
        torch.ops.rsr.linear_transposed.default,
        (y, layer.weight, layer.handle, layer.in_features),
    )


def test_compiled(workshop: Workshop) -> None:
    """Without graph breaks; layers of one shape share code, as their numbers are data."""
    specs = [Spec((48, 48), scale="row", name=name) for name in "abc"]
    layers = torch.nn.Sequential(*(layer_of(one.matrix, "int8") for one in workshop.build(specs)))
    x = torch.randn(3, 48, generator=torch.manual_seed(1), requires_grad=True)
    wanted = layers(x)
    wanted.sum().backward()
    of_x, x.grad = x.grad, None
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    y.sum().backward()
    assert torch.equal(y, wanted)
    assert torch.equal(x.grad, of_x)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    for layer, eager in zip(layers, layers, strict=True):
        one = torch.compile(RsrLinear.forward, fullgraph=True, backend=counter)
        assert torch.equal(one(layer, x), eager(x))
    assert counter.frame_count == 1


def test_inference_mode_and_profilers_see_the_operator(built: Built) -> None:
    layer = RsrLinear(built.matrix)
    x = torch.randn(2, built.spec.shape[1])
    with torch.inference_mode(), torch.profiler.profile() as profile:
        y = layer(x)
    assert y.is_inference()
    assert torch.equal(y, layer(x))
    assert any(event.name == "rsr::linear" for event in profile.events())


# --- modules ------------------------------------------------------------------------------------


@pytest.fixture
def layer(tmp_path: Path, workshop: Workshop) -> Any:
    """A layer of a model file."""
    path = tmp_path / "model.rsr"
    workshop.write(path, [Spec((40, 64), scale="row", name="w")])
    return layer_of(matrix_of(rsr.load(path), "w"), "int8")


def test_the_weight_views_the_file(built: Built) -> None:
    layer = RsrLinear(built.matrix)
    stored = built.matrix.arrays[0]
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.data_ptr() == stored.ctypes.data
    assert layer.weight.numel() == stored.nbytes


def test_copies_share_the_file(layer: Any) -> None:
    other = copy.deepcopy(torch.nn.ModuleList([layer, layer]))
    assert other[0] is other[1]
    assert other[0].matrix is layer.matrix
    assert other[0].weight.data_ptr() == layer.weight.data_ptr()
    assert other[0].bias is not layer.bias
    x = torch.randn(3, 64)
    assert torch.equal(other[0](x), layer(x))


def test_pickles_hold_the_path(layer: Any) -> None:
    assert len(pickle.dumps(layer)) < 3000 < 20 * layer.weight.numel()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    x = torch.randn(3, 64)
    assert torch.equal(loaded(x), layer(x))
    assert loaded.activations == "int8"


def test_pickles_load_in_another_process(layer: Any, tmp_path: Path) -> None:
    """Where a handle of this process would name nothing, or another matrix."""
    (tmp_path / "layer").write_bytes(pickle.dumps(layer))
    code = """
import pickle, sys, torch
layer = pickle.load(open(sys.argv[1], "rb"))
print(layer(torch.ones(1, 64)).sum().item())
"""
    done = run_python(code, tmp_path / "layer")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == layer(torch.ones(1, 64)).sum().item()


def test_state_dict(layer: Any) -> None:
    """It has the bias alone; a dense weight of another checkpoint is refused, not ignored."""
    other = RsrLinear(layer.matrix, torch.zeros(40))
    assert list(layer.state_dict()) == ["bias"]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.bias, layer.bias)
    dense = {"weight": torch.zeros(40, 64), "bias": torch.zeros(40)}
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"weight cannot be loaded: .* those of 'w' in its"):
            layer.load_state_dict(dense, strict=strict)


def test_conversions_and_moves(layer: Any) -> None:
    at = layer.weight.data_ptr()
    layer.to(torch.bfloat16).to("cpu")
    assert (layer.bias.dtype, layer.weight.dtype) == (torch.bfloat16, torch.uint8)
    layer.share_memory()
    assert layer.weight.data_ptr() == at
    moves: list[Callable[[], object]] = [
        lambda: layer.to("meta"), lambda: layer.to_empty(device="meta"),
    ]  # fmt: skip
    for move in moves:
        with pytest.raises(DeviceError, match="'w' cannot move to meta: an RsrLinear computes"):
            move()
    assert layer(torch.randn(1, 64)).shape == (1, 40)


def test_defaults_of_torch(layer: Any) -> None:
    """Layers and gradients do not depend on the default device and dtype."""
    x = torch.randn(2, 64, requires_grad=True)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            other = copy.copy(layer)
            other.__setstate__(layer.__getstate__())
            other.to(torch.bfloat16).to(torch.float32)
            y = other(x)
            (found,) = torch.autograd.grad(y, x, torch.ones_like(y, device="cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)
    assert torch.equal(y, layer(x))


def test_a_linear_layer_to_other_tools(layer: Any) -> None:
    assert isinstance(layer, torch.nn.Linear)
    assert (layer.in_features, layer.out_features) == (64, 40)
    assert repr(layer) == (
        "RsrLinear(in_features=64, out_features=40, bias=True, activations='int8', "
        f"{layer.matrix!r})"
    )
    layer.reset_parameters()


REFUSED: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "float64": (
        lambda layer: layer(torch.zeros(64, dtype=torch.float64)),
        rsr.InputTypeError, r"float64, expected float32, bfloat16 or float16: pass x.float\(\)",
    ),
    "a shape": (lambda layer: layer(torch.zeros(63)), rsr.InputShapeError, r"\(63,\)"),
    "activations": (
        lambda layer: RsrLinear(layer.matrix, activations="int4"), rsr.OptionError, "'int4'",
    ),
    "no matrix": (
        lambda layer: RsrLinear("w"),  # type: ignore[arg-type]
        rsr.InputTypeError, "a str, expected a Matrix",
    ),
    "a bias": (
        lambda layer: RsrLinear(layer.matrix, torch.zeros(64)),
        rsr.OptionError, r"'w': the bias has shape \(64,\), expected \(40,\)",
    ),
    "no layers": (lambda layer: linear_all([], torch.zeros(64)), rsr.OptionError, "expected one"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(layer: Any, call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(layer)


def test_a_closed_model(tmp_path: Path, workshop: Workshop) -> None:
    workshop.write(tmp_path / "a.rsr", [Spec((8, 8), name="w")])
    model = rsr.load(tmp_path / "a.rsr")
    layer = RsrLinear(model.matrix("w"))
    model.close()
    calls: list[Callable[[], object]] = [
        lambda: layer(torch.zeros(8)), lambda: pickle.dumps(layer),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(rsr.ClosedError, match="'w'"):
            call()


def test_a_freed_matrix(workshop: Workshop) -> None:
    """A handle never names a matrix that was loaded later."""
    weight, handle = (lambda one: (one.weight, one.handle))(
        RsrLinear(workshop.build([Spec((8, 8), name="w")])[0].matrix)
    )
    keep = RsrLinear(workshop.build([Spec((8, 8), name="w")])[0].matrix)
    assert keep.handle != handle
    with pytest.raises(rsr.ClosedError, match="keep its RsrLinear"):
        torch.ops.rsr.linear(torch.zeros(8), weight, None, handle, 8, "float32")


# --- threads ------------------------------------------------------------------------------------


def test_threads_of_torch(tmp_path: Path, workshop: Workshop) -> None:
    """The number of torch counts until `rsr.set_num_threads` is called."""
    workshop.write(tmp_path / "a.rsr", [Spec((8, 8), name="w")])
    code = """
import sys, torch, rsr_runtime as rsr
from rsr_runtime.torch import RsrLinear
layer = RsrLinear(rsr.load(sys.argv[1]).matrix("w"))
found = []
for set_threads in (lambda: torch.set_num_threads(3), lambda: torch.set_num_threads(2),
                    lambda: rsr.set_num_threads(5), lambda: torch.set_num_threads(1)):
    set_threads()
    layer(torch.zeros(8))
    found.append(rsr.get_num_threads())
print(found)
"""
    done = run_python(code, tmp_path / "a.rsr")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[3, 2, 5, 5]"


def test_several_threads(built: Built) -> None:
    layer = layer_of(built.matrix, "int8")
    x = torch.randn(4, built.spec.shape[1])
    wanted, wrong = layer(x), []

    def work() -> None:
        for _ in range(50):
            if not torch.equal(layer(x), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_int8_activations_are_those_of_bitnet(workshop: Workshop) -> None:
    """Exact integer sums of what the reference quantizes, scaled once."""
    (built,) = workshop.build([Spec((24, 48), scale="tensor")])
    x = torch.randn(5, 48, generator=torch.manual_seed(3)).bfloat16()
    q, s = quantize_int8(x.float().numpy())
    exact = q.astype(np.float64) @ built.scaled.T / s
    y = RsrLinear(built.matrix, activations="int8")(x)
    np.testing.assert_allclose(y.double().numpy(), exact, rtol=2.0**-8 * (1 + 1e-4), atol=0)
