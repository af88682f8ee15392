"""How a model embeds texts, by GGUF metadata, as the files that sentence-transformers writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rsr_formats.text import shown

from ...common.errors import SourceError
from .values import whole_of

HAS_HEAD = "rsr.has_head"  # llama.cpp does not know this key
MODES = {1: "mean", 2: "cls", 3: "lasttoken"}
_NO_MODES = (0, 4)  # none; a classifier's, which ranks texts


def has_head(metadata: Mapping[str, Any]) -> bool:
    """Return whether the class of a model has an output head.

    Raises:
        SourceError: the key is there, but is not a boolean.
    """
    found = metadata.get(HAS_HEAD, True)
    if not isinstance(found, bool):
        raise SourceError(f"{HAS_HEAD} is {shown(found)}, expected a boolean")
    return found


def pooling_files(
    metadata: Mapping[str, Any], hidden_size: object, note: Callable[[str], object]
) -> dict[str, bytes]:
    """Return modules.json and the settings of pooling by their names in a `.rsr` file.

    llama.cpp normalizes the vectors. Without `pooling_type`, or with one of a model that does not
    embed texts, there are no files.

    Args:
        metadata: of the GGUF file.
        hidden_size: features of a state, as in config.json.
        note: takes a sentence for the user about a value that says nothing.
    """
    key = f"{metadata.get('general.architecture')}.pooling_type"
    if key not in metadata:
        return {}
    kind = whole_of(metadata[key])
    if kind is None or kind not in {*MODES, *_NO_MODES}:
        note(
            f"{key} is {shown(metadata[key])}, expected 0 to 4: the model embeds texts only with a "
            "pooling that is asked for"
        )
    mode = MODES.get(kind or 0)
    if mode is None:
        return {}
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode": mode}
    files = {"modules.json": modules, "1_Pooling.config.json": pooling}
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in files.items()}
