"""The command that serves a language model over HTTP: serve."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

import click

from ..common.errors import OptionError
from .llm import model_options, opened, report_not_applied
from .options import PATH, file_argument, lora_option, speculate_option
from .template_variables import template_variables_option


def _not_blank(
    context: click.Context, parameter: click.Parameter, keys: tuple[str, ...]
) -> tuple[str, ...]:
    stripped = tuple(key.strip() for key in keys)
    if not all(stripped):
        raise click.BadParameter("found an empty key")
    return stripped


@click.command(short_help="Serve a language model: an OpenAI-compatible API and a chat page.")
@file_argument
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on. Default: 127.0.0.1, this machine."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    help="Port to listen on; 0 takes a free one. Default: 8080.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=4,
    help="Maximum number of texts generated at once; each has a KV cache of --context tokens. "
    "Default: 4.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 65536),
    default=64,
    help="Maximum number of requests that wait; further ones get status 429. Default: 64.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    callback=_not_blank,
    metavar="KEY",
    help="Key that requests must have; may be repeated. Others on this machine can see it: prefer "
    "the environment variable RSR_API_KEY or --api-key-file.",
)
@click.option(
    "--api-key-file", type=PATH, metavar="FILE", help="Take keys from FILE too, one in each line."
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow requests without a key on an address that other machines reach.",
)
@click.option(
    "--cors",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Allow web pages of this origin (https://example.org; * is any) to send requests; may be "
    "repeated.",
)
@click.option(
    "--cache-dir",
    type=PATH,
    metavar="DIR",
    help="Save the keys and values of prompts and texts in DIR, while nothing is generated and at "
    "the end, for the next start.",
)
@click.option(
    "--embeddings",
    is_flag=True,
    help="Embed texts at /v1/embeddings even if the model's files do not say how it pools: a "
    "vector is then the state of the last token, with length 1.",
)
@template_variables_option()
@speculate_option
@lora_option(
    "Serve the LoRA adapter of PEFT in DIR, too: requests choose it by its name as their model. "
    "Default name: that of DIR. May be repeated."
)
@model_options("Maximum tokens of prompt and text. Default: 4096, or the model's limit if less.")
def serve(
    file: Path,
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    insecure: bool,
    origins: tuple[str, ...],
    variables: dict[str, Any],
    parallel: int,
    queue: int,
    cache_dir: Path | None,
    embeddings: bool,
    speculate: Literal["ngram", "off"],
    **given: Any,
) -> None:
    """Serve the language model in FILE to OpenAI clients and browsers.

    With --memory auto, the model moves into huge pages before the first request.
    Requests are logged on stderr without their text. SIGINT or SIGTERM ends the server: it takes no
    new requests and gives running ones 10 seconds.
    """
    from rsr_runtime import serve as http

    keys = [*api_keys, *_file_keys(api_key_file), *_environment_keys()]
    with opened(file, given) as model:
        report_not_applied(model)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        http.serve(
            model, file.stem, host=host, port=port, api_keys=keys, insecure=insecure,
            origins=origins, variables=variables, parallel=parallel, queue=queue,
            cache_dir=cache_dir, speculate=speculate, embeddings=embeddings,
            ready=lambda url: _report((file.stem, *model.adapters), url),
        )  # fmt: skip


def _report(names: tuple[str, ...], url: str) -> None:
    click.echo(f"rsrc: serving {', '.join(names)} at {url} (OpenAI base URL: {url}/v1)", err=True)


def _environment_keys() -> list[str]:
    """Return the key in the environment, if there is one.

    Raises:
        OptionError: it is empty.
    """
    key = os.environ.get("RSR_API_KEY")
    if key is None:
        return []
    if not key.strip():
        raise OptionError("RSR_API_KEY: found an empty key: set one, or unset the variable")
    return [key.strip()]


def _file_keys(file: Path | None) -> list[str]:
    """Return the keys in a file.

    Raises:
        OptionError: it has none, or is not UTF-8.
    """
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{file}: expected text in UTF-8: {error.reason}") from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise OptionError(f"{file}: found no key, expected one in each line")
    return keys
