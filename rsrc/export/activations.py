"""What an export changes in the arithmetic of a model: int8 activations, gained or lost."""

from __future__ import annotations

from rsr_formats import RsrFile
from rsr_formats.architectures import takes_int8_activations
from rsr_formats.records import IndexedTensor
from rsr_formats.text import quoted

from .model_files import Config, bitnet_rules, without


def without_int8_activations(config: Config | None) -> Config | None:
    """Return config.json without the mark that a model made from a GGUF file has.

    transformers knows no such mark, and runs the model with float activations.
    """
    if config is None or not takes_int8_activations(config):
        return config
    plain = without(config, "input_bits")
    return config if plain is None or takes_int8_activations(plain) else plain


def activation_notes(before: Config | None, is_int8: bool) -> list[str]:
    """Return one note if an export changes what the linear layers multiply by.

    Args:
        before: the config.json of the `.rsr` file.
        is_int8: whether the linear layers of the exported model take int8 activations.
    """
    if before is None or takes_int8_activations(before) == is_int8:
        return []
    change = "now" if is_int8 else "no longer"
    return [
        f"activations are {change} quantized to int8, unlike those of the source: logits differ "
        "slightly"
    ]


def kept_notes(file: RsrFile, config: Config | None) -> list[str]:
    """Return one note if a form gives int8 activations to layers that BitNet does not convert.

    Args:
        file: the .rsr file.
        config: its config.json.

    Raises:
        SourceError: `modules_to_not_convert` has an unsupported regular expression.
    """
    rules = bitnet_rules(config)
    kept = [
        t.name
        for t in file.header.tensors
        if isinstance(t, IndexedTensor) and "layers." in t.name and not rules.converts(t.name)
    ]
    if not kept:
        return []
    return [
        "activations are now quantized to int8, unlike those of the source "
        f"(modules_to_not_convert), in {quoted(kept)}"
    ]
