"""Small checkpoints of every family of language models that `rsr_runtime.llm` runs.

Each has the config.json, names, dtypes, packing and tokenizer files of its published models. The
weights are random and a function of the seed alone: raw bits of PCG64, which NumPy promises not to
change, and arithmetic that rounds alike everywhere. So no checkpoint is stored in the repository,
and none needs torch. In ``tests/parity`` transformers loads the same folders, which shows that they
are what they claim to be.

Scales are chosen so that every sublayer adds about as much to the residual stream as it holds, and
logits spread over several units. Random weights of the usual size would repeat the last token.

To write one to ``FOLDER/model`` and compile it to ``FOLDER/model.rsr``::

    PYTHONPATH=tests/support python -m rsr_testing.models bitnet-2b FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsrc
from rsr_formats.architectures import is_tied, of_config
from rsrc.export.decompile import decompile

from .rotation import declaration

FloatArray = npt.NDArray[np.float32]
Config = dict[str, Any]


# --- random numbers and tensors -----------------------------------------------------------------


_NUMPY = {"U8": np.uint8, "U32": np.uint32, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file, with the format's name of its dtype."""

    dtype: str
    values: npt.NDArray[Any]  # BF16 as uint16

    @classmethod
    def of(cls, values: npt.NDArray[Any], dtype: str) -> Tensor:
        """Round `values` to a float dtype, half to even; integers stay as they are."""
        if dtype == "BF16":
            return cls(dtype, bfloat16(values.astype(np.float32)))
        return cls(dtype, values.astype(_NUMPY[dtype]))


