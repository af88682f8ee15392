"""Models and matrices are pickled as the path of their file."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import operator
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_formats.records import PREAMBLE
from rsr_testing.matrices import Built, matrix_of


def test_another_process_loads_what_is_pickled(model_file: tuple[Path, Built]) -> None:
    path, built = model_file
    x = np.linspace(-1, 1, built.matrix.shape[1], dtype=np.float32)
    model = rsr.load(path)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        product = pool.submit(operator.matmul, model.matrix("w"), x)
        names = pool.submit(list, model)
        np.testing.assert_array_equal(product.result(), model.matrix("w") @ x)
        assert names.result() == list(model)


@pytest.mark.parametrize("memory", ["auto", "map", "huge"])
def test_a_pickle_holds_the_path_and_how_it_is_loaded(
    model_file: tuple[Path, Built], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, built = model_file
    monkeypatch.chdir(path.parent)
    model = rsr.load(path.name, memory=memory)
    monkeypatch.chdir("/")  # a relative path is made absolute when the model is loaded
    pickled = pickle.dumps((model, model.matrix("w")))
    assert len(pickled) < 500 + 2 * len(str(path))
    again, w = pickle.loads(pickled)
    assert dict(again.files) == dict(model.files)
    assert repr(w) == repr(model.matrix("w"))
    assert again.__reduce__() == model.__reduce__()
    assert w.__reduce__() == model.matrix("w").__reduce__()
    x = np.ones(built.matrix.shape[1], np.int8)
    model.close()
    again.close()
    np.testing.assert_array_equal(w @ x, built.matrix @ x)  # it needs neither model


def test_unpickled_matrices_share_the_memory_of_their_file(model_file: tuple[Path, Built]) -> None:
    w = rsr.load(model_file[0], memory="huge").matrix("w")
    first, second = copy.deepcopy(w), pickle.loads(pickle.dumps(w))
    assert first is not second
    assert np.shares_memory(first.arrays[0], second.arrays[0])
    assert not np.shares_memory(first.arrays[0], w.arrays[0])


def test_files_are_pickled_as_a_dict(model_file: tuple[Path, Built]) -> None:
    files = rsr.load(model_file[0]).files
    assert pickle.loads(pickle.dumps(files)) == {"config.json": b"{}"}


def test_a_replaced_file_is_not_taken_for_the_pickled_one(model_file: tuple[Path, Built]) -> None:
    path, _ = model_file
    model = rsr.load(path)
    pickles = [pickle.dumps(model), pickle.dumps(model.matrix("w"))]
    other = path.with_name("other.rsr")
    changed = path.read_bytes().replace(b"\xa4test", b"\xa4best")
    other.write_bytes(_with_valid_hash(changed))
    os.replace(other, path)  # noqa: PTH105
    assert rsr.load(path).metadata == {"source": "best"}
    for pickled in pickles:
        with pytest.raises(rsr.ReplacedError, match="was replaced since the model was pickled"):
            pickle.loads(pickled)
    path.unlink()
    for pickled in pickles:
        with pytest.raises(FileNotFoundError):
            pickle.loads(pickled)


def _with_valid_hash(data: bytes) -> bytes:
    *fields, offset, size, _ = PREAMBLE.unpack_from(data)
    digest = hashlib.sha256(data[offset : offset + size]).digest()
    return PREAMBLE.pack(*fields, offset, size, digest) + data[PREAMBLE.size :]


def test_closed_models_and_copies_are_not_pickled(model_file: tuple[Path, Built]) -> None:
    model = rsr.load(model_file[0])
    w = matrix_of(model, "w")
    duplicate = w.copy(lambda nbytes: np.empty(nbytes, np.uint8))
    model.close()
    for closed in (model, w):
        with pytest.raises(rsr.ClosedError, match="closed"):
            pickle.dumps(closed)
    with pytest.raises(TypeError, match="is a copy in memory: pickle the matrix of the model"):
        pickle.dumps(duplicate)
