"""rsrc export-transformers: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import rsrc as compiler
from rsr_testing.commands import done, refused, rsrc
from rsr_testing.language_models import LanguageModels
from rsr_testing.models import FAMILIES


def test_output(language_models: LanguageModels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = language_models.path("bitnet-2b")
    lines = done(rsrc("export-transformers", model, out)).splitlines()
    paths = sorted(out.iterdir())
    assert lines == [f"{path}: {path.stat().st_size:,} bytes" for path in paths]
    assert {out / "model.rsr", out / "model.safetensors", out / "config.json"} < {*paths}
    said = refused(rsrc("export-transformers", model, out))
    assert said == f"rsrc: {out} already exists: use --force to replace it\n"
    done(rsrc("export-transformers", model, out, "--force"))


def test_notes(tmp_path: Path) -> None:
    FAMILIES["trilm"].save(tmp_path / "model")
    compiler.compile(tmp_path / "model", tmp_path / "m.rsr", head="int8")
    lines = done(rsrc("export-transformers", tmp_path / "m.rsr", tmp_path / "out")).splitlines()
    assert lines[-1] == "lm_head.weight is written as F16, of its int8 values"


def test_refused(language_models: LanguageModels, tmp_path: Path) -> None:
    model = language_models.path("bitnet-2b")
    said = refused(rsrc("export-transformers", model, tmp_path / "no" / "out"))
    assert said == f"rsrc: {tmp_path / 'no'}: No such file or directory\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(b"")
    for force in ([], ["--force"]):
        said = refused(rsrc("export-transformers", model, tmp_path / "other", *force))
        assert "is a directory with files in it" in said
    assert "Missing argument 'DIRECTORY'" in refused(rsrc("export-transformers", model), code=2)
