"""What a file is, by its first bytes, whatever its name.

A download that goes wrong leaves a file of the right name with other contents: a Git LFS pointer, a
web page, the answer of a server, nothing at all. Openers ask here before they parse a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .records import MAGIC
from .text import printable

HEAD = 1024  # bytes that `identify` looks at; a Git LFS pointer is shorter

_SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class Contents:
    """What a file is.

    Attributes:
        what: a noun phrase.
        advice: what to do if something else was expected; "" if nothing is known.
        is_wrong: whether no file of a model has such contents.
    """

    what: str
    advice: str = ""
    is_wrong: bool = False

    def __str__(self) -> str:
        """Return the phrase with its advice, for the end of a sentence."""
        return f"{self.what}: {self.advice}" if self.advice else self.what


RSR = Contents("a .rsr file, which is compiled already")
RSRD = Contents(
    "a delta of two .rsr files", "apply it with `rsrc patch OLD.rsr DELTA.rsrd -o NEW.rsr`"
)
GGUF = Contents("a GGUF file")
SAFETENSORS = Contents("a safetensors file")
PICKLE = Contents("a pickle, as torch.save writes it")
EMPTY = Contents("empty", "download it again", is_wrong=True)
ZEROS = Contents("all zeros, an unfinished download", "download it again", is_wrong=True)
WEB_PAGE = Contents(
    "a web page and not the file itself",
    "download it again; a link to a file on the Hugging Face Hub has /resolve/ in it, not /blob/",
    is_wrong=True,
)

_POINTER = re.compile(
    rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/spec/"
)
_POINTER_SIZE = re.compile(rb"^size ([0-9]{1,18})\r?$", re.MULTILINE)
_OTHER_POINTERS = {
    b"# xet version": ("a Git Xet pointer", "download the file with `hf download`"),
    b"/annex/objects/": ("a git-annex pointer", "run `git annex get`, or download the file again"),
}
_PAGE = re.compile(rb"<(?:!doctype\s|html|head|body|\?xml[^>]*>\s*<(?:!doctype|html|error))", re.I)
# The answers of the Hugging Face Hub, and of servers in general, that curl -o saves as a file.
_ANSWER = re.compile(
    rb"entry not found|repository not found|invalid username or password|not found\b|404\b"
    rb"|unauthorized\b|forbidden\b|access denied|access to (?:model|dataset) "
    rb'|too many requests|internal server error|bad gateway|service unavailable|\{\s*"error"\s*:',
    re.I,
)
_UNPACK = "unpack it, and name the directory that it contains"
_OLD_GGML = "convert the model to GGUF or safetensors"
_ZIP = Contents("a zip archive", _UNPACK, is_wrong=True)
_MAGICS = (
    (MAGIC, RSR),
    (b"\x89RSD\r\n\x1a\n", RSRD),
    (b"GGUF", GGUF),
    (b"FUGG", GGUF),  # big-endian: the GGUF reader says what to do
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (b"\x1f\x8b", Contents("a gzip archive", _UNPACK, is_wrong=True)),
    (b"\xfd7zXZ\0", Contents("an xz archive", _UNPACK, is_wrong=True)),
    (b"7z\xbc\xaf\x27\x1c", Contents("a 7z archive", _UNPACK, is_wrong=True)),
    (b"\x28\xb5\x2f\xfd", Contents("a zstd archive", _UNPACK, is_wrong=True)),
    (b"\x89HDF\r\n\x1a\n", Contents("an HDF5 file", "convert it to safetensors", is_wrong=True)),
    (b"tjgg", Contents("a GGML file, the format before GGUF", _OLD_GGML, is_wrong=True)),
    (b"fmgg", Contents("a GGML file, the format before GGUF", _OLD_GGML, is_wrong=True)),
    (b"lmgg", Contents("a GGML file, the format before GGUF", _OLD_GGML, is_wrong=True)),
)


def identify(head: bytes) -> Contents | None:
    """Return what a file is; None if its first bytes do not show it.

    Args:
        head: the first `HEAD` bytes of the file, or all of a shorter one.
    """
    if not head:
        return EMPTY
    if head.startswith(b"PK\x03\x04"):  # torch.save writes a zip archive, in which this is first
        return PICKLE if b"data.pkl" in head[:256] else _ZIP
    for magic, contents in _MAGICS:
        if head.startswith(magic):
            return contents
    if len(head) >= 8 and not any(head):
        return ZEROS
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":  # the length of a header, up to 1 TiB
        return SAFETENSORS
    return _text(head.removeprefix(b"\xef\xbb\xbf").lstrip())  # after a byte order mark


def _text(text: bytes) -> Contents | None:
    if _POINTER.match(text):
        size = _POINTER_SIZE.search(text)
        to = f" to {int(size[1]):,} bytes" if size else ""
        return Contents(
            f"a Git LFS pointer{to} and not the file itself",
            "run `git lfs pull` where it was cloned, or download it again",
            is_wrong=True,
        )
    for beginning, (what, advice) in _OTHER_POINTERS.items():
        if text.startswith(beginning):
            return Contents(f"{what} and not the file itself", advice, is_wrong=True)
    if _PAGE.match(text):
        return WEB_PAGE
    if _ANSWER.match(text):
        shown = printable(text[:_SHOWN].decode(errors="replace").strip())
        return Contents(
            f"a server's answer ({shown!r}) and not the file itself",
            "check that the model exists and that you may read it (`hf auth login`), then download "
            "it again",
            is_wrong=True,
        )
    return None
