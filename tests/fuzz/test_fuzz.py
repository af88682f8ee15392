"""A short run of the fuzz harness, and tests that it detects every kind of finding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsr_testing.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")

FOLDER = Path(__file__).parent
# Last on the path, as in run.py, so that the installed packages are tested.
PATHS = [str(ROOT), str(ROOT / "tests" / "support")]
BEGIN = f"import sys; sys.path += {PATHS!r}; from tests.fuzz import run\n"
DUMMY = """
from rsr_formats import RsrError
class Damaged(RsrError): pass
samples = lambda scratch: [{"a.txt": b"fine"}]
def target(damage):
    def execute(folder):
        if (folder / "a.txt").read_bytes() != b"fine": damage()
    return run.Target("dummy", samples, execute)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "target", ["open", "compile", "gguf", "verify", "use", "decompile", "patch"]
)
def test_a_short_run_has_no_findings(target: str) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--target", target]
    counts = {"open": 1500, "verify": 1500}
    command += ["--executions", str(counts.get(target, 400)), "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"| {target} | 1 |" in result.stdout


def test_the_seed_determines_the_executions() -> None:
    code = (
        "sample = {'a.json': b'{\"a\": [1, 2, 3]}', 'b.safetensors': bytes(99), 'c': b'abc'}\n"
        "print([sorted(run.sample_of([sample], 1, i).items()) for i in range(200)])"
    )
    first, second = python(code), python(code)
    assert first.stdout == second.stdout != ""


@pytest.mark.parametrize(
    ("damage", "outcome"),
    [
        ("def damage(): raise Damaged", "Damaged"),
        ("def damage(): raise KeyError('x')", "KeyError: 'x'"),
        ("def damage(): bytearray(100 << 20)", "MemoryError"),
        ("def damage():\n  while True: pass", "TooSlow"),
    ],
)
def test_every_outcome_is_reported(tmp_path: Path, damage: str, outcome: str) -> None:
    result = python(
        f"{DUMMY}{damage}\nfrom pathlib import Path\n"
        f"run.SECONDS = 0.2\nrun.work(target(damage), 0, 0, 5, Path({str(tmp_path)!r}))"
    )
    assert outcome in result.stdout, result.stdout + result.stderr


def test_a_crash_is_a_finding(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        f"scratch = Path({str(tmp_path)!r}) / '0'\n"
        "run.sys.executable = '/bin/false'\n"
        "result = run.Result()\n"
        "print(run.run_worker(run.TARGETS['open'], 0, 7, 9, scratch, result), result.findings)"
    )
    found = python(code)
    assert found.stdout.startswith("8 [{'number': 7, 'error': 'the worker ended with 1'")
