"""How a model embeds texts, as GGUF metadata."""

from __future__ import annotations

from typing import Any

from rsr_formats import RsrFile
from rsr_formats.architectures import Architecture
from rsr_formats.errors import RsrError
from rsr_formats.text import listed, quoted

from ...compiler.support import embedding_config
from ...source.gguf.pooling import HAS_HEAD, MODES
from ...source.gguf.tokenizer_common import Note
from .settings import refusal


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
        ExportError: GGUF has no name for the rule of pooling, or modules.json asks for more.
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
    except RsrError as error:
        raise refusal([str(error)]) from None
    if found is None:
        return metadata
    modes = {mode: number for number, mode in MODES.items()}
    if len(found.pooling.modes) > 1 or found.pooling.modes[0] not in modes:
        raise refusal(
            [
                f"pooling_mode is {listed(found.pooling.modes)}, and in GGUF it is one of "
                f"{listed([*modes])}"
            ]
        )
    metadata[f"{known.gguf_names[0]}.pooling_type"] = modes[found.pooling.modes[0]]
    prompts = [name for name, text in found.prompts.items() if text]
    lost = []
    if prompts:
        lost.append(f"the prompts {quoted(prompts)}, which go before a text")
    if prompts and found.pooling.needs_all and not found.pooling.includes_prompt:
        lost.append("that pooling skips their tokens")
    if found.max_tokens is not None:
        lost.append(f"max_seq_length {found.max_tokens}")
    if not found.pooling.normalizes:
        lost.append("that vectors keep their length (llama-embedding --embd-normalize -1)")
    if lost:
        note(f"not written, as GGUF has no keys for it: {listed(lost)}")
    return metadata
