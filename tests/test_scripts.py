"""The scripts that build for other systems fail where a step fails, and say what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsr_testing.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they need bash and GNU's tools")

# What does nothing, but fails if an argument contains the word.
FAKE = """#!/bin/sh
case "$*" in *{word}*) echo "failed: {word}"; exit 1;; esac
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def copy_script(folder: Path, name: str) -> Path:
    """Copy a script of this repository to where it finds only what the test made."""
    script = folder / "tests" / name / "run"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / name / "run", script)
    return script


def run(script: Path, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, str(script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("failing", ["toolchain", "--build", "first.cpp", "nothing"])
def test_a_failed_step_of_cross_compiling_is_the_end(failing: str, tmp_path: Path) -> None:
    tools = tmp_path / "build" / "cross" / "tools"
    write_program(tools / "bin" / "python", "#!/bin/sh\necho fake\n")
    word = "DCMAKE_TOOLCHAIN" if failing == "toolchain" else failing
    write_program(tools / "bin" / "cmake", FAKE.format(word=word))
    write_program(tmp_path / "tests" / "cross" / "zig-c++", FAKE.format(word=word))
    (tools / "installed").touch()
    for source in ("runtime/native/bindings/first.cpp", "rsrc/native/last.cpp"):
        write_program(tmp_path / source, "")
    (tmp_path / "build" / "cross" / "aarch64-macos").mkdir()
    code, printed = run(copy_script(tmp_path, "cross"), tmp_path, "aarch64-macos")
    if failing == "nothing":
        assert (code, printed.split()[-2:]) == (0, ["aarch64-macos", "linked"])
    else:
        assert code == 1
        assert f"failed: {word}" in printed


@pytest.mark.parametrize("checked", ["tar.gz", "whl"])
def test_a_package_that_a_check_finds_wrong_is_the_end(checked: str, tmp_path: Path) -> None:
    packages = tmp_path / "build" / "packages"
    (packages / "tools").mkdir(parents=True)
    (packages / "tools" / "installed").touch()
    program = f"""#!/bin/sh
    case "$*" in
    *--sdist*) mkdir {packages}/sdist
        cd {packages}/source && touch PKG-INFO
        tar -czf ../sdist/x-1.tar.gz --transform s,^,x-1/, $(find . -type f -printf "%P ");;
    *wheel*) mkdir {packages}/wheels && touch {packages}/wheels/x-1-cp311-cp311-any.whl;;
    *venv*) echo "went on";;
    *) echo cp311;;
    esac
    """
    write_program(packages / "tools" / "bin" / "python", program)
    write_program(packages / "tools" / "bin" / "twine", FAKE.format(word=checked))
    write_program(tmp_path / "python", program)
    write_program(tmp_path / "packaging" / "homebrew" / "rsr-ternary.rb", "")
    (tmp_path / ".gitignore").write_text("build\n")
    script = copy_script(tmp_path, "packages")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path))
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "all")):
        subprocess.run([*git, *command], check=True)
    code, printed = run(script, tmp_path, str(tmp_path / "python"))
    assert code == 1
    assert f"failed: {checked}" in printed
    assert "went on" not in printed


def test_without_any_python_the_wheels_are_not_tried(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "tail"):
        found = shutil.which(name)
        assert found
        write_program(tmp_path / "bin" / name, f'#!/bin/sh\nexec {found} "$@"\n')
    code, printed = run(copy_script(tmp_path, "packages"), tmp_path, PATH=str(tmp_path / "bin"))
    assert code == 1
    assert printed.endswith("test-wheels needs a Python from 3.10 to 3.14\n")
