"""An embedding for PyTorch whose rows are those of a matrix of a `.rsr` file."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..matrix import Matrix
from . import ops  # noqa: F401 (registers the operators)
from .module import MatrixModule


class RsrEmbedding(MatrixModule, torch.nn.Embedding):  # type: ignore[misc]
    """An embedding whose rows are those of a ranked matrix, in the model's basis if it is rotated.

    It is a `torch.nn.Embedding` so that tools which look for one find it, but has no weight
    parameter. Conversions to another dtype apply to what it returns.

    Attributes:
        matrix: (num_embeddings, embedding_dim).
        weight: the index, uint8 (bytes,): a view of the mapped file, which must not be written.
        dtype: of what it returns.
    """

    def __init__(self, matrix: Matrix, dtype: torch.dtype, padding_idx: int | None = None) -> None:
        """Make an embedding of a matrix.

        Args:
            matrix: of `rsr_runtime.load`, in encoding ranked.
            dtype: of what it returns, a float.
            padding_idx: kept as an attribute; weights that are fixed need no exception.
        """
        torch.nn.Module.__init__(self)  # that of Embedding makes a dense weight
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx
        self.dtype = dtype
        self._take(matrix)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return a row for each token, (..., embedding_dim), of integers (...)."""
        rows = torch.ops.rsr.embedding(tokens, self.weight, self.handle, self.embedding_dim)
        return rows.to(self.dtype)

    def extra_repr(self) -> str:
        """Return what the repr says of the embedding."""
        return f"{self.num_embeddings}, {self.embedding_dim}, dtype={self.dtype}, {self.matrix!r}"

    def reset_parameters(self) -> None:
        """Do nothing: the rows are those of the file."""

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> RsrEmbedding:
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self
