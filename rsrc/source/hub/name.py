"""The names of models on the Hugging Face Hub, as people write them.

| written | meaning |
|---|---|
| `hf://org/name` | the model, as it is now |
| `hf://org/name@revision` | a branch, a tag, a commit, or `refs/pr/N` |
| `hf://org/name@revision/folder/model.gguf` | one file of it |
| `https://huggingface.co/org/name/tree/revision` | an address of the web site, also `hf.co/...` |
| `org/name` | a name only if no such path exists; never downloaded without asking |

The first three are the Hub's own spelling; a `/` in the name of a branch is written `%2F` there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from ...common.errors import SourceError

MAIN = "main"  # the branch that a name without a revision means

_ID = r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
_FILE = r"/(?P<file>[^\\?#@]*[^\\?#@/])"
_REVISION = r"(?P<revision>refs/pr/\d+|refs/convert/[\w.-]+|[\w.%+-]+)"
_URI = re.compile(rf"hf://(?:models/)?{_ID}(?:@{_REVISION})?(?:{_FILE})?/?", re.ASCII)
_ADDRESS = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/{_ID}"
    rf"(?:/(?:tree|blob|resolve|raw)/{_REVISION}(?:{_FILE})?)?/?(?:\?download=true)?",
    re.ASCII,
)
_BARE = re.compile(rf"{_ID}(?:@{_REVISION})?", re.ASCII)
_NO_MODELS = re.compile(
    r"(?:hf:/|.*?(?:huggingface|hf)\.co)/(?:datasets|spaces|kernels|buckets)/.*"
)
_IS_ADDRESS = re.compile(r"[a-z]+://.*", re.DOTALL)
_FILES = (".safetensors", ".gguf", ".json", ".rsr", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class HubName:
    """A model of the Hub.

    Attributes:
        id: `org/name`.
        revision: a branch, a tag or the hash of a commit.
        file: the path of one of its files; "" for the whole model.
    """

    id: str
    revision: str = MAIN
    file: str = ""

    def __str__(self) -> str:
        safe = "/" if self.revision.startswith("refs/") else ""
        at = "" if self.revision == MAIN else f"@{quote(self.revision, safe=safe)}"
        return f"hf://{self.id}{at}" + (f"/{self.file}" if self.file else "")

    def pinned(self, commit: str) -> HubName:
        """Return the name with the hash of a commit instead of the revision."""
        return replace(self, revision=commit)

    @property
    def short(self) -> str:
        """The name without the organization."""
        return self.id.partition("/")[2]


def hub_name(source: str | os.PathLike[str]) -> HubName | None:
    """Return the model that a source names by `hf://` or by an address of the Hub, else None.

    Raises:
        SourceError: it is another address, or an address of the Hub that names no model.
    """
    path = Path(source)
    if path.exists():
        return None
    text = source if isinstance(source, str) else path.as_posix()
    text = re.sub(r"^([a-z]{2,}:)/+", r"\1//", text)  # pathlib joins slashes
    if _NO_MODELS.fullmatch(text):
        raise SourceError(f"{text}: not a model: expected hf://ORG/NAME")
    found = _URI.fullmatch(text) or _ADDRESS.fullmatch(text)
    if found is not None:
        return _named(found)
    if text.startswith("hf://"):
        raise SourceError(f"{text}: expected hf://ORG/NAME, hf://ORG/NAME@REVISION or .../FILE")
    if _IS_ADDRESS.fullmatch(text):
        raise SourceError(f"{text}: an address: download the file, then name it here")
    return None


def possible_name(path: Path) -> HubName | None:
    """Return the model that a path names if it does not exist and looks like `org/name`.

    It is taken for a path if the directory exists that would contain it.
    """
    found = _BARE.fullmatch(str(path))
    if found is None or path.exists() or path.parent.exists() or path.name.endswith(_FILES):
        return None
    return _named(found)


def _named(found: re.Match[str]) -> HubName:
    parts = {key: unquote(value) for key, value in found.groupdict().items() if value}
    return HubName(**parts)
