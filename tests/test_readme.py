"""What README.md shows is what happens: each command is run, each printed value compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def steady(text: str) -> str:
    """Text without what differs from run to run: times, rates, spaces at line ends."""
    text = re.sub(r"[\d.]+ s, [\d.]+ \w+/s on \d+ threads?", "TIME", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    return path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_console_examples_print_what_the_readme_shows(folder: Path) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    commands = 0
    for block in blocks("console"):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = example.partition("\n")
            program, *arguments = shlex.split(line)
            assert steady(run([str(scripts / program), *arguments], folder)) == steady(expected)
            commands += 1
    assert commands == 3


def test_python_examples_print_what_their_comments_say(folder: Path) -> None:
    (code,) = blocks("python")
    expected = [
        re.split(r"\s{3,}", line.split("# ", 1)[1])[0]
        for line in code.splitlines()
        if line.startswith("print(")
    ]
    assert len(expected) == 2
    assert run([sys.executable, "-c", code], folder).splitlines() == expected


def test_inline_commands_exist(folder: Path) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    inline = set(re.findall(r"`rsrc ([a-z]+)", README))
    assert {"inspect", "decompile", "bench"} <= inline
    for command in inline:
        assert "Usage" in run([str(scripts / "rsrc"), command, "--help"], folder)


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
