"""`patch` gives back the new file of `diff`, whatever the tensors are, or leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import rsrc
from rsr_formats import FileEntry, RsrFile, create
from rsr_formats.errors import LimitError, OutputExistsError, PaddingError, SectionHashError
from rsr_formats.records import IndexedTensor
from rsr_testing.matrices import Spec
from rsr_testing.paths import GOLDEN
from rsrc.delta.statistics import statistics
from rsrc.workers.pool import Workers, open_workers

from .conftest import SPECS, Changed, Pair

RNG = np.random.default_rng(5)
EMBEDDING = RNG.integers(0, 1 << 16, 3 << 20, np.uint16).tobytes()  # two pieces


def apply(old: Path, new: Path) -> rsrc.DeltaReport:
    """Make a delta, apply it, and compare."""
    delta, result = old.with_name("d.rsrd"), old.with_name("result.rsr")
    report = rsrc.diff(old, new, delta, force=True)
    rsrc.patch(old, delta, result, force=True)
    assert result.read_bytes() == new.read_bytes()
    assert report.delta_bytes == delta.stat().st_size
    return report


@pytest.mark.parametrize("zstd", [None, 5])
def test_every_index_is_changed_in_place(pair: Pair, zstd: int | None) -> None:
    report = apply(*pair(zstd=zstd))
    indexes = [s for s in SPECS if 0 not in s.shape]
    assert report.changed == len(indexes)
    assert report.carried == 0
    assert report.delta_bytes < 0.2 * report.new_bytes


def test_many_changes(pair: Pair) -> None:
    assert apply(*pair(share=0.4)).changed >= 8


def test_equal_files(pair: Pair) -> None:
    old, new = pair(share=0)
    report = apply(old, new)
    assert report.copied == len(RsrFile(new).header.sections)
    assert report.delta_bytes < 250 + 6 * report.copied


def test_threads_and_runs_give_the_same_delta(pair: Pair, tmp_path: Path) -> None:
    old, new = pair(zstd=3)
    first, second = tmp_path / "1.rsrd", tmp_path / "2.rsrd"
    rsrc.diff(old, new, first, threads=1)
    rsrc.diff(old, new, second, threads=3)
    assert first.read_bytes() == second.read_bytes()


def test_threads_by_default(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the control group, where the machine has more."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("rsr_formats.processors.processor_quota", lambda: 3)
    asked = []

    def opened(executor: str | None, threads: int) -> AbstractContextManager[Workers]:
        asked.append(threads)
        return open_workers(executor, threads)

    for name in ("diff", "patch", "statistics"):
        module = import_module(f"rsrc.delta.{name}")
        monkeypatch.setattr(module, "open_workers", opened)
    old, new = pair()
    apply(old, new)
    statistics(old, new)
    assert asked == [3, 3, 3]


@pytest.mark.parametrize("pair_of", [("v1", "v1.5-rotation"), ("v1.5-rotation", "v1.2")])
def test_files_of_all_versions(pair_of: tuple[str, str], tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.rsr" for name in pair_of]
    for name, path in zip(pair_of, paths, strict=True):
        path.write_bytes((GOLDEN / name / "golden.rsr").read_bytes())
    apply(*paths)


def test_other_tensors_and_files(pair: Pair) -> None:
    """Tensors are removed, added, reshaped or encoded otherwise; others lie elsewhere."""
    old, new = pair(
        [Spec((64, 60), name="a"), Spec((64, 60), name="b"), Spec((64, 60), name="c")],
        dense=[("x", "F32", (4,), bytes(16))],
        files={"config.json": b"{}", "tokenizer.json": b"[1, 2, 3]" * 1000},
    )
    specs = [
        Spec((64, 60), name="d"),
        Spec((64, 60), name="c", packing="n4s1"),
        Spec((60, 64), name="b"),
    ]
    changed = EMBEDDING[:1000] + b"inserted" + EMBEDDING[1000:-8]
    shape = (3 << 20,)
    tensors = [("y", "F16", shape, EMBEDDING), ("x", "F32", (4,), bytes(16))]
    Changed(old.parent, 0).write(new, specs, dense=tensors, files={"config.json": b"{ }"})
    report = apply(old, new)
    assert report.copied == 2  # "d" has the bytes of "a"
    assert report.changed == 0
    newer = new.with_name("newer.rsr")
    Changed(old.parent, 0).write(
        newer, specs, dense=[("y", "F16", shape, changed)], files={"config.json": b"{ }"}
    )
    assert apply(new, newer).delta_bytes < 8000  # the embedding lies 8 bytes behind


def test_compressed_dense_tensors_are_compared_decompressed(pair: Pair) -> None:
    other = bytearray(EMBEDDING)
    other[5_000_000] ^= 1
    shape, zeros = (3 << 20,), bytes(1000)
    both = {"zstd": 3, "files": {"tokenizer.json": zeros}}
    old, new = pair(
        [],
        old={"dense": [("y", "F16", shape, EMBEDDING)]},
        new={"dense": [("y", "F16", shape, bytes(other))]},
        **both,
    )
    assert apply(old, new).delta_bytes < 4000


def test_another_zstd_level_carries_the_stored_bytes(pair: Pair, tmp_path: Path) -> None:
    """Levels of one file are alike; a section of another level is not compressed again."""
    old, new = pair([Spec((300, 100), name="w")])
    with create(tmp_path / "mixed.rsr") as writer:
        file = RsrFile(new)
        (t,) = file.header.tensors
        writer.add(file.pieces(0), 19)
        writer.add([RNG.integers(0, 9, 30_000, np.uint8).tobytes()], 1)
        entry = FileEntry("merges.txt", 1)
        writer.finish(producer="x", metadata={}, files=[entry], tensors=[t])
    assert apply(old, tmp_path / "mixed.rsr").carried == 2


def test_an_unsorted_permutation_is_carried(pair: Pair) -> None:
    """A valid index that the compiler would not write: rows of a pattern in another order."""
    old, new = pair([Spec((50, 4), name="w", encoding="permuted", k=2)], share=0)

    def reverse(arrays: dict[str, np.ndarray]) -> None:
        stop = int(arrays["segments"][0, 1])
        arrays["permutation"][0, :stop] = arrays["permutation"][0, :stop][::-1].copy()

    Changed(old.parent, 0.1).write(
        new, [Spec((50, 4), name="w", encoding="permuted", k=2)], damage=reverse
    )
    report = apply(old, new)
    assert (report.changed, report.carried) == (0, 2)


def test_chunks(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks: many per tensor, the last ones shorter, some without changes."""
    for module in ("entries", "records"):
        monkeypatch.setattr(f"rsrc.delta.{module}.CHUNK", 200)
    assert apply(*pair(share=0.001)).changed >= 9


