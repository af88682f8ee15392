"""A server on this machine that speaks as much of the Hugging Face Hub's API as downloads use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import quote, unquote, urlsplit

LFS = (".safetensors", ".gguf", ".bin", "tokenizer.json")  # stored elsewhere, as large files are
_PIECE = 1 << 14
_PATIENCE = 60.0  # seconds
_API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BLOB = re.compile(r"/blobs/([^/]+/[^/]+)/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Repository:
    """A repository.

    Attributes:
        commits: the files of each commit, by its hash.
        refs: the hashes of branches and tags.
        status: of the answers if it may not be read.
        error: the X-Error-Code of these answers; the files of "GatedRepo" may still be listed.
        token: that must be sent to read it; "" if anyone may.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    status: int = 200
    error: str = ""
    token: str = ""

    def check(self) -> None:
        """Refuse to be read if `status` says so."""
        if self.status != 200:
            raise _RefusedError(self.status, self.error)


class _RefusedError(Exception):
    def __init__(
        self,
        status: int,
        code: str = "",
        message: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers


class Request(NamedTuple):
    """A request that the server got."""

    method: str
    path: str
    range: str
    token: str


class Hub:
    """The server's repositories, and what it was asked.

    Attributes:
        url: where it listens.
        files_url: where large files are, which a request is redirected to.
        requests: all since `clear`.
        tokens: of all accounts.
        is_released: while it is not set, a body that breaks off keeps its connection open.
        breaks: by path, after how many bytes its next bodies break off; None: not at all.
        listed: by path, what the description of a file says that is not true.
        sends_nothing: whether the parts that are requested have no bytes.
        ignores_ranges: whether whole files are sent where a part was requested.
    """

    def __init__(self) -> None:
        self.url = self.files_url = ""
        self.clear()

    def add(self, name: str, files: Path | Mapping[str, bytes], revision: str = "main") -> str:
        """Add a commit of a directory or of files; return its hash."""
        if isinstance(files, Path):
            paths = [p for p in files.rglob("*") if p.is_file()]
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in paths}
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository())
        repository.commits[digest] = {".gitattributes": b"* -text\n", **files}
        repository.refs[revision] = digest
        return digest

    def clear(self) -> None:
        """Forget all repositories and requests."""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.tokens = {"hf_one", "hf_two"}
        self.breaks: dict[str, list[int | None]] = {}
        self.is_released = threading.Event()
        self.is_released.set()
        self.listed: dict[str, dict[str, Any]] = {}
        self.sends_nothing = self.ignores_ranges = False

    def received(self, pattern: str, method: str = "GET") -> list[Request]:
        """Return the requests whose path contains `pattern`."""
        return [r for r in self.requests if r.method == method and pattern in r.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Request(self.command, unquote(path), self.headers.get("Range", ""), token)
        self.hub.requests.append(asked)
        try:
            if api := _API.fullmatch(path):
                self._describe(api[1], api[2], unquote(api[3]), token)
            elif file := _FILE.fullmatch(path):
                self._resolve(file[1], unquote(file[2]), unquote(file[3]), token)
            elif blob := _BLOB.fullmatch(path):
                commit = self.hub.repositories[blob[1]].commits[blob[2]]
                self._body(unquote(blob[3]), commit[unquote(blob[3])], {})
            else:
                raise _RefusedError(404)
        except _RefusedError as error:
            reason = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._send(error.status, b"", {**error.headers, **reason})

    def _commit(self, name: str, revision: str, token: str) -> str:
        """Return the hash of a commit that may be read."""
        repository = self.hub.repositories.get(name)
        if token and token not in self.hub.tokens:
            raise _RefusedError(401, message="Invalid credentials in Authorization header")
        if repository is None or repository.token not in ("", token):
            if token:
                raise _RefusedError(404, "RepoNotFound", "Repository not found")
            raise _RefusedError(401, message="Invalid username or password.")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _RefusedError(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def _describe(self, name: str, kind: str, revision: str, token: str) -> None:
        commit = self._commit(name, revision, token)
        repository = self.hub.repositories[name]
        if not repository.error:  # what a gated repository has is no secret
            repository.check()
        described = []
        for path, data in repository.commits[commit].items():
            file: dict[str, Any] = {
                "type": "file",
                "path": path,
                "rfilename": path,
                "size": len(data),
            }
            large = {"oid": sha(data), "sha256": sha(data), "size": len(data), "pointerSize": 9}
            file |= {"oid": sha(data), **({"lfs": large} if path.endswith(LFS) else {})}
            described.append(file | self.hub.listed.get(path, {}))
        whole = {"id": name, "modelId": name, "sha": commit, "siblings": described}
        self._send(200, json.dumps(whole if kind == "revision" else described).encode(), {})

    def _resolve(self, name: str, revision: str, path: str, token: str) -> None:
        commit = self._commit(name, revision, token)
        repository = self.hub.repositories[name]
        repository.check()
        headers = {"X-Repo-Commit": commit}
        data = repository.commits[commit].get(path)
        if data is None:
            raise _RefusedError(404, "EntryNotFound", "Entry not found", headers)
        if not path.endswith(LFS):
            self._body(path, data, headers)
            return
        headers |= {"X-Linked-Etag": f'"{sha(data)}"', "X-Linked-Size": str(len(data))}
        headers["Location"] = f"{self.hub.files_url}/blobs/{name}/{commit}/{quote(path)}"
        self._send(302, b"", headers)

    def _body(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        headers = {**headers, "ETag": f'"{sha(data)}"', "Accept-Ranges": "bytes"}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        status = 200
        if asked is not None and not self.hub.ignores_ranges:
            status, whole, start = 206, len(data), int(asked[1])
            data = data[start : int(asked[2]) + 1 if asked[2] else whole]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{whole}"
            data = b"" if self.hub.sends_nothing else data
        is_body = self.command == "GET"
        breaks = self.hub.breaks.get(path) if is_body else None
        self._send(status, data, headers, breaks.pop(0) if breaks else None)

    def _send(
        self, status: int, data: bytes, headers: Mapping[str, str], breaks: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if breaks is not None:
            data, self.close_connection = data[:breaks], True
        try:
            for start in range(0, len(data), _PIECE):
                self.wfile.write(data[start : start + _PIECE])
        except ConnectionError:  # only a beginning was wanted
            self.close_connection = True
        if breaks is not None:
            self.hub.is_released.wait(_PATIENCE)


def sha(data: bytes) -> str:
    """Return the SHA-256 that names a file of Git LFS."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ExitStack() as stack:
        urls = [stack.enter_context(_listening(handler)) for _ in range(2)]
        hub.url, hub.files_url = urls
        yield hub


@contextmanager
def _listening(handler: type[_Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)


@contextmanager
def client_of(url: str, home: Path, *, offline: bool = False) -> Iterator[None]:
    """Make huggingface_hub use the hub at `url` and a cache in `home`, as its variables would.

    It reads them when it is imported, which may have been long ago in this process.
    """
    from huggingface_hub import close_session, constants

    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    with (
        mock.patch.multiple(
            constants,
            ENDPOINT=url,
            HUGGINGFACE_CO_URL_TEMPLATE=template,
            HF_HOME=str(home),
            HF_HUB_CACHE=str(home / "hub"),
            HF_TOKEN_PATH=str(home / "token"),
            HF_HUB_OFFLINE=offline,
        ),
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch("huggingface_hub.file_download.time"),  # both wait before they try again
        mock.patch("rsrc.source.hub.ranges.time"),
    ):
        try:
            yield
        finally:
            close_session()
