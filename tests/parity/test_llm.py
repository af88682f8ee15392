"""Text generated from a `.rsr` file compared with transformers, live.

For each family of ``rsr_testing.models``, transformers loads the checkpoint and the runtime the
file compiled from it. ``rsr_testing.parity.compare`` prints the differences.
``tests/runtime/llm/test_golden.py`` compares the same models with recorded results of transformers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsrc
from rsr_runtime import llm
from rsr_testing import models
from rsr_testing.parity import compare as parity
from rsr_testing.parity import golden_llm, judge
from rsr_testing.parity.judge import torch_and_transformers
from rsr_testing.paths import EXAMPLES

torch_and_transformers()

FAMILIES = list(models.FAMILIES)


@pytest.fixture(scope="module", params=FAMILIES)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of both for a family; `compare` ensures that none depends on a rounding."""
    return parity.compare(request.param, tmp_path_factory.mktemp(request.param))


def test_logits(compared: Any) -> None:
    assert compared.golden["logits"].shape == (64, compared.family.settings["vocab_size"])
    assert compared.golden["largest"] > 1
    assert compared.difference(compared.logits) <= parity.TOLERANCE


def test_token_by_token(compared: Any) -> None:
    """Decoding from the cache gives the logits of a prompt, to the bit for a BitNet."""
    assert compared.difference(compared.stepwise) <= parity.TOLERANCE
    if compared.family.is_bitnet:
        np.testing.assert_array_equal(compared.stepwise, compared.logits)


def test_greedy_text(compared: Any) -> None:
    assert len(compared.continuation) == 64
    assert compared.is_greedy_equal


def test_float16_cache(compared: Any) -> None:
    is_bitnet = compared.family.is_bitnet
    most = parity.FLOAT16_DEVIATION if is_bitnet else parity.FLOAT16_DEVIATION_OF_FLOATS
    assert 0 < compared.deviation(compared.half) <= most


def test_perplexity(compared: Any) -> None:
    assert compared.perplexity_difference <= parity.PERPLEXITY_TOLERANCE


def test_golden_data_are_what_transformers_says(
    compared: Any, request: pytest.FixtureRequest
) -> None:
    """But for the last bits, in which transformers may differ between machines."""
    found = {**compared.golden, "logits": golden_llm.sample(compared.golden["logits"])}
    name = request.node.callspec.params["compared"]
    with np.load(golden_llm.GOLDEN_DIR / f"{name}.npz") as kept:
        assert set(kept) == set(found)
        for key in ("sha256", "text", "tokens", "prompt", "continuation"):
            assert np.array_equal(kept[key], found[key]), key
        largest = float(kept["largest"])
        assert np.abs(kept["logits"] - found["logits"]).max() <= 2e-5 * largest
        assert found["largest"] == pytest.approx(largest, rel=2e-5)
        assert found["perplexity"] == pytest.approx(float(kept["perplexity"]), rel=1e-4)


LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1 + i / 64 for i in range(64)],  # cut to half of the model's head_dim
    "long_factor": [2 + i / 4 for i in range(64)],
    "original_max_position_embeddings": 1200,
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "old names": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4}},
    "llama3": {"rope_scaling": {**models.LLAMA3_ROPE, "original_max_position_embeddings": 512}},
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256,
            "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25,
        }
    },
    "longrope, a short text": {"rope_scaling": LONGROPE},
    "longrope, a long text": {
        "rope_scaling": {**LONGROPE, "attention_factor": 1.125},
        "original_max_position_embeddings": 256,  # takes precedence
    },
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "transformers 5": {  # all in one map, and no rope_theta beside it
        "rope_theta": None,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 20000.0},
    },
}  # fmt: skip


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
@pytest.mark.parametrize("name", ["trilm", "bonsai"])
def test_long_texts(name: str, rope: dict[str, Any], tmp_path: Path) -> None:
    """More tokens than one pass takes, and than a chunk of attention has; every kind of RoPE.

    Families without int8 activations, where nothing depends on a rounding, whatever the text.
    """
    family = models.FAMILIES[name]
    config = {**family.config, "max_position_embeddings": 2048, **rope}
    if "short_factor" in (config.get("rope_scaling") or {}):
        lists = {k: v[: family.head_dim // 2] for k, v in LONGROPE.items() if isinstance(v, list)}
        config["rope_scaling"] = {**config["rope_scaling"], **lists}
    assert_same_of_a_long_text(name, config, tmp_path)


WINDOWS: dict[str, dict[str, Any]] = {
    "bonsai-windows": {"sliding_window": 300},
    "qwen2-windows": {"sliding_window": 128},  # a chunk of attention
    "phi3": {  # by the older name of longrope
        "sliding_window": 17,
        "rope_scaling": {
            **models.FAMILIES["phi3"].config["rope_scaling"],
            "type": "su",
            "original_max_position_embeddings": 70,
        },
    },
    "smollm3": {"use_sliding_window": True, "sliding_window": 600, "layer_types": None},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_long_texts(name: str, tmp_path: Path) -> None:
    """Windows shorter and longer than a pass and than a chunk of attention."""
    config = {**models.FAMILIES[name].config, "max_position_embeddings": 2048, **WINDOWS[name]}
    assert_same_of_a_long_text(name, config, tmp_path)


def assert_same_of_a_long_text(name: str, config: dict[str, Any], folder: Path) -> None:
    """Compare the logits of 1,100 tokens; settings of None are left out."""
    family = models.FAMILIES[name]
    family = dataclasses.replace(family, config={k: v for k, v in config.items() if v is not None})
    compiled = family.build(folder)
    random = models.Random(5).uniform(1100)
    tokens = (random * family.settings["vocab_size"]).astype(int).tolist()
    (wanted,) = judge.answer(judge.load(folder / "model", attn_implementation="eager"), [tokens])
    with llm.load(compiled, kv="float32") as model:
        found = model.logits(tokens)
    difference = np.abs(found - wanted.logits).max(axis=1)
    assert difference.max() <= parity.TOLERANCE * np.abs(wanted.logits).max()


CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the sum of -1 and 1?"}],
    [
        {"role": "system", "content": "Answer in one word. "},
        {"role": "user", "content": "  the weights\n\nnever change  "},
        {"role": "assistant", "content": "It's true: größer 中 <b>"},
        {"role": "user", "content": "in the end?"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one turn", "three turns"])
@pytest.mark.parametrize("name", ["bitnet-2b", "trilm", "gguf-tq2_0"])
def test_chat_template(name: str, messages: list[dict[str, str]], tmp_path: Path) -> None:
    """Templates in tokenizer_config.json, in a separate file, and in GGUF metadata."""
    with llm.load(models.FAMILIES[name].build(tmp_path)) as model, judge.quiet():
        import transformers

        auto: Any = transformers.AutoTokenizer
        tokenizer = auto.from_pretrained(tmp_path / "model")
        wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert model.chat_prompt(messages) == wanted
        assert wanted[0] == tokenizer.bos_token_id
        assert wanted.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["bitnet-2b", "trilm", "gguf-tq2_0"])
def test_tokens_and_text(name: str, tmp_path: Path) -> None:
    texts = [models.TEXT, "größer 中文 🦊\n\n\tindented  text", "the end</s> <|eot_id|>is in"]
    with llm.load(models.FAMILIES[name].build(tmp_path)) as model, judge.quiet():
        import transformers

        auto: Any = transformers.AutoTokenizer
        tokenizer = auto.from_pretrained(tmp_path / "model")
        for text in texts:
            assert model.tokenizer.encode(text) == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("name", ["bitnet-2b", "trilm"])
def test_generated_text(name: str, tmp_path: Path) -> None:
    """The text of a continuation, not only its tokens; leading blanks may differ."""
    greedy = llm.Sampling(temperature=0.0)
    with llm.load(models.FAMILIES[name].build(tmp_path)) as model, judge.quiet():
        import transformers

        auto: Any = transformers.AutoTokenizer
        tokenizer = auto.from_pretrained(tmp_path / "model")
        prompt = tokenizer(models.TEXT)["input_ids"][:12]
        found = model.generate(prompt, max_tokens=40, sampling=greedy)
        wanted = tokenizer.decode(found.tokens, skip_special_tokens=True)
        assert found.text.lstrip(" ") == wanted.lstrip(" ")


TRAINED = EXAMPLES / "tiny-lm"
# Twelfth Night, which it was not trained on.
PLAY = """\
DUKE.
If music be the food of love, play on,
Give me excess of it; that, surfeiting,
The appetite may sicken and so die.--
That strain again;--it had a dying fall;
O, it came o'er my ear like the sweet south,
That breathes upon a bank of violets,
Stealing and giving odour.--Enough; no more;
'Tis not so sweet now as it was before.
O spirit of love, how quick and fresh art thou!
That, notwithstanding thy capacity
Receiveth as the sea, nought enters there,
Of what validity and pitch soever,
But falls into abatement and low price
Even in a minute!
"""


# Of 150 prompts, those whose greedy continuations have the clearest best tokens.
DECIDED = ("OLIVIA.\nO, sir, I will", "CLOWN.\nApt, in good faith, very a", "SIR TOBY.\nFye that")


def test_the_trained_model(tmp_path: Path) -> None:
    """examples/tiny-lm: any text has ties (docs/parity.md), after which logits differ slightly.

    Logits before the first tie, perplexity and greedy text agree.
    """
    compiled = tmp_path / "tiny.rsr"
    rsrc.compile(TRAINED, compiled)
    judging = judge.load(TRAINED, attn_implementation="eager")
    with llm.load(compiled, kv="float32") as model:
        tokens = model.encode(PLAY)
        found, wanted = model.logits(tokens), judge.answer(judging, [tokens])[0].logits
        first = judge.answer(judging, [tokens[:length] for length in range(1, 65)])
        decided = sum(said.clearance >= judge.CLEARANCE for said in first)
        assert decided
        difference = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max()
        assert difference[:decided].max() <= parity.TOLERANCE
        assert difference.max() <= 2e-2
        assert np.median(difference) <= 2e-3
        assert model.perplexity(PLAY).value == pytest.approx(
            judge.perplexity(wanted, tokens), rel=parity.PERPLEXITY_TOLERANCE
        )
        prompts = [model.encode(prompt)[:12] for prompt in DECIDED]
        said = judge.continuations(judging, prompts)
        made = model.generate_all(prompts, max_tokens=64, sampling=llm.Sampling())
        assert [one.tokens for one in made] == [one.tokens for one in said]
        assert min(one.margin for one in said) >= 2e-3
