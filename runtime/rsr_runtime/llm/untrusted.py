"""Render a conversation whose messages cannot forge control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import PromptError
from .template import ChatTemplate
from .tokenizer import Tokenizer


def encode_untrusted(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
) -> list[int]:
    """Return the tokens of a conversation; control tokens in messages and variables are plain text.

    Messages with the role "assistant" keep theirs: the model wrote them.

    Raises:
        PromptError, TemplateError, ModelError: as for `ChatTemplate.render` and
            `Tokenizer.encode`.
    """
    control = tokenizer.control_tokens
    try:
        mark = control.mark_for(template.source, messages, dict(variables))
        safe = {name: control.marked(value, mark) for name, value in variables.items()}
        if isinstance(messages, (list, tuple)):  # else the template's error says so
            messages = [_marked(message, tokenizer, mark) for message in messages]
    except RecursionError as error:
        raise PromptError("the messages are nested too deeply") from error
    return control.encode(template.render(messages, **safe), mark)


def _marked(message: Any, tokenizer: Tokenizer, mark: str) -> Any:
    if not isinstance(message, Mapping) or message.get("role") == "assistant":
        return message
    marked = tokenizer.control_tokens.marked(message, mark)
    if "role" in message:
        marked["role"] = tokenizer.control_tokens.marked_name(message["role"], mark)
    return marked
