"""Show the downloads of huggingface_hub by a progress function, instead of bars of its own."""

from __future__ import annotations

from typing import Any

from ...common.errors import SourceError
from ...common.progress import ProgressFunction


def bars_of(progress: ProgressFunction | None, name: str = "", total: int = 0) -> type[Any]:
    """Return a class that huggingface_hub takes for the progress bars of a download.

    Args:
        progress: called as progress(name, bytes done, total); None shows nothing.
        name: of the file.
        total: bytes of the file; more are an error, unless it is 0.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """A bar that prints nothing itself."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self._done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            """Add `n` bytes of the file.

            Raises:
                SourceError: there are more than it has: a body may have no end.
            """
            self._done += int(n or 0)
            if 0 < total < self._done:
                raise SourceError(
                    f"{name}: the Hub sends more than the {total:,} bytes that were expected: "
                    "try again later"
                )
            if progress is not None:
                progress(name, self._done, total)

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes of the network; else `update` gets them, too."""

        def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
            """Ignore the rate of the network."""

    return Bar
