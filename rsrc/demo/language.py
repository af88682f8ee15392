"""A small language model, trained on Shakespeare, that writes a paragraph."""

from __future__ import annotations

import dataclasses
import sys

import click
from rich.console import Console

import rsrc
from rsr_runtime import llm

from ..common.console import announced, console, size
from ..common.scratch import scratch_folder
from .examples import example_folder

PROMPT = "My father is dead"
SEED = 1
TOKENS = 100


def run() -> None:
    """Compile the model, let it continue a prompt, and show its size and speed."""
    out = console()
    with scratch_folder() as scratch:
        path = scratch / "tiny-lm.rsr"
        with announced("compiling the language model"):
            report = rsrc.compile(example_folder("tiny-lm"), path)
        try:
            with llm.load(path) as model:
                _write(out, report, model)
        except llm.DependencyError as error:
            out.print(f"\nThe second example, a language model, is left out: {error}")


def _write(out: Console, report: rsrc.Report, model: llm.LanguageModel) -> None:
    sampling = dataclasses.replace(model.sampling, seed=SEED)
    stream = model.stream(PROMPT, max_tokens=TOKENS, sampling=sampling)
    indexed = [t for t in report.tensors if t.kind == "ternary"]
    weights = sum(t.weights for t in indexed)
    out.print(
        f"\n2/2 A language model trained on Shakespeare, {len(indexed)} ternary matrices with "
        f"{weights:,} weights in {size(sum(t.bytes for t in indexed))}, continues a text:\n"
    )
    click.secho(PROMPT, nl=False, bold=True)
    for piece in stream:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    result = stream.result
    out.print(f"\n\n{len(result.tokens)} tokens, {result.tokens_per_second:.0f} tokens/s")
