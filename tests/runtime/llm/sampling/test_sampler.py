"""Sampling: filters compared with a plain reference, draws with literal ids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_runtime import InputShapeError, OptionError, RsrError
from rsr_runtime.llm.errors import ModelError
from rsr_runtime.llm.sampling import Sampler, Sampling

F32 = npt.NDArray[np.float32]


def logits(*values: float) -> F32:
    return np.array(values, np.float32)


def draws(sampler: Sampler, x: F32, count: int) -> list[int]:
    return [sampler(x) for _ in range(count)]


def kept(x: F32, **options: Any) -> set[int]:
    """Return the ids that can be drawn, each of which has a probability of 3 % or more here."""
    return set(draws(Sampler(Sampling(temperature=1.0, seed=5, **options)), x, 600))


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("temperature", -0.1),
            ("temperature", math.inf),
            ("temperature", math.nan),
            ("temperature", "1"),
            ("temperature", True),
            ("temperature", 10**400),
            ("top_k", -1),
            ("top_k", 1.5),
            ("top_k", False),
            ("top_p", -0.1),
            ("top_p", 1.1),
            ("min_p", -0.1),
            ("min_p", 1.1),
            ("min_p", None),
            ("repetition_penalty", 0),
            ("repetition_penalty", -1.0),
            ("seed", -1),
            ("seed", 0.5),
        ],
    )
    def test_refuses(self, option: str, value: object) -> None:
        with pytest.raises(OptionError, match=f"^{option} is "):
            Sampling(**{option: value})  # type: ignore[arg-type]

    def test_the_largest_and_smallest_values_are_accepted(self) -> None:
        x = logits(1, 3, 2)
        assert Sampler(Sampling(temperature=0, top_k=0, top_p=0, min_p=0, seed=0))(x) == 1
        largest = Sampling(5, top_k=10**6, top_p=1, min_p=1, repetition_penalty=2, seed=2**64)
        assert Sampler(largest)(x) == 1  # min_p keeps nothing but the most probable
        assert Sampler(largest)(x, [1]) == 2

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({}, Sampling()),
            ({"temperature": 0.5, "top_k": 3}, Sampling()),
            ({"do_sample": False, "repetition_penalty": 1.1}, Sampling(repetition_penalty=1.1)),
            ({"do_sample": None, "top_p": 0.9}, Sampling()),
            ({"do_sample": True}, Sampling(1.0, 50)),
            ({"do_sample": True, "top_k": None, "top_p": None}, Sampling(1.0, 50)),
            ({"do_sample": True, "top_k": 0, "temperature": 0.7}, Sampling(0.7, 0)),
            (
                {"do_sample": True, "top_k": 20, "top_p": 0.95, "temperature": 0.6, "min_p": 0.1},
                Sampling(0.6, 20, 0.95, 0.1),
            ),
        ],
    )
    def test_generation_config(self, config: dict[str, Any], expected: Sampling) -> None:
        assert Sampling.from_generation_config(config) == expected

    @pytest.mark.parametrize(
        ("given", "temperature"),
        [
            ({"top_k": 5}, 1.0), ({"min_p": 0.1, "seed": 3}, 1.0), ({"seed": 3}, 0.0),
            ({"top_p": 0.5, "temperature": 0.0}, 0.0), ({"top_p": 0.5, "temperature": 0.3}, 0.3),
        ],
    )  # fmt: skip
    def test_a_filter_alone_asks_for_draws(self, given: dict[str, Any], temperature: float) -> None:
        assert Sampling.asked({}, **given) == Sampling(**{**given, "temperature": temperature})
        drawn = Sampling.asked({"do_sample": True, "temperature": 0.7}, **given)
        assert drawn.temperature == given.get("temperature", 0.7)

    @pytest.mark.parametrize(
        "config",
        [
            {"do_sample": "yes"},
            {"do_sample": 1},
            {"do_sample": True, "temperature": "hot"},
            {"do_sample": True, "top_k": 2.5},
            {"do_sample": True, "top_p": 2.0},
            {"repetition_penalty": [1.0]},
        ],
    )
    def test_generation_config_of_wrong_types(self, config: dict[str, Any]) -> None:
        with pytest.raises(ModelError, match=r"^generation_config\.json: "):
            Sampling.from_generation_config(config)


class TestGreedy:
    def test_takes_the_largest(self) -> None:
        assert Sampler(Sampling())(logits(0, 3, 2)) == 1

    def test_takes_the_lowest_of_equals(self) -> None:
        assert Sampler(Sampling())(logits(-1, 2, 2, 2)) == 1

    def test_masked_tokens_are_never_chosen(self) -> None:
        assert Sampler(Sampling())(logits(-math.inf, -5, -math.inf)) == 1

    def test_penalty(self) -> None:
        sampler = Sampler(Sampling(repetition_penalty=2.0))
        x = logits(4, 3, -1, -1.5)
        assert sampler(x, []) == 0
        assert sampler(x, [0]) == 1
        assert sampler(x, [0, 1, 1, 0]) == 0  # 2.0, 1.5: a token seen twice counts once
        assert sampler(logits(-1, -1.5), [0]) == 1  # negative ones are multiplied: -2, -1.5
        np.testing.assert_array_equal(x, logits(4, 3, -1, -1.5))  # not changed in place

    def test_penalty_of_ids_without_a_logit(self) -> None:
        assert Sampler(Sampling(repetition_penalty=2.0))(logits(1, 2), [5, -1, 2]) == 1


class TestRefusals:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize(
        "x",
        [
            logits(0, math.nan, 1),
            logits(math.inf, 0),
            logits(-math.inf, -math.inf),
        ],
    )
    def test_nothing_to_choose(self, temperature: float, x: F32) -> None:
        with pytest.raises(ModelError, match="no token can be chosen"):
            Sampler(Sampling(temperature))(x)

    @pytest.mark.parametrize("x", [np.zeros((1, 3), np.float32), np.zeros(0, np.float32)])
    def test_shape(self, x: F32) -> None:
        with pytest.raises(InputShapeError, match="expected"):
            Sampler(Sampling())(x)

    def test_they_are_errors_of_this_project(self) -> None:
        assert issubclass(ModelError, RsrError)


class TestFilters:
    def test_top_k(self) -> None:
        assert kept(logits(1, 3, 2, 0), top_k=2) == {1, 2}

    def test_top_k_keeps_equals_of_the_last(self) -> None:
        assert kept(logits(1, 3, 1, 0), top_k=2) == {0, 1, 2}

    def test_top_p_keeps_the_fewest_that_reach_it(self) -> None:
        x = np.log(logits(0.5, 0.3, 0.15, 0.05), dtype=np.float32)
        assert kept(x, top_p=0.49) == {0}
        assert kept(x, top_p=0.51) == {0, 1}
        assert kept(x, top_p=0.79) == {0, 1}
        assert kept(x, top_p=0.81) == {0, 1, 2}
        assert kept(x, top_p=0.0) == {0}

    def test_top_p_keeps_the_lowest_of_equals(self) -> None:
        assert kept(logits(0, 1, 1, 1, 1), top_p=0.4) == {1, 2}

    def test_min_p(self) -> None:
        x = np.log(logits(0.5, 0.3, 0.15, 0.05), dtype=np.float32)
        assert kept(x, min_p=0.29) == {0, 1, 2}
        assert kept(x, min_p=0.31) == {0, 1}
        assert kept(x, min_p=1.0) == {0}

    def test_temperature(self) -> None:
        x = logits(1.0, 0.0)
        u = np.random.Generator(np.random.PCG64(1)).random(300)
        for temperature in (0.5, 1.0, 2.0):
            drawn = draws(Sampler(Sampling(temperature, seed=1)), x, len(u))
            assert drawn == (u >= 1 / (1 + math.exp(-1 / temperature))).astype(int).tolist()

    def test_a_temperature_near_zero_is_greedy(self) -> None:
        assert kept_at(1e-300, logits(1, 1.0001, 0)) == {1}

    def test_masked_tokens_are_never_drawn(self) -> None:
        x = np.full(1000, -math.inf, np.float32)
        x[[3, 700]] = 1
        assert kept(x) == {3, 700}
        assert kept(x, top_k=5) == {3, 700}
        assert kept(x, top_p=0.99) == {3, 700}


def kept_at(temperature: float, x: F32) -> set[int]:
    return set(draws(Sampler(Sampling(temperature, seed=2)), x, 50))


def reference(x: F32, s: Sampling, tokens: list[int]) -> npt.NDArray[np.float64]:
    """Return the probability of every token by plain loops."""
    scores = [float(v) for v in x]
    for token in set(tokens):
        v, p = x[token], np.float32(s.repetition_penalty)
        scores[token] = float(v * p if v < 0 else v / p)
    best = max(scores)
    weights = [math.exp((v - best) / s.temperature) for v in scores]
    if s.top_k:
        least = sorted(scores)[-min(s.top_k, len(scores))]
        weights = [w if v >= least else 0.0 for w, v in zip(weights, scores, strict=True)]
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    mass, total, largest = 0.0, math.fsum(weights), max(weights)
    result = np.zeros(len(weights))
    for i in order:
        if mass < s.top_p * total or i == order[0]:
            result[i] = weights[i] if weights[i] >= s.min_p * largest else 0.0
        mass += weights[i]
    result /= result.sum()
    return result


@given(
    # Steps of 1/8: equal logits are common, and every border is far from its neighbors.
    st.lists(st.integers(-60, 60), min_size=1, max_size=40),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.31, 0.7, 0.937, 1.0]),
    st.sampled_from([0.0, 0.013, 0.21]),
    st.sampled_from([1.0, 1.25]),
    st.data(),
)
def test_draws_by_the_reference(
    eighths: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
    data: st.DataObject,
) -> None:
    """The token is the first whose cumulative probability, by id, exceeds the random number."""
    x = np.array(eighths, np.float32) / np.float32(8)
    seed = data.draw(st.integers(0, 2**32))
    tokens = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=5))
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty, seed)
    p = reference(x, sampling, tokens)
    sampler, random = Sampler(sampling), np.random.Generator(np.random.PCG64(seed))
    for _ in range(5):
        u, found = random.random(), sampler(x, tokens)
        below = p[:found].sum()
        assert below - 1e-9 <= u <= below + p[found] + 1e-9
        assert p[found] > 0


class TestRandomNumbers:
    X: F32 = np.sin(np.arange(50, dtype=np.float32)) * np.float32(3)

    def test_literal_ids(self) -> None:
        """The same on every machine, and in every version from here on."""
        assert draws(Sampler(Sampling(1.0, seed=7)), self.X, 12) == LITERAL

    def test_samplers_share_nothing(self) -> None:
        first, second = (Sampler(Sampling(1.0, seed=7)) for _ in range(2))
        turn_about = [(first(self.X), second(self.X)) for _ in range(12)]
        assert turn_about == [(id_, id_) for id_ in LITERAL]

    def test_without_a_seed_they_differ(self) -> None:
        first, second = (draws(Sampler(Sampling(1.0)), self.X, 40) for _ in range(2))
        assert first != second

    def test_greedy_draws_nothing(self) -> None:
        assert draws(Sampler(Sampling()), self.X, 3) == [int(self.X.argmax())] * 3


LITERAL = [31, 45, 39, 8, 14, 41, 1, 39, 39, 21, 14, 14]


def test_a_large_vocabulary() -> None:
    """The nucleus has a few tokens, many, or all of a flat distribution."""
    rng = np.random.default_rng(0)
    for spread in (0.0, 0.1, 1.0, 4.0, 20.0):
        x = (rng.standard_normal(50_000) * spread).astype(np.float32)
        sampling = Sampling(1.0, top_p=0.9, seed=1)
        p = reference(x, sampling, [])
        drawn = draws(Sampler(sampling), x, 50)
        assert (p[drawn] > 0).all()
        u = np.random.Generator(np.random.PCG64(1)).random(50)
        expected = np.searchsorted(np.cumsum(p), u, side="right")
        assert (np.abs(np.array(drawn) - expected) <= 1).all()
