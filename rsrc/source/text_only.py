"""Leave out of a checkpoint what is not needed to continue text.

That is, parts that read images or audio, and layers that only draft tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rsr_formats.architectures import draft_layers, has_decoder
from rsr_formats.text import counted, listed, printable

from ..common.errors import SourceError
from .checkpoint import Checkpoint

# The parts by the names of their modules.
_PARTS = {
    "a vision tower": (
        "visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens",
        "vision_projection", "vision_proj", "embed_vision", "multi_modal_projector",
        "multimodal_projector", "mm_projector", "image_newline", "vpm", "resampler",
    ),
    "an audio part": (
        "audio_tower", "audio_model", "audio_encoder", "audio_projector", "audio_projection",
        "embed_audio", "speech_encoder", "apm",
    ),
    "MTP heads": ("mtp", "mtp_layers", "mtp_block", "nextn"),
    "a drafter": (
        "drafter", "draft_model", "eagle", "eagle3", "medusa_head", "medusa_heads", "speculator",
    ),
}  # fmt: skip
_DRAFTS = "MTP heads"
_WRAPPERS = r"((?:model\.|language_model\.|base_model\.)*)"
_MODULE = re.compile(rf"{_WRAPPERS}([a-z0-9_]+)(?:\.|$)")
_LAYER = re.compile(rf"{_WRAPPERS}((?:layers|blk)\.(0|[1-9][0-9]{{0,8}}))\.")
_KINDS = {module: part for part, modules in _PARTS.items() for module in modules}
_GGUF_KINDS = {**_KINDS, "v": "a vision tower", "mm": "a vision tower", "a": "an audio part"}
_MAX_NAMED = 4  # modules of a part that the note names


def text_only(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of the decoder alone, with a note that names what was left out.

    Its config.json holds the settings of the decoder, as if it were a model by itself. A checkpoint
    without a decoder is returned as it is.
    """
    if not has_decoder(checkpoint.tensors):
        return checkpoint
    try:
        config = checkpoint.config
    except SourceError:  # whatever needs the config reports it
        return checkpoint
    if config is not checkpoint.whole_config and "config.json" in checkpoint.files:
        made = (json.dumps(config, indent=2) + "\n").encode()
        checkpoint = replace(checkpoint, files={**checkpoint.files, "config.json": made})
    found: dict[str, dict[str, int]] = {}  # part: tensors by the beginning of their names
    left_out = {}
    kinds = _GGUF_KINDS if "general.architecture" in checkpoint.metadata else _KINDS
    for name, tensor in checkpoint.tensors.items():
        if (kind := _kind(name, config, kinds)) is not None:
            part, beginning = kind
            modules = found.setdefault(part, {})
            modules[beginning] = modules.get(beginning, 0) + 1
            left_out[name] = tensor
    if not found:
        return checkpoint
    parts = "; ".join(
        f"{part}, {counted(sum(modules.values()), 'tensor')} "
        f"({printable(listed([f'{m}.*' for m in modules], _MAX_NAMED))})"
        for part, modules in found.items()
    )
    return replace(
        checkpoint,
        tensors={n: t for n, t in checkpoint.tensors.items() if n not in left_out},
        left_out=left_out,
        notes=(*checkpoint.notes, f"text only, left out: {parts}"),
    )


def _kind(name: str, config: Mapping[str, Any], kinds: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the part of a tensor and the beginning of its name, None for the decoder."""
    layer = _LAYER.match(name)
    if layer is not None:
        layers = config.get("num_hidden_layers")
        drafts = draft_layers(config)
        if type(layers) is int and layers <= int(layer[3]) < layers + drafts:
            return _DRAFTS, layer[1] + layer[2]
        return None
    module = _MODULE.match(name)
    part = None if module is None else kinds.get(module[2])
    return None if module is None or part is None else (part, module[1] + module[2])
