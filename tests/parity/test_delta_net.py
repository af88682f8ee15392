"""The reference of the gated delta net, compared with the layer of transformers' qwen3_5."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rsr_runtime.reference import delta_net
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers

torch, transformers = torch_and_transformers()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet


@pytest.mark.parametrize(("keys", "values"), [(2, 2), (2, 6)])
def test_the_reference_is_the_layer_of_transformers(keys: int, values: int) -> None:
    """Several chunks of 64 rows, which the reference takes in two calls."""
    dk, dv, rows, eps = 16, 24, 150, 1e-6
    config = transformers.Qwen3_5TextConfig(
        hidden_size=48, linear_num_key_heads=keys, linear_num_value_heads=values,
        linear_key_head_dim=dk, linear_value_head_dim=dv, num_hidden_layers=1, rms_norm_eps=eps,
        layer_types=["linear_attention"],
    )  # fmt: skip
    torch.manual_seed(3)
    with judge.quiet(), torch.no_grad():
        layer = Qwen3_5GatedDeltaNet(config, 0).double()
        layer.A_log.copy_(torch.randn(values))
        layer.norm.weight.copy_(torch.randn(dv))
        hidden = torch.randn(1, rows, 48, dtype=torch.float64)
        expected = layer(hidden)[0].numpy()
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    x = hidden[0].numpy()
    qkv, a, b, z = (x @ weights[f"in_proj_{name}.weight"].T for name in ("qkv", "a", "b", "z"))
    convolution = weights["conv1d.weight"][:, 0].T
    kept = np.zeros((len(convolution) - 1, qkv.shape[1]))
    state = np.zeros((values, dk, dv))
    outputs = []
    for part in (slice(0, 70), slice(70, rows)):
        out, kept, state = delta_net(
            qkv[part], a[part], b[part], convolution, -np.exp(weights["A_log"]),
            weights["dt_bias"], kept, state,
        )  # fmt: skip
        outputs.append(out)
    out = np.concatenate(outputs)
    normed = out / np.sqrt((out**2).mean(-1, keepdims=True) + eps) * weights["norm.weight"]
    gated = normed.reshape(rows, -1) * (z / (1 + np.exp(-z)))
    found = gated @ weights["out_proj.weight"].T
    # transformers computes the recurrence in float32, whatever its input is.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
