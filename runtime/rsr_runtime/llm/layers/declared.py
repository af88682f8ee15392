"""The tensors of a layer as data: the check of a file and the loading of weights both read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..linear import Linear

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DeclaredLinear:
    """A linear layer: a matrix, and a bias and a norm of its input where the file has them.

    Attributes:
        name: of the module within the layer, "self_attn.q_proj".
        rows: out_features.
        columns: in_features.
        is_converted: whether a BitNet makes it ternary, with int8 activations.
        share: of the tokens that take it; below 1 for experts, whose index must be ranked.
    """

    name: str
    rows: int
    columns: int
    is_converted: bool = True
    share: Fraction = Fraction(1)


@dataclass(frozen=True)
class DeclaredFloats:
    """A tensor of floats.

    Attributes:
        name: of the tensor within the layer, "self_attn.q_norm.weight".
        shape: of the array; the file may have dimensions of 1 more or less.
        offset: added to the values of the file: 1 for norms that are centered at zero.
    """

    name: str
    shape: tuple[int, ...]
    offset: float = 0.0


Declared = DeclaredLinear | DeclaredFloats


def linear(config: Config, name: str) -> DeclaredLinear:
    """Declare a linear layer that `rsr_formats.architectures.PROJECTIONS` has."""
    return DeclaredLinear(name, *config.shape_of(name))


def norm(config: Config, name: str | None, width: int) -> Iterator[DeclaredFloats]:
    """Declare the RMS norm of a module; nothing if the architecture has none there."""
    if name is not None:
        offset = 1.0 if config.architecture.zero_centered_norms else 0.0
        yield DeclaredFloats(f"{name}.weight", (width,), offset)


class LayerTensors:
    """The tensors of a layer, by their declared names."""

    def __init__(self, found: Mapping[str, Linear | FloatArray]) -> None:
        """Hold tensors.

        Args:
            found: linear layers by their modules' names, arrays by their own, in the order in
                which they are declared.
        """
        self._found = dict(found)

    def linear(self, name: str) -> Linear:
        """Return a linear layer by its module's name."""
        found = self._found[name]
        assert isinstance(found, Linear)
        return found

    def floats(self, name: str) -> FloatArray:
        """Return an array by its tensor's name, float32 as declared."""
        found = self._found[name]
        assert isinstance(found, np.ndarray)
        return found

    def norm(self, name: str | None) -> FloatArray | None:
        """Return the weights of a module's RMS norm; None if `name` is None."""
        return None if name is None else self.floats(f"{name}.weight")

    def changed(self, change: Callable[[Linear], Linear]) -> LayerTensors:
        """Return the tensors with other linear layers, which `change` makes of these."""
        return LayerTensors(
            {
                name: change(one) if isinstance(one, Linear) else one
                for name, one in self._found.items()
            }
        )

    @property
    def all_linear(self) -> list[Linear]:
        """The linear layers in the order in which a pass runs them."""
        return [one for one in self._found.values() if isinstance(one, Linear)]
