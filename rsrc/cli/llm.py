"""The commands that run a `.rsr` file as a language model: run, chat, perplexity."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsr_formats.keys.generation import not_applied
from rsr_formats.text import counted, listed, printable, shown

from .options import (
    ACTIVATIONS,
    KV,
    MEMORY,
    PATH,
    THREADS,
    Decorator,
    added_lora_option,
    file_argument,
    json_option,
    options,
    speculate_option,
)
from .progress_bar import progress_bar
from .template_variables import template_variables_option

if TYPE_CHECKING:
    from rsr_runtime.llm import Generation, LanguageModel

# Options that are named like the settings.
_SETTINGS = {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed",
}  # fmt: skip
_CONTEXT = "Maximum tokens of prompt and text. Default: 4096, or the model's limit if less."
_LOADING = (
    click.option(
        "--activations",
        type=ACTIVATIONS,
        default="trained",
        help="What linear layers take: what the model was trained with; float32; or int8-group: "
        "int8 with a scale per token and group of columns where it was not trained with int8, "
        "which is faster and less exact. Default: trained.",
    ),
    click.option(
        "--kv",
        type=KV,
        default="float16",
        help="Data type of the KV cache. int8 takes half the memory of float16 and changes results "
        "a little. Default: float16, which takes half the memory of float32.",
    ),
    click.option(
        "--memory",
        type=MEMORY,
        default="auto",
        help="map maps the file; huge copies it into huge pages: slower to load, faster to run; "
        "auto maps it, and moves it into huge pages beside long work. Default: auto.",
    ),
    click.option(
        "--threads",
        type=THREADS,
        help="Number of threads. Default: the number of processors.",
    ),
)


_sampling_options = options(
    click.option(
        "-n",
        "--max-tokens",
        type=click.IntRange(1),
        help="Maximum number of tokens. Default: until the text ends.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(0),
        help="0 is greedy: always the most likely token. Default: that of generation_config.json.",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(0),
        metavar="K",
        help="Sample from the K most likely tokens; 0 is off. Default: the model's.",
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Sample from the fewest most likely tokens whose probabilities sum to P; 1 is off. "
        "Default: the model's.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Sample from tokens at least P times as likely as the most likely; 0 is off. "
        "Default: the model's.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(0, min_open=True),
        help="Above 1, tokens that occurred before become less likely; 1 is off. "
        "Default: the model's.",
    ),
    click.option(
        "--presence-penalty",
        type=click.FloatRange(-2, 2),
        help="Above 0, tokens that occur in the text become less likely; 0 is off. Default: 0.",
    ),
    click.option(
        "--frequency-penalty",
        type=click.FloatRange(-2, 2),
        help="Above 0, tokens become less likely with each occurrence in the text; 0 is off. "
        "Default: 0.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        help="The same seed gives the same text. Default: a new seed every time.",
    ),
    click.option(
        "--stop", multiple=True, metavar="TEXT", help="End the text before TEXT; may be repeated."
    ),
    speculate_option,
)


def model_options(context: str) -> Decorator:
    """Return a decorator that adds the options for loading a model; `context` is help text."""
    return options(click.option("--context", type=click.IntRange(1), help=context), *_LOADING)


@click.command(short_help="Generate text with a language model.")
@file_argument
@click.option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="Prompt to continue; several run as one batch. Default: stdin, without its last newline.",
)
@click.option(
    "--file",
    "prompt_file",
    type=PATH,
    metavar="PATH",
    help="Continue the text in PATH, without its last newline; - is stdin.",
)
@template_variables_option()
@_sampling_options
@added_lora_option
@model_options(_CONTEXT)
@json_option
def run(
    file: Path,
    prompts: tuple[str, ...],
    prompt_file: Path | None,
    variables: dict[str, Any],
    as_json: bool,
    **given: Any,
) -> None:
    """Generate text with the language model in FILE, a .rsr file.

    The text streams to stdout; its speed goes to stderr. For a model with a chat template, see
    rsrc chat.
    """
    from . import chat_io
    from .chat_text import read_argument, typed
    from .prompt_progress import PromptProgress

    if prompts and prompt_file is not None:
        raise click.UsageError("give prompts with -p or --file, not both")
    if not prompts and prompt_file is None and sys.stdin.isatty():
        raise click.UsageError("give a prompt with -p, or on stdin, or in a file with --file")
    if variables:
        click.echo(
            "rsrc: run continues a text without the chat template, so --template-var changes "
            "nothing; rsrc chat applies it",
            err=True,
        )
    with opened(file, given) as model:
        chosen = _chosen(model, given)
        # Without the last newline, as shells do with command substitution.
        prompts = tuple(typed(p, "--prompt") for p in prompts) or (
            read_argument(prompt_file or Path("-")).removesuffix("\n").removesuffix("\r"),
        )
        if len(prompts) > 1:
            chosen["adapter"] = [model.adapters] * len(prompts)
        if len(prompts) > 1 and chosen.pop("speculate") != "off":
            click.echo(
                "rsrc: several prompts run as one batch, in which --speculate changes nothing",
                err=True,
            )
        if as_json and len(prompts) > 1:
            results = model.generate_all(prompts, progress=PromptProgress(), **chosen)
            _print_json(prompts, results)
        elif as_json:
            stream = model.stream(prompts[0], progress=PromptProgress(), **chosen)
            for _ in stream:
                pass
            _print_json(prompts, [stream.result])
        elif len(prompts) > 1:
            chat_io.run_all(model, prompts, chosen)
        elif chat_io.run(model, prompts[0], chosen).finish_reason == "interrupted":
            sys.exit(chat_io.INTERRUPTED)


@click.command(short_help="Chat with a language model that has a chat template.")
@file_argument
@click.option("--system", metavar="TEXT", help="System prompt.")
@template_variables_option()
@click.option(
    "--allow-special-tokens",
    is_flag=True,
    help="Special tokens spelled out in messages become those tokens. Default: they are text.",
)
@_sampling_options
@added_lora_option
@model_options(_CONTEXT)
def chat(
    file: Path,
    system: str | None,
    variables: dict[str, Any],
    allow_special_tokens: bool,
    **given: Any,
) -> None:
    """Chat with the language model in FILE.

    In a pipe, every line of stdin is a message. A backslash at the end of a line continues it, and
    lines between two \"\"\" are one message. /help lists commands.
    """
    from rsr_runtime.llm import Chat

    from . import chat_io
    from .chat_text import typed

    if system is not None:
        system = typed(system, "--system")
    with opened(file, given) as model:
        chosen = _chosen(model, given)
        conversation = Chat(
            model, system, variables=variables, allow_special_tokens=allow_special_tokens
        )
        if not chat_io.chat(model, conversation, chosen):
            sys.exit(chat_io.INTERRUPTED)


@click.command(short_help="Measure how well a language model predicts a text.")
@file_argument
@click.argument("text", type=PATH)
@click.option(
    "--window",
    type=click.IntRange(1),
    help="Maximum tokens before a prediction. Default: 512, or the context.",
)
@added_lora_option
@model_options("The largest --window allowed. Default: 4096, or the model's limit if less.")
@json_option
def perplexity(file: Path, text: Path, window: int | None, as_json: bool, **given: Any) -> None:
    """Measure how well the language model in FILE predicts TEXT, a file in UTF-8.

    If TEXT is -, it is read from stdin.
    """
    from .chat_text import read_argument

    with opened(file, given) as model:
        words = read_argument(text)
        with progress_bar("predicting", in_bytes=False) as shown:
            report = None if shown is None else partial(shown, "")
            found = model.perplexity(words, window, report, model.adapters)
    if as_json:
        value = found.value if math.isfinite(found.value) else None  # JSON has no infinity
        result: dict[str, Any] = {"file": str(file), "text": str(text), "perplexity": value}
        result |= {"tokens": found.tokens, "window": found.window}
        result |= {"adapters": model.adapters} if model.adapters else {}
        click.echo(json.dumps(result, indent=2))
    else:
        adapters = f", with {printable(', '.join(model.adapters))}" if model.adapters else ""
        click.echo(
            f"{printable(str(text))}: perplexity {found.value:.4f}, "
            f"{counted(found.tokens, 'token')} predicted, in windows of {found.window}{adapters}"
        )


@contextmanager
def opened(file: Path, options: dict[str, Any]) -> Iterator[LanguageModel]:
    """Load the model, removing its options from `options`; its errors name the file."""
    import rsr_runtime
    from rsr_runtime import llm

    threads = options.pop("threads")
    if threads is not None:
        rsr_runtime.set_num_threads(threads)
    loading = {name: options.pop(name) for name in ("context", "kv", "memory", "activations")}
    loading["adapters"] = options.pop("adapters", ())
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", llm.ScarceMemoryWarning)
            model = llm.load(file, **loading)
        for warning in said:
            click.echo(f"rsrc: {printable(f'{file}: {warning.message}')}", err=True)
        with model:
            yield model
    except llm.ContextFullError as error:
        from .chat_io import context_full

        raise llm.PromptError(context_full(error)) from error
    except (llm.ModelError, llm.TemplateError) as error:
        raise type(error)(f"{file}: {error}") from error


def _chosen(model: LanguageModel, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `LanguageModel.stream`; options not given have model defaults.

    Settings of generation_config.json that are not applied are named on stderr.
    """
    from rsr_runtime.llm import Sampling

    from .chat_text import typed

    model.check_generates()
    config = model.config.generation_config
    report_not_applied(model)
    stop = tuple(typed(text, "--stop") for text in options["stop"])
    given = {name: options[name] for name in _SETTINGS if options.get(name) is not None}
    if options["max_tokens"] is not None:
        given["max_new_tokens"] = options["max_tokens"]
    if stop:
        given["stop_strings"] = ()
    return {
        "sampling": Sampling.asked(config, **given), "max_tokens": options["max_tokens"],
        "stop": stop, "speculate": options["speculate"], "adapter": model.adapters,
    }  # fmt: skip


def report_not_applied(model: LanguageModel) -> None:
    """Name the settings of generation_config.json that are not applied, on stderr."""
    config = model.config.generation_config
    ignored = [f"{name} = {printable(shown(config[name]))}" for name in not_applied(config)]
    if ignored:
        click.echo(f"rsrc: generation_config.json: not applied: {listed(ignored)}", err=True)


def _print_json(prompts: tuple[str, ...], results: list[Generation]) -> None:
    texts = [
        {"prompt": prompt, **dataclasses.asdict(r), "tokens_per_second": r.tokens_per_second}
        for prompt, r in zip(prompts, results, strict=True)
    ]
    click.echo(json.dumps({"texts": texts}, indent=2))
