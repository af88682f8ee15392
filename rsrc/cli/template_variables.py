"""The option --template-var: variables of a model's chat template."""

from __future__ import annotations

import json
from typing import Any

import click

from .chat_text import typed
from .options import Decorator

_TAKEN = ("messages", "allow_special_tokens")  # arguments of LanguageModel.chat_prompt


def template_variables_option() -> Decorator:
    """Return the option --template-var, whose value is a dict."""
    return click.option(
        "--template-var",
        "variables",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_parsed,
        help="Variable of the chat template, such as enable_thinking=false; may be repeated. VALUE "
        "is JSON (false, 3, [...]), else text.",
    )


def _parsed(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    variables = {}
    for entry in given:
        name, equals, value = typed(entry, "--template-var").partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"found {entry!r:.80}, expected NAME=VALUE")
        if name in _TAKEN:
            raise click.BadParameter(f"{name} is not a variable of the template")
        variables[name] = _value(value)
    return variables


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise click.BadParameter("the value is nested too deeply") from None
