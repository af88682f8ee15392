"""`rsrc diff` and `rsrc patch`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rsr_formats.text import counted

from .options import PATH, compiled, force_option, json_option, output_option
from .progress_bar import progress_bar

_EXAMPLES = """\b
Examples:
  rsrc diff old.rsr new.rsr --stat
  rsrc diff old.rsr new.rsr -o update.rsrd
  rsrc patch old.rsr update.rsrd -o new.rsr
"""


@click.command(short_help="Write what differs between two .rsr files.", epilog=_EXAMPLES)
@click.argument("old", type=PATH, callback=compiled)
@click.argument("new", type=PATH, callback=compiled)
@output_option("The .rsrd file to write, for rsrc patch.", required=False)
@click.option("--stat", is_flag=True, help="Show how many weights of each tensor changed, and how.")
@force_option
@json_option
def diff(old: Path, new: Path, output: Path | None, stat: bool, force: bool, as_json: bool) -> None:
    """Write what NEW changed in OLD to a delta, or show statistics of it.

    OLD and NEW are .rsr files. `rsrc patch` makes NEW from OLD and the delta.
    """
    if (output is None) != stat:
        raise click.UsageError("diff needs -o FILE.rsrd or --stat, and not both")
    if output is not None and output.suffix == ".rsr":
        raise click.UsageError(f"-o names the delta, FILE.rsrd, found {str(output)!r}")
    if output is None:
        _print_statistics(old, new, as_json)
        return
    from ..delta.diff import diff as run

    with progress_bar("comparing") as progress:
        report = run(old, new, output, force=force, progress=progress)
    if as_json:
        files = {"old": str(old), "new": str(new), "output": str(output)}
        click.echo(json.dumps(files | report.to_dict(), indent=2))
        return
    share = report.delta_bytes / report.new_bytes
    click.echo(
        f"{output}: {report.delta_bytes:,} bytes, {share:.2%} of {new}: "
        f"{counted(report.copied, 'section')} as in {old}, {report.changed} with changed digits, "
        f"{report.carried} with other bytes"
    )


@click.command(short_help="Make the new .rsr file from the old one and a delta.")
@click.argument("old", type=PATH, callback=compiled)
@click.argument("delta", type=PATH)
@output_option()
@force_option
@json_option
def patch(old: Path, delta: Path, output: Path, force: bool, as_json: bool) -> None:
    """Make the NEW file of `rsrc diff` from OLD and DELTA, byte for byte.

    OLD is the file that the delta was made from, and DELTA a .rsrd file. With --force, the output
    may replace OLD.
    """
    from ..delta.patch import patch as run

    with progress_bar("patching") as progress:
        run(old, delta, output, force=force, progress=progress)
    size = output.stat().st_size
    if as_json:
        files = {"old": str(old), "delta": str(delta), "output": str(output)}
        click.echo(json.dumps(files | {"output_bytes": size}, indent=2))
    else:
        click.echo(f"{output}: {size:,} bytes, verified")


def _print_statistics(old: Path, new: Path, as_json: bool) -> None:
    from ..delta.statistics import statistics
    from .diff_table import print_statistics

    with progress_bar("comparing") as progress:
        found = statistics(old, new, progress=progress)
    if as_json:
        click.echo(json.dumps({"old": str(old), "new": str(new), **found.to_dict()}, indent=2))
    else:
        print_statistics(found)
