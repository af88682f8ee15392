"""Settings: what is accepted, what is refused, and how a file and its caller share them."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_runtime import OptionError
from rsr_runtime.llm import ModelError, Sampling
from rsr_runtime.llm.sampling import Sampler

INVALID: dict[str, list[Any]] = {
    "typical_p": [0, 1.1, "0.5"],
    "top_h": [0, 1.5, []],
    "epsilon_cutoff": [-0.1, 1.1, math.nan],
    "eta_cutoff": [-0.1, 2, {}],
    "repetition_penalty": [0, -1, True, [1.0]],
    "encoder_repetition_penalty": [0, math.inf, "1"],
    "no_repeat_ngram_size": [-1, 2.0, True, 10**400, -(10**5000)],
    "encoder_no_repeat_ngram_size": [-1, "2"],
    "min_new_tokens": [-1, 1.5, 1 << 31],
    "min_length": [-1, [], 1 << 40],
    "max_new_tokens": [0, -1, 1.5, "many"],
    "max_length": [0, 2.5, {}],
    "max_time": [-1, "soon", math.nan],
    "forced_bos_token_id": [-1, 1.5, [1], 1 << 31],
    "forced_eos_token_id": [-1, "a", [1, -2], [1.5], {"a": 1}],
    "suppress_tokens": [5, "abc", [1.5], [[1]], [True], {"1": 1}, [0] * ((1 << 18) + 1)],
    "begin_suppress_tokens": [5, ["1"]],
    "bad_words_ids": [[1], [[]], [["a"]], [[-1]], "abc", [[1, 1.5]], [[0] * ((1 << 18) + 1)]],
    "sequence_bias": [
        [1], [[1, 2]], [[[1]]], [[[], 1.0]], [[[1], "a"]], [[[1], math.nan]], [[[1], math.inf]],
        [[[1], 10**400]], [[["a"], 1.0]], "ab", {"a": 1.0}, [[[1], True]], [[[1], 1.0, 2]],
    ],
    "exponential_decay_length_penalty": [1, [1], [1, 2, 3], [1.5, 2], [1, "a"], [1, 10**400]],
    "stop_strings": [5, [5], [""], "", {"a": 1}],
    "remove_invalid_values": [1, "yes"],
    "renormalize_logits": [0, []],
    "temperature": ["hot", -1],
    "top_k": [-1, 2.5],
    "top_p": [2.0],
    "min_p": [-0.5],
}  # fmt: skip
OWN: dict[str, list[Any]] = {
    "presence_penalty": [-2.1, 2.1, "1"],
    "frequency_penalty": [3, None],
    "logit_bias": [{"1": 2.0}, {-1: 2.0}, {1: math.nan}, [1], {1: "a"}, 5],
}


@pytest.mark.parametrize("name", [*INVALID, *OWN])
def test_refuses(name: str) -> None:
    for value in (INVALID | OWN)[name]:
        with pytest.raises(OptionError, match=f"^{name} ") as caught:
            Sampling(**{name: value})
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", INVALID)
def test_what_a_file_says_is_checked_unless_the_caller_replaces_it(name: str) -> None:
    for value in INVALID[name]:
        config = {"do_sample": True, name: value}
        with pytest.raises(ModelError, match=rf"^generation_config\.json: {name} "):
            Sampling.from_generation_config(config)
        good = getattr(Sampling(), name)
        assert getattr(Sampling.from_generation_config(config, **{name: good}), name) == good


def test_what_the_caller_says_is_checked() -> None:
    with pytest.raises(OptionError, match=r"^top_k is -3"):
        Sampling.from_generation_config({"do_sample": True, "top_k": -1}, top_k=-3)
    with pytest.raises(OptionError, match=r"the settings are a str, expected the object in"):
        Sampling.from_generation_config("generation_config.json")  # type: ignore[arg-type]


def test_settings_that_are_not_used_are_not_read() -> None:
    drawn = {"do_sample": True, "top_k": -1, "top_p": "x", "typical_p": 9}
    assert Sampling.from_generation_config(drawn, temperature=0) == Sampling()
    assert Sampling.from_generation_config(drawn | {"do_sample": False}) == Sampling()
    greedy = Sampling.from_generation_config({"do_sample": "yes"}, temperature=0)
    assert greedy == Sampling()
    limited = Sampling.from_generation_config({"max_length": -1}, max_new_tokens=3)
    assert limited == Sampling(max_new_tokens=3)


def test_settings_of_others_are_ignored() -> None:
    config = {"seed": "x", "presence_penalty": 1.5, "logit_bias": "?", "num_beams": 4, "new": 1}
    assert Sampling.from_generation_config(config) == Sampling()


def test_a_whole_file() -> None:
    config = {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "typical_p": 0.9, "top_h": None,
        "eos_token_id": [1, 2], "forced_eos_token_id": 2, "suppress_tokens": [-1, 4],
        "sequence_bias": [[[3, 4], -5], [[6], -math.inf]], "bad_words_ids": [[1, 2], [3]],
        "exponential_decay_length_penalty": [15, 1.6], "stop_strings": "\n\n", "max_length": 4096,
    }  # fmt: skip
    assert Sampling.from_generation_config(config) == Sampling(
        0.6,
        20,
        typical_p=0.9,
        forced_eos_token_id=(2,),
        suppress_tokens=(4,),
        sequence_bias={(3, 4): -5.0, (6,): -math.inf},
        bad_words_ids=((1, 2), (3,)),
        exponential_decay_length_penalty=(15, 1.6),
        stop_strings=("\n\n",),
        max_length=4096,
    )


def test_settings_are_values() -> None:
    """Those with lists and mappings can be hashed, copied and pickled; arrays are lists."""
    options: dict[str, Any] = {
        "logit_bias": {np.int64(3): 1, 5: -math.inf},
        "bad_words_ids": [np.array([1, 2])],
        "suppress_tokens": {7},
    }
    made = Sampling(**options)
    assert made.logit_bias == ((3, 1.0), (5, -math.inf))
    assert made.bad_words_ids == ((1, 2),)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert hash(other) == hash(made)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {50: 1.0}},
        {"sequence_bias": {(1, 50): 1.0}},
        {"bad_words_ids": [[50, 1]]},
        {"forced_bos_token_id": 50},
        {"forced_eos_token_id": [1, 50]},
    ],
)
def test_tokens_outside_the_vocabulary(options: dict[str, Any]) -> None:
    name = next(iter(options))
    sampling = Sampling(**options)
    sampling.check_tokens(51)
    with pytest.raises(OptionError, match=f"^{name} has token 50, .*vocab_size, 50$"):
        sampling.check_tokens(50)
    Sampling(suppress_tokens=[50], begin_suppress_tokens=[50]).check_tokens(50)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
SMALL = st.integers(-1, 9)
LIKELY = (
    SMALL
    | st.floats(-1, 3)
    | st.lists(SMALL, max_size=3)
    | st.lists(st.lists(SMALL, max_size=3), max_size=3)
    | st.lists(st.tuples(st.lists(SMALL, max_size=3), st.floats()).map(list), max_size=3)
    | st.tuples(SMALL, st.floats()).map(list)
)


@given(
    st.dictionaries(st.sampled_from([*INVALID, *OWN, "do_sample"]), LIKELY | JSON, max_size=6),
    st.booleans(),
)
def test_any_json_is_refused_or_gives_a_token(config: dict[str, Any], drawn: bool) -> None:
    try:
        sampling = Sampling.from_generation_config({"do_sample": drawn} | config)
        choose = Sampler(sampling, [1, 2, 1], (0, 1 << 30), 7)
        for tokens in ([1, 2, 1], [1, 2, 1, 3, 1, 2]):
            assert 0 <= choose(np.linspace(-3, 3, 8, dtype=np.float32), tokens) < 8
    except ModelError:
        pass


def test_limits_of_any_size() -> None:
    """A huge limit is none; it is no error, as it never was."""
    assert (
        Sampling(max_new_tokens=10**20, min_length=0, max_length=1 << 40).max_new_tokens == 10**20
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": None}, "temperature is None, expected a number"),
        ({"logit_bias": {"5": 100}}, "logit_bias has a bias for '5', expected a token, 0 or more"),
    ],
)
def test_what_was_given_is_shown(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Sampling(**settings)
