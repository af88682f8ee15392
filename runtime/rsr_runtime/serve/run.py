"""Serve a model until a signal, by one call. It imports the packages of the server as it runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import OptionError
from ..llm.engine import Engine
from ..llm.model import LanguageModel

_PACKAGES = ("starlette", "uvicorn", "msgspec", "llguidance")


def serve(
    model: LanguageModel,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_keys: Sequence[str] = (),
    insecure: bool = False,
    origins: Collection[str] = (),
    variables: Mapping[str, Any] | None = None,
    parallel: int = 4,
    queue: int = 64,
    cache_dir: str | os.PathLike[str] | None = None,
    speculate: Literal["ngram", "off"] = "off",
    embeddings: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Answer requests over HTTP until SIGINT or SIGTERM, which give running ones 10 seconds.

    A model with memory "auto" moves into huge pages first: a server runs long enough to gain by it.
    The log goes to the logger "rsr_runtime.serve", without the text of requests.

    Args:
        model: the model. Requests choose its adapters by naming them as their model.
        name: the model's name in responses.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        api_keys: keys, one of which a request must have; none are needed if there are none.
        insecure: allow no keys on an address that other machines reach.
        origins: origins of web pages of others that may send requests; "*" is any.
        variables: for the chat template, unless a request has others.
        parallel: number of texts that are computed side by side.
        queue: number of requests that may wait; further ones get status 429.
        cache_dir: a folder for keys and values, see `Engine`.
        speculate: "ngram" or "off", of all texts, see `Job`.
        embeddings: embed texts even if the model's files do not say how it pools: the vector is
            the state of the last token, with length 1.
        ready: is called with the server's URL when requests are taken.

    Raises:
        OptionError: a package of the extra `serve` is missing, the address cannot be used or needs
            a key, an origin is not one, or an adapter has the model's name.
        ModelError: the model generates no text, and its files do not let it embed either.
        FormatError: scales or an index of the model are damaged.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise OptionError(
                f"serving needs the package {package}: pip install 'rsr-ternary[serve]'"
            )
    from .guard import Access
    from .listen import bind, check_access, http_server
    from .server import Server

    if name in model.adapters:
        raise OptionError(
            f"an adapter has the name of the model, {name!r}: give it another one (rsrc: --lora "
            "NAME=DIR)"
        )
    for origin in origins:
        _check_origin(origin)
    access = Access(host, api_keys, origins)
    check_access(access, insecure)
    if embeddings or not model.config.architecture.has_head:
        _ = model.embedding  # raises ModelError before the first request
    model.check_weights()  # else each request would fail
    with bind(host, port) as bound:
        model.use_huge_pages()
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        with Engine(model, parallel, queue, cache_dir) as engine:
            server = Server(model, engine, name, variables or {}, speculate, embeddings)
            http_server(server, access, lambda: ready and ready(url)).run([bound])


def _check_origin(origin: str) -> None:
    """Check that a browser can send this origin.

    Raises:
        OptionError: it cannot.
    """
    parts = urlsplit(origin)
    is_origin = parts.netloc and origin == f"{parts.scheme}://{parts.netloc}".lower()
    if origin != "*" and not is_origin:
        raise OptionError(
            f"found the origin {origin!r}, expected one like https://example.org, or *"
        )
