"""The page at `/`: files that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

_FOLDER = Path(__file__).with_name("page")
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """Return a route for each file of the page; `/` is index.html."""
    files = {
        f"/{path.relative_to(_FOLDER).as_posix()}": path
        for path in sorted(_FOLDER.rglob("*"))
        if path.is_file()
    }
    return [_route(path, file) for path, file in {"/": _FOLDER / "index.html", **files}.items()]


def _route(path: str, file: Path) -> Route:
    async def send(request: Request) -> FileResponse:
        return FileResponse(file, headers=_HEADERS)

    return Route(path, send)
