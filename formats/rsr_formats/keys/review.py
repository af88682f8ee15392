"""Judge every setting and every tensor name of a model by the tables of keys.

All values are untrusted: they may be of any type and size, and there may be any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..architectures import (
    ARCHITECTURES,
    PROJECTIONS,
    Architecture,
    DecoderNames,
    draft_layers,
    of_config,
)
from ..experts import EXPERTS, ROUTER, experts_of
from ..experts import PROJECTIONS as OF_EXPERT
from ..text import listed, printable, quoted, shown_json
from .config import CONFIG, QUANTIZATION, ROPE
from .generation import GENERATION, of_model
from .gguf import ARCHITECTURE, GENERAL, TOKENIZER
from .key import USED, Key, Keys

_MAX_NAMED = 50  # sentences or names in each part of a review
_MAX_NAME = 120  # characters of a name

# Words that say that a setting changes arithmetic: they begin or end a part of its name.
_ARITHMETIC = re.compile(
    r"(?:^|[^a-z])(?:act(?:$|_|ivation)|alibi|alpha|attn|attention|beta(?:$|_)|bias|cap(?:$|_)|"
    r"causal|clamp|clip|conv(?:$|_|\d)|emb(?:$|_)|eps|expert|factor(?:$|_|s)|ffn|gamma|gate|geglu|"
    r"gelu|hadamard|head|hidden|interleave|kv|lambda|layer|linear|ln(?:$|_)|logit|loops?(?:$|_)|"
    r"lora|mamba|mask|mixer|mlp|moe|mscale|mult(?:$|_|iplier)|mup|nope|norm|offset|"
    r"pos(?:$|_|ition)|qk|quant|recurren|relu|resid|rms|rope|rotary|rotat|router|scal|sink|skip|"
    r"sliding|smooth|softcap|softmax|ssm|swiglu|theta|tie|window|yarn)"
    r"|(?:act|attention|attn|bias|cap|dim|multiplier|norm|rope|scale|scaling)(?:$|[^a-z])"
)
# Names of tokens, such as mask_token_id, and settings of training, whatever layer they name.
_NO_ARITHMETIC = re.compile(
    r"_token(?:_ids?)?$|p?drop(?:out)?(?:_prob|_rate|_p)?$|_loss(?:_coef|_weight)?$"
)
# Settings that are true or false. Of others, the tensors show what they should be.
_FLAGS = ("truncate", "use_rms_norm")

_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)
_GGUF_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)
_OUTSIDE = ("embed_tokens.weight", "norm.weight", "rotary_emb.inv_freq")
_MLX_MODULES = ("lm_head", "embed_tokens")
_HEAD = (".weight", ".weight_scale")  # no class has a bias there
# Objects within config.json. transformers takes rope_scaling where both of RoPE's are there.
_PARTS = (
    ("rope_scaling", ROPE),
    ("rope_parameters", ROPE),
    ("quantization_config", QUANTIZATION),
    ("quantization", QUANTIZATION),
)


@dataclass(frozen=True)
class Review:
    """What a model's settings and tensors ask for beyond what is implemented.

    Attributes:
        refused: sentences on what would change the model; it must not be run without.
        not_understood: names of keys and tensors that no table has.
        not_applied: sentences on settings of generation that are not applied.
    """

    refused: tuple[str, ...] = ()
    not_understood: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()


def review(
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    tensors: Iterable[str] = (),
    *,
    own_keys: bool = True,
) -> Review:
    """Judge a model.

    Args:
        config: the object in config.json. Nothing is judged if its architecture cannot be run.
        generation_config: the object in generation_config.json; None: there is no such file, so
            config.json's own settings of generation count.
        tensors: names of all tensors, without those that another tensor absorbs, such as scales.
        own_keys: whether `Architecture.own_keys` are understood.
    """
    architecture = of_config(config)
    if architecture is None or not architecture.is_runnable:
        return Review()
    found = _Findings()
    context = _Context(config, architecture, own_keys)
    # transformers chooses the class by model_type. How known classes differ, the tensors show.
    model_type = config.get("model_type")
    if model_type not in (None, *(a.model_type for a in ARCHITECTURES)):
        found.refused.append(
            f"config.json: model_type is {_value(model_type)}, but the model_type of "
            f"{architecture.name} is {architecture.model_type!r}"
        )
    for key, value in config.items():
        if key in CONFIG or key not in GENERATION:  # those are judged below
            found.judge(context, CONFIG, key, value, "config.json", "")
    for part, table in _PARTS:
        found.judge_part(context, table, config.get(part), f"{part}.")
    gguf = config.get("gguf_metadata")
    for key, value in (gguf if isinstance(gguf, dict) else {}).items():
        table, rest = _gguf_table(key)
        known = look_up(table, rest)
        if known is not None and known.kind == USED:
            found.refused.append(
                f"GGUF metadata: {_short(key)} is {_value(value)}, which cannot be used "
                f"({known.note})"
            )
        else:
            prefix = key[: len(key) - len(rest)]
            found.judge(context, table, rest, value, "GGUF metadata", prefix)
    source = "config.json" if generation_config is None else "generation_config.json"
    for key, value in of_model(config, generation_config).items():
        found.judge_generation(key, value, source)
    by_tensors = review_tensors(config, tensors)
    return Review(
        _bounded([*found.refused, *by_tensors.refused]),
        _bounded([*found.not_understood, *by_tensors.not_understood]),
        _bounded(found.not_applied),
    )


def review_tensors(config: Mapping[str, Any], tensors: Iterable[str]) -> Review:
    """Judge the names of a model's tensors alone; see `review`."""
    architecture = of_config(config)
    if architecture is None or not architecture.is_runnable:
        return Review()
    unknown = list(_unknown_tensors(config, architecture, tensors))
    return Review(
        _bounded([why for _, why in unknown if why is not None]),
        _bounded([f"tensor {_short(name)}" for name, _ in unknown]),
    )


