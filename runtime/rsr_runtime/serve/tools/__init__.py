"""Tools: what a request offers, how a model's answers call them, and how calls are read."""

from .formats import CallFormat, call_format
from .offer import ToolOffer, tool_offer
from .parser import Call, CallParser

__all__ = ["Call", "CallFormat", "CallParser", "ToolOffer", "call_format", "tool_offer"]
