"""The block of reasoning, <think>...</think>, with which some models begin an answer."""

from __future__ import annotations

from typing import Literal

from .held import held_marker

BEGIN, END = "<think>", "</think>"

State = Literal["start", "reasoning", "after", "content"]


def state_after(prompt: str) -> State:
    """Return where an answer begins.

    Args:
        prompt: its end, special tokens spelled out. Templates open the block or write an empty one.
    """
    end = prompt.rstrip()
    if end.endswith(BEGIN):
        return "reasoning"
    return "content" if end.endswith(END) else "start"


class ReasoningParser:
    """Parts an answer, which comes in pieces, into reasoning and content.

    The parts are the same however the answer is cut into pieces. White space around the block
    belongs to neither.

    Args:
        state: where the answer begins.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._held = ""
        self._is_blank = True  # no reasoning yet

    def push(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content that a piece completes."""
        text, self._held = self._held + text, ""
        reasoning = ""
        if self._state == "start":
            begin = text.lstrip()
            if begin.startswith(BEGIN):
                self._state, text = "reasoning", begin[len(BEGIN) :]
            elif BEGIN.startswith(begin):
                self._held, text = text, ""
            else:
                self._state = "content"
        if self._state == "reasoning":
            reasoning, text = self._reasoning(text)
        if self._state == "after":
            text = text.lstrip()
            if text:
                self._state = "content"
        return reasoning, text

    def finish(self) -> tuple[str, str]:
        """Return what was held back."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "reasoning" else ("", held)

    def _reasoning(self, text: str) -> tuple[str, str]:
        """Return the reasoning in a text, and what follows it."""
        if self._is_blank:
            text = text.lstrip()
        thought, end, rest = text.partition(END)
        if end:
            self._state = "after"
            return thought.rstrip(), rest
        start = held_marker(text, (END,))
        self._held = text[start:]
        self._is_blank = self._is_blank and not start
        return text[:start], ""


def reasoning_rules(state: State) -> tuple[str, str]:
    """Return what stands for the block in a grammar: an expression, and the rules that it needs."""
    rules = "thought[lazy]: /(?s:.*)<\\/think>/\nAFTER_THOUGHT: /[ \\n]{0,4}/\n"
    if state == "reasoning":
        return "thought AFTER_THOUGHT", rules
    if state == "start":
        return '("<think>" thought AFTER_THOUGHT)?', rules
    return "", ""
