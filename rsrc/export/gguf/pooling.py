"""How a model embeds texts, as GGUF metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rsr_formats import RsrFile
from rsr_formats.architectures import Architecture
from rsr_formats.errors import RsrError
from rsr_formats.text import listed, quoted

from ...common.errors import ExportError
from ...compiler.support import embedding_config
from ...source.gguf.pooling import HAS_HEAD, MODES
from ...source.gguf.tokenizer_common import Note
from .settings import refusal

if TYPE_CHECKING:
    from rsr_runtime.llm import EmbeddingConfig


def pooling_metadata(
    file: RsrFile, known: Architecture, hidden_size: int, note: Note
) -> dict[str, Any]:
    """Return the keys of a model that embeds texts, {} for others.

    Args:
        file: the .rsr file.
        known: its architecture.
        hidden_size: features of a state.
        note: takes each sentence for the user.

    Raises:
        ExportError: the model only embeds texts, and GGUF has no name for its rule of pooling, or
            its files are damaged or ask for more. Of a model that generates text, a note says so.
    """
    metadata: dict[str, Any] = {}
    if not known.has_head:
        metadata[HAS_HEAD] = False
        note(
            f"{known.name} has no output head, which GGUF has no key for: llama.cpp takes the "
            "embedding in its place, so its texts mean nothing; its vectors are right"
        )
    try:
        found = embedding_config(file, hidden_size)
        if found is None:
            return metadata
        metadata[f"{known.gguf_names[0]}.pooling_type"] = _type(found.pooling.modes)
    except RsrError as error:
        if not known.has_head:
            raise refusal([str(error)]) from None
        note(f"not written: how the model embeds texts: {error}")
        return metadata
    if lost := list(_lost(found)):
        note(f"not written, as GGUF has no keys for it: {listed(lost)}")
    return metadata


def _type(modes: Sequence[str]) -> int:
    types = {mode: number for number, mode in MODES.items()}
    if len(modes) > 1 or modes[0] not in types:
        raise ExportError(
            f"pooling_mode is {listed(modes)}, and in GGUF it is one of {listed(list(types))}"
        )
    return types[modes[0]]


def _lost(config: EmbeddingConfig) -> Iterator[str]:
    """Yield what of a model's settings of embedding GGUF cannot say."""
    prompts, pooling = [name for name, text in config.prompts.items() if text], config.pooling
    if prompts:
        yield f"the prompts {quoted(prompts)}, which go before a text"
    if prompts and pooling.needs_all and not pooling.includes_prompt:
        yield "that pooling skips their tokens"
    if config.max_tokens is not None:
        yield f"max_seq_length {config.max_tokens}"
    if not pooling.normalizes:
        yield "that vectors keep their length (llama-embedding --embd-normalize -1)"
