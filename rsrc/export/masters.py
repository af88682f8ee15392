"""What a model that quantizes its weights itself does to weights that are quantized already.

It takes them for masters. Their mean magnitude is below their scale, so it would make the scale
smaller (BitNet's absmean), or two thirds of it (ParetoQ): another model, without an error.
"""

from __future__ import annotations

from rsr_formats import RsrFile
from rsr_formats.records import DenseTensor, IndexedTensor
from rsr_formats.text import quoted

from ..layouts import BY_NAME
from ..layouts.paretoq import clip_names, is_ternary_paretoq
from ..layouts.self_quantizing import config_evidence, self_quantizing_evidence
from ..source.quantization import Quantization
from .tensors import Config


def warning(file: RsrFile, config: Config | None, to: str, is_folder: bool) -> str | None:
    """Return what to tell who writes floats that their own model would quantize again, or None.

    Args:
        file: whose matrices are written as floats.
        config: what config.json says of what is written, None: nothing.
        to: the form, "source" or "float".
        is_folder: whether config.json is written, too.

    Raises:
        SourceError: config.json has a `modules_to_not_convert` that cannot be followed.
    """
    config = config or {}
    quantization = Quantization(config)
    dense = {t.name: t for t in file.header.tensors if isinstance(t, DenseTensor)}
    names = {t.name for t in file.header.tensors}
    online, paretoq = [], []
    for t in file.header.tensors:
        if not isinstance(t, IndexedTensor) or not t.name.endswith("weight"):
            continue
        if to == "source" and BY_NAME[t.source.layout].lossless:
            continue  # comes back as it was
        if t.name.endswith(".weight") and self_quantizing_evidence(
            config, quantization, dense, t.name, t.shape[1]
        ):
            online.append(t.name)
        elif is_ternary_paretoq(config) and not names.isdisjoint(clip_names(t.name)):
            paretoq.append(t.name)
    if not online and not paretoq:
        return None
    instead = ["keep the original checkpoint"]
    if not paretoq:  # which has a scale for each row
        instead.append("use --to bitnet")
    if (paretoq or config_evidence(config)) and not (to == "float" and is_folder):
        instead.append("use --to float into a directory, whose config.json then no longer says so")
    return (
        f"this model quantizes its weights itself, and would quantize those written here, {to}, "
        f"again and get smaller scales ({quoted([*online, *paretoq])}): {', or '.join(instead)}"
    )
