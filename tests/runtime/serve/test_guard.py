"""Who may use the server, and what is refused before an endpoint sees it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from rsr_runtime.errors import OptionError
from rsr_runtime.llm import LanguageModel
from rsr_runtime.serve.guard import MAX_BODY, Access, Guard, is_loopback
from rsr_runtime.serve.listen import bind, check_access
from rsr_runtime.serve.metrics import Metrics
from rsr_testing.servers import Running, serving

KEY = "sk-ü-1"


@pytest.fixture(scope="module")
def locked(served_model: LanguageModel) -> Iterator[Running]:
    """A server that wants one of two keys, and that others reach."""
    access = Access("0.0.0.0", [KEY, "other"], ["https://example.org"])
    with serving(served_model, access) as found:
        yield found


def code(response: httpx.Response) -> str | None:
    return str(response.json()["error"]["code"])


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8080", "[::1]:9"])
def test_names_of_this_machine_are_hosts(web: httpx.Client, host: str) -> None:
    assert web.get("/v1/models", headers={"host": host}).status_code == 200


def test_the_address_that_it_listens_on_is_a_host() -> None:
    for host, own in (("127.0.0.2", "127.0.0.2:80"), ("0:0::1", "[0:0::1]:80")):
        refused, passed = (status_of(host, name) for name in ("127.0.0.3:80", own))
        assert (refused, passed) == (403, 200)


def status_of(listens_on: str, host: str) -> int:
    """Return the status of a request with a host to a server on an address."""

    async def ok(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    guard = Guard(ok, Access(listens_on), Metrics())
    return TestClient(guard).get("/models", headers={"host": host}).status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil", ""]
)
def test_a_page_cannot_rebind_its_name(web: httpx.Client, host: str) -> None:
    refused = web.get("/v1/models", headers={"host": host})
    assert (refused.status_code, code(refused)) == (403, "host_not_allowed")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", ""])
def test_pages_of_other_origins_are_refused(web: httpx.Client, origin: str) -> None:
    refused = web.post("/v1/tokenize", json={"prompt": "a"}, headers={"origin": origin})
    assert (refused.status_code, code(refused)) == (403, "origin_not_allowed")


def test_the_own_page_may(running: Running, web: httpx.Client) -> None:
    own = {"origin": running.url}
    assert web.post("/v1/tokenize", json={"prompt": "a"}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": "bearer other"},
        {"api-key": KEY},
        {"X-Api-Key": "other"},
    ],
)
def test_keys_are_taken_from_three_headers(locked: Running, headers: dict[str, str]) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    assert httpx.get(f"{locked.url}/v1/models", headers=encoded).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer sk"}, {"Authorization": "Basic other"}, {"api-key": ""}],
)
def test_other_keys_are_refused(locked: Running, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/metrics", "/models/tiny", "/nothing"):
        refused = httpx.get(f"{locked.url}{path}", headers=headers)
        assert (refused.status_code, code(refused)) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert KEY not in refused.text


def test_refusals_have_the_shape_of_the_path_s_api(locked: Running) -> None:
    key = {"api-key": "other"}
    for path in ("/v1/messages", "/messages/count_tokens"):
        refused = httpx.post(f"{locked.url}{path}", json={})
        assert refused.status_code == 401
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"
        refused = httpx.get(f"{locked.url}{path}", headers=key)
        assert refused.status_code == 405
        assert refused.json()["type"] == "error"
    other = httpx.get(f"{locked.url}/v1/messagesx", headers=key)
    assert (other.status_code, code(other)) == (404, "None")


def test_health_and_page_need_no_key(locked: Running) -> None:
    assert httpx.get(f"{locked.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{locked.url}/").status_code != 401


def test_given_origins_may_and_get_cors_headers(locked: Running) -> None:
    origin = {"origin": "https://example.org"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "api-key"}
    preflight = httpx.options(f"{locked.url}/v1/tokenize", headers={**origin, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    body = {"prompt": "a"}
    answer = httpx.post(
        f"{locked.url}/v1/tokenize", json=body, headers={**origin, "api-key": "other"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    refused = httpx.post(f"{locked.url}/v1/tokenize", json=body, headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://example.org"


def test_responses_have_an_id_and_no_cors_headers(web: httpx.Client) -> None:
    ids = {web.get("/health").headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert "access-control-allow-origin" not in web.get("/health").headers


def test_bodies_have_a_limit(running: Running, web: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(
            b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000000\r\n\r\n"
        )
        assert raw.recv(99).startswith(b"HTTP/1.1 413 ")

    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY >> 20):
            yield bytes(1 << 20)
        yield b"1"

    assert web.post("/v1/completions", content=chunks()).status_code == 413
    assert web.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("count", "size", "status"),
    [(99, 1, 200), (10, 3000, 200), (10, 4000, 431), (200, 1, 431), (10_000, 1, 4), (10, 9999, 4)],
)
def test_headers_have_a_limit(running: Running, count: int, size: int, status: int) -> None:
    lines = "".join(f"x{i}: {'a' * size}\r\n" for i in range(count - 1))
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(f"GET /health HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode())
        found = raw.recv(99)
    assert found.startswith(f"HTTP/1.1 {status}".encode())


def test_loopback_is_what_only_this_machine_reaches() -> None:
    own = ["127.0.0.1", "localhost", "::1", "127.9.9.9"]
    others = ["0.0.0.0", "::", "192.168.0.1", "example.org"]
    assert all(map(is_loopback, own))
    assert not any(map(is_loopback, others))


def test_other_addresses_need_a_key() -> None:
    for access in (Access("127.0.0.1"), Access("0.0.0.0", ["key"])):
        check_access(access, is_insecure=False)
    check_access(Access("0.0.0.0"), is_insecure=True)
    with pytest.raises(OptionError, match="--api-key-file"):
        check_access(Access("0.0.0.0"), is_insecure=False)


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(OptionError, match=f"127.0.0.1:{port}: .* another --port"):
            bind("127.0.0.1", port)


def test_a_name_that_no_host_can_have_is_refused() -> None:
    with pytest.raises(OptionError, match="another --port or --host"):
        bind("a" * 64, 0)