def test_large_sections_are_not_held(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections beyond the budget of workers are written piece by piece, with the same bytes."""
    old, new = pair(dense=[("x", "U8", (9,), b"y" * 9)])
    delta = old.with_name("d.rsrd")
    rsrc.diff(old, new, delta)
    expected = delta.read_bytes()
    monkeypatch.setattr("rsrc.workers.pool.LARGEST", 500)
    apply(old, new)
    assert delta.read_bytes() == expected


def test_the_output_may_replace_the_old_file(pair: Pair, tmp_path: Path) -> None:
    old, new = pair()
    delta = tmp_path / "d.rsrd"
    rsrc.diff(old, new, delta)
    rsrc.patch(old, delta, old, force=True)
    assert old.read_bytes() == new.read_bytes()


def test_other_outputs_are_refused(pair: Pair, tmp_path: Path) -> None:
    old, new = pair()
    delta, out = tmp_path / "d.rsrd", tmp_path / "out.rsr"
    for path in (old, new):
        with pytest.raises(rsrc.OptionError, match="is part of the source"):
            rsrc.diff(old, new, path, force=True)
    rsrc.diff(old, new, delta)
    with pytest.raises(rsrc.OptionError, match="is part of the source"):
        rsrc.patch(old, delta, delta, force=True)
    out.write_bytes(b"precious")
    for make in (lambda: rsrc.diff(old, new, out), lambda: rsrc.patch(old, delta, out)):
        with pytest.raises(OutputExistsError):
            make()
    assert out.read_bytes() == b"precious"


def test_another_base_is_refused_by_hash(pair: Pair, tmp_path: Path) -> None:
    old, new = pair()
    delta, out = tmp_path / "d.rsrd", tmp_path / "out.rsr"
    rsrc.diff(old, new, delta)
    other = tmp_path / "other.rsr"
    Changed(tmp_path, 0.5).write(other, SPECS[:1])
    with pytest.raises(rsrc.WrongBaseError) as refused:
        rsrc.patch(other, delta, out)
    assert RsrFile(old).digest.hex() in str(refused.value)
    assert RsrFile(other).digest.hex() in str(refused.value)
    with pytest.raises(rsrc.WrongBaseError, match="is the new file of this delta already"):
        rsrc.patch(new, delta, out)
    assert not out.exists()


def test_a_damaged_old_file_leaves_no_output(pair: Pair, tmp_path: Path) -> None:
    old, new = pair()
    delta, out = tmp_path / "d.rsrd", tmp_path / "out.rsr"
    rsrc.diff(old, new, delta)
    whole = old.read_bytes()
    for t in RsrFile(old).header.tensors:
        assert isinstance(t, IndexedTensor)
        s = RsrFile(old).header.sections[next(iter(t.sections.values()))]
        if not s.stored_size:
            continue
        old.write_bytes(whole)
        with old.open("r+b") as file:
            file.seek(s.offset + s.stored_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        with pytest.raises((rsrc.FormatError, rsrc.DeltaError), match=r"damaged|does not contain"):
            rsrc.patch(old, delta, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.rsrd", "new.rsr", "old.rsr"]


def test_a_damaged_new_file_is_refused(pair: Pair, tmp_path: Path) -> None:
    old, new = pair()
    whole, sections = new.read_bytes(), RsrFile(new).header.sections
    s = next(s for s in sections if s.stored_size % 4096)
    for at, error in ((s.offset, SectionHashError), (s.offset + s.stored_size, PaddingError)):
        new.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(error):
            rsrc.diff(old, new, tmp_path / "d.rsrd")
    assert not (tmp_path / "d.rsrd").exists()


def test_a_far_larger_file_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = pair(new={"dense": [("x", "U8", (1 << 20,), bytes(1 << 20))]})
    for name in ("FREE_BYTES", "DELTA_SHARE", "OLD_SHARE"):
        monkeypatch.setattr(f"rsrc.delta.records.{name}", 1)
    with pytest.raises(LimitError, match="send the file itself"):
        rsrc.diff(old, new, old.with_name("d.rsrd"))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed(pair: Pair, tmp_path: Path) -> None:
    """A process that ends in the middle leaves an existing output as it was."""
    old, new = pair()
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    code = (
        "import os, signal, sys, rsrc\n"
        "def stop(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "getattr(rsrc, sys.argv[1])(*sys.argv[2:], force=True, progress=stop)"
    )
    delta = tmp_path / "d.rsrd"
    rsrc.diff(old, new, delta)
    for command in (["diff", old, new, out], ["patch", old, delta, out]):
        done = subprocess.run([sys.executable, "-c", code, *map(str, command)], check=False)
        assert done.returncode == -9
        assert out.read_bytes() == b"precious"
