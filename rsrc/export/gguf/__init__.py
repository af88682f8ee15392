"""The "gguf" form: the file that llama.cpp reads (ggml, docs/gguf.md), written by package gguf."""

from .write import require_gguf, write_gguf

__all__ = ["require_gguf", "write_gguf"]
