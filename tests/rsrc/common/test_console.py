"""Sizes, and word of slow stages."""

from __future__ import annotations

import time

import pytest

from rsrc.common import console
from rsrc.common.console import announced, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (5e12, "5000.00 GB")],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_a_slow_stage_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    printed, end = "", time.monotonic() + 20
    with announced("compiling"):
        while not printed and time.monotonic() < end:
            time.sleep(0.001)
            printed = capsys.readouterr().out
    assert printed == "compiling ...\n"
    assert capsys.readouterr().out == ""


def test_a_fast_stage_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with announced("compiling"):
        pass
    assert capsys.readouterr().out == ""
