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
from typing import NamedTuple
from unittest import mock
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".gguf", ".bin", "tokenizer.json")  # stored elsewhere, as large files are
_PIECE = 1 << 14
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Repository:
    """A repository.

    Attributes:
        commits: the files of each commit, by its hash.
        refs: the hashes of branches and tags.
        status: of every answer if it may not be read: 401 or 403.
        error: the X-Error-Code of these answers.
        token: that must be sent to read it; "" if anyone may.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    status: int = 200
    error: str = ""
    token: str = ""


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
        breaks: paths whose next body breaks off, and after how many bytes.
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
        self.breaks: dict[str, int] = {}
        self.ignores_ranges = False

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
        self.hub.requests.append(
            Request(self.command, unquote(path), self.headers.get("Range", ""), token)
        )
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._describe(*api.groups(), token)
        elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*map(unquote, file.groups()), token)
        elif blob := re.fullmatch(r"/blobs/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            name, commit, file_path = map(unquote, blob.groups())
            self._body(file_path, self.hub.repositories[name].commits[commit][file_path], {})
        else:
            self._refuse(404, "", "")

    def _files(self, name: str, revision: str, token: str) -> tuple[str, dict[str, bytes]] | None:
        """Return a commit, or refuse and return None."""
        repository = self.hub.repositories.get(name)
        if token and token not in self.hub.tokens:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if repository is None or repository.token not in ("", token):
            if token:
                return self._refuse(404, "RepoNotFound", "Repository not found")
            return self._refuse(401, "", "Invalid username or password.")
        if repository.status != 200:
            return self._refuse(repository.status, repository.error, "")
        commit = repository.refs.get(unquote(revision), revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        return commit, repository.commits[commit]

    def _describe(self, name: str, kind: str, revision: str, token: str) -> None:
        repository = self.hub.repositories.get(name)
        is_gated = repository is not None and repository.error == "GatedRepo"
        if is_gated and kind == "revision":  # what a gated repository has is no secret
            assert repository is not None
            found: tuple[str, dict[str, bytes]] | None
            found = next(iter(repository.commits.items()))
        else:
            found = self._files(name, revision, token)
        if found is None:
            return
        commit, files = found
        described = [
            {"type": "file", "path": path, "rfilename": path, "size": len(data), "oid": sha(data)}
            | ({"lfs": {"oid": sha(data), "sha256": sha(data), "size": len(data), "pointerSize": 9}}
               if path.endswith(LFS) else {})
            for path, data in files.items()
        ]  # fmt: skip
        whole = {"id": name, "modelId": name, "sha": commit, "siblings": described}
        self._send(200, json.dumps(whole if kind == "revision" else described).encode(), {})

    def _resolve(self, name: str, revision: str, path: str, token: str) -> None:
        found = self._files(name, revision, token)
        if found is None:
            return
        commit, files = found
        known = {"X-Repo-Commit": commit}
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", known)
        elif path.endswith(LFS):
            data = files[path]
            linked = {"X-Linked-Etag": f'"{sha(data)}"', "X-Linked-Size": str(len(data))}
            where = {"Location": f"{self.hub.files_url}/blobs/{name}/{commit}/{path}"}
            self._send(302, b"", {**known, **linked, **where})
        else:
            self._body(path, files[path], known)

    def _body(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        headers = {**headers, "ETag": f'"{sha(data)}"', "Accept-Ranges": "bytes"}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or self.hub.ignores_ranges:
            self._send(200, data, headers, self.hub.breaks.pop(path, None) if self._sends else None)
            return
        start, stop = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(data)
        part = data[start:stop]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        self._send(206, part, headers, self.hub.breaks.pop(path, None) if self._sends else None)

    @property
    def _sends(self) -> bool:
        return self.command == "GET"

    def _refuse(
        self, status: int, code: str, message: str, headers: Mapping[str, str] = {}
    ) -> None:
        self._send(status, b"", {**headers, "X-Error-Code": code, "X-Error-Message": message})

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
        mock.patch("huggingface_hub.file_download.time"),  # it waits before it tries again
    ):
        try:
            yield
        finally:
            close_session()
