"""The command that runs lm-evaluation-harness: eval."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from rsr_formats.atomic import atomic_file, check_output
from rsr_formats.text import counted, printable

from .llm import model_options, opened
from .options import PATH, added_lora_option, file_argument, force_option, json_option
from .progress_bar import progress_bar

_LIBRARIES = ("lm_eval", "datasets", "huggingface_hub", "evaluate", "httpx")


@click.command("eval", short_help="Run tasks of lm-evaluation-harness.")
@file_argument
@click.option(
    "--tasks",
    required=True,
    metavar="NAME,...",
    help="Tasks, groups or tags of lm-evaluation-harness, patterns such as mmlu_*, or YAML files; "
    "separated by commas.",
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(0),
    metavar="N",
    help="Examples before each question. Default: as the task says.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only the first N documents of each task. Default: all.",
)
@click.option(
    "--include-path",
    type=PATH,
    metavar="DIR",
    help="Folder with YAML files of your own tasks.",
)
@click.option(
    "--apply-chat-template",
    is_flag=True,
    help="Put requests into the model's chat template; examples become earlier turns.",
)
@click.option(
    "-o", "--output", type=PATH, metavar="FILE", help="Write the results to FILE as JSON, too."
)
@force_option
@added_lora_option
@model_options(
    "Maximum tokens of a request; longer ones lose their beginning. Default: 4096, or the model's "
    "limit if less."
)
@json_option
def evaluate_command(
    file: Path,
    tasks: str,
    include_path: Path | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    num_fewshot: int | None,
    limit: int | None,
    apply_chat_template: bool,
    **given: Any,
) -> None:
    """Evaluate the language model in FILE with lm-evaluation-harness.

    Data of tasks are downloaded from Hugging Face unless they are in the cache. Needs the extra
    eval: pip install 'rsr-ternary[eval]'.
    """
    names = [name for name in map(str.strip, tasks.split(",")) if name]
    if not names:
        raise click.UsageError("--tasks names no task")
    if output is not None:
        check_output(output, force)
    settings = {name: value for name, value in given.items() if value not in (None, {})}
    with opened(file, given) as model:
        settings["context"] = model.context
        model.check_generates()
        model.tokenizer  # noqa: B018 (raises an error if there is none: before slow imports)
        with _quiet(), progress_bar("evaluating", in_bytes=False) as shown:
            from rsr_runtime.evaluation import evaluate

            results = evaluate(
                model,
                names,
                num_fewshot=num_fewshot,
                limit=limit,
                include_path=include_path,
                apply_chat_template=apply_chat_template,
                adapter=model.adapters,
                **({} if shown is None else {"progress": shown}),
            )
        if results["truncated"]:
            limits = f"{model.context:,} tokens (--context; the model's limit is "
            click.echo(
                f"rsrc: {counted(results['truncated'], 'request')} lost tokens at the beginning, "
                f"to fit {limits}{model.config.max_position_embeddings:,})",
                err=True,
            )
    results["config"]["model_args"] = settings
    written = _json(file, results)
    if output is not None:
        with atomic_file(output, force) as to:
            to.write(written.encode())
    if as_json:
        click.echo(written, nl=False)
    else:
        from .eval_table import print_results

        print_results(results)
        if output is not None:
            click.echo(f"results written to {printable(str(output))}", err=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own bars, prints and warnings off the terminal."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()):
        yield


def _json(file: Path, results: dict[str, Any]) -> str:
    """Return the results as JSON, as lm-eval writes them."""
    from lm_eval.utils import handle_non_serializable

    return (
        json.dumps({"file": str(file), **results}, indent=2, default=handle_non_serializable) + "\n"
    )
