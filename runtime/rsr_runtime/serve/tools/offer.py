"""The tools that a request offers, and whether the answer must call one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import refused
from ..schema import Json

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True)
class ToolOffer:
    """Tools of a request.

    Attributes:
        tools: as the chat template reads them.
        schemas: the name of each tool that may be called, and the JSON schema of its arguments.
        is_required: whether the answer must call one.
        is_parallel: whether it may call several.
    """

    tools: Sequence[Json]
    schemas: Sequence[tuple[str, Json]]
    is_required: bool
    is_parallel: bool

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(name for name, _ in self.schemas)


def tool_offer(
    tools: Sequence[Json] | None, choice: str | Json | None, is_parallel: bool | None
) -> ToolOffer | None:
    """Return what a request offers; None without tools, or if none may be called.

    Raises:
        ApiError: a tool or the choice is malformed.
    """
    schemas = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())]
    if tools and len({name for name, _ in schemas}) < len(schemas):
        raise refused("tools", "found two with the same name")
    mode, named = _choice(choice)
    if not tools:
        if mode != "none" and choice not in (None, "auto"):
            raise refused("tool_choice", "needs tools")
        return None
    if mode == "none":
        return None
    parallel = is_parallel is not False
    if named is None:
        return ToolOffer(tools, schemas, mode == "required", parallel)
    chosen = [schema for schema in schemas if schema[0] == named]
    if not chosen:
        raise refused("tool_choice", f"found {named!r:.80}, expected the name of one of the tools")
    return ToolOffer(tools, chosen, is_required=True, is_parallel=False)


def _choice(choice: str | Json | None) -> tuple[Literal["none", "auto", "required"], str | None]:
    """Return the mode of a choice, and the name of the tool that it wants."""
    if choice is None or choice == "auto":
        return "auto", None
    if choice == "none":
        return "none", None
    if choice == "required":
        return "required", None
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return "required", function["name"]
    raise refused(
        "tool_choice",
        f"found {choice!r:.80}, expected 'none', 'auto', 'required' or "
        '{"type": "function", "function": {"name": ...}}',
    )


def _function(tool: Json, where: str) -> tuple[str, Json]:
    """Return the name of a tool and the JSON schema of its arguments."""
    if tool.get("type") != "function":
        raise refused(
            f"{where}.type", f"found {tool.get('type')!r:.40}, expected 'function'",
            "unsupported_parameter",
        )  # fmt: skip
    function: Any = tool.get("function")
    if not isinstance(function, dict):
        raise refused(f"{where}.function", "expected an object")
    name, schema = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refused(
            f"{where}.function.name",
            f"found {name!r:.80}, expected 1 to 128 letters, digits, '_', '-', '.' or ':'",
        )
    if schema is None or schema == {}:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise refused(f"{where}.function.parameters", "expected a JSON schema, an object")
    return name, schema
