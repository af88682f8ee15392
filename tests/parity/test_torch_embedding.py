"""RsrEmbedding: rows of a matrix, in the dtype of the model, wherever it is copied to."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime
from rsr_testing.models import FAMILIES
from rsr_testing.parity import judge
from rsr_testing.parity.judge import torch_and_transformers
from rsr_testing.rotation import unrotated

torch, _ = torch_and_transformers()
with judge.quiet():
    from rsr_runtime.torch import DeviceError, RsrEmbedding

NAME = "model.embed_tokens.weight"
TOKENS = torch.tensor([[5, 0, 303], [7, 7, 250]])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["bonsai"].build(tmp_path_factory.mktemp("bonsai"))


@pytest.fixture
def embedding(path: Path) -> Any:
    return RsrEmbedding(rsr_runtime.load(path).matrix(NAME), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows(path: Path, dtype: Any) -> None:
    matrix = rsr_runtime.load(path).matrix(NAME)
    want = torch.nn.functional.embedding(TOKENS, torch.from_numpy(matrix.to_dense()))
    found = RsrEmbedding(matrix, dtype)(TOKENS)
    assert found.dtype == dtype
    assert torch.equal(found, want.to(dtype))
    one = RsrEmbedding(matrix, torch.float32).to(dtype)
    assert torch.equal(one(TOKENS[0, 0]), found[0, 0])
    assert one(TOKENS[:0]).shape == (0, 3, matrix.shape[1])


def test_rows_of_a_rotated_matrix(tmp_path: Path) -> None:
    family = FAMILIES["bonsai-2"]
    tensors = family.tensors()
    stored = {name: t.values for name, t in tensors.items() if t.values.ndim == 2}
    want = unrotated(stored, family.declaration(tensors))[NAME][TOKENS.numpy()]
    with rsr_runtime.load(family.build(tmp_path)) as model:
        found = RsrEmbedding(model.matrix(NAME), torch.float32)(TOKENS).numpy()
    np.testing.assert_allclose(found, want, atol=1e-6 * np.abs(want).max())


def test_operator(embedding: Any) -> None:
    arguments = (TOKENS, embedding.weight, embedding.handle, embedding.embedding_dim)
    with judge.quiet():
        torch.library.opcheck(torch.ops.rsr.embedding.default, arguments)
        compiled = torch.compile(embedding, fullgraph=True, backend="eager")
        assert torch.equal(compiled(TOKENS), embedding(TOKENS))
    with pytest.raises(IndexError, match="found row 304, expected 0 to 303"):
        embedding(torch.tensor([304]))


def test_copies_share_the_file(embedding: Any) -> None:
    copied = copy.deepcopy(embedding)
    assert copied.weight.data_ptr() == embedding.weight.data_ptr()
    for other in (copied, pickle.loads(pickle.dumps(embedding))):
        assert torch.equal(other(TOKENS), embedding(TOKENS))
    assert not embedding.state_dict()
    assert len(pickle.dumps(embedding)) < 2000


def test_it_stays_on_the_cpu(embedding: Any) -> None:
    with pytest.raises(DeviceError, match="cannot move to meta: an RsrEmbedding computes on the C"):
        embedding.to("meta")
    assert "304, 128, dtype=torch.float32" in repr(embedding)
