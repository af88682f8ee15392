"""The examples in README.md and in how-it-works.md, llm.md and mutable.md of docs work as shown.

Two things are replaced. A model of the Hub becomes a small checkpoint of the same family, and the
installation (venv, pip) is the one that runs this suite. `rsrc bench` measures, so only its help is
read. The gate (.ci/run) runs `make demo` and `make test`.
"""

from __future__ import annotations

import dataclasses
import json
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
from click.testing import CliRunner

from rsr_runtime import llm
from rsr_testing.adapters import write_adapter
from rsr_testing.documents import blocks
from rsr_testing.models import FAMILIES
from rsr_testing.paths import ROOT
from rsrc.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_IT_WORKS = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
LANGUAGE_MODELS = (ROOT / "docs" / "llm.md").read_text(encoding="utf-8")
MUTABLE = (ROOT / "docs" / "mutable.md").read_text(encoding="utf-8")
SCRIPTS = Path(sysconfig.get_path("scripts"))
# The documents show a UTF-8 terminal, whatever the encoding of a pipe is here. PYTHONIOENCODING may
# be set already and takes precedence over PYTHONUTF8.
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
# In a pipe on Windows rich draws these boxes with thin lines only.
THIN = str.maketrans("┏━┳┓┃┡╇┩", "┌─┬┐│├┼┤")


def shell_lines() -> list[str]:
    return [line for block in blocks("sh", README) for line in block.splitlines()]


def steady(text: str) -> str:
    """Normalize times, rates, spaces at line ends, \\ in paths, and box-drawing characters."""
    text = re.sub(r"[\d.]+ s, [\d.]+ \w+/s on \d+ threads?", "TIME", text)
    text = text.replace("\\", "/").translate(THIN)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every line of the shell examples was run, in order."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("digits", "tiny-lm"):
        shutil.copytree(ROOT / "examples" / name, path / "examples" / name)
    for line in shell_lines():
        program, *arguments = shlex.split(line, comments=True)
        if arguments[:2] == ["compile", f"hf://{FAMILIES['bitnet-2b'].published}"]:
            FAMILIES["bitnet-2b"].save(path / "downloaded")
            arguments[1] = "downloaded"
        if program == "rsrc" and arguments[0] != "serve":
            run(program, arguments, path)
    return path


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[tuple[str, str]]:
    """The output of each console example, and the output that the documents show."""
    found = []
    for block in blocks("console", README) + blocks("console", HOW_IT_WORKS):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = example.partition("\n")
            program, *arguments = shlex.split(line)
            if arguments[0] == "compile":
                arguments.append("--force")  # the README's shell examples compile it too
            found.append((run(program, arguments, folder), expected))
    return found


def run(program: str, arguments: list[str], folder: Path) -> str:
    if arguments[0] == "compile":  # as on the machine of the documents
        arguments = [*arguments, "--target", "avx512"]
    elif arguments[0] == "chat":  # random weights never end an answer
        arguments = [*arguments, "-n", "8"]
    done = subprocess.run(
        [str(SCRIPTS / program), *arguments],
        cwd=folder,
        env={**os.environ, **UTF8},
        input="Who wrote Hamlet?\n",
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
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


def test_shell_examples_run(folder: Path) -> None:
    assert sorted(path.name for path in folder.glob("*.rsr")) == [
        "bitnet-2b.rsr",
        "digits.rsr",
        "tiny.rsr",
    ]
    programs = {line.split()[0] for line in shell_lines()}
    assert programs == {"python3", ".", "pip", "rsrc", "curl"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_server_answers_curl(folder: Path) -> None:
    (serve,) = (line for line in shell_lines() if line.startswith("rsrc serve"))
    (curl,) = (line for line in shell_lines() if line.startswith("curl"))
    _, *arguments = shlex.split(serve)
    command = [str(SCRIPTS / "rsrc"), *arguments, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[4]
        try:
            line = [word.replace("http://127.0.0.1:8080", url) for word in shlex.split(curl)]
            done = subprocess.run(line, capture_output=True, check=True, timeout=60)
        finally:
            server.terminate()
            server.communicate(timeout=60)
    choice = json.loads(done.stdout)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(choice["text"]) > 20


def test_console_examples_print_what_the_documents_show(printed: list[tuple[str, str]]) -> None:
    assert len(printed) == 4
    for found, expected in printed:
        assert steady(found) == steady(expected)


def test_python_examples_print_what_their_comments_say(folder: Path) -> None:
    _, code = blocks("python", README)
    expected = [
        re.split(r"\s{3,}", line.split("# ", 1)[1])[0]
        for line in code.splitlines()
        if line.startswith("print(")
    ]
    assert len(expected) == 2
    assert run_python(code, folder).splitlines() == expected


def test_python_generates_what_the_command_does(folder: Path) -> None:
    code, _ = blocks("python", README)
    (shown,) = re.findall(r"^\$ rsrc run [^\n]*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    text = run_python(code, folder)
    assert len(text) > 40
    assert shown.startswith(text)


def test_python_of_the_language_models_runs(folder: Path) -> None:
    code, _, matrices, adapters = blocks("python", LANGUAGE_MODELS)  # the second embeds
    family = FAMILIES["bitnet-2b"]
    config = {**family.config, "max_position_embeddings": 1024}
    dataclasses.replace(family, config=config).build(folder)
    assert len(run_python(code, folder)) > 100
    run_python(matrices, folder)
    (folder / "adapters").mkdir()
    with llm.load(folder / "model.rsr") as model:
        for seed, name in enumerate(("poems", "sql")):
            write_adapter(folder / "adapters" / name, model, seed)
    assert len(run_python(adapters, folder).splitlines()) >= 3


def test_python_of_changing_weights_runs(folder: Path) -> None:
    (code,) = blocks("python", MUTABLE)
    assert run_python(code + "print(y.shape)", folder) == "(512,)\n"


def test_decompile_restores_the_source_tensors(folder: Path) -> None:
    (line,) = re.findall(r"`(rsrc decompile [^`]+)`", README)
    program, *arguments = shlex.split(line)
    run(program, arguments, folder)
    source = tensors(ROOT / "examples" / "digits" / "model.safetensors")
    assert len(source) == 3
    assert tensors(folder / "back.safetensors") == source


def test_verify_is_shown() -> None:
    (line,) = re.findall(r"`(rsrc verify [^`]+)`", README)
    assert f"$ {line}\n" in HOW_IT_WORKS  # where it is run


def test_inline_commands_exist() -> None:
    inline = set(re.findall(r"`rsrc ([a-z]+)", README))
    assert {"inspect", "decompile", "bench", "verify", "perplexity"} <= inline
    for command in inline:
        done = CliRunner().invoke(main, [command, "--help"])
        assert done.exit_code == 0
        assert "Usage" in done.output


def test_make_targets_are_part_of_the_gate() -> None:
    targets = re.findall(r"`make (\w+)`", README)
    assert targets == ["demo", "test"]
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(f"make {target}\n" in gate for target in targets)


def test_links_lead_somewhere() -> None:
    found, missing = 0, []
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            found += 1
            target, _, anchor = link.partition("#")
            linked = path.parent / target if target else path
            if not linked.exists() or (anchor and anchor not in anchors(linked)):
                missing.append((path.name, link))
    assert missing == []
    assert found > 20


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
