"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_testing.matrices import ISAS, Build, Built, Spec, Workshop, matrix_of


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260801)


@pytest.fixture
def workshop(tmp_path: Path, rng: np.random.Generator) -> Workshop:
    """Where a test makes its models."""
    return Workshop(tmp_path, rng)


@pytest.fixture(scope="session")
def shared_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Like `Workshop.build`, once per session for the same specs."""
    shared = Workshop(tmp_path_factory.mktemp("shared"), np.random.default_rng(1))
    known: dict[tuple[Spec, ...], list[Built]] = {}

    def build(specs: Sequence[Spec]) -> list[Built]:
        key = tuple(specs)
        if key not in known:
            known[key] = shared.build(specs)
        return known[key]

    return build


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with the kernels of each instruction set this processor has."""
    before = rsr.cpu_info()["isa"]
    rsr.use_isa(request.param)
    yield str(request.param)
    rsr.use_isa(before)


@pytest.fixture
def restore() -> Iterator[None]:
    """Put the instruction set and the number of threads back after the test."""
    isa_before, threads_before = rsr.cpu_info()["isa"], rsr.get_num_threads()
    yield
    rsr.use_isa(isa_before)
    rsr.set_num_threads(threads_before)


@pytest.fixture
def model_file(workshop: Workshop) -> tuple[Path, Built]:
    """Return a file with one matrix "w" (40, 50), a dense "norm" and a small file, and "w"."""
    path = workshop.path()
    spec = Spec((40, 50), scale="row", name="w")
    norm = np.arange(6, dtype=np.float32)
    truth = workshop.write(
        path,
        [spec],
        dense=[("norm", "F32", (2, 3), norm.tobytes())],
        files={"config.json": b"{}"},
        metadata={"source": "test"},
    )
    return path, Built(spec, matrix_of(rsr.load(path), "w"), *truth["w"])
