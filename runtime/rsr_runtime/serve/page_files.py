"""The page at `/`: static files that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(__file__).with_name("page")
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # ask whether it changed
]


def paths() -> set[str]:
    """Return the paths of the page and its files."""
    files = (path for path in FOLDER.rglob("*") if path.is_file())
    return {"/", *(f"/{path.relative_to(FOLDER).as_posix()}" for path in files)}


def page() -> ASGIApp:
    """Return the application that serves the page."""
    files = StaticFiles(directory=FOLDER, html=True, check_dir=False)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await files(scope, receive, with_headers)

    return serve
