"""GGUF files of qwen3_5: what the converter changed is changed back, in every block type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rsr_runtime
import rsrc
from rsr_testing import models, qwen35
from rsr_testing.gguf_files import GgufKit
from rsr_testing.rotation import PREFIX
from rsrc import SourceError
from rsrc.inspection.compare import compare
from rsrc.source.gguf.open import open_gguf

Array = npt.NDArray[Any]
Block = Callable[[Array], qwen35.Stored]

HYBRID, ROTATED = "qwen3.5", "bonsai-2-hybrid"
EXACT = 2.0**-23  # 1 + w and exp(w) round


class Model:
    """A checkpoint of a family, and a GGUF file of it."""

    def __init__(self, name: str, folder: Path, block: Block) -> None:
        self.family = models.FAMILIES[name]
        self.tensors = self.family.tensors()
        floats = {k: t.values.astype(np.float32) for k, t in self.tensors.items()}
        self.declared = self.family.declaration(self.tensors) if self.family.rotated else {}
        rotated = self.declared.get(PREFIX + "weight_names", [])
        self.stored: dict[str, qwen35.Stored] = {}
        for key, w in qwen35.converted(floats, self.family.settings, rotated).items():
            is_float = w.ndim == 1 or key.split(".")[-2] in ("ssm_alpha", "ssm_beta", "ssm_conv1d")
            self.stored[key] = qwen35.plain(w) if is_float else block(w)
        self.metadata = qwen35.metadata(self.family.settings)
        for key, value in self.declared.items():
            is_names = key.endswith("weight_names")
            self.metadata[key] = [*map(qwen35.gguf_name, value)] if is_names else value
        self.folder = folder
        folder.mkdir()
        for file, text in self.family.tokens.files().items():
            (folder / file).write_text(text, encoding="utf-8")

    def save(
        self,
        metadata: Mapping[str, Any] | None = None,
        stored: Mapping[str, qwen35.Stored] | None = None,
    ) -> Path:
        all_metadata = {**self.metadata, **(metadata or {})}
        kept = {key: _signed(value) for key, value in all_metadata.items() if value is not None}
        return GgufKit().save(self.folder / "m.gguf", kept, {**self.stored, **(stored or {})})


def _signed(value: Any) -> Any:
    """Return signs as an array of int8, as in published files."""
    if isinstance(value, list) and -1 in value:
        data = np.array(value, np.int8).tobytes()
        return (
            (9).to_bytes(4, "little")
            + (1).to_bytes(4, "little")
            + len(data).to_bytes(8, "little")
            + data
        )
    return value


@pytest.mark.parametrize(
    ("name", "block"),
    [
        (HYBRID, qwen35.plain),
        (HYBRID, qwen35.q2_0),
        (HYBRID, qwen35.pq2_0),
        (ROTATED, qwen35.pq2_0),
        (ROTATED, qwen35.ptq1_0),
    ],
)
def test_it_compiles_to_the_model_of_its_safetensors(
    name: str, block: Block, tmp_path: Path
) -> None:
    made = Model(name, tmp_path / "gguf", block)
    made.save()
    rsrc.compile(tmp_path / "gguf", tmp_path / "gguf.rsr")
    assert compare(tmp_path / "gguf.rsr", tmp_path / "gguf") == len(made.tensors)
    made.family.save(tmp_path / "hf")
    rsrc.compile(tmp_path / "hf", tmp_path / "hf.rsr")
    found, expected = (rsr_runtime.load(tmp_path / f"{k}.rsr") for k in ("gguf", "hf"))
    assert set(found) == set(expected)
    for key in expected:
        own, other = found[key], expected[key]
        if isinstance(other, rsr_runtime.Matrix):
            assert isinstance(own, rsr_runtime.Matrix)
            np.testing.assert_array_equal(own.to_dense(), other.to_dense())
            assert (own.rotation is None) == (other.rotation is None)
            if own.rotation is not None and other.rotation is not None:
                assert own.rotation.block == other.rotation.block
                np.testing.assert_array_equal(own.rotation.signs, other.rotation.signs)
        else:
            assert not isinstance(own, rsr_runtime.Matrix)
            assert own.shape == other.shape
            np.testing.assert_allclose(own.astype(float), other.astype(float), EXACT, 2 * EXACT)


def test_its_settings(tmp_path: Path) -> None:
    made = Model(HYBRID, tmp_path / "gguf", qwen35.pq2_0)
    config, settings = open_gguf(made.save()).config, made.family.settings
    rope = settings["rope_parameters"]
    same = [key for key in settings if key.startswith(("linear_", "num_", "layer_", "hidden_"))]
    assert {key: config[key] for key in same} == {key: settings[key] for key in same}
    assert config["rope_theta"] == rope["rope_theta"]
    assert config["partial_rotary_factor"] == rope["partial_rotary_factor"]
    assert "gguf_metadata" not in config
    kinds = [False, True, False, True]
    flags = {"qwen35.attention.recurrent_layers": kinds, "qwen35.full_attention_interval": None}
    config = open_gguf(made.save(flags)).config
    assert config["layer_types"] == [("full_attention", "linear_attention")[k] for k in kinds]


@pytest.mark.parametrize("block", [qwen35.plain, qwen35.q2_0, qwen35.pq2_0])
def test_columns_of_whole_blocks_move_as_they_are(block: Block, tmp_path: Path) -> None:
    """Heads of 128 columns need no dequantization."""
    made = Model(HYBRID, tmp_path / "gguf", qwen35.plain)
    config = made.family.settings | {
        "linear_num_value_heads": 6, "linear_value_head_dim": 128, "num_hidden_layers": 1,
    }  # fmt: skip
    name = "model.layers.0.linear_attn.out_proj.weight"
    w = np.random.default_rng(0).integers(-1, 2, (5, 768)).astype(np.float32) / 8
    stored = {k: block(v) for k, v in qwen35.converted({name: w}, config).items()}
    made.stored = {}
    t = open_gguf(made.save(qwen35.metadata(config), stored)).tensors[name]
    assert (t.dtype == "F32") == (block is qwen35.plain)
    found = np.frombuffer(t.dense.read(), "<f4").reshape(5, 768)
    np.testing.assert_array_equal(found, w)
    assert b"".join(map(bytes, t.pieces(99))) == t.read().tobytes()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"qwen35.ssm.group_count": 3}, "3 key heads, 4 value heads and 128 features"),
        ({"qwen35.ssm.inner_size": 126}, "4 value heads and 126 features"),
        ({"qwen35.ssm.inner_size": 256}, r"'blk\.0\.attn_qkv\.weight' is .*need 384 rows"),
        ({"qwen35.ssm.state_size": None}, "state_size is missing or not a positive integer"),
        (
            {"qwen35.ssm.time_step_rank": 1 << 31, "qwen35.ssm.inner_size": 1 << 31},
            "time_step_rank is 2147483648, expected at most 65536",
        ),
        ({"qwen35.ssm.conv_kernel": 0}, "conv_kernel is missing or not a positive integer"),
        ({"qwen35.full_attention_interval": 0}, "full_attention_interval is not a positive"),
        ({"qwen35.attention.recurrent_layers": [1]}, "is not an array of booleans"),
        ({"qwen35.attention.recurrent_layers": [True]}, "has 1 values for 4 layers"),
    ],
)
def test_metadata_that_contradict(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    made = Model(HYBRID, tmp_path / "gguf", qwen35.pq2_0)
    with pytest.raises(SourceError, match=match):
        open_gguf(made.save(changes))


def test_a_rotated_projection_whose_heads_are_tiled(tmp_path: Path) -> None:
    made = Model(ROTATED, tmp_path / "gguf", qwen35.pq2_0)
    with pytest.raises(SourceError, match="gdn_v_grouped is not true"):
        open_gguf(made.save({PREFIX + "gdn_v_grouped": False}))
