"""The options of a compilation, validated in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsr_formats.processors import usable_processors
from rsr_formats.records import DIRECTIONS, ENCODINGS

from ..common.errors import OptionError
from ..layouts import QUANTIZERS
from ..layouts.scales import parse_per
from .target import TARGETS

HEAD_DTYPES = ("int8",)  # values of `head`


@dataclass(frozen=True)
class CompileOptions:
    """The options of `rsrc.compile`, whose docstring explains them.

    Raises:
        OptionError: an option is out of range or contradicts another.
    """

    encoding: str = "auto"
    target: str = "native"
    k: int | None = None
    direction: str = "auto"
    quantize: str | None = None
    per: str | None = None
    head: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    zstd: int | None = None
    threads: int | None = None
    cache: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        _check_choice("encoding", self.encoding, ("auto", *ENCODINGS))
        _check_choice("target", self.target, TARGETS)
        _check_choice("direction", self.direction, ("auto", *DIRECTIONS))
        if self.encoding in ("auto", "ranked") and self.direction == "reduce":
            raise OptionError("encoding ranked has direction expand only: use --encoding permuted")
        if self.quantize is not None:
            _check_choice("quantize", self.quantize, tuple(QUANTIZERS))
            parse_per(self.per or "tensor")
        elif self.per is not None:
            raise OptionError(f"per: found {self.per!r}, but it applies only with quantize")
        if self.head is not None:
            _check_choice("head", self.head, HEAD_DTYPES)
        for name, patterns in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(patterns, str):  # it is a sequence of strings, too: its letters
                raise OptionError(f"{name}: found {patterns!r}, expected a list of patterns")
        if self.zstd is not None and not 1 <= self.zstd <= 22:
            raise OptionError(f"zstd: found level {self.zstd}, expected 1 to 22")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads: found {self.threads}, expected 1 or more")

    @property
    def thread_count(self) -> int:
        """`threads`, by default the number of processors this process may use."""
        if self.threads is not None:
            return self.threads
        return usable_processors()


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        raise OptionError(f"{name}: found {value!r}, expected {expected}")
