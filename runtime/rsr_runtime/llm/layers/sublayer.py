"""What each kind of sublayer provides, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _native
from ..config import Config
from ..layer_settings import LayerSettings
from ..linear import Adapted, QuantizedInputs, Workspace
from .declared import Declared, LayerTensors
from .state import LayerState

FloatArray = npt.NDArray[np.float32]

PHASES = ("products", "head", "attention", "rest")
PRODUCTS, HEAD, ATTENTION, REST = range(len(PHASES))


class Item(NamedTuple):
    """A sequence of which a pass computes consecutive tokens."""

    states: Sequence[LayerState]  # of all layers
    rope_variant: int


class Part(NamedTuple):
    """Consecutive rows of an item, whose mixer takes one step."""

    item: int
    offset: int  # of its first row in the item
    rows: slice  # of the pass
    start: npt.NDArray[np.int64]  # (1,), an input: position of its first token


class Pass(NamedTuple):
    """A pass that is being recorded.

    Attributes:
        program: what the sublayers add their steps to.
        items: the sequences.
        parts: their rows in order; the parts of an item follow each other.
        x: the residual stream, (rows, hidden_size).
        adapted: which rows take adapters.
    """

    program: _native.Program
    items: Sequence[Item]
    parts: Sequence[Part]
    x: FloatArray
    adapted: Sequence[Adapted] = ()

    @property
    def rows(self) -> int:
        """Tokens of all items."""
        return len(self.x)


@dataclass(frozen=True)
class Place:
    """Where in a decoder a sublayer is.

    Attributes:
        config: the model's settings.
        settings: those of the layer.
        number: of the layer in a pass, the index of its state.
        workspace: provides buffers, which all layers share.
        ropes: cosines and sines by variant, see `Rope.tables`.
    """

    config: Config
    settings: LayerSettings
    number: int
    workspace: Workspace
    ropes: Sequence[tuple[FloatArray, FloatArray]]


class Sublayer(ABC):
    """A mixer or an MLP. The layer normalizes what it takes, and adds what it returns."""

    @staticmethod
    @abstractmethod
    def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
        """Yield the tensors of a layer, in the order in which a pass runs the linear ones."""

    @abstractmethod
    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        """Prepare the products."""

    @abstractmethod
    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the buffers that the layer fills before `record`'s steps."""

    @abstractmethod
    def record(self, current: Pass) -> FloatArray:
        """Add the sublayer to a pass.

        Returns:
            (rows, hidden_size): what the layer adds to the residual stream, a buffer that later
            products overwrite.
        """


class Mixer(Sublayer):
    """A sublayer that mixes the tokens of a sequence, which it remembers in a state."""

    @staticmethod
    @abstractmethod
    def state(config: Config, settings: LayerSettings, context: int, dtype: str) -> LayerState:
        """Reserve the state of a sequence of up to `context` positions.

        Args:
            config: the model's settings.
            settings: those of the layer.
            context: number of positions.
            dtype: of what grows with the positions: "float32", "float16" or "int8".

        Raises:
            MemoryError: there is not enough memory.
        """
