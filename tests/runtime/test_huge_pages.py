"""A model with memory "auto" moves into huge pages when that pays; nobody sees it but the clock."""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rsr_runtime as rsr
from rsr_formats.pages import AvailableMemory, huge_page_bytes, huge_page_size
from rsr_runtime import _native, huge_pages
from rsr_testing.matrices import Spec, Workshop, matrix_of
from rsr_testing.process import IN_A_CHILD, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages")
PAGE = mmap.PAGESIZE
SHAPE = (300, 900)


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take pages of the base size for huge ones, so that a small file has many of them."""
    monkeypatch.setattr(huge_pages, "huge_page_size", lambda: PAGE)
    monkeypatch.setattr(huge_pages, "_PIECE", 2 * PAGE)
    monkeypatch.setattr(huge_pages, "_LEAST", PAGE)
    monkeypatch.setattr(huge_pages, "_POLL", 0.001)
    monkeypatch.setattr(huge_pages, "_RATE", 1.0)  # so what a test computes does not pay


@pytest.fixture
def file(workshop: Workshop) -> Path:
    path = workshop.path()
    workshop.write(path, [Spec(SHAPE, name=name, scale="row") for name in "ab"])
    return path


def mapped_bytes(path: Path) -> int:
    """Return how much of a file is mapped, not copied."""
    found = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            first, last = line.split()[0].split("-")
            found += int(last, 16) - int(first, 16)
    return found


def mapping(path: Path) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    with path.open("rb") as opened:
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


# --- the native functions ------------------------------------------------------------------------


def test_a_copy_has_the_same_bytes_at_the_same_address(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = np.random.default_rng(0).integers(0, 256, 9 * PAGE + 5).astype(np.uint8)
    path.write_bytes(contents.tobytes())
    data = mapping(path)
    assert _native.copy_into_huge_pages(data[PAGE : 8 * PAGE], PAGE)
    assert mapped_bytes(path) == 3 * PAGE  # one before, two behind
    with path.open("r+b") as other:
        other.write(bytes(9 * PAGE))
    np.testing.assert_array_equal(data[PAGE : 8 * PAGE], contents[PAGE : 8 * PAGE])
    assert not data[:PAGE].any()
    assert not data[8 * PAGE : 9 * PAGE].any()


def test_copied_pages_are_huge(tmp_path: Path) -> None:
    page = huge_page_size()
    if page is None:
        pytest.skip("this system gives no huge pages")
    path = tmp_path / "f"
    path.write_bytes(os.urandom(PAGE) * (9 * page // PAGE))
    data = mapping(path)
    first = -data.__array_interface__["data"][0] % page
    part = data[first : first + 8 * page]
    assert _native.copy_into_huge_pages(part, page)
    assert page <= huge_page_bytes(part) <= 8 * page
    assert part.tobytes() == path.read_bytes()[first : first + 8 * page]


def test_only_whole_pages_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(4 * PAGE))
    data = mapping(path)
    for start, stop, page in ((1, PAGE + 1, PAGE), (0, PAGE + 1, PAGE), (0, PAGE, 0)):
        with pytest.raises(ValueError, match="data must be whole huge pages"):
            _native.copy_into_huge_pages(data[start:stop], page)


def test_what_a_truncated_file_lost_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(4 * PAGE))
    data = mapping(path)
    os.truncate(path, PAGE)
    assert not _native.copy_into_huge_pages(data[:], PAGE)
    assert mapped_bytes(path) == 4 * PAGE
    assert not data[:PAGE].any()


def test_the_system_may_collapse_the_pages_of_a_file(tmp_path: Path) -> None:
    """Shared memory can be collapsed from Linux 6.1 on; any answer leaves the contents."""
    page = huge_page_size()
    if page is None or not os.access("/dev/shm", os.W_OK):
        pytest.skip("this system gives no huge pages")
    for folder in (Path("/dev/shm"), tmp_path):
        path = folder / f"rsr-test-{os.getpid()}"
        try:
            path.write_bytes(os.urandom(PAGE) * (3 * page // PAGE))
            data, contents = mapping(path), path.read_bytes()
            first = -data.__array_interface__["data"][0] % page
            part = data[first : first + page]
            before = huge_page_bytes(part)
            if _native.collapse_into_huge_pages(part):
                assert huge_page_bytes(part) == page
            else:
                assert huge_page_bytes(part) == before
            assert data.tobytes() == contents
        finally:
            path.unlink()


# --- when a model moves --------------------------------------------------------------------------


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.usefixtures("fine")
def test_it_moves_when_products_have_cost_enough(file: Path, rng: np.random.Generator) -> None:
    """Not before; only what the caller named; products and arrays never notice."""
    model, truth = rsr.load(file, memory="auto"), rsr.load(file)
    all_of_it = mapped_bytes(file) // 2
    busy = [0.0]
    model.move_by(["b"], lambda: busy[0])
    ranks = matrix_of(model, "a").arrays[0], matrix_of(model, "b").arrays[0]
    x = rng.integers(-128, 128, SHAPE[1]).astype(np.int8)
    expected = [truth[name] @ x for name in "ab"]
    time.sleep(0.05)
    assert mapped_bytes(file) == 2 * all_of_it
    stop: list[int] = []
    wrong: list[str] = []

    def multiply() -> None:
        while not stop:
            wrong.extend(
                n for n, y in zip("ab", expected, strict=True) if (model[n] @ x != y).any()
            )

    threads = [threading.Thread(target=multiply) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        busy[0] = 1e9
        moved = ranks[1].nbytes - 2 * PAGE  # at least, as it may begin and end within a page
        wait_for(lambda: mapped_bytes(file) <= 2 * all_of_it - moved)
        model.use_huge_pages()
    finally:
        stop.append(1)
        for thread in threads:
            thread.join()
    assert not wrong
    assert mapped_bytes(file) >= 2 * all_of_it - ranks[1].nbytes - 2 * PAGE
    np.testing.assert_array_equal(ranks[0], matrix_of(truth, "a").arrays[0])
    np.testing.assert_array_equal(ranks[1], matrix_of(truth, "b").arrays[0])
    assert matrix_of(model, "b").arrays[0].ctypes.data == ranks[1].ctypes.data


@pytest.mark.usefixtures("fine")
def test_slow_copying_has_to_pay_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that looks for huge pages for long is given less to do."""
    pieces = huge_pages.worth_moving(mapping(file), [(0, file.stat().st_size)])
    assert len(pieces) > 3
    done: list[int] = []

    def slow(piece: object, page: int) -> bool:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        done.append(1)
        return True

    monkeypatch.setattr(_native, "copy_into_huge_pages", slow)
    monkeypatch.setattr(huge_pages, "_RATE", 1e9)
    monkeypatch.setattr(huge_pages, "_TRIAL", 1)
    busy = [0.0]
    mover = huge_pages.Mover(list(pieces), lambda: busy[0])
    busy[0] = sum(p.nbytes for p in pieces) / huge_pages._RATE / huge_pages._SAVED
    wait_for(lambda: done)
    time.sleep(0.1)
    assert len(done) == 1
    busy[0] = 0.1 * len(pieces) / huge_pages._SAVED
    wait_for(lambda: len(done) == len(pieces))
    mover.close()


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize("collapses", [True, False])
def test_pages_of_the_file_are_collapsed_if_the_system_can(
    file: Path, collapses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def collapse(piece: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bool:
        asked.append(piece.nbytes)
        return collapses

    monkeypatch.setattr(_native, "collapse_into_huge_pages", collapse)
    size = file.stat().st_size  # enough to collapse, too little for a copy
    free = AvailableMemory(size if collapses else 1 << 40)
    monkeypatch.setattr(huge_pages, "available_memory", lambda: free)
    model = rsr.load(file, memory="auto")
    before = mapped_bytes(file)
    model.use_huge_pages()
    if collapses:
        assert len(asked) > 3
        assert mapped_bytes(file) == before
    else:
        assert len(asked) == 1  # it is not asked again
        assert mapped_bytes(file) < before / 2


@pytest.mark.usefixtures("fine")
def test_it_takes_at_most_half_of_the_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = file.stat().st_size
    for free, moves in ((size, False), (2 * size, True)):
        found = AvailableMemory(free)
        monkeypatch.setattr(huge_pages, "available_memory", lambda found=found: found)
        model = rsr.load(file, memory="auto")
        before = mapped_bytes(file)
        model.use_huge_pages()
        assert (mapped_bytes(file) < before) == moves
        model.close()


@pytest.mark.usefixtures("fine")
def test_a_file_that_memory_cannot_hold_stays_as_it_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Huge pages of the file itself would push out those that the next product reads."""
    asked: list[object] = []
    monkeypatch.setattr(_native, "collapse_into_huge_pages", asked.append)
    free = AvailableMemory(file.stat().st_size // 2)
    monkeypatch.setattr(huge_pages, "available_memory", lambda: free)
    with rsr.load(file, memory="auto") as model:
        before = mapped_bytes(file)
        model.use_huge_pages()
        assert mapped_bytes(file) == before
    assert not asked


def test_without_huge_pages_and_for_small_files_it_stays_mapped(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rsr.load(file, memory="auto")  # too small
    monkeypatch.setattr(huge_pages, "_LEAST", 0)
    monkeypatch.setattr(huge_pages, "huge_page_size", lambda: None)
    without = rsr.load(file, memory="auto")
    before, threads = mapped_bytes(file), threading.active_count()
    for one in (model, without):
        one.use_huge_pages()
        assert one._handle._mover is None
    assert (mapped_bytes(file), threading.active_count()) == (before, threads)


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize("memory", ["map", "huge"])
def test_other_memory_never_moves(file: Path, memory: str) -> None:
    model = rsr.load(file, memory=memory)
    before = mapped_bytes(file)
    model.move_by(["a"], lambda: 1e9)
    model.use_huge_pages()
    assert mapped_bytes(file) == before
    assert model._handle._mover is None


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fine")
def test_close_ends_the_thread_and_releases_the_file(file: Path) -> None:
    model = rsr.load(file, memory="auto")
    mover = model._handle._mover
    assert mover is not None
    assert mover._thread.is_alive()
    model.close()
    assert not mover._thread.is_alive()
    assert mapped_bytes(file) == 0
    for use in (model.use_huge_pages, model.huge_page_bytes, lambda: model.move_by([], float)):
        with pytest.raises(rsr.ClosedError):
            use()


@pytest.mark.usefixtures("fine")
def test_a_model_that_nobody_holds_ends_the_thread(file: Path) -> None:
    model = rsr.load(file, memory="auto")
    mover = model._handle._mover
    assert mover is not None
    del model
    mover._thread.join(60)
    assert not mover._thread.is_alive()


@pytest.mark.usefixtures("fine")
def test_a_pickle_moves_too(file: Path) -> None:
    model = pickle.loads(pickle.dumps(rsr.load(file, memory="auto")))
    before = mapped_bytes(file)
    model.use_huge_pages()
    assert mapped_bytes(file) < before
    w = pickle.loads(pickle.dumps(model.matrix("a")))
    x = np.ones(SHAPE[1], np.float32)
    np.testing.assert_array_equal(w @ x, model.matrix("a") @ x)


def test_a_forked_child_keeps_what_there_is(file: Path) -> None:
    """It has no thread that moves, and need not wait for one."""
    code = (
        IN_A_CHILD
        + """
import mmap, threading
import numpy as np
import rsr_runtime as rsr
from rsr_runtime import huge_pages
huge_pages.huge_page_size = lambda: mmap.PAGESIZE
huge_pages._LEAST, huge_pages._PIECE = mmap.PAGESIZE, mmap.PAGESIZE
x = np.ones(900, np.float32)
expected = rsr.load(sys.argv[1])["a"] @ x
for i in range(20):
    model = rsr.load(sys.argv[1], memory="auto")
    w = model["a"]
    moving = threading.Thread(target=model.use_huge_pages)
    moving.start()
    def works():
        same = np.array_equal(w @ x, expected)
        model.use_huge_pages()
        model.close()
        return same
    in_a_child(works, 30)
    moving.join()
    assert np.array_equal(w @ x, expected)
    model.close()
print("done")
"""
    )
    done = run_python(code, file, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
