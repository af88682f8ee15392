"""Declarations of a rotated basis: each field is checked, and nothing else is accepted."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from rsr_formats.records import (
    MAX_RECORD,
    MAX_ROTATION_BLOCK,
    MIN_ROTATION_BLOCK,
    Rotation,
)
from rsr_testing.rotation import PREFIX, declaration
from rsrc import SourceError
from rsrc.source.rotation import MAX_COLUMNS, read_basis

WEIGHTS = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.linear_attn.out_proj.weight"]
EMBEDDING = "model.embed_tokens.weight"
TENSORS = [*WEIGHTS, EMBEDDING, "model.norm.weight"]


def declared(**changes: Any) -> dict[str, Any]:
    """Return a declaration with other fields; None removes one."""
    fields = declaration(WEIGHTS, [EMBEDDING], [64, 96], 32, seed=1)
    fields |= {PREFIX + key: value for key, value in changes.items()}
    return {key: value for key, value in fields.items() if value is not None}


def test_what_it_says() -> None:
    fields = declared(sign_widths=[32], sign_values=[1] * 7 + [-1] + [1] * 23 + [-1])
    basis = read_basis(fields, "hadamard.json", TENSORS)
    assert basis.names == {*WEIGHTS, EMBEDDING}
    assert basis.of(EMBEDDING, (9, 32)) == Rotation(32, b"\x80\0\0\x80")
    assert basis.of("model.norm.weight", (32,)) is None


def test_signs_of_each_width_in_order() -> None:
    fields = declared()
    values = np.array(fields[PREFIX + "sign_values"])
    basis = read_basis(fields, "", TENSORS)
    for width, signs in ((64, values[:64]), (96, values[64:])):
        rotation = basis.of(WEIGHTS[0], (1, width))
        assert rotation is not None
        bits = np.unpackbits(np.frombuffer(rotation.signs, np.uint8), bitorder="little")
        np.testing.assert_array_equal(1 - 2.0 * bits, signs)


def test_short_names_floats_and_arrays_of_numpy() -> None:
    short = {key.removeprefix(PREFIX): value for key, value in declared().items()}
    short["sign_values"] = np.array(short["sign_values"], np.float32)
    short["sign_widths"] = np.array(short["sign_widths"], np.int32)
    assert read_basis(short, "", TENSORS) == read_basis(declared(), "", TENSORS)


def test_no_signs() -> None:
    fields = declared(sign_mode="identity", sign_widths=None, sign_values=None)
    basis = read_basis(fields, "", TENSORS)
    assert basis.of(EMBEDDING, (1, 64)) == Rotation(32, bytes(8))
    with pytest.raises(SourceError, match="a multiple of 32 columns"):
        basis.of(EMBEDDING, (1, 65))


def test_delta_nets_that_are_not_rotated_need_no_order_of_heads() -> None:
    read_basis(declared(weight_names=WEIGHTS[:1], gdn_v_grouped=None), "", TENSORS)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "version is 2, expected 1"),
        ({"version": True}, "version is true, expected 1"),
        ({"version": None}, "version is missing"),
        ({"block_size": 48}, "block_size is 48, expected a power of two"),
        ({"block_size": 8}, "block_size is 8, expected a power of two from 16"),
        ({"block_size": 32.0}, r"block_size is 32\.0"),
        ({"block_size": None}, "block_size is missing"),
        ({"transform": "walsh"}, "transform is 'walsh', expected 'normalized-sylvester"),
        ({"axis": "output"}, "axis is 'output', expected 'input-last-dimension'"),
        ({"sign_mode": "random"}, "sign_mode is 'random', expected 'explicit' or 'identity'"),
        ({"sign_mode": np.array([1, 2])}, "sign_mode is an array, expected 'explicit'"),
        ({"sign_mode": "identity"}, "sign_mode is 'identity', but there are"),
        ({"sign_widths": None}, "sign_widths is empty"),
        ({"sign_widths": [64, 80]}, r"sign_widths has 80\.0, expected positive multiples of"),
        ({"sign_widths": [64, -32, 128]}, "expected positive multiples"),
        ({"sign_widths": [80.5, 79.5]}, "expected positive multiples"),
        ({"sign_widths": [1 << 21]}, "sign_widths has 2097152, expected at most 2096968"),
        ({"sign_widths": [64, 64]}, "sign_widths has 64 twice"),
        ({"sign_widths": [64]}, "sign_values has 160 values, but sign_widths 64"),
        ({"sign_widths": [64, 128]}, "sign_values has 160 values, but sign_widths 192"),
        ({"sign_widths": "64"}, "sign_widths is '64', expected a list"),
        ({"sign_widths": [10**400]}, "a number that is too large"),
        ({"sign_values": [2] * 160}, "sign_values has values other than 1 and -1"),
        ({"sign_values": [0] + [1] * 159}, "sign_values has values other than 1 and -1"),
        ({"sign_values": [float("nan")] * 160}, "values other than 1 and -1"),
        ({"sign_values": ["1"] * 160}, "sign_values has entries that are not numbers"),
        ({"sign_values": [True] * 160}, "sign_values has entries that are not numbers"),
        ({"sign_values": [[1]] * 160}, "sign_values has entries that are not numbers"),
        ({"weight_names": ["model.other.weight"]}, "no tensor model.other.weight, which it names"),
        ({"weight_names": [WEIGHTS[0]] * 2}, "weight_names has a name twice"),
        ({"weight_names": [1]}, "weight_names has entries that are not names"),
        ({"weight_names": WEIGHTS[0]}, "weight_names is 'model.*expected a list"),
        ({"weight_names": [], "inverse_weight_names": []}, "are empty"),
        ({"inverse_weight_names": WEIGHTS[:1]}, "has model.*, expected nothing but an embedding"),
        ({"gdn_v_grouped": False}, "gdn_v_grouped is not true, but model.*out_proj.* is rotated"),
        ({"gdn_v_grouped": None}, "gdn_v_grouped is not true"),
        ({"gdn_v_grouped": 1}, "gdn_v_grouped is 1, expected true or false"),
        ({"tied_output": True}, "unknown field 'tied_output'"),
    ],
)
def test_a_field_that_is_not_understood(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=f"where: .* rotated basis .* not understood: .*{match}"):
        read_basis(declared(**changes), "where", TENSORS)


@pytest.mark.parametrize(
    ("shape", "match"),
    [((64,), "expected a matrix"), ((3, 128), "signs for 64, 96 columns only")],
)
def test_a_tensor_that_does_not_fit(shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        read_basis(declared(), "", TENSORS).of(EMBEDDING, shape)


def test_more_columns_than_a_record_has_signs_for() -> None:
    fields = declared(sign_mode="identity", sign_widths=None, sign_values=None)
    with pytest.raises(SourceError, match="expected at most 2096968 columns"):
        read_basis(fields, "", TENSORS).of(EMBEDDING, (1, 1 << 21))


@pytest.mark.parametrize("block", [MIN_ROTATION_BLOCK, MAX_ROTATION_BLOCK])
def test_the_largest_rotation_is_a_record(block: int) -> None:
    signs = bytes(MAX_COLUMNS // 8)
    assert len(msgpack.packb({"block": block, "signs": signs})) <= MAX_RECORD


def test_a_matrix_that_has_no_other_name() -> None:
    basis = read_basis(declared(), "", TENSORS)
    with pytest.raises(
        SourceError, match=r"names model\.layers\.0\.mlp\.up_proj\.weight, expected"
    ):
        basis.renamed({name: name for name in TENSORS[1:]})
