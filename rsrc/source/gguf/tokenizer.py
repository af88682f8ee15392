"""A model's tokenizer: the metadata of GGUF and the files of Hugging Face, both ways.

GGUF names two kinds (ggml, docs/gguf.md): "gpt2", byte-level BPE with its merges, and "llama",
SentencePiece's BPE, whose merges follow from the scores: the pair is merged whose result has the
highest score. Both become a tokenizer.json of the `tokenizers` library, which is JSON all through.
"""

from .tokenizer_files import tokenizer_files
from .tokenizer_metadata import tokenizer_metadata
from .vocabulary import Note

__all__ = ["Note", "tokenizer_files", "tokenizer_metadata"]
