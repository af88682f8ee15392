"""What is wrong with a model's tensors: names, shapes and dtypes against the config.

Nothing is read of the tensors themselves, so this also judges a checkpoint before it is compiled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rsr_formats import records
from rsr_formats.architectures import MIXERS, PREFIXES, DecoderNames, other_prefix
from rsr_formats.experts import EXPERTS
from rsr_formats.keys import review_tensors
from rsr_formats.records import FLOAT_DTYPES, MAX_QUANTIZED_COLUMNS
from rsr_formats.text import listed

from ..model import Model
from .config import Config
from .layer_settings import LayerSettings
from .layers.declared import DeclaredLinear
from .layers.layer import declared

ROPE_FACTORS = "rope_freqs.weight"  # its name in GGUF files of Llama 3.1 and later
_NUMBER = re.compile(r"\.[0-9]+")
_EXPERT = re.compile(rf"(.*layers\.[0-9]+\.){re.escape(EXPERTS)}\.([0-9]+)\.", re.DOTALL)
# Beginnings of names that tell the kinds of layers apart.
_PARTS = (*MIXERS.values(), f"{EXPERTS}.", "mlp.gate_proj.")
_PART = re.compile(rf".*?layers\.[0-9]+\.(?:{'|'.join(map(re.escape, _PARTS))})", re.DOTALL)
_MAX_LISTED = 40  # problems that a message lists
_MAX_EXPERTS_LISTED = 3  # missing matrices of a layer that a problem names
_MAX_PROBLEMS = 10_000  # to stop early if a config claims a million layers


@dataclass(frozen=True)
class TensorFacts:
    """A tensor of a `.rsr` file.

    Attributes:
        shape: (out_features, in_features) of a matrix.
        dtype: of a dense tensor; None for a ternary or binary matrix.
        has_groups: whether groups of columns have their own scales.
        layout: how the source stored a matrix (formats/SPEC.md); "" for a dense tensor.
        is_permuted: whether a matrix is in encoding permuted.
        is_rotated: whether it is in a rotated basis.
    """

    shape: tuple[int, ...]
    dtype: str | None = None
    has_groups: bool = False
    layout: str = ""
    is_permuted: bool = False
    is_rotated: bool = False

    @classmethod
    def of_record(cls, t: records.Tensor) -> TensorFacts:
        """Return the facts of a tensor in the header of a file."""
        is_rotated = t.rotation is not None
        if isinstance(t, records.DenseTensor):
            return cls(t.shape, t.dtype, is_rotated=is_rotated)
        is_permuted = t.encoding == "permuted"
        return cls(t.shape, None, t.is_grouped, t.source.layout, is_permuted, is_rotated)


class ModelFacts(Mapping[str, TensorFacts]):
    """The facts of the tensors of an open model."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, name: str) -> TensorFacts:
        if name not in self._model:
            raise KeyError(name)  # without a search for similar names: many may be missing
        return TensorFacts.of_record(self._model.record(name))

    def __contains__(self, name: object) -> bool:
        return name in self._model

    def __iter__(self) -> Iterator[str]:
        return iter(self._model)

    def __len__(self) -> int:
        return len(self._model)


def find_problems(tensors: Mapping[str, TensorFacts], config: Config) -> list[str]:
    """Return what keeps the tensors from being those that a config describes."""
    found = _Checker(tensors, config)
    found.check()
    return found.problems


def without_scales(tensors: Mapping[str, TensorFacts]) -> Iterator[str]:
    """Yield the names of tensors, except for scales that a matrix has already.

    The header of a file holds small scales. Larger ones of I8 matrices stay tensors, too.
    """
    for name in tensors:
        weight = name.removesuffix("_scale")
        if weight == name or weight not in tensors or tensors[weight].layout != "int8":
            yield name


def is_bitlinear(config: Config, tensors: Container[str], module: str) -> bool:
    """Return whether a norm inside a layer makes it a BitLinear layer of BitNet-embedding.

    Such a layer quantizes its weights and activations, and config.json says nothing of it.
    transformers' BitNet layers call their norm rms_norm, and `quantization_config` decides.
    """
    is_given = config.settings.get("quantization_config") is not None
    return not is_given and f"{module}.norm.weight" in tensors


