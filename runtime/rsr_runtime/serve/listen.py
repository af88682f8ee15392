"""Listens for requests until a signal ends the server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from ..errors import OptionError
from .app import create_app
from .guard import MAX_HEADER_BYTES, Access, is_loopback
from .server import Server

GRACE_SECONDS = 10.0  # for requests that run as the server is told to end
_KEEP_ALIVE = 60  # seconds that a connection may idle; clients keep theirs for less


def check_access(access: Access, is_insecure: bool) -> None:
    """Check that a server that others reach asks for a key.

    Raises:
        OptionError: it does not, and `is_insecure` is false.
    """
    if not access.keys and not is_insecure and not is_loopback(access.host):
        raise OptionError(
            f"{access.host} is not this machine alone, and anyone who reaches it could use the "
            "model: give --api-key-file (or --api-key), or --insecure"
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes a free one.

    Raises:
        OptionError: the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:  # the latter: a name that no host can have
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{host}:{port}: {reason}: choose another --port or --host") from error
    # Connections inherit it. asyncio sets it only for sockets that name their protocol, and without
    # it each small write would wait for the client to acknowledge the one before, often 40 ms.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def http_server(server: Server, access: Access, ready: Callable[[], None]) -> uvicorn.Server:
    """Return what answers requests: `run([socket])` does until SIGINT or SIGTERM.

    It then closes the engine, which gives running requests `GRACE_SECONDS`; new ones get status
    503 meanwhile.

    Args:
        server: the model and its engine.
        access: who may use it.
        ready: is called when requests are taken.
    """
    config = uvicorn.Config(
        create_app(server, access),
        loop="asyncio",
        http="h11",
        h11_max_incomplete_event_size=2 * MAX_HEADER_BYTES,  # so that the guard answers first
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=2,  # for last events, after the engine ended
    )
    return _HttpServer(config, server, ready)


class _HttpServer(uvicorn.Server):
    """Closes the engine before it ends: running jobs go on for a while, then fail."""

    def __init__(self, config: uvicorn.Config, server: Server, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._engine = server.engine
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.ensure_future(asyncio.to_thread(self._engine.close, GRACE_SECONDS))
        while not closing.done():
            await asyncio.wait({closing}, timeout=0.1)
            if self.force_exit:  # by a second SIGINT
                await asyncio.to_thread(self._engine.close, 0)
        await super().shutdown(sockets)
        await closing
