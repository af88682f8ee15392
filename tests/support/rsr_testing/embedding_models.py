"""Small checkpoints of models that embed texts, with the files that sentence-transformers writes.

They are made as those of ``rsr_testing.models`` are: a function of the seed alone. In
``tests/parity`` sentence-transformers loads the same folders.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rsrc

from . import models
from .models import BYTE_LEVEL, Config, Family, Random, Tensor, Tokens, groups, masters

PROMPTS = {
    "query": "Instruct: Given a web search query, find passages that answer it\nQuery:",
    "document": "",
}
TEXTS = [
    "sort the rows of each block",
    "The weights of a trained network never change.",
    "größer 中文 🦊",
    "in the end",
    "it's 1, 2, 3 additions where others multiply",
    models.TEXT,
]


def _ends_with_eos() -> Tokens:
    """Return the tokenizer of `models.BYTE_LEVEL`, which puts EOS after a text and nothing before.

    So do the tokenizers of Qwen3-Embedding.
    """
    document = json.loads(json.dumps(BYTE_LEVEL.document))
    eos = BYTE_LEVEL.eos
    number = BYTE_LEVEL.ids["eos_token_id"]
    sequence: Config = {"Sequence": {"id": "A", "type_id": 0}}
    last: Config = {"SpecialToken": {"id": eos, "type_id": 0}}
    document["post_processor"] |= {
        "single": [sequence, last], "pair": [sequence, last, sequence, last],
        "special_tokens": {eos: {"id": eos, "ids": [number], "tokens": [eos]}},
    }  # fmt: skip
    return dataclasses.replace(BYTE_LEVEL, document=document)


@dataclass(frozen=True)
class EmbeddingFamily:
    """A kind of checkpoint.

    Attributes:
        family: the decoder; its tensors are stored without the prefix "model.".
        pooling: 1_Pooling/config.json.
        normalizes: whether modules.json has Normalize.
        prompts: those in config_sentence_transformers.json.
        is_bitnet: whether a norm in each linear layer makes it a BitLinear layer.
        most: max_seq_length in sentence_bert_config.json.
    """

    family: Family
    pooling: Config
    normalizes: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    is_bitnet: bool = False
    most: int = 250

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint by name."""
        made, random = {}, Random(self.family.seed + 100)
        for name, tensor in self.family.tensors().items():
            own = name.removeprefix("model.")
            made[own] = tensor
            if self.is_bitnet and own.endswith("_proj.weight"):
                norm = 1 + 0.2 * random.bell(tensor.values.shape[1])
                made[own.replace(".weight", ".norm.weight")] = Tensor.of(norm, self.family.dtype)
        return made

    def files(self) -> dict[str, Any]:
        """Return what sentence-transformers adds to a checkpoint, as JSON by path."""
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.normalizes else [])]
        return {
            "modules.json": [
                {
                    "idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "",
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, kind in enumerate(kinds)
            ],
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.family.config["hidden_size"], **self.pooling,
            },
            "config_sentence_transformers.json": {
                "prompts": self.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"
            },
            "sentence_bert_config.json": {"max_seq_length": self.most, "do_lower_case": False},
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the model directory."""
        self.family.save(folder, self.tensors())
        (folder / "generation_config.json").unlink()
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**settings, "pad_token": self.family.tokens.eos}))
        for name, content in self.files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content))

    def build(self, folder: Path) -> Path:
        """Write the model directory to `folder`/model; return the .rsr file compiled from it."""
        self.save(folder / "model")
        output = folder / "model.rsr"
        rsrc.compile(folder / "model", output)
        return output


_FLAGS = {
    "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False, "pooling_mode_lasttoken": True,
    "include_prompt": True,
}  # fmt: skip
_QWEN3: Config = {
    **models.FAMILIES["bonsai"].config, "architectures": ["Qwen3Model"], "torch_dtype": "bfloat16",
}  # fmt: skip

_GEMMA3: Config = {
    **models.GEMMA3, "architectures": ["Gemma3TextModel"], "torch_dtype": "float32",
}  # fmt: skip

EMBEDDING_FAMILIES: dict[str, EmbeddingFamily] = {
    "qwen3-embedding": EmbeddingFamily(
        Family(
            "Qwen3-Embedding, quantized as Ternary-Bonsai",
            _QWEN3, groups(128), "F16", _ends_with_eos(),
        ),
        _FLAGS,
        prompts=PROMPTS,
    ),
    "qwen3-mean": EmbeddingFamily(
        Family("a Qwen3 that pools by two modes", _QWEN3, groups(128), "F16", _ends_with_eos()),
        {"pooling_mode": ["mean", "max"], "include_prompt": False},
        normalizes=False,
        prompts=PROMPTS,
    ),
    "bitnet-embedding-0.6b": EmbeddingFamily(
        Family(
            "microsoft/bitnet-embedding-0.6b",
            {
                **_QWEN3, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 100,
                "head_dim": 24,
            },
            masters("BF16"), "BF16", _ends_with_eos(), seed=2,
        ),
        _FLAGS,
        is_bitnet=True,
        prompts=PROMPTS,
    ),
    "gemma3": EmbeddingFamily(
        Family(
            "a Gemma 3 that was quantized by groups, in transformers 4's spelling",
            _GEMMA3, groups(32), "F32", BYTE_LEVEL,
        ),
        {"pooling_mode": "weightedmean"},
    ),
    "bitnet-embedding-270m": EmbeddingFamily(
        Family(
            "microsoft/bitnet-embedding-270m",
            {
                **_GEMMA3, "num_hidden_layers": 1, "layer_types": ["sliding_attention"],
                "torch_dtype": "bfloat16",
            },
            masters("BF16"), "BF16", BYTE_LEVEL, seed=2,
        ),
        _FLAGS,
        is_bitnet=True,
    ),
}  # fmt: skip