def look_up(table: Keys, key: str) -> Key | None:
    """Return the entry of a key: its own, or the longest that ends with a dot and begins it."""
    if key in table:
        return table[key]
    parts = key.split(".")[:-1]
    for count in range(min(len(parts), 8), 0, -1):
        if (found := table.get(".".join(parts[:count]) + ".")) is not None:
            return found
    return None


def changes_arithmetic(key: str) -> bool:
    """Return whether the name of an unknown key suggests that it changes arithmetic."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key[:1000]).lower()
    return _NO_ARITHMETIC.search(words) is None and _ARITHMETIC.search(words) is not None


@dataclass(frozen=True)
class _Context:
    config: Mapping[str, Any]
    architecture: Architecture
    has_own_keys: bool

    def number(self, key: str, default: int) -> int:
        value = self.config.get(key)
        return value if type(value) is int else default

    def reads(self, table: Keys, key: str) -> bool:
        """Return whether the class reads a key that others do not."""
        a = self.architecture
        if table is ROPE:
            return key in a.rope_keys
        is_own = self.has_own_keys and key in a.own_keys
        return table is CONFIG and (is_own or any(factor.key == key for factor in a.factors))

    @property
    def positions(self) -> int:
        default = self.architecture.max_position_embeddings
        return self.number("max_position_embeddings", default)


@dataclass(frozen=True)
class _Unsupported:
    """Settings that ask for the same, and the place of the sentence on them among all."""

    place: int
    settings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Findings:
    refused: list[str] = field(default_factory=list)
    not_understood: list[str] = field(default_factory=list)
    not_applied: list[str] = field(default_factory=list)
    unsupported: dict[tuple[str, str], _Unsupported] = field(default_factory=dict)

    def judge_part(self, context: _Context, table: Keys, values: object, prefix: str) -> None:
        """Judge an object within config.json, and MLX's objects for single modules in it."""
        if not isinstance(values, dict):
            return
        is_mlx = table is QUANTIZATION and "group_size" in values
        by_kind = prefix == "rope_parameters." and context.reads(CONFIG, "rope_local_base_freq")
        for key, value in values.items():
            if by_kind and key in context.architecture.mixers and isinstance(value, dict):
                self.judge_part(context, table, value, f"{prefix}{key}.")
            elif by_kind:
                self.refused.append(
                    f"config.json: {_short(prefix + key)} is {_value(value)}, expected an object "
                    f"for each kind of layer: {quoted(list(context.architecture.mixers))}"
                )
            elif is_mlx and ("." in key or key in _MLX_MODULES) and isinstance(value, dict | bool):
                for name, setting in value.items() if isinstance(value, dict) else ():
                    inner = f"{prefix}{key}."
                    self.judge(context, table, name, setting, "config.json", inner, True)
            else:
                self.judge(context, table, key, value, "config.json", prefix, True)

    def judge(
        self,
        context: _Context,
        table: Keys,
        key: str,
        value: object,
        where: str,
        prefix: str,
        is_arithmetic: bool = False,
    ) -> None:
        """Judge a key of config.json, of a part of it, or of GGUF metadata."""
        if value is None:
            return
        known = look_up(table, key)
        name = _short(prefix + key)
        if known is None:
            self.name(f"{name} in {where}")
            if is_arithmetic or changes_arithmetic(prefix + key):
                self.refused.append(
                    f"{where}: {name} is {_value(value)}, which is not understood and may change "
                    "the arithmetic"
                )
        elif known.kind == USED and key in _FLAGS and type(value) is not bool:
            self.refused.append(f"{where}: {name} is {_value(value)}, expected true or false")
        elif context.reads(table, key):
            return
        elif known.has_effect(value):
            check = _CHECKS.get(key) if table is CONFIG else None
            if check is None or check(context, value):
                self.refuse(where, f"{name} is {_value(value)}", known.note)

    def refuse(self, where: str, setting: str, note: str) -> None:
        """Refuse a setting that is not supported; one sentence has all that ask for the same."""
        found = self.unsupported.get((where, note))
        if found is None:
            found = self.unsupported[where, note] = _Unsupported(len(self.refused))
            self.refused.append("")
        found.settings.append(setting)
        are = "is" if len(found.settings) == 1 else "are"
        settings = listed(found.settings, 5)
        self.refused[found.place] = f"{where}: {settings}, which {are} not supported ({note})"

    def judge_generation(self, key: str, value: object, source: str) -> None:
        """Judge a setting of generation."""
        known = look_up(GENERATION, key)
        if value is None:
            return
        if known is None:
            self.name(f"{_short(key)} in {source}")
        elif known.has_effect(value):
            self.not_applied.append(
                f"{source}: {_short(key)} is {_value(value)}, which is not applied ({known.note})"
            )

    def name(self, name: str) -> None:
        """Name something that is not understood."""
        self.not_understood.append(name)


