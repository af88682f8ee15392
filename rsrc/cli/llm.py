"""The commands that run a `.rsr` file as a language model: run, chat, perplexity."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_formats.text import printable

from ..common.errors import SourceError
from ..source.open import is_source
from .progress_bar import progress_bar

if TYPE_CHECKING:
    from rsr_runtime.llm import Generation, LanguageModel

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_FILTERS = ("top_k", "top_p", "min_p")
_CONTEXT = (
    "Tokens of prompt and text together, at most. Default: the model's limit or 4096, what is less."
)
_LOADING = (
    click.option(
        "--kv",
        type=click.Choice(["float16", "float32"]),
        default="float16",
        help="How what the model keeps of past tokens (keys and values) is stored: float16, the "
        "default, takes half the memory.",
    ),
    click.option(
        "--memory",
        type=click.Choice(["map", "huge"]),
        default="map",
        help="huge copies the file into huge pages first: slower to load, faster to run. "
        "Default: map.",
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="Default: all processors."),
)


def _options(*options: _Decorator) -> _Decorator:
    """Return what adds options to a command, for `--help` in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        return reduce(lambda decorated, option: option(decorated), reversed(options), command)

    return add


_sampling_options = _options(  # how tokens are chosen, and when a text ends
    click.option(
        "-n",
        "--max-tokens",
        type=click.IntRange(1),
        help="How many tokens, at most. Default: until the text ends.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(0),
        help="0 always takes the likeliest token. Default: what the model's "
        "generation_config.json says.",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(0),
        metavar="K",
        help="Draw from the K likeliest tokens only; 0: from all. Default: the model's.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Draw from the likeliest tokens only, as few as have the probability P "
        "together; 1: from all. Default: the model's.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Draw only from tokens at least P times as likely as the likeliest; 0: from "
        "all. Default: the model's.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(0, min_open=True),
        help="Above 1: tokens that were there already become less likely; 1: off. "
        "Default: the model's.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        help="Of what is drawn: the same seed, the same text. Default: another every time.",
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the text; may be repeated."),
)


def _model_options(context: str) -> _Decorator:
    """Return what adds the options that say how a model is loaded; `context` is one's help."""
    return _options(click.option("--context", type=click.IntRange(1), help=context), *_LOADING)


_file = click.argument("file", type=click.Path(path_type=Path))
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(short_help="Generate text with a language model.")
@_file
@click.option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="What to go on from; several are computed side by side. Default: the text on stdin, "
    "without the newline at its end.",
)
@_sampling_options
@_model_options(_CONTEXT)
@_json_option
def run(file: Path, prompts: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Generate text with the language model in FILE, a .rsr file.

    The text goes to stdout as it comes; how fast it was, to stderr. For a model that was made to
    chat see `rsrc chat`.
    """
    from . import chat_io as talk

    if not prompts and sys.stdin.isatty():
        raise click.UsageError("give a prompt with -p, or on stdin")
    with _opened(file, options) as model:
        chosen = _chosen(model, options)
        # A shell, too, passes on what it reads without a newline at its end.
        prompts = tuple(talk.typed(p, "--prompt") for p in prompts) or (
            talk.read_stdin().removesuffix("\n"),
        )
        if as_json:
            _print_json(prompts, model.generate_all(prompts, **chosen))
        elif len(prompts) > 1:
            talk.run_all(model, prompts, chosen)
        elif talk.run(model, prompts[0], chosen).finish_reason == "interrupted":
            sys.exit(talk.INTERRUPTED)


@click.command(short_help="Talk with a language model that was made to chat.")
@_file
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@_sampling_options
@_model_options(_CONTEXT)
def chat(file: Path, system: str | None, **options: Any) -> None:
    """Talk with the language model in FILE; in a pipe, every line of stdin is a message."""
    from . import chat_io as talk

    if system is not None:
        system = talk.typed(system, "--system")
    with _opened(file, options) as model:
        if not talk.chat(model, system, _chosen(model, options)):
            sys.exit(talk.INTERRUPTED)


@click.command(short_help="Measure how well a language model predicts a text.")
@_file
@click.argument("text", type=click.Path(path_type=Path))
@click.option(
    "--window",
    type=click.IntRange(1),
    help="Tokens that a prediction looks back on, at most. Default: 512, or the context.",
)
@_model_options(
    "The largest --window that is allowed. Default: the model's limit or 4096, what is less."
)
@_json_option
def perplexity(file: Path, text: Path, window: int | None, as_json: bool, **options: Any) -> None:
    """Measure how well the language model in FILE predicts TEXT, a file in UTF-8.

    TEXT - is stdin.
    """
    from .chat_io import counted, decoded, read_stdin

    with _opened(file, options) as model:
        is_stdin = str(text) == "-"
        words = read_stdin() if is_stdin else decoded(text.read_bytes(), str(text))
        with progress_bar("predicting", in_bytes=False) as shown:
            found = model.perplexity(words, window, None if shown is None else partial(shown, ""))
    if as_json:
        value = found.value if math.isfinite(found.value) else None  # JSON has no infinity
        result = {"file": str(file), "text": str(text), "perplexity": value}
        result |= {"tokens": found.tokens, "window": found.window}
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(
            f"{printable(str(text))}: perplexity {found.value:.4f}, "
            f"{counted(found.tokens, 'token')} predicted, in windows of {found.window}"
        )


@contextmanager
def _opened(file: Path, options: dict[str, Any]) -> Iterator[LanguageModel]:
    """Load the model by the options for it, which are taken out; what it lacks names its file."""
    import rsr_runtime  # on demand, as in all of the command line
    from rsr_runtime import llm

    if file.exists() and is_source(file):
        # A model is its directory: of a file alone, config.json and tokenizer would be missing.
        of_model = file if file.is_dir() or file.suffix == ".gguf" else file.parent
        raise SourceError(
            f"{file}: a checkpoint; compile it first: rsrc compile {of_model} -o FILE.rsr"
        )
    threads = options.pop("threads")
    if threads is not None:
        rsr_runtime.set_num_threads(threads)
    loading = {name: options.pop(name) for name in ("context", "kv", "memory")}
    try:
        with llm.load(file, **loading) as model:
            yield model
    except (llm.ModelError, llm.TemplateError) as error:
        raise type(error)(f"{file}: {error}") from error


def _chosen(model: LanguageModel, options: dict[str, Any]) -> dict[str, Any]:
    """Return options for `LanguageModel.stream`: the model's own sampling where none is given."""
    from .chat_io import typed

    names = [field.name for field in dataclasses.fields(model.sampling)]
    given = {name: options[name] for name in names if options.get(name) is not None}
    # Filters say that the text is to be drawn.
    if model.sampling.temperature == 0 and any(name in given for name in _FILTERS):
        given.setdefault("temperature", 1.0)
    return {
        "sampling": dataclasses.replace(model.sampling, **given),
        "max_tokens": options["max_tokens"],
        "stop": tuple(typed(text, "--stop") for text in options["stop"]),
    }


def _print_json(prompts: tuple[str, ...], results: list[Generation]) -> None:
    texts = [
        {
            "prompt": prompt,
            **dataclasses.asdict(result),
            "tokens_per_second": result.tokens_per_second,
        }
        for prompt, result in zip(prompts, results, strict=True)
    ]
    click.echo(json.dumps({"texts": texts}, indent=2))
