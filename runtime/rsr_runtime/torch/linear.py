"""Linear layers for PyTorch whose weights are matrices of a `.rsr` file."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InputTypeError, OptionError
from ..inputs import kind_of
from ..matrix import Matrix
from . import ops  # noqa: F401 (registers the operators)
from .module import MatrixModule


class RsrLinear(MatrixModule, torch.nn.Linear):  # type: ignore[misc]
    """A linear layer x @ W.T + bias whose W is a matrix of a `.rsr` file: fixed, and on the CPU.

    It is a `torch.nn.Linear` so that tools which look for linear layers (PEFT, transformers) find
    it, but has no weight parameter. Inputs and results are float32, bfloat16 or float16.

    Copies share the mapped file. Pickles hold its path, so that another process maps the file
    itself. The state dict has the bias only: a model is its `.rsr` file and the state dict of the
    rest. Conversions to another dtype apply to the bias.

    Attributes:
        matrix: W, (out_features, in_features); in the model's basis if it has a rotation.
        activations: what products take, see `Matrix.linear`.
        weight: the index, uint8 (bytes,): a view of the mapped file, which must not be written.
        bias: (out_features,) or None.
    """

    def __init__(
        self,
        matrix: Matrix,
        bias: torch.Tensor | None = None,
        activations: str = "float32",
    ) -> None:
        """Make a layer of a matrix.

        Args:
            matrix: of `rsr_runtime.load`.
            bias: floats (out_features,); a `torch.nn.Parameter` is used as it is.
            activations: "float32", "int8" or "int8-group".

        Raises:
            OptionError: the bias has another shape, or `activations` another value.
            InputTypeError: `matrix` is no Matrix.
        """
        if not isinstance(matrix, Matrix):
            raise InputTypeError(
                f"matrix: found {kind_of(matrix)}, expected a Matrix: rsr_runtime.load(path)"
                ".matrix(name)"
            )
        torch.nn.Module.__init__(self)  # that of Linear makes a dense weight
        self.out_features, self.in_features = matrix.shape
        if activations not in ("float32", "int8", "int8-group"):
            raise OptionError(
                f"activations: found {activations!r}, expected 'float32', 'int8' or 'int8-group'"
            )
        if bias is not None and bias.shape != (self.out_features,):
            raise OptionError(
                f"{matrix.name!r}: the bias has shape {tuple(bias.shape)}, expected "
                f"({self.out_features},)"
            )
        if bias is not None and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", bias)
        self.activations = activations
        self._take(matrix)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ W.T + bias, (..., out_features) in the dtype of x, of x (..., in_features)."""
        return torch.ops.rsr.linear(
            x, self.weight, self.bias, self.handle, self.out_features, self.activations
        )

    def extra_repr(self) -> str:
        """Return what the repr says of the layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, activations={self.activations!r}, {self.matrix!r}"
        )

    def reset_parameters(self) -> None:
        """Do nothing: the weights are those of the file."""


class NormalizedRsrLinear(RsrLinear):
    """An `RsrLinear` that normalizes its input first, as BitNet's layers with `use_rms_norm` do.

    Attributes:
        rms_norm: the norm.
    """

    def __init__(
        self,
        rms_norm: torch.nn.Module,
        matrix: Matrix,
        bias: torch.Tensor | None = None,
        activations: str = "float32",
    ) -> None:
        """Make a layer of a norm, and of what `RsrLinear` takes."""
        super().__init__(matrix, bias, activations)
        self.rms_norm = rms_norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return norm(x) @ W.T + bias, (..., out_features), of x (..., in_features)."""
        return super().forward(self.rms_norm(x))


def linear_all(layers: Sequence[RsrLinear], x: torch.Tensor) -> list[torch.Tensor]:
    """Return [layer(x) for layer in layers], bit for bit, in one parallel region.

    Args:
        layers: at least one, all with the same in_features, activations and rotation.
        x: (..., in_features).

    Raises:
        OptionError: `layers` is empty, or their activations differ.
        InputTypeError, InputShapeError, ClosedError: as for `rsr_runtime.linear_all`.
    """
    activations = {layer.activations for layer in layers}
    if len(activations) != 1:
        raise OptionError(f"found layers of activations {sorted(activations)}, expected one kind")
    products: list[torch.Tensor] = torch.ops.rsr.linear_all(
        x,
        [layer.weight for layer in layers],
        [torch.empty(0) if layer.bias is None else layer.bias for layer in layers],
        [layer.handle for layer in layers],
        [layer.out_features for layer in layers],
        activations.pop(),
    )
    return products
