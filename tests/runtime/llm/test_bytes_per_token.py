"""`LanguageModel.arrays_per_token`: the bytes that `bytes_per_token` counts, where they lie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rsr_testing.loader import Loader


@pytest.mark.parametrize(
    "name", ["bitnet-2b", "bonsai", "llama-kept", "bitnet-2b-permuted", "mistral"]
)
def test_every_byte_once(name: str, loaded: Loader) -> None:
    model = loaded(name, context=64)
    c = model.config
    features = c.head_dim + -(-c.head_dim // 16) * 16  # values are padded
    position = c.num_hidden_layers * c.num_key_value_heads * features * 2
    for positions in (0, 1, 16, 41, 64):
        views = model.arrays_per_token(positions)
        seen = min(positions, c.layer(0).window or positions)
        weights = sum(layer.weight.nbytes for layer in model.weights.linear)  # as recorded
        assert model.bytes_per_token(positions) == weights + seen * position
        assert sum(map(len, views)) == weights + seen * position
        places = sorted((view.ctypes.data, len(view)) for view in views if len(view))
        assert all(start + size <= after for (start, size), (after, _) in pairwise(places))


def test_keys_and_values_are_what_attention_wrote(loaded: Loader) -> None:
    model = loaded("bitnet-2b", context=64)
    model.next_logits([5] * 41)
    values = model.arrays_per_token(41)[-1].view(np.float16).reshape(41, -1)
    assert values.any(axis=1).all()
    more = model.arrays_per_token(42)[-1].view(np.float16).reshape(42, -1)
    assert not more[41].any()
