"""Models of the Hugging Face Hub on the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsr_formats import RsrFile
from rsr_testing.checkpoints import Kit
from rsr_testing.hub import Hub, sha
from rsr_testing.process import SIGINT_RAISES, end_of, started, wait_until
from rsrc.cli.main import main
from rsrc.source.open import open_checkpoint

T = np.random.default_rng(8).integers(-1, 2, (40, 100)).astype(np.int8)


@pytest.fixture
def commit(hub: Hub, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hash of a model "a/b" on the hub; the current directory is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return hub.add("a/b", {"model.safetensors": kit.file_bytes({"w": T}), "config.json": b"{}"})


def run(*arguments: object, answer: str = "") -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=answer, prog_name="rsrc")


def test_compile_inspect_and_verify(commit: str) -> None:
    done = run("compile", "hf://a/b", "-o", "x.rsr")
    assert done.exit_code == 0, done.output
    assert f"hf://a/b@{commit} is in " in done.output
    shown = run("inspect", "x.rsr").output
    assert f"metadata rsr.source = hf://a/b@{commit}" in shown
    assert json.loads(run("inspect", "hf://a/b", "--json").output)["path"] == "hf://a/b"
    assert (
        "holds all 1 tensors of hf://a/b"
        in run("verify", "x.rsr", "--against", f"hf://a/b@{commit}").output
    )


def test_no_cache(commit: str, tmp_path: Path) -> None:
    done = run("compile", "https://huggingface.co/a/b", "-o", "x.rsr", "--no-cache")
    assert done.exit_code == 0, done.output
    assert [p.name for p in Path().iterdir()] == ["x.rsr"]
    assert not (tmp_path / "home").exists()
    assert RsrFile("x.rsr").header.metadata == {"rsr.source": f"hf://a/b@{commit}"}
    for arguments, why in (
        (["a.safetensors"], "--no-cache is for a model of the Hub"),
        (["hf://a/b", "--executor", "dask://h:1"], "workers of --executor"),
    ):
        done = run("compile", *arguments, "-o", "x.rsr", "--no-cache")
        assert done.exit_code == 2
        assert why in done.output


@pytest.mark.parametrize("command", [["compile", "-o", "x.rsr"], ["inspect"]])
def test_an_id_is_downloaded_only_after_asking(
    hub: Hub, commit: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run(*command, "a/b")
    assert refused.exit_code == 1
    assert refused.output == (
        "rsrc: a/b: no such file or directory; hf://a/b names a model of the Hugging Face Hub\n"
    )

    class Terminal:
        def __getattr__(self, name: str) -> Any:
            return (lambda: True) if name == "isatty" else getattr(sys.__stderr__, name)

    monkeypatch.setattr(
        "rsrc.cli.source.sys", type("", (), dict.fromkeys(("stdin", "stderr"), Terminal()))
    )
    question = "a/b: no such file or directory. Download hf://a/b from the Hugging Face Hub?"
    declined = run(*command, "a/b", answer="n\n")
    assert declined.exit_code == 1
    assert question in declined.output
    assert hub.requests == []
    assert run(*command, "a/b", answer="y\n").exit_code == 0
    assert hub.requests


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("options", [[], ["--no-cache"]])
def test_ctrl_c_leaves_nothing(hub: Hub, commit: str, tmp_path: Path, options: list[str]) -> None:
    """Neither beside the output nor in the cache; there, another process keeps its file."""
    data = hub.repositories["a/b"].commits[commit]["model.safetensors"]
    blobs = tmp_path / "elsewhere" / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    other = blobs / f"{sha(data)}.0123abcd.incomplete"
    other.touch()
    hub.is_released.clear()
    breaks: list[int | None] = [len(data) // 2]
    if options:
        breaks.insert(0, None)  # the header is read first
    hub.breaks["model.safetensors"] = breaks
    code = SIGINT_RAISES + "from rsrc.cli.main import main; main()"
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "elsewhere")}
    with started(
        code, "compile", "hf://a/b", "-o", "x.rsr", *options, env={**os.environ, **variables}
    ) as process:
        wait_until(lambda: not breaks, process)
        process.send_signal(signal.SIGINT)
        assert end_of(process).status == 130
    hub.is_released.set()
    assert [*Path().iterdir()] == []
    assert [p for p in blobs.iterdir() if p.suffix == ".incomplete"] == [other]


def test_offline_in_a_process_of_its_own(
    hub: Hub, commit: str, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the variables are read by the library, not set by the fixture."""
    open_checkpoint("hf://a/b")
    hub.requests.clear()
    for key, value in (
        ("HF_ENDPOINT", hub.url), ("HF_HOME", str(tmp_path / "home")), ("HF_HUB_OFFLINE", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(key, value)
    code = "from rsrc.cli.main import main; main()"
    done = kit.python(code, "compile", "hf://a/b", "-o", "x.rsr")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"hf://a/b@{commit} is in {tmp_path / 'home' / 'hub'}" in done.stdout
    assert hub.requests == []
