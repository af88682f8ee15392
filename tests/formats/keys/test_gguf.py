"""Keys of GGUF metadata: every key that the gguf package knows has a meaning, or no place here."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import pytest

from rsr_formats.keys import HARMLESS, UNSUPPORTED, USED, Key
from rsr_formats.keys.gguf import ARCHITECTURE, GENERAL, TOKENIZER, of_key

# Kinds of models that are not Llama-like decoders: a file with such a key is not understood.
OTHER_MODELS = (
    "llama.altup.", "llama.attention.indexer.", "llama.ssm.dt_b_c_rms", "llama.kda.", "llama.wkv.",
    "llama.posnet.", "llama.convnext.", "llama.classifier.", "llama.shortconv.",
    "llama.dense_", "adapter.", "imatrix.", "clip.", "diffusion.", "xielu.",
)  # fmt: skip


def names(group: type) -> Iterator[str]:
    for name, value in vars(group).items():
        if isinstance(value, type):
            yield from names(value)
        elif isinstance(value, str) and not name.startswith("_"):
            yield value.format(arch="llama", id=0, name="tool_use", dense="dense_2")


KEYS = sorted(names(gguf.constants.Keys))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_gguf_package_has_a_meaning(key: str) -> None:
    is_other = key.startswith(OTHER_MODELS)
    assert (of_key(key, "llama") is None) == is_other


def test_the_gguf_package_has_keys() -> None:
    assert len(KEYS) > 200


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("general.architecture", USED),
        ("general.license.link", HARMLESS),
        ("general.base_model.3.name", HARMLESS),
        ("tokenizer.ggml.eom_token_id", USED),
        ("tokenizer.chat_template", USED),
        ("tokenizer.chat_template.rag", HARMLESS),
        ("bitnet-b1.58.rope.scale_linear", USED),
        ("bitnet-b1.58.logit_scale", UNSUPPORTED),
    ],
)
def test_kinds(key: str, kind: str) -> None:
    found = of_key(key, "bitnet-b1.58")
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    "key", ["general.sampling", "general.new", "llama.rope.scaling.x", "qwen2.rope.freq_base", ""]
)
def test_other_keys_are_unknown(key: str) -> None:
    assert of_key(key, "llama") is None
    assert of_key(key, "") is None


@pytest.mark.parametrize(
    ("key", "without", "with_effect"),
    [
        ("attention.scale", 0.0, 0.0884),
        ("attention.sliding_window", 0, 4096),
        ("attention.causal", True, False),
        ("final_logit_softcapping", 0.0, 30.0),
        ("expert_count", 0, 8),
    ],
)
def test_neutral_values(key: str, without: object, with_effect: object) -> None:
    assert not ARCHITECTURE[key].has_effect(without)
    assert ARCHITECTURE[key].has_effect(with_effect)


def test_every_key_says_what_it_means() -> None:
    for table in (GENERAL, TOKENIZER, ARCHITECTURE):
        for name, key in table.items():
            assert isinstance(key, Key)
            assert key.note, name
            assert key.neutral == () or key.kind == UNSUPPORTED, name
