"""Chat templates with tools and reasoning, like those of published models."""

from __future__ import annotations

_TURNS = (
    "{%- for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}"
    "{%- for call in message.tool_calls or [] %}__CALL__{%- endfor %}<|eot_id|>"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "__THINKING__{%- endif %}"
)
_JSON_CALL = (
    '{"name": "{{ call.function.name }}", "__KEY__": {{ call.function.arguments | tojson }}}'
)
_NO_THINKING = (
    "{%- if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{%- endif %}"
)


def _template(tools: str, call: str, thinking: str = "", key: str = "arguments") -> str:
    turns = _TURNS.replace("__CALL__", call).replace("__THINKING__", thinking)
    return (
        "{{- bos_token }}{%- if tools %}<|start_header_id|>system<|end_header_id|>\n\n"
        + tools
        + "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|eot_id|>{%- endif %}"
        + turns
    ).replace("__KEY__", key)


HERMES = _template(
    "Write calls as <tool_call>JSON</tool_call>\n",
    f"\n<tool_call>\n{_JSON_CALL}\n</tool_call>",
    _NO_THINKING,
)
# A turn begins within the block of reasoning.
THINKING = _template("", f"<tool_call>{_JSON_CALL}</tool_call>", "<think>\n")
MISTRAL = _template("[AVAILABLE_TOOLS]", f"[TOOL_CALLS][{_JSON_CALL}]")
LLAMA = _template(
    'Environment: ipython\n{"name": NAME, "parameters": OBJECT}\n', _JSON_CALL, key="parameters"
)