def in_words(problems: Sequence[str], config: Config) -> str:
    """Return one message for all problems; those that differ in numbers of layers are one."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(_NUMBER.sub(".0", problem), []).append(problem)
    text = listed([_first_of(kind) for kind in alike.values()], _MAX_LISTED, separator="; ")
    return (
        f"the tensors are not those that config.json ({config.architecture.name}) describes: {text}"
    )


def _first_of(problems: Sequence[str]) -> str:
    more = len(problems) - 1
    return problems[0] if not more else f"{problems[0]} (and {more:,} more like this)"


class _Checker:
    """Looks at the tensors one after the other and collects the problems with them."""

    def __init__(self, tensors: Mapping[str, TensorFacts], config: Config) -> None:
        self._tensors = tensors
        self._config = config
        self._names = DecoderNames.find(tensors)
        self._parts = {match[0] for name in tensors if (match := _PART.match(name)) is not None}
        self.problems: list[str] = []

    def check(self) -> None:
        c, names = self._config, self._names
        if (prefix := other_prefix(self._tensors)) is not None:
            expected = ", ".join(repr(f"{p}layers.0.") for p in PREFIXES)
            self.problems.append(
                f"the layers are named {prefix[:120]!r} + 'layers.0.', expected one of {expected}: "
                "rename the tensors of the checkpoint"
            )
            return
        if c.experts is not None and c.experts.num_experts > len(self._tensors):
            self.problems.append(
                f"num_experts is {c.experts.num_experts}, but there are only "
                f"{len(self._tensors)} tensors"
            )
            return
        if c.experts is not None and (count := self._experts()) not in (0, c.experts.num_experts):
            self.problems.append(
                f"num_experts is {c.experts.num_experts}, but a layer has {count} experts"
            )
            return
        self.problems += review_tensors(c.settings, without_scales(self._tensors)).refused
        self._vocabulary()
        for i in range(c.num_hidden_layers):
            self._layer(f"{names.prefix}layers.{i}.", i)
            if len(self.problems) > _MAX_PROBLEMS:
                break
        self._vector(f"{names.prefix}norm.weight", c.hidden_size)
        self._optional(ROPE_FACTORS, c.rope.head_dim // 2)

    def _vocabulary(self) -> None:
        """Check embedding and output head; where they are tied, one of them is enough."""
        c, names = self._config, self._names
        embedding, head = f"{names.prefix}embed_tokens.weight", f"{names.head}.weight"
        has_head = head in self._tensors
        if not c.architecture.has_head:
            self._weight(embedding, c.vocab_size, c.hidden_size)
            if has_head:
                self.problems.append(
                    f"the file has {head}, but {c.architecture.name} has no output head: if the "
                    "model generates text, name its class with a head in config.json"
                )
            return
        if embedding in self._tensors or not (has_head and c.tie_word_embeddings):
            self._weight(embedding, c.vocab_size, c.hidden_size)
        if has_head and self._tensors[head].dtype == "I8" and embedding in self._tensors:
            self._int8_head(head)
        elif has_head:
            self._weight(head, c.vocab_size, c.hidden_size)
            if f"{head}_scale" in self._tensors and self._tensors[head].dtype != "I8":
                self.problems.append(f"{head}_scale is there, but {head} is not int8")
        elif not c.tie_word_embeddings:
            self.problems.append(
                f"{head} is missing and {c.architecture.tie_key} is not true in config.json, so "
                "there is no output head: a model without one gives hidden states, not text; use "
                "the checkpoint with its head (...ForCausalLM)"
            )

    def _int8_head(self, name: str) -> None:
        c, expected = self._config, (self._config.vocab_size, self._config.hidden_size)
        self._vector(f"{name}_scale", c.vocab_size)
        if self._tensors[name].shape != expected:
            self._contradiction(name, expected)
        if c.hidden_size > MAX_QUANTIZED_COLUMNS:
            self.problems.append(
                f"{name} is int8 with {c.hidden_size} columns, "
                f"expected at most {MAX_QUANTIZED_COLUMNS}"
            )

    def _experts(self) -> int:
        """Return how many experts a layer has at most."""
        numbers: dict[str, set[str]] = {}
        for name in self._tensors:
            if (match := _EXPERT.match(name)) is not None:
                numbers.setdefault(match[1], set()).add(match[2])
        return max(map(len, numbers.values()), default=0)

    def _is_other_kind(self, prefix: str, settings: LayerSettings) -> bool:
        """Report a layer that has another mixer or MLP than config.json says."""
        kinds = [(tuple(MIXERS.values()), MIXERS[settings.mixer], "layer_types")]
        if self._config.experts is not None:
            of_mlp = {"experts": f"{EXPERTS}.", "mlp": "mlp.gate_proj."}
            keys = "decoder_sparse_step and mlp_only_layers"
            kinds.append((tuple(of_mlp.values()), of_mlp[settings.mlp], keys))
        for parts, expected, keys in kinds:
            found = [part for part in parts if f"{prefix}{part}" in self._parts]
            if found and expected not in found:
                self.problems.append(
                    f"{prefix.removesuffix('.')} has {found[0]}*, but by {keys} it would have "
                    f"{expected}*"
                )
                return True
        return False

    def _layer(self, prefix: str, number: int) -> None:
        if self._is_other_kind(prefix, self._config.layer(number)):
            return
        every = list(declared(self._config, self._config.layer(number)))
        experts = [one.name for one in every if one.name.startswith(f"{EXPERTS}.")]
        missing = [name for name in experts if f"{prefix}{name}.weight" not in self._tensors]
        if missing:
            names = listed([f"{name}.weight" for name in missing], _MAX_EXPERTS_LISTED)
            self.problems.append(f"experts of {prefix.removesuffix('.')} are missing: {names}")
            every = [one for one in every if one.name not in missing]
            experts = [name for name in experts if name not in missing]
        for name in experts:
            self._expert(prefix + name)
        for kind in (".down_proj", (".gate_proj", ".up_proj")):
            self._basis([prefix + name for name in experts if name.endswith(kind)])
        for one in every:
            if isinstance(one, DeclaredLinear):
                self._linear(prefix + one.name, one)
            else:
                self._vector(prefix + one.name, math.prod(one.shape))

    def _expert(self, name: str) -> None:
        if self._tensors[f"{name}.weight"].is_permuted:
            self.problems.append(
                f"{name}.weight is in encoding permuted, and experts run in encoding ranked only: "
                "compile without --encoding permuted"
            )

    def _basis(self, experts: Sequence[str]) -> None:
        """Check that experts that multiply the same inputs are in one basis."""
        rotated = [name for name in experts if self._tensors[f"{name}.weight"].is_rotated]
        if rotated and len(rotated) < len(experts):
            other = next(name for name in experts if name not in set(rotated))
            self.problems.append(
                f"{rotated[0]}.weight is in a rotated basis and {other}.weight is not, expected "
                "one basis of all experts of a layer"
            )

    def _linear(self, name: str, declared: DeclaredLinear) -> None:
        c, rows, columns = self._config, declared.rows, declared.columns
        self._weight(f"{name}.weight", rows, columns)
        weight = self._tensors.get(f"{name}.weight")
        is_dense = weight is not None and weight.dtype is not None
        has_clip = f"{name}.weight_clip_val" in self._tensors  # ParetoQ's
        quantizes = declared.is_converted and c.is_self_quantizing(name)
        quantizes = quantizes or is_bitlinear(c, self._tensors, name)
        if is_dense and (quantizes or has_clip):
            self.problems.append(
                f"{name}.weight is dense, but the model quantizes it: compile it, too"
            )
        is_int8 = weight is not None and not is_dense and c.has_int8_activations(name)
        self._optional(f"{name}.bias", rows)
        if is_int8 and c.scales_biases and f"{name}.bias" in self._tensors:
            assert weight is not None
            if weight.has_groups:
                self.problems.append(
                    f"{name}.weight has scales for groups of columns, expected one for each row, "
                    "by which its bias has to be multiplied"
                )
        norms = [f"{name}.{norm}.weight" for norm in ("rms_norm", "norm")]
        norm = next((n for n in norms if n in self._tensors), None)
        if norm is not None:
            self._vector(norm, columns)
        elif c.normalizes_inputs and declared.is_converted and c.has_int8_activations(name):
            self.problems.append(f"{norms[0]} is missing (use_rms_norm)")

    def _weight(self, name: str, rows: int, columns: int) -> None:
        if name not in self._tensors:
            self.problems.append(f"{name} is missing")
            return
        found = self._tensors[name]
        if found.shape != (rows, columns):
            self._contradiction(name, (rows, columns))
        elif found.dtype is not None and found.dtype not in FLOAT_DTYPES:
            self.problems.append(f"{name} is {found.dtype}, expected floats or ternary weights")

    def _optional(self, name: str, size: int) -> None:
        if name in self._tensors:
            self._vector(name, size)

    def _vector(self, name: str, size: int) -> None:
        if name not in self._tensors:
            self.problems.append(f"{name} is missing")
            return
        found = self._tensors[name]
        if found.dtype is None or math.prod(found.shape) != size:
            self._contradiction(name, (size,))
        elif found.dtype not in (*FLOAT_DTYPES, "F64"):
            self.problems.append(f"{name} is {found.dtype}, expected floats")

    def _contradiction(self, name: str, expected: tuple[int, ...]) -> None:
        found = list(self._tensors[name].shape)
        self.problems.append(f"{name} is {found}, expected {list(expected)}")
