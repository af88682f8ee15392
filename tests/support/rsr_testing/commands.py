"""The command line, run in this process or as a program of its own."""

from __future__ import annotations

import os

from click.testing import CliRunner, Result

from rsrc.cli.main import main

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHONIO"))},
    "PYTHONUTF8": "1",
}

# Waits before every pass of the decoder, so that there is time to end it.
SLOW = """
import sys, time
from rsr_runtime.llm.decoder import Decoder
hidden = Decoder.hidden
def slow(self, spans):
    time.sleep(0.03)
    return hidden(self, spans)
Decoder.hidden = slow
"""
MAIN = """
import sys
from rsrc.cli.main import main
main(sys.argv[1:], prog_name="rsrc")
"""


def rsrc(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def done(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(result: Result, code: int = 1) -> str:
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if code == 1:
        assert result.stderr.startswith("rsrc: ")
        assert result.stderr.count("\n") == 1
    return result.stderr
