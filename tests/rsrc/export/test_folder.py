"""A model directory appears complete, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

import rsrc
from rsr_testing.checkpoints import Kit
from rsr_testing.exports import compile_matrices
from rsrc.export.decompile import decompile
from rsrc.export.folder import atomic_folder


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_with_files_is_never_touched(kit: Kit, tmp_path: Path, force: bool) -> None:
    rsr, out = compile_matrices(kit, tmp_path, ["row"]), tmp_path / "out"
    out.mkdir()
    decompile(rsr, out, force=force)  # an empty folder is filled
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(rsrc.OutputExistsError, match="with files in it"):
        decompile(rsr, out, to="float", force=force)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(rsrc.OutputExistsError, match="not a directory"):
        decompile(rsr, tmp_path / "file", force=force)
    assert (tmp_path / "file").read_bytes() == b"precious"
    with pytest.raises(FileNotFoundError):
        decompile(rsr, tmp_path / "no" / "out", force=force)


def test_interruption_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    rsr = compile_matrices(kit, tmp_path, ["row"], {})
    before = sorted(p.name for p in tmp_path.iterdir())

    def fail(*call: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decompile(rsr, tmp_path / "out", progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_folder_that_is_replaced_stays_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_bytes(b"old")
    rename = Path.rename

    def fail_second(path: Path, target: Path) -> Path:
        if (path / "file").read_bytes() == b"new":
            raise OSError("no second rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with (
        pytest.raises(OSError, match="no second rename"),
        atomic_folder(out, lambda path: True) as folder,
    ):
        (folder / "file").write_bytes(b"new")
    assert [(p, p.read_bytes()) for p in tmp_path.rglob("file")] == [(out / "file", b"old")]
    monkeypatch.undo()
    with atomic_folder(out, lambda path: True) as folder:
        (folder / "file").write_bytes(b"new")
    assert [(p, p.read_bytes()) for p in tmp_path.rglob("file")] == [(out / "file", b"new")]
    assert [*tmp_path.iterdir()] == [out]
