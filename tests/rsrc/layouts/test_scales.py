"""Scale grids: the fewest scales, from a fine grid and from the bytes of float tensors."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsr_runtime
import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.matrices import float32_bound
from rsrc.compiler.recognize import recognize
from rsrc.inspection.compare import compare
from rsrc.layouts import TernaryTensor
from rsrc.layouts.scales import ScaleGrid, coarsest_grid
from rsrc.source.open import open_checkpoint

Array = npt.NDArray[Any]


def grid(values: Any, rows: int, columns: int, shape: tuple[int, int]) -> tuple[Any, ...]:
    """Return values, rows and columns of the coarsest grid."""
    found = coarsest_grid(np.array(values, np.float32), rows, columns, shape)
    assert found.values.dtype == np.float32
    return found.values.tolist(), found.rows, found.columns


def spread(g: ScaleGrid, shape: tuple[int, int]) -> Array:
    """Return the scale of every weight."""
    columns = shape[1] if g.columns is None else g.columns
    r, c = np.arange(shape[0]) // g.rows, np.arange(shape[1]) // columns
    return g.values[r[:, None], c]


class TestCoarsest:
    def test_one_scale(self) -> None:
        assert grid([[2, 2], [2, 2]], 1, 32, (2, 64)) == ([[2]], 2, None)
        assert grid([[0, 2], [0, 0]], 1, 32, (2, 40)) == ([[2]], 2, None)
        assert grid([[0, 0]], 5, 32, (5, 64)) == ([[0]], 5, None)
        assert grid([[-0.5]], 7, 9, (7, 9)) == ([[-0.5]], 7, None)

    def test_blocks_of_rows(self) -> None:
        assert grid([[1], [1], [2], [2]], 1, 8, (4, 8)) == ([[1], [2]], 2, None)
        assert grid([[1], [0], [0], [2]], 1, 8, (4, 8)) == ([[1], [2]], 2, None)
        assert grid([[1], [2], [2], [2]], 1, 8, (4, 8)) == ([[1], [2], [2], [2]], 1, None)
        assert grid([[1], [2]], 32, 8, (40, 8)) == ([[1], [2]], 32, None)

    def test_groups_of_columns(self) -> None:
        assert grid([[1, 1, 2, 2]] * 2, 1, 32, (2, 128)) == ([[1, 2]], 2, 64)
        assert grid([[1, 1, 1, 2, 2, 2]], 1, 32, (1, 192)) == ([[1, 2]], 1, 96)
        assert grid([[1, 1, 2]], 1, 32, (1, 65)) == ([[1, 2]], 1, 64)
        assert grid([[1, 2, 3]], 1, 256, (1, 700)) == ([[1, 2, 3]], 1, 256)

    def test_both(self) -> None:
        fine = np.kron([[1, 2], [3, 4]], np.ones((3, 2)))
        assert grid(fine, 1, 32, (6, 128)) == ([[1, 2], [3, 4]], 3, 64)
        assert grid(fine, 16, 64, (96, 256)) == ([[1, 2], [3, 4]], 48, 128)

    def test_signs_count(self) -> None:
        assert grid([[1, -1]], 1, 32, (1, 64)) == ([[1, -1]], 1, 32)
        assert grid([[-1, 0]], 1, 32, (1, 64)) == ([[-1]], 1, None)

    def test_fewer_groups_of_columns_where_as_many_scales(self) -> None:
        """Two row blocks and two column groups both give these scales."""
        assert grid([[1, 0], [0, 2]], 1, 32, (2, 64)) == ([[1], [2]], 1, None)

    def test_cells_are_multiples_of_the_finer_ones(self) -> None:
        """Half of 192 columns is not a multiple of 64; all columns are a multiple of anything."""
        assert grid([[1, 2, 2]], 1, 64, (1, 192)) == ([[1, 2, 2]], 1, 64)
        assert grid([[3, 3]], 1, 128, (1, 192)) == ([[3]], 1, None)

    def test_nothing(self) -> None:
        for shape in ((0, 5), (5, 0), (0, 0)):
            g = coarsest_grid(np.zeros(shape, np.float32), 1, 1, shape)
            assert (g.values.tolist(), g.rows, g.columns) == ([[0]], max(1, shape[0]), None)

    def test_window(self) -> None:
        """The scales of a window, for blocks of rows and groups of columns."""
        shape = (12, 100)
        values = np.arange(1, 25, dtype=np.float32).reshape(6, 4)
        for rows, columns in ((2, 32), (1, 32), (2, None), (12, None), (12, 32), (1, None)):
            height = -(-shape[0] // rows)
            cells = np.resize(values, (height, 1 if columns is None else 4))
            g = ScaleGrid(cells, rows, columns)
            for window in (slice(0, 12), slice(0, 100)), (slice(3, 8), slice(31, 65)):
                expected = spread(g, shape)[window]
                found = np.broadcast_to(g.window(*window), expected.shape)
                np.testing.assert_array_equal(found, expected)

    def test_words(self) -> None:
        values = np.zeros((2, 3), np.float32)
        words = [
            ScaleGrid(values[:1, :1], 9).words, ScaleGrid(values[:, :1], 1).words,
            ScaleGrid(values[:, :1], 2560).words, ScaleGrid(values, 4, 64).words,
            ScaleGrid(values, 1, 64).words, ScaleGrid(values[:1], 4, 1536).words,
        ]  # fmt: skip
        assert words == [
            "per tensor", "per row", "per 2,560 rows", "per 4 rows and 64 columns",
            "per row and 64 columns", "per 1,536 columns",
        ]  # fmt: skip


# Equal parts of the rows, and groups that every float matrix is searched for.
ROWS = ((6, 1), (6, 2), (6, 3), (6, 6), (40, 8), (130, 65), (130, 1), (96, 32))
COLUMNS = (
    (64, 64), (64, 32), (100, 32), (200, 64), (300, 128), (600, 256), (384, 96), (192, 192),
    (150, 50), (210, 70), (111, 37), (560, 70),
)  # fmt: skip
SCALES = (0.25, 0.375, 1.0, 1.5, 3.0, 96.0)  # exact in every float type


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_grid_found_is_exact_and_no_finer(
    kit: Kit, scratch: Path, dtype: str, data: st.DataObject
) -> None:
    rows, height = data.draw(st.sampled_from(ROWS))
    columns, width = data.draw(st.sampled_from(COLUMNS))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    cells = rng.choice(SCALES, (-(-rows // height), -(-columns // width)))
    cells[rng.random(cells.shape) < data.draw(st.sampled_from((0, 0.3)))] = 0
    alphabet = data.draw(st.sampled_from(((-1, 0, 1), (-1, 1), (0, 1))))
    t = rng.choice(np.array(alphabet), (rows, columns))
    t[:, ::32] = t[:, ::width] = 1  # every group of a row shows its scale
    w = t * spread(ScaleGrid(cells, height, width), t.shape)
    w[(w == 0) & (rng.random(w.shape) < data.draw(st.sampled_from((0, 0.5))))] = -0.0
    source = kit.save(scratch / "s.safetensors", {"w": kit.cast(w, dtype)})
    (found,) = recognize(open_checkpoint(source))
    assert isinstance(found, TernaryTensor)
    assert found.scale is not None
    digits = found.layout.digits(found.tensor.read(), found, slice(0, rows), slice(0, columns))
    values = np.array(found.digits)[digits]
    again = values * spread(found.scale, t.shape)
    np.testing.assert_array_equal(again, w)
    assert found.scale.values.size <= cells.size


def test_products_with_every_kind_of_grid(kit: Kit, tmp_path: Path) -> None:
    """Blocks of rows, groups of columns and both; the last ones narrower or not."""
    rng = np.random.default_rng(8)
    shapes = [
        ((96, 300), 32, None), ((96, 300), 96, 64), ((96, 300), 24, 150), ((96, 300), 48, 128),
        ((70, 111), 70, 37), ((70, 111), 35, 32), ((130, 560), 1, 70), ((6, 1536), 3, 256),
    ]  # fmt: skip
    tensors, scales = {}, {}
    for i, (shape, rows, columns) in enumerate(shapes):
        cells = (-(-shape[0] // rows), -(-shape[1] // (columns or shape[1])))
        values = (rng.permutation(cells[0] * cells[1]).reshape(cells) + 1) * 0.25
        grid = ScaleGrid(values, rows, columns)
        t = rng.integers(-1, 2, shape)
        t[:, :: columns or 1] = 1
        scales[f"w{i}"] = grid, t
        tensors[f"w{i}"] = (t * spread(grid, shape)).astype(np.float32)
    source = kit.save(tmp_path / "s.safetensors", tensors)
    for target in ("avx512", "avx2"):
        report = rsrc.compile(source, tmp_path / "x.rsr", target=target, force=True)
        assert compare(tmp_path / "x.rsr", source) == len(tensors)
        model = rsr_runtime.load(tmp_path / "x.rsr", verify=True)
        for r in report.tensors:
            grid, t = scales[r.name]
            w = tensors[r.name]
            matrix = model[r.name]
            assert isinstance(matrix, rsr_runtime.Matrix)
            assert r.scale == grid.words
            np.testing.assert_array_equal(matrix.to_dense(), w)
            x = rng.standard_normal((3, w.shape[1]), dtype=np.float32)
            bound = float32_bound(np.abs(w), x.T, least=1).T + 1e-30
            for found in (matrix.linear(x), (matrix @ x.T).T, (matrix @ x[0])[None]):
                exact = x[: len(found)].astype(np.float64) @ w.T.astype(np.float64)
                assert (np.abs(found - exact) <= bound[: len(found)]).all()
            q = rng.integers(-128, 128, (w.shape[1],), dtype=np.int8)
            np.testing.assert_array_equal(matrix @ q, t @ q.astype(np.int64))


def test_memory_of_a_large_vocabulary(kit: Kit, tmp_path: Path) -> None:
    """Memory holds pieces of the tensor and scales per 32 columns, never the whole tensor."""
    rng = np.random.default_rng(9)
    w = rng.choice(np.array([-0.5, 0, 0.5], np.float16), (30_000, 512))
    w *= np.repeat(rng.choice(np.array([1, 2, 3], np.float16), (30_000, 4)), 128, axis=1)
    source = kit.save(tmp_path / "s.safetensors", {"model.embed_tokens.weight": w})
    checkpoint = open_checkpoint(source)
    tracemalloc.start()
    try:
        (found,) = recognize(checkpoint)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.tensor.nbytes == w.nbytes
    assert isinstance(found, TernaryTensor)
    assert found.note == "per row and 128 columns"
    assert peak < w.nbytes / 4