def bfloat16(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Return the bits of finite values rounded to BF16, half to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return rounded


class Random:
    """Random tensors that are the same on every machine and with every NumPy."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self, *shape: int) -> npt.NDArray[np.float64]:
        """Return uniform values from [0, 1)."""
        raw = self._bits.random_raw(math.prod(shape))
        values: npt.NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return values.reshape(shape)

    def bell(self, *shape: int) -> FloatArray:
        """Return sums of four uniform values, with mean 0 and variance 1."""
        u = self.uniform(4, *shape)
        values: FloatArray = ((u[0] + u[1] + u[2] + u[3] - 2.0) * math.sqrt(3.0)).astype(np.float32)
        return values

    def ternary(self, *shape: int) -> npt.NDArray[np.int8]:
        """Return -1, 0 and 1; 40 % are 0, as in trained models."""
        u = self.uniform(*shape)
        digits: npt.NDArray[np.int8] = (u >= 0.7).astype(np.int8) - (u < 0.3).astype(np.int8)
        return digits


def scale_of(columns: int) -> float:
    """Return the scale with which ternary rows of this length keep the size of their input."""
    return 1.0 / math.sqrt(0.6 * columns)


# --- how linear layers are stored ---------------------------------------------------------------

Layout = Callable[[Random, str, int, int], dict[str, Tensor]]  # (random, module, out, in)


def pack(digits: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack like `pack_weights` of transformers: row r of quarter i is in bits 2i of byte r."""
    quarters = (digits + 1).astype(np.uint8).reshape(4, len(digits) // 4, -1)
    packed: npt.NDArray[np.uint8] = (
        quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    )
    return packed


def packed(linear_class: str) -> Layout:
    """Four rows per byte and one scale, a factor for "autobitlinear", a divisor for "bitlinear"."""

    def store(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
        scale = scale_of(columns) * (1 + 0.2 * float(random.uniform(1)[0]))
        stored = scale if linear_class == "autobitlinear" else 1 / scale
        return {
            f"{module}.weight": Tensor("U8", pack(random.ternary(rows, columns))),
            f"{module}.weight_scale": Tensor.of(np.array([stored]), "BF16"),
        }

    return store


def masters(dtype: str) -> Layout:
    """Master weights, which the model quantizes itself."""

    def store(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
        values = random.bell(rows, columns) * np.float32(1.2 * scale_of(columns))
        return {f"{module}.weight": Tensor.of(values, dtype)}

    return store


def shards(count: int, dtype: str = "F16") -> Layout:
    """Floats -s, 0 and s with a scale for each of `count` blocks of rows."""

    def store(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
        scales = scale_of(columns) * (1 + 0.3 * random.uniform(count))
        values = random.ternary(rows, columns) * np.repeat(scales, rows // count)[:, None]
        return {f"{module}.weight": Tensor.of(values, dtype)}

    return store


def groups(width: int) -> Layout:
    """F16 values -s, 0 and s with a scale for each row and `width` columns."""

    def store(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
        scales = scale_of(columns) * (0.8 + 0.4 * random.uniform(rows, columns // width))
        values = random.ternary(rows, columns) * np.repeat(scales, width, axis=1)
        return {f"{module}.weight": Tensor.of(values, "F16")}

    return store


def sherry(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
    """BF16 values -s, 0 and s with a scale per row; one of every four neighbors is 0."""
    digits = np.where(random.uniform(rows, columns) < 0.5, -1.0, 1.0).reshape(rows, -1, 4)
    zero = (4 * random.uniform(rows, columns // 4)).astype(np.intp)
    np.put_along_axis(digits, zero[:, :, None], 0.0, axis=2)
    scales = scale_of(columns) * (0.8 + 0.4 * random.uniform(rows, 1))
    return {f"{module}.weight": Tensor.of(digits.reshape(rows, columns) * scales, "BF16")}


def clipped_masters(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
    """BF16 masters with a learned clip value per row, which ParetoQ makes ternary."""
    values = random.bell(rows, columns) * np.float32(scale_of(columns))
    clips = 1.5 * scale_of(columns) * (0.9 + 0.2 * random.uniform(rows, 1))
    return {
        f"{module}.weight": Tensor.of(values, "BF16"),
        f"{module}.weight_clip_val": Tensor.of(clips, "BF16"),
    }


def one_bit(width: int) -> Layout:
    """MLX's 1-bit codes, 32 in a word, with F16 scales and biases for `width` columns of a row."""

    def store(random: Random, module: str, rows: int, columns: int) -> dict[str, Tensor]:
        codes = (random.uniform(rows, columns) < 0.5).astype(np.uint8)
        scales = 2 / math.sqrt(columns) * (0.8 + 0.4 * random.uniform(rows, columns // width))
        halves = (scales / 2).astype(np.float16)
        words = np.packbits(codes, axis=1, bitorder="little").view("<u4")
        return {
            f"{module}.weight": Tensor("U32", words),
            f"{module}.scales": Tensor("F16", 2 * halves),
            f"{module}.biases": Tensor("F16", -halves),
        }

    return store


# --- tokenizers ---------------------------------------------------------------------------------

TEXT = (
    "The weights of a trained network never change. Sort the rows of each block of columns by "
    "their pattern, once, and the sums that a product needs are there for the taking; in the end "
    "it's 1, 2, 3 additions where others multiply."
)
_WORDS = ["th", "the", "in", "er", "an", "on", "re", "at", "or", "en", "es"]
_MORE_WORDS = ["it", "is", "ing", "and", "of", "to", "ed", "al", "ar", "ti", "ou"]
_BOS, _EOS, _TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"

HEADERS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TURNS_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {%- if loop.first %}{{ bos_token }}{% endif %}\n"
    "    {%- if message.role not in ['system', 'user', 'assistant'] %}\n"
    "        {{- raise_exception('no such role: ' ~ message.role) }}\n"
    "    {%- endif %}\n"
    "    {{- message.role | capitalize ~ ': ' ~ message.content ~ eos_token }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}\n"
)


def _bytes_as_letters() -> list[str]:
    """Return the letters that byte-level tokenizers use for the bytes 0 to 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256))
    return [chr(b) if b in printable else chr(256 + next(others)) for b in range(256)]


def _pieces(words: list[str]) -> list[str]:
    """Return all beginnings of the words of two or more letters, short ones first."""
    pieces = {word[:n] for word in words for n in range(2, len(word) + 1)}
    return sorted(pieces, key=lambda piece: (len(piece), piece))


def _merges(pieces: list[str]) -> list[list[str]]:
    """Return the merges that make the pieces: of a shorter piece and one letter."""
    return [[piece[:-1], piece[-1]] for piece in pieces]


def _tokenizer(model: Config, special: dict[str, int], bos: str, **parts: Any) -> Config:
    """Return a tokenizer.json that puts `bos` before a text."""
    sequence: Config = {"Sequence": {"id": "A", "type_id": 0}}
    first: Config = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number, "content": content, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
            for content, number in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, sequence],
            "pair": [first, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
        },
        **parts,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, **model,
        },
    }  # fmt: skip


def byte_level() -> Config:
    """Return a tokenizer.json like that of Llama 3: bytes as letters, special tokens last."""
    made = _pieces([word for w in _WORDS + _MORE_WORDS for word in (w, f"Ġ{w}")])[:43]
    vocab = {letter: i for i, letter in enumerate(_bytes_as_letters())}
    vocab |= {piece: 256 + i for i, piece in enumerate(made)}
    special = [_BOS, _EOS, "<|start_header_id|>", "<|end_header_id|>", _TURN]
    return _tokenizer(
        {"vocab": vocab, "merges": _merges(made)},
        {content: len(vocab) + i for i, content in enumerate(special)},
        _BOS,
        pre_tokenizer={
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
        },
        decoder={
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        },
    )  # fmt: skip


def sentencepiece() -> Config:
    """Return a tokenizer.json like that of Llama 2: a mark for blanks, bytes as fallback."""
    letters = ["\u2581", *(chr(c) for c in range(ord("a"), ord("z") + 1)), "T", "S", ".", ","]
    pieces = _pieces([word for w in _WORDS for word in (w, f"\u2581{w}")])
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    everything = [*special, *(f"<0x{b:02X}>" for b in range(256)), *letters, *pieces]
    return _tokenizer(
        {
            "vocab": {piece: i for i, piece in enumerate(everything)},
            "merges": _merges(pieces),
            "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
        },
        special,
        "<s>",
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """The files of a tokenizer, and its part of config.json."""

    document: Config
    bos: str
    eos: str
    template: str
    template_file: bool  # whether the template is a separate file, as since transformers 4.52
    unk: str | None = None

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        vocabulary: dict[str, int] = self.document["model"]["vocab"] | self._special
        return 1 + max(vocabulary.values())

    @property
    def _special(self) -> dict[str, int]:
        return {token["content"]: token["id"] for token in self.document["added_tokens"]}

    @property
    def ids(self) -> Config:
        """Its part of config.json."""
        return {
            "vocab_size": self.size,
            "bos_token_id": self._special[self.bos],
            "eos_token_id": self._special[self.eos],
        }

    def files(self) -> dict[str, str]:
        """Return the files by name."""
        settings: Config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos,
            "eos_token": self.eos,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "added_tokens_decoder": {
                str(token["id"]): {k: v for k, v in token.items() if k != "id"}
                for token in self.document["added_tokens"]
            },
        }
        if self.unk is not None:
            settings["unk_token"] = self.unk
        special: Config = {
            k: settings[k] for k in ("bos_token", "eos_token", "unk_token") if k in settings
        }
        files = {
            "tokenizer.json": _json(self.document),
            "special_tokens_map.json": _json(special),
        }
        if self.template_file:
            files["chat_template.jinja"] = self.template
        else:
            settings["chat_template"] = self.template
        return {**files, "tokenizer_config.json": _json(settings)}


BYTE_LEVEL = Tokens(byte_level(), _BOS, _EOS, HEADERS_TEMPLATE, template_file=False)
SENTENCEPIECE = Tokens(sentencepiece(), "<s>", "</s>", TURNS_TEMPLATE, True, "<unk>")


# --- families -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint: its config.json, how its linear layers are stored, and its tokenizer.

    Attributes:
        published: The published checkpoints that are like this.
        config: config.json without the tokenizer's part.
        linear: How the layers' matrices are stored.
        dtype: of embeddings, norms and heads.
        tokens: The tokenizer.
        sub_norms: Names of the norms before o_proj and down_proj, or {}.
        kept: How matrices that modules_to_not_convert names are stored, by module.
        everything: Whether embedding and head are stored as the layers are.
        options: of `rsrc.compile`.
        rotated: columns of a block of the rotated basis that all matrices are stored in; 0: none.
        gguf: Block type of a GGUF file that is made from the checkpoint and compiled instead.
        fused_experts: Whether the experts of a layer are in tensors of three dimensions, as
            transformers 5 saves them with save_original_format=False.
        seed: of the weights; not 1 where every text would depend on a rounding (parity/judge.py)
            already in the first layer, or a router's choice on that of a float16 cache.
    """

    published: str
    config: Config
    linear: Layout
    dtype: str
    tokens: Tokens
    sub_norms: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, Layout] = field(default_factory=dict)
    everything: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rotated: int = 0
    gguf: str | None = None
    fused_experts: bool = False
    seed: int = 1

    @property
    def settings(self) -> Config:
        """The whole config.json."""
        return {**self.config, **self.tokens.ids}

    @property
    def is_bitnet(self) -> bool:
        """Whether linear layers take int8 activations, so that their sums are exact."""
        return "quantization_config" in self.config or "input_bits" in self.config

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        share = int(self.config["hidden_size"]) // int(self.config["num_attention_heads"])
        width: int = self.config.get("head_dim", share)
        return width

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint by name."""
        random = Random(self.seed)
        known = of_config(self.settings)
        assert known is not None
        config, hidden = self.settings, int(self.config["hidden_size"])
        quantization: Config = config.get("quantization_config", {})
        tensors: dict[str, Tensor] = {}

        center = 0 if "linear_num_key_heads" in config else 1

        def norm(name: str, width: int, center: int = center) -> None:
            tensors[f"{name}.weight"] = Tensor.of(center + 0.2 * random.bell(width), self.dtype)

        def linear(name: str, rows: int, columns: int, bias: bool) -> None:
            layout = self.kept.get(name, self.linear)
            tensors.update(layout(random, name, rows, columns))
            if quantization.get("use_rms_norm"):
                norm(f"{name}.rms_norm", columns)
            if bias:
                tensors[f"{name}.bias"] = Tensor.of(0.3 * random.bell(rows), self.dtype)

        def vocabulary(name: str) -> None:
            rows = int(config["vocab_size"])
            if self.everything:
                tensors.update(self.linear(random, name, rows, hidden))
            else:  # logits of a deviation of 2
                values = random.bell(rows, hidden) * np.float32(2 / math.sqrt(hidden))
                tensors[f"{name}.weight"] = Tensor.of(values, self.dtype)

        vocabulary("model.embed_tokens")
        queries = int(config["num_attention_heads"]) * self.head_dim
        keys = int(config["num_key_value_heads"]) * self.head_dim
        wide = int(config["intermediate_size"])
        gates = 1 + bool(config.get("attn_output_gate"))

        def has_bias(module: str) -> bool:
            keys = (k for k, names in known.biases.items() for n in names if n.endswith(module))
            return any(key == "" or config.get(key) is True for key in keys)

        def delta_net(name: str) -> None:
            heads = int(config["linear_num_value_heads"])
            dv = int(config["linear_value_head_dim"])
            values = heads * dv
            keys = int(config["linear_num_key_heads"]) * int(config["linear_key_head_dim"])
            taps = int(config["linear_conv_kernel_dim"])
            linear(f"{name}.in_proj_qkv", 2 * keys + values, hidden, False)
            linear(f"{name}.in_proj_z", values, hidden, False)
            for gate in ("b", "a"):
                weight = random.bell(heads, hidden) / np.float32(math.sqrt(hidden))
                tensors[f"{name}.in_proj_{gate}.weight"] = Tensor.of(weight, self.dtype)
            convolution = random.bell(2 * keys + values, 1, taps)
            tensors[f"{name}.conv1d.weight"] = Tensor.of(convolution, self.dtype)
            tensors[f"{name}.dt_bias"] = Tensor.of(random.bell(heads), self.dtype)
            tensors[f"{name}.A_log"] = Tensor.of(random.bell(heads) - 1, self.dtype)
            norm(f"{name}.norm", dv, center=1)
            linear(f"{name}.out_proj", hidden, values, False)

        def attention(layer: str) -> None:
            if "self_attn.qkv_proj" in known.fused:
                linear(f"{layer}.self_attn.qkv_proj", queries + 2 * keys, hidden, False)
            else:
                linear(f"{layer}.self_attn.q_proj", gates * queries, hidden, has_bias("q_proj"))
                linear(f"{layer}.self_attn.k_proj", keys, hidden, has_bias("k_proj"))
                linear(f"{layer}.self_attn.v_proj", keys, hidden, has_bias("v_proj"))
            if known.qk_norms is not None:
                spans = known.qk_norms.spans_heads
                norm(f"{layer}.{known.qk_norms.queries}", queries if spans else self.head_dim)
                norm(f"{layer}.{known.qk_norms.keys}", keys if spans else self.head_dim)
            if self.sub_norms:
                norm(f"{layer}.{self.sub_norms['o_proj']}", queries)
            linear(f"{layer}.self_attn.o_proj", hidden, queries, has_bias("o_proj"))

        for i in range(int(config["num_hidden_layers"])):
            layer = f"model.layers.{i}"
            if known.norms.before_mixer is not None:
                norm(f"{layer}.{known.norms.before_mixer}", hidden)
            if "layer_types" in config and config["layer_types"][i] == "linear_attention":
                delta_net(f"{layer}.linear_attn")
            else:
                attention(layer)
            for name in (known.norms.after_mixer, known.norms.before_mlp):
                if name is not None:
                    norm(f"{layer}.{name}", hidden)
            if config.get("num_experts") and i not in config["mlp_only_layers"]:
                router = 3 * random.bell(config["num_experts"], hidden) / math.sqrt(hidden)
                tensors[f"{layer}.mlp.gate.weight"] = Tensor.of(router, self.dtype)
                for e in range(config["num_experts"]):
                    for name, rows, columns in (
                        ("gate_proj", config["moe_intermediate_size"], hidden),
                        ("up_proj", config["moe_intermediate_size"], hidden),
                        ("down_proj", hidden, config["moe_intermediate_size"]),
                    ):
                        linear(f"{layer}.mlp.experts.{e}.{name}", rows, columns, False)
                continue
            if "mlp.gate_up_proj" in known.fused:
                linear(f"{layer}.mlp.gate_up_proj", 2 * wide, hidden, False)
            else:
                linear(f"{layer}.mlp.gate_proj", wide, hidden, has_bias("gate_proj"))
                linear(f"{layer}.mlp.up_proj", wide, hidden, has_bias("up_proj"))
            if self.sub_norms:
                norm(f"{layer}.{self.sub_norms['down_proj']}", wide)
            linear(f"{layer}.mlp.down_proj", hidden, wide, has_bias("down_proj"))
            if known.norms.after_mlp is not None:
                norm(f"{layer}.{known.norms.after_mlp}", hidden)
        norm("model.norm", hidden)
        if not is_tied(config):
            vocabulary("lm_head")
        return fused(tensors) if self.fused_experts else tensors

    def save(self, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the model directory, with other tensors if some are given."""
        folder.mkdir(parents=True, exist_ok=True)
        generation = {"bos_token_id", "eos_token_id"}
        files = {
            "config.json": _json(self.settings),
            "generation_config.json": _json({k: self.settings[k] for k in sorted(generation)}),
            **self.tokens.files(),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        made = self.tensors() if tensors is None else tensors
        (folder / "model.safetensors").write_bytes(safetensors(made))
        if self.rotated:
            (folder / "hadamard.json").write_text(_json(self.declaration(made)), encoding="utf-8")

    def declaration(self, tensors: Mapping[str, Tensor]) -> Config:
        """Return a hadamard.json for all matrices."""
        widths = {n: t.values.shape[1] for n, t in tensors.items() if t.values.ndim == 2}
        embedding = "model.embed_tokens.weight"
        floats = ("in_proj_a.weight", "in_proj_b.weight")
        weights = [name for name in widths if name != embedding and not name.endswith(floats)]
        distinct = list(dict.fromkeys(widths.values()))
        return declaration(weights, [embedding], distinct, self.rotated, self.seed)

    def build(self, folder: Path) -> Path:
        """Write the model directory to `folder`/model; return the .rsr file compiled from it."""
        self.save(folder / "model")
        output = folder / "model.rsr"
        rsrc.compile(folder / "model", output, **self.options)
        if self.gguf is not None:
            path = folder / "model.gguf"
            decompile(output, path, to="gguf", type=self.gguf)
            rsrc.compile(path, output, force=True, **self.options)
        return output


def fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with those of the experts of each layer in two of three dimensions."""
    result: dict[str, Tensor] = {}
    experts: dict[str, list[list[Tensor]]] = {}  # by name: of each expert, its matrices
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.([0-9]+)\.(gate|up|down)_proj\.weight", name)
        if match is None:
            result[name] = tensor
            continue
        whole = experts.setdefault(
            f"{match[1]}.{'down' if match[3] == 'down' else 'gate_up'}_proj", []
        )
        if match[3] != "up":
            whole.append([])
        whole[-1].append(tensor)
    for name, parts in experts.items():
        values = np.stack([np.concatenate([t.values for t in expert]) for expert in parts])
        result[name] = Tensor(parts[0][0].dtype, values)
    return result


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a .safetensors file."""
    header: Config = {"__metadata__": {"format": "pt"}}
    pieces: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        data = tensor.values.astype(tensor.values.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.values.shape,
            "data_offsets": [end, end + len(data)],
        }
        pieces.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _json(document: Config) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _bitnet_config(linear_class: str, mode: str = "offline") -> Config:
    return {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": mode,
        "modules_to_not_convert": None,
    }


_BITNET: Config = {
    "architectures": ["BitNetForCausalLM"],
    "model_type": "bitnet",
    "hidden_act": "relu2",
    "hidden_size": 64,
    "intermediate_size": 132,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "quantization_config": _bitnet_config("autobitlinear"),
}
_LLAMA: Config = {
    **_BITNET,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    # as HF1BitLLM's say: linear_class and quantization_mode are left to their defaults
    "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": None},
}
_FALCON3: Config = {
    **_LLAMA,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 48,  # and not hidden_size / num_attention_heads
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000042,
    "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]},
}
_PLAIN = {k: v for k, v in _LLAMA.items() if k != "quantization_config"}
_QWEN3: Config = {
    **_PLAIN,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
_QWEN3_MOE: Config = {
    **{k: v for k, v in _QWEN3.items() if k != "max_window_layers"},
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_hidden_layers": 3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "tie_word_embeddings": False,
}
_QWEN35: Config = {
    **_PLAIN,
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "layer_types": [*["linear_attention"] * 3, "full_attention"],
    "max_position_embeddings": 1024,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "attn_output_gate": True,
    "mamba_ssm_dtype": "float32",
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
        "mrope_section": [3, 3, 2], "mrope_interleaved": True,
    },
    "torch_dtype": "float16",
}  # fmt: skip
del _QWEN35["rope_theta"], _QWEN35["rope_scaling"]
LLAMA3_ROPE: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN_ROPE: Config = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_WINDOWS: Config = {"use_sliding_window": True, "sliding_window": 24}
_PHI3: Config = {
    **{k: v for k, v in _PLAIN.items() if k != "mlp_bias"},
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 70,
    "pad_token_id": 0,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1 + i / 8 for i in range(6)],
        "long_factor": [2 + i for i in range(6)],
    },
    "sliding_window": 48,
}
_SMOLLM3: Config = {
    **_PLAIN,
    "architectures": ["SmolLM3ForCausalLM"],
    "model_type": "smollm3",
    "rope_theta": 2000000.0,
    "layer_types": ["full_attention"] * 2,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 0],
    "pad_token_id": 0,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "tie_word_embeddings": True,
}
_OLMO2: Config = {
    **{k: v for k, v in _PLAIN.items() if k != "mlp_bias"},
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
}
_MINICPM: Config = {
    **_PLAIN,
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "rope_theta": 10000.0,
    # BitCPM4 states longrope for its own context, in which the short factors apply.
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1 + i / 16 for i in range(8)],
        "long_factor": [2 + i / 4 for i in range(8)],
        "original_max_position_embeddings": 256,
    },
    "scale_emb": 3,
    "scale_depth": 2.8,
    "dim_model_base": 32,
    "tie_word_embeddings": True,
}
_HUNYUAN: Config = {
    **_PLAIN,
    "architectures": ["HunYuanDenseV1ForCausalLM"],
    "model_type": "hunyuan_v1_dense",
    "head_dim": 16,
    "attention_head_dim": 16,
    "norm_type": "rms",
    "rope_theta": 10000.0,
    "rope_scaling": {
        "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "type": "dynamic",
    },
    "use_cla": False,
    "use_qk_norm": True,
    "tie_word_embeddings": True,
}  # fmt: skip
_MOBILE: Config = {
    **_PLAIN,
    "architectures": ["MobileLLMForCausalLM"],
    "model_type": "mobilellm",
    "rope_theta": 10000.0,
    "layer_sharing": True,
    "share_embedding": True,
    "tie_word_embeddings": False,
    "w_bits": 0,
}
GEMMA3: Config = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 48,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 24,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 16,
    "sliding_window_pattern": 3,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
_SUB_NORMS = {"o_proj": "self_attn.attn_sub_norm", "down_proj": "mlp.ffn_sub_norm"}


def _llama(published: str, **changes: Any) -> Family:
    """Return a Llama with bitlinear layers; `config` is merged into the usual one."""
    settings: dict[str, Any] = {
        "linear": packed("bitlinear"), "dtype": "BF16", "tokens": BYTE_LEVEL, **changes,
    }  # fmt: skip
    settings["config"] = {**_LLAMA, **changes.get("config", {})}
    return Family(published=published, **settings)


FAMILIES: dict[str, Family] = {
    "bitnet-2b": Family(
        "microsoft/bitnet-b1.58-2B-4T",
        _BITNET, packed("autobitlinear"), "BF16", BYTE_LEVEL, _SUB_NORMS,
    ),
    "bitnet-2b-online": Family(
        "microsoft/bitnet-b1.58-2B-4T-bf16",
        {**_BITNET, "quantization_config": _bitnet_config("autobitlinear", "online")},
        masters("BF16"), "BF16", BYTE_LEVEL, _SUB_NORMS,
    ),
    "1bitllm": Family(
        "1bitLLM/bitnet_b1_58 large, xl, 3B",
        {
            **_PLAIN, "architectures": ["BitnetForCausalLM"], "weight_bits": 1, "input_bits": 8,
            "hidden_size": 60, "intermediate_size": 148,
            "num_attention_heads": 3, "num_key_value_heads": 3,  # of 20
            "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float16",
        },
        masters("F32"), "F32", SENTENCEPIECE,
        {"o_proj": "self_attn.inner_attn_ln", "down_proj": "mlp.ffn_layernorm"},
    ),
    "llama3-1.58": _llama("HF1BitLLM/Llama3-8B-1.58"),
    "llama3-rope": _llama(
        "Llama3-8B-1.58 with Llama 3.1's frequencies", config={"rope_scaling": LLAMA3_ROPE}
    ),
    "linear-rope": _llama(
        "Llama3-8B-1.58 with linear position interpolation",
        config={"rope_scaling": {"type": "linear", "factor": 4.0}},  # as it was spelled first
    ),
    "yarn-rope": _llama("Llama3-8B-1.58 with YaRN", config={"rope_scaling": _YARN_ROPE}),
    "falcon3": _llama("tiiuae/Falcon3-1.58bit", config=_FALCON3),
    "falcon-e": _llama(
        "tiiuae/Falcon-E", config={"tie_word_embeddings": True, "rms_norm_eps": 1e-06}
    ),
    "llama-bias": _llama(
        "Llama with biases, bitlinear",
        config={"attention_bias": True, "mlp_bias": True},
    ),
    "llama-auto-bias": _llama(
        "Llama with biases, autobitlinear, which scales them too",
        linear=packed("autobitlinear"),
        config={
            "attention_bias": True, "mlp_bias": True,
            "quantization_config": _bitnet_config("autobitlinear"),
        },
    ),
    "llama-kept": _llama(
        "Llama with projections that are not converted",
        config={
            "quantization_config": {
                "quant_method": "bitnet",
                "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.down_proj", "k_proj"],
            }
        },
        kept={
            "model.layers.0.mlp.down_proj": masters("BF16"),
            "model.layers.0.self_attn.k_proj": masters("BF16"),
            "model.layers.1.self_attn.k_proj": shards(1, "BF16"),  # ternary, of float32 inputs
        },
    ),
    "llama-norms": _llama(
        "Llama with a norm in every converted layer (use_rms_norm)",
        config={
            "num_hidden_layers": 1,
            "quantization_config": {**_bitnet_config("bitlinear"), "use_rms_norm": True},
        },
        seed=2,
    ),
    "trilm": Family(
        "SpectraSuite/TriLM Unpacked",
        {**_PLAIN, "num_key_value_heads": 4, "rope_theta": 10000.0, "torch_dtype": "float16"},
        shards(2), "F16", SENTENCEPIECE,
    ),
    "bonsai": Family(
        "prism-ml/Ternary-Bonsai 1.7B, 4B",
        _QWEN3, groups(128), "F16", BYTE_LEVEL, everything=True,
    ),
    "bonsai-untied": Family(
        "prism-ml/Ternary-Bonsai-8B",
        {**_QWEN3, "tie_word_embeddings": False},
        groups(128), "F16", BYTE_LEVEL, everything=True,
    ),
    "bonsai-2": Family(
        "weights in a rotated basis, as in prism-ml/Ternary-Bonsai-2, hadamard.json",
        {**_QWEN3, "intermediate_size": 384, "tie_word_embeddings": False},
        groups(128), "F16", BYTE_LEVEL, everything=True, rotated=128,
    ),
    "qwen3-moe": Family(
        "deepgrove/maple-preview and other Qwen3Moe: one tensor for each matrix of an expert",
        _QWEN3_MOE, groups(128), "F16", BYTE_LEVEL, seed=2,
    ),
    "qwen3-moe-fused": Family(
        "Qwen3Moe with one tensor for the experts of a layer, weights of the chosen not normalized",
        {**_QWEN3_MOE, "norm_topk_prob": False},
        shards(1), "BF16", BYTE_LEVEL, fused_experts=True,
    ),
    "qwen3-moe-rotated": Family(
        "Qwen3Moe with router, experts and all other matrices in a rotated basis",
        _QWEN3_MOE, groups(128), "F16", BYTE_LEVEL, rotated=64, seed=2,
    ),
    "gguf-qwen3moe": Family(
        "llama.cpp, architecture qwen3moe, TQ2_0",
        {
            **_QWEN3_MOE, "hidden_size": 256, "num_hidden_layers": 2, "mlp_only_layers": [],
            "intermediate_size": 512, "moe_intermediate_size": 256, "num_experts": 4,
        },
        shards(1), "F16", BYTE_LEVEL, gguf="TQ2_0",
    ),
    "bonsai-windows": Family(
        "Qwen3 with windows from layer max_window_layers on",
        {**_QWEN3, **_WINDOWS, "max_window_layers": 1},
        groups(128), "F16", BYTE_LEVEL, everything=True,
    ),
    "qwen2-windows": Family(
        "Qwen2 with windows by layer_types",
        {
            **{k: v for k, v in _PLAIN.items() if k not in ("attention_bias", "mlp_bias")},
            **_WINDOWS, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "layer_types": ["sliding_attention", "full_attention"],
        },
        shards(1, "BF16"), "BF16", BYTE_LEVEL,
    ),
    "mistral": _llama(
        "Mistral 7B with windows, bitlinear",
        config={
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 24,
        },
    ),
    "phi3": Family(
        "Phi-3 and Phi-4-mini: fused projections, longrope of a share of a head, windows",
        _PHI3, shards(1, "BF16"), "BF16", BYTE_LEVEL,
    ),
    "smollm3": Family(
        "SmolLM3: a layer without rotation", _SMOLLM3, shards(1, "BF16"), "BF16", BYTE_LEVEL,
    ),
    "olmo2": Family(
        "OLMo 2: norms after the sublayers, and of all heads of queries and keys",
        _OLMO2, shards(1, "BF16"), "BF16", BYTE_LEVEL,
    ),
    "bonsai-1bit": Family(
        "prism-ml/Bonsai, MLX 1-bit: binary",
        {**_QWEN3, "quantization": {"group_size": 128, "bits": 1, "mode": "affine"}},
        one_bit(128), "F16", BYTE_LEVEL, everything=True,
    ),
    "minicpm": Family(
        "openbmb/BitCPM4 0.5B to 8B", _MINICPM, shards(1, "BF16"), "BF16", SENTENCEPIECE,
    ),
    "hunyuan": Family(
        "tencent/Hy-MT 1.8B, Sherry", _HUNYUAN, sherry, "BF16", BYTE_LEVEL,
    ),
    "mobilellm": Family(
        "facebook/MobileLLM-ParetoQ 1.58-bit, layers used twice",
        _MOBILE, clipped_masters, "BF16", SENTENCEPIECE,
    ),
    "gguf-minicpm": Family(
        "llama.cpp, minicpm; rows of q and k in its order",
        {
            **_MINICPM, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 16,
            "num_key_value_heads": 4, "num_hidden_layers": 1,
        },
        shards(1), "F16", BYTE_LEVEL, gguf="TQ2_0",
    ),
    "gguf-hunyuan": Family(
        "llama.cpp, hunyuan-dense",
        {
            **_HUNYUAN, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8,
            "head_dim": 32, "attention_head_dim": 32, "num_hidden_layers": 1,
        },
        shards(1), "F16", BYTE_LEVEL, gguf="TQ2_0",
    ),
    "gemma3": Family(
        "Gemma 3: four norms in a layer, windows with their own frequencies",
        GEMMA3, shards(1, "BF16"), "BF16", BYTE_LEVEL,
    ),
    "qwen3.5": Family(
        "prism-ml/Ternary-Bonsai 27B, a hybrid of gated delta nets and attention",
        _QWEN35, groups(128), "F16", BYTE_LEVEL, everything=True,
    ),
    "qwen3.5-bitnet": Family(
        "a hybrid with int8 activations, packed as BitNets are",
        {
            **_QWEN35,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 2,
            "torch_dtype": "bfloat16",
            "quantization_config": {
                **_bitnet_config("autobitlinear"),
                "modules_to_not_convert": ["lm_head", "in_proj_a", "in_proj_b"],
            },
        },
        packed("autobitlinear"), "BF16", BYTE_LEVEL, seed=2,
    ),
    "bonsai-2-hybrid": Family(
        "prism-ml/Ternary-Bonsai-2 27B: the hybrid in a rotated basis",
        {**_QWEN35, "tie_word_embeddings": False},
        groups(128), "F16", BYTE_LEVEL, everything=True, rotated=64,
    ),
    "gguf-tq2_0": Family(
        "llama.cpp, TQ2_0; rows of q and k in its order",
        {**_PLAIN, "hidden_size": 256, "intermediate_size": 512, "torch_dtype": "float16"},
        shards(1), "F16", BYTE_LEVEL, gguf="TQ2_0",
    ),
    "gguf-llama3-rope": Family(
        "llama.cpp, TQ2_0; Llama 3.1's frequencies as a tensor",
        {
            **_PLAIN, "hidden_size": 256, "intermediate_size": 512, "torch_dtype": "float16",
            "rope_scaling": LLAMA3_ROPE,
        },
        shards(1), "F16", BYTE_LEVEL, gguf="TQ2_0",
    ),
    "gguf-bitnet": Family(
        "bitnet.cpp, architecture bitnet-b1.58 (rows too short for blocks: floats)",
        _BITNET, packed("autobitlinear"), "BF16", BYTE_LEVEL, _SUB_NORMS, gguf="TQ2_0",
    ),
    "bitnet-2b-permuted": Family(
        "microsoft/bitnet-b1.58-2B-4T, --encoding permuted",
        _BITNET, packed("autobitlinear"), "BF16", BYTE_LEVEL, _SUB_NORMS,
        options={"encoding": "permuted"},
    ),
    "falcon3-avx2": _llama(
        "tiiuae/Falcon3-1.58bit, --target avx2", config=_FALCON3, options={"target": "avx2"}
    ),
}  # fmt: skip


# Models that nobody publishes, for tests that compare the runtime with itself.
OTHERS: dict[str, Family] = {
    "qwen3.5-bitnet": Family(
        "a hybrid with int8 activations",
        {
            **_QWEN35, "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "quantization_config": {
                **_bitnet_config("autobitlinear"),
                "modules_to_not_convert": ["lm_head", "in_proj_a", "in_proj_b"],
            },
        },
        packed("autobitlinear"), "BF16", BYTE_LEVEL,
    ),
}  # fmt: skip


def main() -> None:
    """Write a checkpoint, and compile it."""
    parser = argparse.ArgumentParser(description="Write a small checkpoint of a family.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(FAMILIES[arguments.family].build(arguments.folder))


if __name__ == "__main__":
    main()
