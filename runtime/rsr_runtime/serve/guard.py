"""Refuses requests before an endpoint sees them; pure ASGI."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rsr_formats.text import printable

from .endpoint import error_response
from .errors import ApiError
from .log import LOG
from .messages import error_body_at
from .metrics import Metrics

MAX_BODY = 16 << 20  # bytes; a context of 131,072 tokens takes about 1 MB
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10
_OPEN = ("/health", "/v1/health")  # need no key, as the page does
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        host: the address that the server listens on.
        keys: API keys, any of which is needed; none are if there are none.
        origins: origins of web pages that may use it, beside its own; "*" are all.
    """

    host: str
    keys: Sequence[str] = ()
    origins: Collection[str] = ()


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Checks host, origin, key and size of each request, and logs its status.

    Args:
        app: gets the requests that pass.
        access: who may use it.
        metrics: counts the responses.
        open_paths: paths that need no key, such as those of the page.
    """

    def __init__(
        self, app: ASGIApp, access: Access, metrics: Metrics, open_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._keys = [key.encode() for key in access.keys]
        self._open = {*_OPEN, *open_paths}
        own = f"[{access.host}]" if ":" in access.host else access.host
        self._hosts = {*_LOCAL, own.lower()} if is_loopback(access.host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and answer a request, an ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self._metrics)
        try:
            self._check(scope)
            await self._app(scope, request.receive, request.send)
        except ApiError as error:
            if request.status is None:
                response = error_response(error, error_body_at(scope["path"]))
                await response(scope, request.receive, request.send)
        finally:
            request.log()

    def _check(self, scope: Scope) -> None:
        """Raise ApiError if a request is refused."""
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            raise ApiError(
                431,
                f"found {len(headers)} headers of {size} bytes, expected at most {MAX_HEADERS} of "
                f"{MAX_HEADER_BYTES}",
            )
        named = {name: value.decode("latin-1") for name, value in headers}
        host, origin = named.get(b"host", ""), named.get(b"origin")
        if self._hosts is not None and _without_port(host) not in self._hosts:
            raise ApiError(
                403,
                f"the host {printable(host)[:100]!r} is not this machine's own name: use "
                f"{self._access.host}",
                code="host_not_allowed",
            )
        if origin is not None and not self._may(origin, host):
            raise ApiError(
                403,
                f"the origin {printable(origin)[:100]!r} is not allowed: start the server with "
                "--cors and this origin",
                code="origin_not_allowed",
            )
        if self._keys and scope["path"] not in self._open and scope["method"] != "OPTIONS":
            self._check_key(named)
        length = named.get(b"content-length", "0")
        if length.isdigit() and int(length[:20]) > MAX_BODY:
            raise _too_large()

    def _may(self, origin: str, host: str) -> bool:
        allowed = self._access.origins
        if "*" in allowed or origin in allowed:
            return True
        return bool(host) and origin in (f"http://{host}", f"https://{host}")

    def _check_key(self, named: dict[bytes, str]) -> None:
        scheme, _, bearer = named.get(b"authorization", "").partition(" ")
        given = [named.get(b"api-key", ""), named.get(b"x-api-key", "")]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        # No early end: the time says nothing about the keys.
        matches = [
            hmac.compare_digest(one.encode("latin-1"), key) for one in given for key in self._keys
        ]
        if not any(matches):
            found = "a wrong" if any(given) else "no"
            raise ApiError(
                401,
                f"found {found} API key, expected one in the header Authorization: Bearer KEY "
                "(or api-key, or x-api-key)",
                code="invalid_api_key",
            )


class _Request:
    """A request whose body is counted and whose response is logged."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, metrics: Metrics) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._metrics = metrics
        self._id = secrets.token_hex(8).encode()
        self._begin = perf_counter()
        self._bytes = 0
        self.status: int | None = None

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            ApiError: it is too large.
        """
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MAX_BODY:
            raise _too_large()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response, with a header for the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id)]
            message = {**message, "headers": headers}
        await self._send(message)

    def log(self) -> None:
        """Count and log the response."""
        status = self.status or 499
        self._metrics.responses[status] = self._metrics.responses.get(status, 0) + 1
        LOG.info(
            "%s %s %s %d %.3f s",
            self._id.decode(), self._scope["method"], printable(self._scope["path"])[:100], status,
            perf_counter() - self._begin,
        )  # fmt: skip


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MAX_BODY >> 20} MiB", code="body_too_large")


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host).lower()
