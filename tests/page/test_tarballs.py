"""The vendored libraries are what npm has."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rsr_runtime.serve import page_files

_PINS = Path(page_files.__file__).with_name("page") / "vendor" / "pins.json"
PACKAGES: list[dict[str, Any]] = json.loads(_PINS.read_text(encoding="utf-8"))["packages"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package["name"]))
def test_files_are_those_of_the_tarball(package: dict[str, Any], tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    name = f"{package['name']}@{package['version']}"
    done = subprocess.run(
        [npm, "pack", "--json", name], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    if done.returncode and any(
        c in done.stdout + done.stderr for c in ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT")
    ):
        pytest.skip(f"npm's registry cannot be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as tar:
        for file in package["files"]:
            member = tar.extractfile(f"package/{file['from']}")
            assert member is not None
            assert hashlib.sha256(member.read()).hexdigest() == file["sha256"], file["file"]
        about = tar.extractfile("package/package.json")
        assert about is not None
        assert json.load(about)["license"] == package["license"]
