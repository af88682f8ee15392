"""The socket on which the server listens."""

from __future__ import annotations

import socket

from rsr_runtime.serve.listen import bind


def test_small_writes_do_not_wait() -> None:
    with bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
