"""Where the examples are."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import SourceError


def example_folder(name: str) -> Path:
    """Return the folder of an example, in the repository or in the installed package.

    Raises:
        SourceError: neither has it.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parent / "examples" / name, package / "examples" / name):
        if (folder / "model.safetensors").is_file():
            return folder
    raise SourceError(f"the example {name} is not installed: reinstall rsr-ternary")
