"""The page's libraries are those of its list of pins, each with its license."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rsr_runtime.serve import page_files

_VENDOR = Path(page_files.__file__).with_name("page") / "vendor"


def test_vendored_files_have_their_hashes() -> None:
    pins = json.loads((_VENDOR / "pins.json").read_text(encoding="utf-8"))["packages"]
    expected = {file["file"]: file["sha256"] for package in pins for file in package["files"]}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _VENDOR.iterdir()
        if path.name != "pins.json"
    }
    assert found == expected
    for package in pins:
        assert any("LICENSE" in file["file"] for file in package["files"])
