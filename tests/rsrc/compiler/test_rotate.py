"""Which matrices of a source get a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsr_formats.records import Rotation
from rsrc import SourceError
from rsrc.compiler.recognize import PassthroughTensor
from rsrc.compiler.rotate import rotations_of
from rsrc.source.checkpoint import Checkpoint
from rsrc.source.rotation import RotatedBasis
from rsrc.source.tensor import SourceTensor

KEPT, DRAFT = (SourceTensor(n, "F32", (1, 16), Path("x"), 0, 64) for n in ("w", "mtp.w"))


def test_every_name_of_the_basis_is_that_of_a_matrix_or_left_out() -> None:
    basis = RotatedBasis(frozenset({"w", "mtp.w"}), 16, None)
    found = [PassthroughTensor(KEPT, "F32")]
    whole = Checkpoint(Path("x"), {"w": KEPT}, basis=basis, left_out={"mtp.w": DRAFT})
    assert rotations_of(whole, found) == {"w": Rotation(16, bytes(2))}
    with pytest.raises(SourceError, match=r"x: its declaration .* names mtp\.w, expected matrices"):
        rotations_of(Checkpoint(Path("x"), {"w": KEPT}, basis=basis), found)