def _gguf_table(key: str) -> tuple[Keys, str]:
    """Return the table of a key of GGUF metadata, and the key in it."""
    if key.startswith("tokenizer."):
        return TOKENIZER, key
    names = (name for a in ARCHITECTURES for name in a.gguf_names)
    prefix = next((f"{name}." for name in names if key.startswith(f"{name}.")), None)
    return (GENERAL, key) if prefix is None else (ARCHITECTURE, key.removeprefix(prefix))


# --- settings whose effect depends on others -----------------------------------------------------


def _has_window(context: _Context, value: object) -> bool:
    """Whether `sliding_window` is shorter than the context, and not turned off."""
    return not (_reaches(context, value) or _uses_windows(context) is False)


def _uses_window(context: _Context, value: object) -> bool:
    """Whether `use_sliding_window` limits a layer; `sliding_window` says by how much."""
    return not (value is True and _reaches(context, _window(context)))


def _uses_windows(context: _Context) -> object:
    default = context.architecture.own_keys.get("use_sliding_window")
    return context.config.get("use_sliding_window", default)


def _window(context: _Context) -> object:
    default = context.architecture.own_keys.get("sliding_window")
    return context.config.get("sliding_window", default)


def _reaches(context: _Context, window: object) -> bool:
    return type(window) is int and window >= context.positions


