"""How models write calls of tools: by the markers in their chat templates."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from ..grammar import json_rule
from ..schema import Json

MAX_CALLS = 16  # in an answer that must call tools


@dataclass(frozen=True)
class CallFormat:
    """How a family of models writes calls, which are JSON objects or lists of these.

    Attributes:
        begin: what precedes calls.
        end: what follows them, or "".
        arguments: the key of a call's arguments.
        is_bare: whether a call may also begin an answer without `begin`.
        is_list: whether several calls are a list.
        separator: what stands between calls that are no list; None: there is one at most.
        space: white space around the calls that models write.
        id_letters: the length of a call's id, if templates accept only ids of letters and digits.
    """

    begin: str
    end: str = ""
    arguments: str = "arguments"
    is_bare: bool = False
    is_list: bool = False
    separator: str | None = None
    space: str = ""
    id_letters: int | None = None

    def new_id(self) -> str:
        """Return an id for a call."""
        if self.id_letters is None:
            return f"call_{secrets.token_hex(12)}"
        letters = string.ascii_letters + string.digits
        return "".join(secrets.choice(letters) for _ in range(self.id_letters))

    def rules(self, tools: Sequence[tuple[str, Json]], is_parallel: bool) -> tuple[str, str]:
        """Return what stands for calls in a grammar: an expression, and the rules that it needs.

        Args:
            tools: the name of each tool that may be called, and the JSON schema of its arguments.
            is_parallel: whether there may be several calls.
        """
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, self.arguments: schema},
                "required": ["name", self.arguments],
                "additionalProperties": False,
            }
            for name, schema in tools
        ]
        call: Json = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.is_list:
            most = MAX_CALLS if is_parallel else 1
            call = {"type": "array", "items": call, "minItems": 1, "maxItems": most}
        begin = "" if self.is_bare else _literal(self.begin + self.space)
        rules = f"call: {begin} call_json {_literal(self.space + self.end)}\n"
        rules += f"call_json: {json_rule(call)}\n"
        if self.separator is None or not is_parallel:
            return "call", rules
        return f"call ({_literal(self.separator)} call){{0,{MAX_CALLS - 1}}}", rules


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


HERMES = CallFormat("<tool_call>", "</tool_call>", space="\n", separator="\n")
MISTRAL = CallFormat("[TOOL_CALLS]", is_list=True, id_letters=9)
LLAMA = CallFormat("<|python_tag|>", arguments="parameters", is_bare=True)


def call_format(template: str) -> CallFormat | None:
    """Return the format in which a chat template writes calls; None if it is not known.

    Args:
        template: its source.
    """
    if HERMES.begin in template and "<function=" not in template:
        return HERMES
    if MISTRAL.begin in template:
        return MISTRAL
    if '"parameters"' in template and (LLAMA.begin in template or "ipython" in template):
        return LLAMA
    return None
