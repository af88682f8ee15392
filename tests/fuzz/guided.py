"""Coverage-guided fuzzing of the two header parsers; needs atheris (pip install atheris).

    python tests/fuzz/guided.py safetensors -max_total_time=60 -max_len=4096 [CORPUS]
    python tests/fuzz/guided.py rsr -max_total_time=60 -max_len=4096 [CORPUS]

The arguments after the name are libFuzzer's. The safetensors library must accept every safetensors
header that is accepted here.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import atheris

PARSERS = ("rsrc.source.json_walker", "rsrc.source.safetensors", "rsr_formats.header")
with atheris.instrument_imports(include=[*PARSERS, "rsr_formats.validate"]):
    from rsr_formats.header import decode_header
    from rsr_formats.validate import check_header
    from rsrc.source.json_walker import JsonError
    from rsrc.source.safetensors import parse_header

import safetensors  # noqa: E402

from rsr_formats import RsrError  # noqa: E402

DATA = bytes(16)  # after the header of a safetensors file


def safetensors_header(data: bytes) -> None:
    """Parse a header; the library must accept it too."""
    try:
        parse_header(Path("fuzz"), data, len(DATA))
    except JsonError:
        return
    file = len(data).to_bytes(8, "little") + data + DATA
    safetensors.deserialize(file)  # type: ignore[no-untyped-call]


def rsr_header(data: bytes) -> None:
    """Decode and check a header that begins at byte 4096."""
    with suppress(RsrError):
        check_header(decode_header(data), 4096)


TARGETS = {"safetensors": safetensors_header, "rsr": rsr_header}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
