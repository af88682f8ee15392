"""Code blocks of the documents, to be run and to be type-checked.

python -m rsr_testing.documents FOLDER    # the Python of README.md and docs/ as files
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .paths import ROOT


def blocks(language: str, text: str) -> list[str]:
    """Return the fenced code blocks of a language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def write_python(folder: Path) -> None:
    """Write every Python example of the documents as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for i, code in enumerate(blocks("python", document.read_text(encoding="utf-8"))):
            name = f"{document.stem.lower().replace('-', '_')}_{i}.py"
            (folder / name).write_text(code, encoding="utf-8")


if __name__ == "__main__":
    write_python(Path(sys.argv[1]))