def _is_other_attention(context: _Context, value: object) -> bool:
    """Whether `layer_types` names kinds of layers that the class does not have.

    Where the class's own keys are read, so are the kinds (`rsr_runtime.llm.layer_settings`), and an
    unknown one is refused there.
    """
    if context.has_own_keys and not _are_of(value, context.architecture.mixers):
        return False
    known = tuple(context.architecture.mixers)
    if not context.reads(CONFIG, "sliding_window") and not _reaches(context, _window(context)):
        known = tuple(kind for kind in known if kind != "sliding_attention")
    return not _are_of(value, known)


def _are_of(kinds: object, known: Iterable[str]) -> bool:
    return isinstance(kinds, list) and all(kind in [*known] for kind in kinds)


def _adds_norms(context: _Context, value: object) -> bool:
    """Whether norms of queries and keys are announced for a class that has none."""
    return value is not True or context.architecture.qk_norms is None


def _has_no_mixers(context: _Context, value: object) -> bool:
    """Whether the class has only attention, so that an interval says nothing."""
    return context.architecture.full_attention_interval is None or type(value) is not int


def _has_other_gate(context: _Context, value: object) -> bool:
    """Whether an output gate is announced that the class lacks, or lacking that it has."""
    return value is not context.architecture.has_output_gate


def _shares_layers(context: _Context, value: object) -> bool:
    """Whether layers run twice in a class that does not know of it."""
    return value is not True or context.architecture.layer_runs == 1


def _is_other_head_dim(context: _Context, value: object) -> bool:
    return bool(value != context.config.get("head_dim", value))


_CHECKS: Mapping[str, Callable[[_Context, object], bool]] = {
    "sliding_window": _has_window,
    "use_sliding_window": _uses_window,
    "layer_types": _is_other_attention,
    "full_attention_interval": _has_no_mixers,
    "attn_output_gate": _has_other_gate,
    "use_qk_norm": _adds_norms,
    "qk_norm": _adds_norms,
    "qk_layernorm": _adds_norms,
    "layer_sharing": _shares_layers,
    "attention_head_dim": _is_other_head_dim,
}


# --- tensors --------------------------------------------------------------------------------------


def _unknown_tensors(
    config: Mapping[str, Any], architecture: Architecture, tensors: Iterable[str]
) -> Iterator[tuple[str, str | None]]:
    """Yield an example of each kind of unknown tensor, and the sentence that refuses it or None."""
    tensors = list(tensors)
    names = DecoderNames.find(tensors)
    layers = config.get("num_hidden_layers")
    known = _known_in_layers(config, architecture)
    drafts = draft_layers(config)
    seen = _kinds_of_experts() if architecture.has_experts else set()
    for name in tensors:
        own = name.removeprefix(names.prefix) if name.startswith(names.prefix) else ""
        match = _LAYER.fullmatch(own) or _GGUF_LAYER.fullmatch(name)
        if match is None:
            kind = re.sub(r"\d+", "0", name)
            if not _is_known_outside(config, name, own, names) and kind not in seen:
                seen.add(kind)
                # The rest belongs to other models in the file, such as one that reads images.
                is_own = own or name.startswith(names.head) or name.count(".") <= 1
                yield name, _outside(name) if is_own else None
            continue
        number, stem = int(match[1]), match[2]
        if type(layers) is int and number >= layers:
            if number >= layers + drafts and "beyond" not in seen:
                seen.add("beyond")
                yield (
                    name,
                    f"the file has layer {number}, and config.json says num_hidden_layers {layers}",
                )
        elif stem not in known and (kind := re.sub(r"\d+", "0", stem)) not in seen:
            seen.add(kind)
            yield name, _inside(name, stem, architecture)


