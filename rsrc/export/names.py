"""Names of tensors as the class in config.json has them.

transformers loads a model whose names it does not know, too: with random weights. Of other names
it knows those of a decoder by itself, which have no prefix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rsr_formats.architectures import DecoderNames, of_config

from .tensors import Export

_USUAL = DecoderNames()


def with_usual_names(export: Export) -> Export:
    """Return a model of a known class with that class's names, where those of the source differ.

    A decoder that was part of a multimodal class has names of its own. `modules_to_not_convert` in
    config.json follows them.
    """
    known = None if export.config is None else of_config(export.config)
    names = DecoderNames.find(t.name for t in export.tensors)
    if export.config is None or known is None or not known.is_runnable:
        return export
    if names == _USUAL or not names.prefix:
        return export
    renamed = [names.usual(t.name) for t in export.tensors]
    if len(set(renamed)) < len(renamed):
        return export
    tensors = [replace(t, name=name) for t, name in zip(export.tensors, renamed, strict=True)]
    note = (
        f"tensors are named '{_USUAL.prefix}layers.0...', as {known.name} has them: the source "
        f"has '{names.prefix}layers.0...'"
    )
    config: dict[str, Any] = dict(export.config)
    quantization = config.get("quantization_config")
    kept = quantization.get("modules_to_not_convert") if isinstance(quantization, dict) else None
    if not isinstance(quantization, dict) or not isinstance(kept, list):
        return replace(export, tensors=tensors, notes=[*export.notes, note])
    usual = [names.usual(k) if isinstance(k, str) else k for k in kept]
    if usual != kept:
        config["quantization_config"] = {**quantization, "modules_to_not_convert": usual}
        export = replace(export, config=config)
    return replace(export, tensors=tensors, notes=[*export.notes, note])
