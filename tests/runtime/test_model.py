"""`Model`: a mapping of matrices and arrays, from load() to close(), and damaged files."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_formats
import rsr_runtime as rsr
from rsr_formats.errors import FormatError, IndexDataError, SectionHashError
from rsr_formats.reader import RsrFile
from rsr_runtime import ClosedError, Matrix, OptionError
from rsr_testing.matrices import Built, Damage, Spec, Workshop, matrix_of

Array = npt.NDArray[Any]


def array(model: rsr.Model, name: str) -> Array:
    found = model[name]
    assert isinstance(found, np.ndarray)
    return found


# --- the mapping ----------------------------------------------------------------------------


def test_is_a_mapping(model_file: tuple[Path, Built]) -> None:
    model = rsr.load(model_file[0])
    assert isinstance(model, Mapping)
    assert list(model) == ["w", "norm"]
    assert len(model) == 2
    assert "w" in model
    assert "other" not in model
    assert model.get("other") is None
    assert [type(value) for value in model.values()] == [Matrix, np.ndarray]
    with pytest.raises(KeyError, match="other"):
        model["other"]
    assert model["w"] is model["w"]
    assert repr(model) == "<rsr_runtime.Model: 1 indexed, 1 dense tensors>"
    assert model == model
    assert model != rsr.load(model_file[0]), "models are compared as objects"
    assert len({model, model}) == 1


def test_an_unknown_name_lists_similar_ones(workshop: Workshop) -> None:
    path = workshop.path()
    names = [f"layers.{i}.mlp.up_proj.weight" for i in range(3)]
    dense = [(name, "F32", (1,), bytes(4)) for name in [*names, "norm"]]
    workshop.write(path, [], dense=dense)
    model = rsr.load(path)
    for access in (model.matrix, model.dense, model.__getitem__, model.is_indexed):
        with pytest.raises(rsr.UnknownNameError) as caught:
            access("layers.2.mlp.up_proj")
        assert isinstance(caught.value, KeyError)
        assert str(caught.value).startswith(
            "the model has no tensor 'layers.2.mlp.up_proj'; similar names: "
            "'layers.2.mlp.up_proj.weight'"
        )
    with pytest.raises(KeyError, match=f"no tensor 'x+'; it has {names[0]!r}.* '{'norm'}'$"):
        model["xxxxxxxx"]
    for name in (3, None, ["w"], b"norm"):
        with pytest.raises(KeyError, match="expected the name of a tensor"):
            model[name]  # type: ignore[index]
    with pytest.raises(KeyError, match=r"the model has no file 'config\.json'; it has none"):
        model.files["config.json"]


def test_paths_of_other_types() -> None:
    for path in (None, 3, b"x.rsr", ["x.rsr"]):
        with pytest.raises(rsr.InputTypeError, match=r"expected the path of a \.rsr file"):
            rsr.load(path)  # type: ignore[arg-type]


def test_versions_are_those_of_the_distribution() -> None:
    assert rsr.__version__ == rsr_formats.__version__ == version("rsr-ternary")
    with pytest.raises(AttributeError, match="module 'rsr_runtime' has no attribute 'version'"):
        rsr.version  # type: ignore[attr-defined]  # noqa: B018


def test_metadata_and_files(model_file: tuple[Path, Built]) -> None:
    model = rsr.load(model_file[0])
    assert model.metadata == {"source": "test"}
    model.metadata["source"] = "changed"
    assert model.metadata == {"source": "test"}, "a copy"
    assert dict(model.files) == {"config.json": b"{}"}
    assert "config.json" in model.files
    assert "other" not in model.files
    with pytest.raises(KeyError):
        model.files["other"]
    assert repr(model.files) == "<files: config.json>"


NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4",
    "U64": "u8", "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8", "C64": "c8",
}  # fmt: skip


@pytest.mark.parametrize("memory", ["auto", "map", "huge"])
@pytest.mark.parametrize("zstd", [None, 3])
def test_dense_dtypes(zstd: int | None, memory: str, workshop: Workshop) -> None:
    path = workshop.path()
    values = {d: np.array([[0, 1], [1, 0], [1, 1]]).astype(d) for d in NUMPY.values()}
    tensors: list[tuple[str, str, tuple[int, ...], bytes]]
    tensors = [(d, d, (3, 2), values[n].tobytes()) for d, n in NUMPY.items()]
    tensors += [(f"0-d {d}", d, (), values[n][0, 1].tobytes()) for d, n in NUMPY.items()]
    tensors += [(f"empty {d}", d, (2, 0, 3), b"") for d in [*NUMPY, "BF16", "F8_E4M3", "F4"]]
    workshop.write(path, [], dense=tensors, zstd=zstd)
    model = rsr.load(path, verify=True, memory=memory)
    for d, n in NUMPY.items():
        found, scalar, empty = (array(model, f"{prefix}{d}") for prefix in ("", "0-d ", "empty "))
        assert found.dtype == scalar.dtype == empty.dtype == n
        np.testing.assert_array_equal(found, values[n])
        assert scalar.shape == ()
        assert scalar == values[n][0, 1]
        assert empty.shape == (2, 0, 3)
        for a in (found, scalar, empty):
            assert a.flags.c_contiguous
            assert a.flags.aligned
            assert not a.flags.writeable
    assert array(model, "empty BF16").shape == array(model, "empty F8_E4M3").shape == (2, 0, 3)
    assert array(model, "empty F4").size == 0


@pytest.mark.parametrize("zstd", [None, 3])
def test_dense_tensors_are_decompressed_once(zstd: int | None, workshop: Workshop) -> None:
    path = workshop.path()
    dense = [("f", "F32", (2, 500), bytes(range(250)) * 16), ("b", "BF16", (), b"\x80\x3f")]
    workshop.write(path, [], dense=dense, zstd=zstd)
    with rsr.load(path) as model:
        first = array(model, "f")
        assert np.shares_memory(first, array(model, "f"))
        assert array(model, "b") == array(model, "b") == 1
    np.testing.assert_array_equal(first.view(np.uint8)[0, :250], np.arange(250))
    assert not model._decompressed, "a closed model holds nothing"


def test_scales_are_expanded_once(workshop: Workshop) -> None:
    for scale in ("none", "tensor", "row", "block"):
        w = workshop.one((40, 50), scale=scale)
        assert w.matrix.scale is w.matrix.scale
        assert not w.matrix.scale.flags.writeable
        np.testing.assert_array_equal(np.broadcast_to(w.matrix.scale, 40), w.scale)


def test_an_empty_array_of_the_largest_shape(workshop: Workshop) -> None:
    path = workshop.path()
    shape = ((1 << 30) - 1, 0, 1 << 30)
    workshop.write(path, [], dense=[(d, d, shape, b"") for d in [*NUMPY, "BF16", "F8_E4M3"]])
    model = rsr.load(path)
    assert {value.shape for value in model.values()} == {shape}


def test_bf16_is_widened_exactly_and_small_floats_are_bytes(workshop: Workshop) -> None:
    path = workshop.path()
    every = np.arange(1 << 16, dtype="<u2")
    dense = [
        ("bf16", "BF16", (256, 256), every.tobytes()),
        ("bf16 scalar", "BF16", (), b"\x80\x3f"),
        ("f8", "F8_E4M3", (2, 3), bytes(range(6))),
        ("f4", "F4", (2, 5), bytes(range(5))),
        ("f6", "F6_E2M3", (4,), bytes(range(3))),
    ]
    workshop.write(path, [], dense=dense)
    model = rsr.load(path)
    wide = array(model, "bf16")
    assert wide.dtype == np.float32
    assert wide.shape == (256, 256)
    assert (wide.view(np.uint32).ravel() == every.astype(np.uint32) << 16).all()
    assert not wide.flags.writeable
    assert array(model, "bf16 scalar").shape == ()
    assert array(model, "bf16 scalar") == 1
    for name, shape, size in (("f8", (2, 3), 6), ("f4", (5,), 5), ("f6", (3,), 3)):
        raw = array(model, name)
        assert raw.dtype == np.uint8
        assert raw.shape == shape
        assert raw.tobytes() == bytes(range(size))


def test_is_indexed(model_file: tuple[Path, Built]) -> None:
    path, _ = model_file
    with rsr.load(path) as model:
        assert model.is_indexed("w")
        assert not model.is_indexed("norm")
        with pytest.raises(KeyError):
            model.is_indexed("config.json")


def test_the_index_is_not_touched_before_it_is_used(workshop: Workshop) -> None:
    def damage(arrays: dict[str, Any]) -> None:
        arrays["permutation"][:] = 40

    path = workshop.path()
    workshop.write(path, [Spec((40, 50), name="w", k=4, encoding="permuted")], damage)
    with rsr.load(path) as model:
        assert model.is_indexed("w")
        w = model.matrix("w")
        assert w.shape == (40, 50)
        with pytest.raises(IndexDataError):
            w @ np.ones(50, np.float32)


@pytest.mark.parametrize("zstd", [None, 3])
def test_dense_is_what_the_file_holds(zstd: int | None, workshop: Workshop) -> None:
    path = workshop.path()
    bits = np.arange(6, dtype="<u2").reshape(2, 3)
    dense = [
        ("bf16", "BF16", (2, 3), bits.tobytes()),
        ("f16", "F16", (2, 3), bits.tobytes()),
        ("i8", "I8", (2, 3), bytes(range(6))),
        ("scalar", "BF16", (), b"\x80\x3f"),
        ("f4", "F4", (2, 5), bytes(range(5))),
    ]
    workshop.write(path, [Spec((4, 6), name="w")], dense=dense, zstd=zstd)
    model = rsr.load(path)
    found = model.dense("bf16").data
    assert found.dtype == np.uint16
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, bits)
    assert np.shares_memory(found, model.dense("bf16").data), "no copy"
    assert model.dense("scalar").data == 0x3F80
    for name in ("f16", "i8", "f4"):
        assert np.shares_memory(model.dense(name).data, array(model, name))
        np.testing.assert_array_equal(model.dense(name).data, array(model, name))
    with pytest.raises(OptionError, match="'w' is an indexed matrix, expected a dense tensor"):
        model.dense("w")
    with pytest.raises(KeyError, match="other"):
        model.dense("other")
    model.close()
    with pytest.raises(ClosedError, match="closed"):
        model.dense("bf16")


@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
@pytest.mark.parametrize("zstd", [None, 3])
def test_huge_memory_and_compression_change_nothing(
    encoding: str, zstd: int | None, workshop: Workshop, rng: np.random.Generator
) -> None:
    path = workshop.path()
    specs = [Spec((70, 300), encoding=encoding, scale="row", name="w")]
    truth = workshop.write(path, specs, files={"a": b"a" * 5000}, zstd=zstd)
    for memory in ("auto", "map", "huge"):
        with rsr.load(path, memory=memory) as model:
            x = rng.integers(-128, 128, 300).astype(np.int8)
            np.testing.assert_array_equal(matrix_of(model, "w") @ x, truth["w"][0] @ x.astype(int))
            np.testing.assert_array_equal(matrix_of(model, "w").scale, truth["w"][1])
            assert model.files["a"] == b"a" * 5000


def test_load_refuses_other_memory_and_other_files(model_file: tuple[Path, Built]) -> None:
    path = model_file[0]
    with pytest.raises(OptionError, match="memory: found 'disk', expected 'auto', 'map' or 'huge'"):
        rsr.load(path, memory="disk")
    with pytest.raises(FileNotFoundError):
        rsr.load(path.with_name("absent.rsr"))
    other = path.with_name("other.rsr")
    other.write_bytes(b"not a model")
    with pytest.raises(FormatError):
        rsr.load(other)


# --- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["auto", "map", "huge"])
def test_close(memory: str, model_file: tuple[Path, Built]) -> None:
    model = rsr.load(model_file[0], memory=memory)
    w, norm, files = matrix_of(model, "w"), array(model, "norm"), model.files
    scale, block = w.scale, w.block(0)
    copies = norm.copy(), scale.copy(), block.permutation.copy()
    model.close()
    model.close()
    x = np.zeros(50, np.int8)
    for use in (
        lambda: model["w"],
        lambda: model["norm"],
        lambda: model.get("w"),
        lambda: files["config.json"],
        lambda: w @ x,
        lambda: w @ x[:, None],
        lambda: w.matvec(x),
        lambda: w.linear(np.zeros(50, np.float32)),
        lambda: w.linear(np.zeros(50, np.float32), "int8"),
        w.to_dense,
        lambda: w.block(0),
    ):
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert issubclass(ClosedError, ValueError)
    gc.collect()
    for kept, copy in zip((norm, scale, block.permutation), copies, strict=True):
        np.testing.assert_array_equal(kept, copy)
    # What needs no data stays: names, shapes, metadata.
    assert list(model) == ["w", "norm"]
    assert "w" in model
    assert "config.json" in files
    assert model.metadata == {"source": "test"}
    assert w.shape == (40, 50)
    assert "closed" in repr(model)


def test_arrays_outlive_the_model(model_file: tuple[Path, Built]) -> None:
    with rsr.load(model_file[0]) as model:
        norm = array(model, "norm")
    del model
    gc.collect()
    np.testing.assert_array_equal(norm, np.arange(6).reshape(2, 3))


def test_a_model_is_freed_at_once(model_file: tuple[Path, Built]) -> None:
    """No reference cycle keeps the file mapped until some later collection."""
    gc.disable()
    try:
        model = rsr.load(model_file[0])
        w, files, freed = model["w"], model.files, weakref.ref(model)
        del model
        assert freed() is None
        assert isinstance(w, Matrix)
        assert (w @ np.zeros(50, np.int8) == 0).all()
        assert files["config.json"] == b"{}"
        held = weakref.ref(w)
        del w
        assert held() is None
    finally:
        gc.enable()


def test_context_manager_closes_after_an_error_too(model_file: tuple[Path, Built]) -> None:
    with pytest.raises(ZeroDivisionError), rsr.load(model_file[0]) as model:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        model["w"]


@pytest.mark.skipif(os.name == "nt", reason="Windows locks the name of a mapped file")
@pytest.mark.parametrize("change", ["renamed", "replaced", "unlinked"])
def test_the_file_may_be_renamed_replaced_or_unlinked(
    change: str, model_file: tuple[Path, Built], rng: np.random.Generator
) -> None:
    path, built = model_file
    model = rsr.load(path)  # nothing of it was touched yet
    if change == "unlinked":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("other.rsr"))
    else:
        other = path.with_name("other.rsr")
        other.write_bytes(bytes(100))
        other.replace(path)
    x = rng.integers(-128, 128, 50).astype(np.int8)
    np.testing.assert_array_equal(matrix_of(model, "w") @ x, built.exact(x))
    np.testing.assert_array_equal(array(model, "norm"), np.arange(6).reshape(2, 3))
    assert model.files["config.json"] == b"{}"


# --- damage ---------------------------------------------------------------------------------


def test_verify_catches_a_flipped_byte_in_every_section(model_file: tuple[Path, Built]) -> None:
    path, _ = model_file
    good = path.read_bytes()
    sections = RsrFile(path).header.sections
    assert len(sections) == 4
    for section in sections:
        for position in (section.offset, section.offset + section.stored_size - 1):
            damaged = bytearray(good)
            damaged[position] ^= 0x10
            copy = path.with_name(f"{position}.rsr")
            copy.write_bytes(damaged)
            with pytest.raises(SectionHashError, match="damaged"):
                rsr.load(copy, verify=True)
    rsr.load(path, verify=True)


def _swap(arrays: dict[str, Array]) -> None:
    L = arrays["segments"][1]
    i = int(np.argmax(L > 0))
    L[i - 1], L[i] = L[i], L[i - 1]


def _start(arrays: dict[str, Array]) -> None:
    arrays["segments"][0, 0] = 1


def _end(arrays: dict[str, Array]) -> None:
    arrays["segments"][2, -1] += 1


def _last(arrays: dict[str, Array]) -> None:
    arrays["segments"][-1, 1:] = 0xFFFF


def _duplicate(arrays: dict[str, Array]) -> None:
    arrays["permutation"][1, 0] = arrays["permutation"][1, 1]


def _out_of_range(arrays: dict[str, Array]) -> None:
    arrays["permutation"][-1, -1] = arrays["permutation"].shape[1]


def _far_out_of_range(arrays: dict[str, Array]) -> None:
    arrays["permutation"][0, 3] = 0xFFFF


def _ones(w: Matrix, *shape: int) -> npt.NDArray[np.float32]:
    return np.ones((*shape, w.shape[1]), np.float32)


# What reads the index or the scales of a matrix, in whatever encoding.
USES: dict[str, Callable[[Matrix], object]] = {
    "vector": lambda w: w @ _ones(w),
    "vectors": lambda w: w @ _ones(w, 3).T,
    "int8": lambda w: w.matvec(np.ones(w.shape[1], np.int8)),
    "linear": lambda w: w.linear(_ones(w, 2)),
    "quantizing": lambda w: w.linear(_ones(w, 2), "int8"),
    "quantizing groups": lambda w: w.linear(_ones(w, 2), "int8-group"),
    "two matrices": lambda w: rsr.linear_all([w, w], _ones(w, 2)),
    "scale": lambda w: w.scale,
    "arrays": lambda w: w.arrays,
    "dense": Matrix.to_dense,
    "block": lambda w: w.block(0),
    "copy": lambda w: w.copy(lambda nbytes: np.empty(nbytes, np.uint8)),
}


@pytest.mark.parametrize("direction", ["expand", "reduce"])
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_swap, "segments of tensor 'w': block 1 does not rise from 0 to 40"),
        (_start, "segments of tensor 'w': block 0 does not rise"),
        (_end, "segments of tensor 'w': block 2 does not rise"),
        (_last, "segments of tensor 'w': block 16 does not rise"),
        (_duplicate, "permutation of tensor 'w': block 1 does not contain each of 0 to 39 once"),
        (_out_of_range, "permutation of tensor 'w': block 16 does not contain"),
        (_far_out_of_range, "permutation of tensor 'w': block 0 does not contain"),
    ],
)
def test_a_damaged_permuted_index_never_reaches_a_kernel(
    damage: Damage, sentence: str, direction: str, workshop: Workshop
) -> None:
    shape = (40, 50) if direction == "expand" else (50, 40)
    path = workshop.path()
    w = Spec(shape, encoding="permuted", direction=direction, name="w")
    workshop.write(path, [w], damage)
    matrix = rsr.load(path).matrix("w")  # the index is looked at when it is used
    for _ in range(2):
        for use in USES.values():
            with pytest.raises(IndexDataError, match=sentence):
                use(matrix)
    with pytest.raises(IndexDataError, match=sentence):
        rsr.load(path, verify=True)


@pytest.mark.parametrize("use", [*USES, "rows"])
def test_a_scale_that_is_not_finite_is_refused(use: str, model_file: tuple[Path, Built]) -> None:
    path, _ = model_file
    section = next(s for s in RsrFile(path).header.sections if s.size == 4 * 40)
    data = bytearray(path.read_bytes())
    data[section.offset : section.offset + 4] = np.float32(np.nan).tobytes()
    copy = path.with_name("copy.rsr")
    copy.write_bytes(data)
    w = rsr.load(copy).matrix("w")
    for _ in range(2):
        with pytest.raises(IndexDataError, match="scale of tensor 'w' is not finite"):
            w.rows(np.array([1])) if use == "rows" else USES[use](w)


# --- threads --------------------------------------------------------------------------------


def run_threads(count: int, work: Any) -> None:
    """Run work(i) in `count` threads that start together; raise what any of them raised."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def go(i: int) -> None:
        barrier.wait(20)
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("zstd", [None, 1])
def test_threads_share_lazily_made_matrices(
    zstd: int | None, workshop: Workshop, rng: np.random.Generator
) -> None:
    path = workshop.path()
    specs = [Spec((60, 80), name=f"ranked{i}") for i in range(5)]
    specs += [Spec((60, 80), encoding="permuted", name=f"permuted{i}") for i in range(5)]
    truth = workshop.write(path, specs, files={"f": b"f" * 4000}, zstd=zstd)
    x = rng.integers(-128, 128, 80).astype(np.int8)
    for _ in range(5):
        model = rsr.load(path)
        seen: list[dict[str, Matrix]] = [{} for _ in range(6)]

        def work(i: int, model: rsr.Model = model, seen: Any = seen) -> None:
            for name in np.random.default_rng(i).permutation(list(model)):
                seen[i][name] = matrix_of(model, name)
                np.testing.assert_array_equal(model[name] @ x, truth[name][0] @ x.astype(int))
                assert model.files["f"] == b"f" * 4000

        run_threads(6, work)
        for name in model:
            assert len({id(s[name]) for s in seen}) == 1


def test_closing_while_others_multiply(workshop: Workshop, rng: np.random.Generator) -> None:
    """A product ends with its result or with ClosedError, and never touches freed memory."""
    path = workshop.path()
    names = ["ranked", "permuted"]
    specs = [Spec((300, 2000), encoding=name, k=3, name=name) for name in names]
    truth = workshop.write(path, specs)
    x = rng.integers(-128, 128, 2000).astype(np.int8)
    exact = {name: truth[name][0] @ x.astype(int) for name in names}
    for round_ in range(10):
        model = rsr.load(path, memory="map" if round_ % 2 else "huge")
        products = [0] * 4

        def work(i: int, model: rsr.Model = model, products: list[int] = products) -> None:
            if i == 0:
                while sum(products) < 3:
                    time.sleep(0)
                model.close()
                return
            name = names[i % 2]
            with contextlib.suppress(ClosedError):
                while True:
                    np.testing.assert_array_equal(model[name] @ x, exact[name])
                    products[i] += 1

        run_threads(4, work)
        assert not model._matrices, "a closed model holds no matrix"
        del model
        gc.collect()
