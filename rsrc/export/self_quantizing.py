"""Models that quantize their own weights, and what they do to weights that are quantized already.

Such a model takes digit * scale for float masters and quantizes it again. BitNet's absmean makes
the new scale the mean magnitude, which is below the old one wherever there are zeros. The result
is a different model, without an error. ParetoQ gets the same weights again: its scales follow from
clip values, which the file keeps.
"""

from __future__ import annotations

from rsr_formats import RsrFile
from rsr_formats.records import DenseTensor, IndexedTensor
from rsr_formats.text import quoted

from ..layouts import BY_NAME
from ..layouts.paretoq import is_ternary_paretoq
from ..layouts.self_quantizing import config_evidence, self_quantizing_evidence
from ..source.quantization import Quantization
from .model_files import Config, without


def without_self_quantizing(config: Config | None) -> Config | None:
    """Return config.json without the keys that make a model quantize its weights.

    An online `quantization_config` says it too: see `floats.export`.
    """
    if config and config_evidence(config) is not None:
        config = without(config, "weight_bits")  # 1bitLLM's
    if config and is_ternary_paretoq(config):
        config = without(config, "w_bits")
    return config


def requantization_notes(
    file: RsrFile, config: Config | None, to: str, is_folder: bool
) -> list[str]:
    """Return one note if the exported model would quantize its float weights again.

    Args:
        file: the .rsr file.
        config: the config.json of the exported model; None if it has none.
        to: the form, "source" or "float".
        is_folder: whether a directory with config.json is written.

    Raises:
        SourceError: a regular expression in config.json's `modules_to_not_convert` is not
            supported.
    """
    config = config or {}
    quantization = Quantization(config)
    dense = {t.name: t for t in file.header.tensors if isinstance(t, DenseTensor)}
    absmean = []
    for t in file.header.tensors:
        if not isinstance(t, IndexedTensor) or not t.name.endswith(".weight"):
            continue
        if to == "source" and BY_NAME[t.source.layout].lossless:
            continue  # restored byte for byte
        if self_quantizing_evidence(config, quantization, dense, t.name, t.shape[1]):
            absmean.append(t.name)
    if not absmean:
        return []
    remedies = ["keep the original checkpoint", "use --to bitnet"]
    if config_evidence(config) and not (to == "float" and is_folder):
        remedies.append("use --to float into a directory, whose config.json turns it off")
    return [
        f"this model quantizes its own weights: it would quantize the {to} weights written here "
        f"again and get smaller scales ({quoted(absmean)}): {', or '.join(remedies)}"
    ]