def _inside(name: str, stem: str, architecture: Architecture) -> str:
    stem = _short(stem)
    for key, suffixes in (("attention_bias", (".bias",)), ("use_rms_norm", (".rms_norm.weight",))):
        module = next((stem.removesuffix(s) for s in suffixes if stem.endswith(s)), None)
        if module in PROJECTIONS:
            if key == "attention_bias":
                key = next((k for k, names in architecture.biases.items() if module in names), "")
            if not key:
                break
            return f"the layers have {stem}, but {key} is not true in config.json"
    return (
        f"the layers have {stem} (tensor {_short(name)}), which {architecture.name} does not have"
    )


def _outside(name: str) -> str | None:
    if not changes_arithmetic(name):
        return None
    return f"the file has {_short(name)}, which is not understood and may change the arithmetic"


def _known_in_layers(config: Mapping[str, Any], architecture: Architecture) -> set[str]:
    """Return the names within a layer of the tensors that are read or change nothing."""
    norms, projections = [*architecture.layer_norms], architecture.projections
    quantization = config.get("quantization_config")
    for module in projections:
        norms.append(f"{module}.norm")  # BitNet embedding models
        if isinstance(quantization, dict) and quantization.get("use_rms_norm") is True:
            norms.append(f"{module}.rms_norm")
    known = {f"{name}.weight" for name in (*norms, *projections)}
    known |= {*architecture.other_tensors}
    for key, modules in architecture.biases.items():
        if key == "" or config.get(key) is True:
            known |= {f"{module}.bias" for module in modules}
    experts = _expert_modules(config)
    if _is_mlx(config):
        known |= {f"{module}.biases" for module in (*projections, *experts)}
    if "w_bits" in config:  # ParetoQ's, which the scales of a ternary matrix imply
        known |= {
            f"{module}.{clip}" for module in projections for clip in ("weight_clip_val", "scale")
        }
    # Frequencies that old checkpoints keep; they follow from config.json.
    return known | {"self_attn.rotary_emb.inv_freq"}


def _expert_modules(config: Mapping[str, Any]) -> list[str]:
    """Return the modules of experts in a layer, none if the settings are invalid."""
    try:
        experts = experts_of(config)
    except ValueError:
        return []
    return [] if experts is None else list(experts.modules())


def _kinds_of_experts() -> set[str]:
    """Return the names of the tensors of experts in a layer, with numbers 0.

    If they are not as config.json says, its numbers are at fault, and other checks say so.
    """
    return {f"{ROUTER}.weight", *(f"{EXPERTS}.0.{name}.weight" for name in OF_EXPERT)}


def _is_mlx(config: Mapping[str, Any]) -> bool:
    """Return whether `.biases` are MLX's, which the scales imply; a ternary matrix has no others.

    They are absorbed into the matrix unless a zero among them has another sign.
    """
    parts = (config.get(part) for part, table in _PARTS if table is QUANTIZATION)
    return any(isinstance(part, dict) and "group_size" in part for part in parts)


def _is_known_outside(config: Mapping[str, Any], name: str, own: str, names: DecoderNames) -> bool:
    if name == "rope_freqs.weight" or own in _OUTSIDE:  # GGUF's divisors of rotary frequencies
        return True
    if name == f"{names.head}.biases" or own == "embed_tokens.biases":
        return _is_mlx(config)
    return name.startswith(names.head) and name.removeprefix(names.head) in _HEAD


# --- text -----------------------------------------------------------------------------------------


def _short(name: str) -> str:
    return printable(name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}...")


def _value(value: object) -> str:
    """Return a JSON value, short; of a list of strings, such as layer_types, those that differ."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return f"a list of {quoted(list(dict.fromkeys(value)), 3)}"
    return shown_json(value)


def _bounded(items: list[str]) -> tuple[str, ...]:
    items = list(dict.fromkeys(items))
    if len(items) <= _MAX_NAMED:
        return tuple(items)
    return (*items[:_MAX_NAMED], f"and {len(items) - _MAX_NAMED} more")
