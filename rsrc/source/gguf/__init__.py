"""GGUF: what llama.cpp and its relatives store models in (ggml, docs/gguf.md)."""
