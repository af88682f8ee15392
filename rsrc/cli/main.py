"""The command line.

Exit codes: 0 done, 1 refused with a reason on stderr, 2 usage, 128 + the number of a signal.
Commands import what they run when they run, so that `rsrc --help` starts fast.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from rsr_formats.errors import RsrError
from rsr_formats.text import printable

from .._version import __version__
from ..common.errors import reason
from .bench import bench
from .compile import compile_command
from .decompile import decompile, unpack
from .diff import diff, patch
from .embed import embed
from .eval import evaluate_command
from .export_transformers import export_transformers
from .inspect import inspect, verify
from .llm import chat, perplexity, run
from .options import json_option
from .serve import serve
from .signals import ending_at_once


class _Group(click.Group):
    """Reports errors of the library on stderr, in one sentence, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        _open_closed_streams()
        try:
            with ending_at_once():
                return super().invoke(ctx)
        except (RsrError, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            click.echo(f"rsrc: {printable(reason(error))}", err=True)
            ctx.exit(1)


def _open_closed_streams() -> None:
    """Open the null device for streams that the shell closed (>&-): Python has None for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (for the process)


_EXAMPLE = """\b
Example:
  $ rsrc compile hf://microsoft/bitnet-b1.58-2B-4T -o bitnet-2b.rsr
  $ rsrc run bitnet-2b.rsr -p "Once upon a time" -n 50

`rsrc COMMAND --help` lists the options of a command.
"""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLE,
)
@click.version_option(__version__, "-V", "--version", prog_name="rsrc")
def main() -> None:
    """Compile ternary (1.58-bit) weights to an RSR index, and run the compiled model."""


@main.command(short_help="Compile and run the embedded examples.")
def demo() -> None:
    """Compile and run two embedded models: one reads digits, one writes a paragraph."""
    from ..demo import run as run_demo

    run_demo()


@main.command(short_help="Show the processor, the kernels in use and all versions.")
@json_option
def info(as_json: bool) -> None:
    """Show the processor, its instruction sets, the kernels in use and all versions."""
    from ..inspection.info import info as collect
    from .inspect_tables import print_info

    result = collect()
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_info(result)


for _command in (
    compile_command, inspect, verify, decompile, unpack, diff, patch, export_transformers, bench,
    run, chat, embed, perplexity, evaluate_command, serve,
):  # fmt: skip
    main.add_command(_command)
