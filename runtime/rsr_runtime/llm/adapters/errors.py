"""Errors of adapters."""

from __future__ import annotations

from rsr_formats.errors import RsrError


class AdapterError(RsrError, ValueError):
    """A LoRA adapter is damaged, of a kind that is not supported, or made for another model."""
