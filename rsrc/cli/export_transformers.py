"""`rsrc export-transformers`."""

from __future__ import annotations

from pathlib import Path

import click

from rsr_formats.text import printable

from .options import PATH, file_argument
from .progress_bar import progress_bar


@click.command("export-transformers", short_help="Write a directory that transformers loads.")
@file_argument
@click.argument("directory", type=PATH)
@click.option(
    "--force",
    is_flag=True,
    help="Replace a directory that this command or save_pretrained wrote.",
)
def export_transformers(file: Path, directory: Path, force: bool) -> None:
    """Write a model DIRECTORY that transformers loads, with the linear layers of a .rsr FILE.

    In Python, `import rsr_runtime.transformers` comes before `from_pretrained(DIRECTORY)`.
    """
    from ..export.pretrained import export_pretrained as run

    with progress_bar("exporting") as progress:
        notes = run(file, directory, force=force, progress=progress)
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        click.echo(f"{path}: {path.stat().st_size:,} bytes")
    for note in notes:
        click.echo(printable(note))
