"""A mixture of experts: a router chooses a few small MLPs for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from rsr_formats.experts import EXPERTS, PROJECTIONS, ROUTER

from ... import _native
from ...dense import DenseTensor
from ...matrix import Matrix
from ..config import Config
from ..errors import ModelError
from ..layer_settings import LayerSettings
from ..linear import Linear, LinearGroup, QuantizedInputs, short_steps
from .declared import Declared, DeclaredLinear, LayerTensors
from .sublayer import PRODUCTS, REST, FloatArray, Pass, Place, Sublayer

_LEAST_PAIRS = 512  # of a token and an expert in a step; fewer would read an index too often


class Experts(Sublayer):
    """The sum of weight * down_proj(activation(gate_proj(x)) * up_proj(x)) over chosen experts.

    The weights are the largest of softmax(router(x)). One native step routes all tokens of a pass,
    others multiply the matrices of each expert with the tokens that chose it; only the indices of
    chosen experts are read. Matrices may be in a rotated basis: one of all gates and ups, and one
    of all downs.
    """

    def __init__(self, place: Place, tensors: LayerTensors) -> None:
        assert place.config.experts is not None
        self._place = place
        self._settings = place.config.experts
        router = tensors.linear(ROUTER)
        gate, up, down = (
            [
                tensors.linear(f"{EXPERTS}.{number}.{projection}")
                for number in range(self._settings.num_experts)
            ]
            for projection in PROJECTIONS
        )
        self._gate_up, self._down = _alike([*gate, *up]), _alike(down)
        self._router = LinearGroup([router], place.workspace)
        self._input = LinearGroup([router, *self._gate_up], place.workspace)  # has all their forms
        self._forms = {one.form for one in self._gate_up}

    @cached_property
    def _matrices(self) -> _native.Experts:
        """The matrices of all experts, whose scales are checked here, before their first use."""
        weights = [_native_weight(one) for one in (*self._gate_up, *self._down)]
        count, rotation = len(self._down), self._down[0].form.rotation
        return _native.Experts(
            weights[:count],
            weights[count : 2 * count],
            weights[2 * count :],
            self._place.config.hidden_act,
            _activations(self._gate_up),
            _activations(self._down),
            None if rotation is None else rotation.factors,
            0 if rotation is None else rotation.block,
        )

    @staticmethod
    def declared(config: Config, settings: LayerSettings) -> Iterator[Declared]:
        """Yield the router and the matrices of all experts."""
        experts = config.experts
        assert experts is not None
        yield DeclaredLinear(ROUTER, experts.num_experts, config.hidden_size, is_converted=False)
        share = Fraction(experts.num_experts_per_tok, experts.num_experts)
        for projection in PROJECTIONS:
            rows, columns = experts.shape_of(projection, config.hidden_size)
            for number in range(experts.num_experts):
                name = f"{EXPERTS}.{number}.{projection}"
                yield DeclaredLinear(name, rows, columns, share=share)

    def inputs(self, rows: int) -> QuantizedInputs:
        """Return the input of the router and of the experts."""
        return self._input.inputs(rows)

    def record(self, current: Pass) -> FloatArray:
        """Add the router, the choice, and the products of the experts."""
        c, e, program, rows = self._place.config, self._settings, current.program, current.rows
        take = self._place.workspace.take
        k = e.num_experts_per_tok
        logits = self._router.record(program, REST, rows)[0]
        x = self._inputs_of_experts(program, rows)
        chosen = take("chosen", rows, k, dtype=np.int32)
        weights = take("weights of experts", rows, k)
        program.route(REST, logits, e.norm_topk_prob, chosen, weights)
        y = take("experts", rows, c.hidden_size)
        products = len(PROJECTIONS) * c.hidden_size * e.moe_intermediate_size  # of a pair
        parts = len(list(short_steps(rows * k, products, _LEAST_PAIRS)))
        for part in range(parts):
            program.multiply_experts(
                PRODUCTS, self._matrices, x.floats, x.q, x.s, chosen, weights, part, parts, y
            )
        return y

    def _inputs_of_experts(self, program: _native.Program, rows: int) -> QuantizedInputs:
        """Add the conversion of the input, and return what gates and ups multiply."""
        inputs = self._input.record_inputs(program, PRODUCTS, rows)
        floats = q = s = None
        for form in self._forms:
            if form.group_columns is None:
                floats = inputs[form].floats
            else:
                q, s = inputs[form].q, inputs[form].s
        return QuantizedInputs(floats, q, s)


def _alike(layers: Sequence[Linear]) -> list[Linear]:
    """Return layers whose indices take inputs in one form: float32 where groups differ.

    Raises:
        ModelError: only some were trained with int8 activations, or they are in different bases.
    """
    first = layers[0]
    other = next((one for one in layers if one.form.rotation is not first.form.rotation), None)
    if other is not None:
        raise ModelError(
            f"{first.name} and {other.name} are not in the same basis, expected one basis of all "
            "experts of a layer"
        )
    forms = {one.form.group_columns for one in layers if isinstance(one.weight, Matrix)}
    if len(forms) <= 1:
        return [*layers]
    if 0 in forms:
        raise ModelError(
            f"some experts take int8 activations, and others, like {layers[0].name}, do not "
            "(modules_to_not_convert): expected the same of all experts of a layer"
        )
    return [replace(one, activations="float32") for one in layers]


def _activations(layers: Sequence[Linear]) -> str:
    """Return what the indices among layers take; they are alike."""
    return next((one.activations for one in layers if isinstance(one.weight, Matrix)), "float32")


def _native_weight(layer: Linear) -> _native.Ranked | _native.Dense:
    weight = layer.weight
    if isinstance(weight, DenseTensor):
        if weight.dtype == "F32":
            return _native.Dense(weight.data)
        return _native.Dense(weight.data.view(np.uint16), weight.dtype == "BF16")
    assert isinstance(weight.index, _native.Ranked)  # tensors.py has refused others
    return weight.index
