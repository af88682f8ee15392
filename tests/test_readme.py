"""What README.md shows is what happens: each rsrc command is run, each printed value compared.

Not run here: `make demo` and `make test`, which the gate (.ci/run) runs, and this suite is the
latter; `pip install .`, by which it got here; and `rsrc bench`, of which only the help is read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import safetensors

from rsr_testing.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = Path(sysconfig.get_path("scripts"))
# The README shows a UTF-8 terminal, whatever the encoding of a pipe is here; the second variable
# is one that may be set already and goes before the first.
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
# In a pipe on Windows rich draws these boxes with thin lines only.
THIN = str.maketrans("┏━┳┓┃┡╇┩", "┌─┬┐│├┼┤")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def steady(text: str) -> str:
    """Text without what differs: times, rates, spaces at line ends, \\ in paths, kinds of lines."""
    text = re.sub(r"[\d.]+ s, [\d.]+ \w+/s on \d+ threads?", "TIME", text)
    text = text.replace("\\", "/").translate(THIN)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[tuple[str, str]]:
    """What each console example prints, and what the README shows."""
    found = []
    for block in blocks("console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = example.partition("\n")
            program, *arguments = shlex.split(line)
            if arguments[0] == "compile":  # as on the machine of the README
                arguments += ["--target", "avx512"]
            found.append((run([str(SCRIPTS / program), *arguments], folder), expected))
    return found


@pytest.fixture(scope="module")
def compiled(folder: Path, printed: list[tuple[str, str]]) -> Path:
    """The folder with what the README has compiled: tests may run in several processes."""
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    for name in ("digits", "tiny-lm"):
        shutil.copytree(ROOT / "examples" / name, path / "examples" / name)
    _, compiling = blocks("sh")
    program, *arguments = shlex.split(compiling)
    run([str(SCRIPTS / program), *arguments], path)
    return path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **UTF8},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tensors(path: Path) -> dict[str, object]:
    """Return the type, shape and bytes of every tensor."""
    return dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]


def test_console_examples_print_what_the_readme_shows(printed: list[tuple[str, str]]) -> None:
    assert len(printed) == 4
    for found, expected in printed:
        assert steady(found) == steady(expected)


def test_python_examples_print_what_their_comments_say(compiled: Path) -> None:
    _, code = blocks("python")
    expected = [
        re.split(r"\s{3,}", line.split("# ", 1)[1])[0]
        for line in code.splitlines()
        if line.startswith("print(")
    ]
    assert len(expected) == 2
    assert run([sys.executable, "-c", code], compiled).splitlines() == expected


def test_python_generates_what_the_command_does(compiled: Path) -> None:
    code, _ = blocks("python")
    (shown,) = re.findall(r"^\$ rsrc run [^\n]*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    text = run([sys.executable, "-c", code], compiled)
    assert len(text) > 40
    assert shown.startswith(text)


def test_decompile_gives_the_source_tensors_back(compiled: Path) -> None:
    (line,) = re.findall(r"`(rsrc decompile [^`]+)`", README)
    program, *arguments = shlex.split(line)
    run([str(SCRIPTS / program), *arguments], compiled)
    source = tensors(ROOT / "examples" / "digits" / "model.safetensors")
    assert len(source) == 3
    assert tensors(compiled / "back.safetensors") == source


def test_inline_commands_exist(folder: Path) -> None:
    inline = set(re.findall(r"`rsrc ([a-z]+)", README))
    assert {"inspect", "decompile", "bench", "run", "chat", "perplexity"} <= inline
    for command in inline:
        assert "Usage" in run([str(SCRIPTS / "rsrc"), command, "--help"], folder)


def test_make_targets_are_part_of_the_gate() -> None:
    (block, *_) = blocks("sh")
    targets = re.findall(r"^make (\w+)", block, re.MULTILINE)
    assert targets == ["demo", "test"]
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(f"make {target}\n" in gate for target in targets)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []
