"""Small benchmark results: structure and sums, not speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import rsr_runtime as rsr
import rsrc
from rsr_testing import models
from rsrc import bench
from rsrc.bench import memory, timing

Result = dict[str, Any]


@contextmanager
def short_turns() -> Iterator[None]:
    """Keep turns and rotations short, and use two threads."""
    threads = rsr.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_TURN", 1e-4)
        patch.setattr(timing, "_SETTLE", 0.0)
        patch.setattr(memory, "_ROTATION", 200_000)
        patch.setattr(memory, "_OTHER_ROTATION", 200_000)
        patch.setattr(memory, "_last_level_cache", lambda: 1000)
        rsr.set_num_threads(2)
        yield
    rsr.set_num_threads(threads)


@pytest.fixture
def quick() -> Iterator[None]:
    with short_turns():
        yield


@pytest.fixture(scope="session")
def shape_result() -> Result:
    """Return the result for a matrix whose sides are no multiples of a block's."""
    with short_turns():
        return bench.bench_shape(65, 100, seconds=0.0)


@pytest.fixture(scope="session")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with three matrices of two kinds."""
    folder = tmp_path_factory.mktemp("matrices")
    rng = np.random.default_rng(3)
    scale = np.float32(0.37)
    shapes = {"a": (40, 70), "b": (40, 70), "c": (64, 33)}
    tensors = {n: rng.integers(-1, 2, s).astype(np.float32) * scale for n, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    rsrc.compile(folder / "model.safetensors", folder / "model.rsr")
    return folder / "model.rsr"


@pytest.fixture(scope="session")
def file_result(matrices: Path) -> Result:
    with short_turns():
        return bench.bench_file(matrices, seconds=0.0)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(models.FAMILIES["bitnet-2b"].build(tmp_path_factory.mktemp("language")))


@pytest.fixture(scope="session")
def model_result(language_model: Path) -> Result:
    return bench.bench_model(language_model, context=40, threads=[1, 2], seconds=0.0)


@pytest.fixture
def with_ratio(model_result: Result) -> Callable[[float], Result]:
    """Return a copy of `model_result` in which plain reads take some share of the time."""

    def change(ratio: float) -> Result:
        changed: Result = json.loads(json.dumps({**model_result, "file": "m.rsr"}))
        for row in changed["results"]:
            for one in row["decode"]:
                one["ratio_to_plain_read"] = ratio
        return changed

    return change
