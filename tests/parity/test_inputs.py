"""Tensors of PyTorch given to products: the error says which expression to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime as rsr
import rsrc
from rsr_testing.paths import ROOT

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> rsr.Matrix:
    path: Path = tmp_path_factory.mktemp("inputs") / "digits.rsr"
    rsrc.compile(ROOT / "examples" / "digits" / "model.safetensors", path)
    return rsr.load(path).matrix("layers.1.weight")


@pytest.mark.parametrize(
    ("dtype", "grad", "fix"),
    [
        (torch.float32, False, "x.numpy()"),
        (torch.float32, True, "x.detach().numpy()"),
        (torch.bfloat16, False, "x.float().numpy()"),
        (torch.float64, True, "x.detach().float().numpy()"),
        (torch.int32, False, "x.float().numpy()"),
    ],
)
def test_the_fix_works(w: rsr.Matrix, dtype: Any, grad: bool, fix: str) -> None:
    x: Any = torch.linspace(-8, 8, w.shape[1]).to(dtype).requires_grad_(grad)
    for call in (lambda x: w @ x, w.matvec, w.linear):
        with pytest.raises(rsr.InputTypeError, match=r"x is a torch\.Tensor of") as caught:
            call(x)
        assert str(caught.value).endswith(f": pass {fix}")
    values = x.detach().to(torch.float32).numpy()
    np.testing.assert_array_equal(w @ eval(fix, {"x": x}), w @ values)


def test_tensor_times_matrix_is_refused_with_the_alternatives(w: rsr.Matrix) -> None:
    with pytest.raises(rsr.InputTypeError, match=r"w\.linear\(x\) computes x @ W\.T"):
        torch.zeros(1, 512) @ w
