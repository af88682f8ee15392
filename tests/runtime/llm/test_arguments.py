"""Arguments of language models that are wrong, and those of other libraries that are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsr_formats.errors import RsrError
from rsr_runtime import OptionError
from rsr_runtime.llm import LanguageModel, PromptError
from rsr_testing.loader import Loader

TOKENS = [256, 5, 6, 7]


@pytest.fixture(scope="module")
def model(language_models: Any) -> Any:
    loader = Loader(language_models)
    yield loader("bitnet-2b")
    loader.close()


class Ids:
    """An array of another library: it has a shape, and its items are arrays of no dimension."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    def __iter__(self) -> Any:
        return (self._values[i : i + 1].reshape(()) for i in range(len(self._values)))


def test_tokens_of_other_libraries(model: LanguageModel) -> None:
    expected = model.generate(TOKENS, max_tokens=3).tokens
    logits = model.next_logits(TOKENS)
    kinds: list[Any] = [np.array, np.uint16, tuple, Ids, lambda ids: np.array(ids, object)]
    three: Any = np.int64(3)
    for kind in kinds:
        assert model.generate(kind(TOKENS), max_tokens=three).tokens == expected
        np.testing.assert_array_equal(model.next_logits(kind(TOKENS)), logits)
        assert model.decode(kind(TOKENS)) == model.decode(TOKENS)
    assert model.generate_all(kinds[0]([TOKENS]), max_tokens=3)[0].tokens == expected
    both = model.generate_all(list(np.array([TOKENS, TOKENS])), max_tokens=3)
    assert [one.tokens for one in both] == [expected, expected]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "prompt of type int, expected a string or integer tokens"),
        (None, "prompt of type NoneType, expected a string or integer tokens"),
        (b"To be", "prompt of type bytes, expected a string or integer tokens"),
        (["To be", "or not"], "type list with str in it, .*: generate_all takes several prompts"),
        ([1, 2.0], "type list with float in it, expected a string or integer"),
        ([True], "type list with bool in it, expected"),
        (np.array(TOKENS, np.float32), "type ndarray with float32 in it, expected"),
        (Ids([True]), "type Ids with bool in it, expected"),
        (Ids([1.5]), "type Ids with float64 in it, expected"),
        (np.array([TOKENS]), r"shape \(1, 4\), expected one dimension: take one of its rows"),
        (np.array(5), r"shape \(\), expected one dimension"),
        (
            {"input_ids": TOKENS},
            r'type dict, expected a string or integer tokens: its \["input_ids"\]',
        ),
        ({}, "type dict, expected a string or integer tokens$"),
        (object(), "prompt of type object"),
        ([1 << 80], "found token 1208925819614629174706176, expected a token below"),
        ([-1], "found token -1, expected a token below"),
        ([], "the prompt is empty"),
    ],
)
def test_prompts_that_are_none(prompt: Any, message: str, model: LanguageModel) -> None:
    for call in (model.generate, model.stream, model.next_logits, model.logits, model.encode):
        with pytest.raises(PromptError, match=message):
            call(prompt)
    if np.shape(prompt) != () or not isinstance(prompt, (int, np.ndarray)):
        with pytest.raises(PromptError, match=message):
            model.generate_all([prompt])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("To be", "a single prompt, expected a list: use generate"),
        (b"To be", "a single prompt, expected a list: use generate"),
        (5, "a single prompt, expected a list: use generate"),
        (None, "a single prompt, expected a list: use generate"),
        (TOKENS, "the tokens of a single prompt, expected a list: use generate"),
        (Ids(TOKENS), "the tokens of a single prompt, expected a list: use generate"),
        (np.array(TOKENS), "the tokens of a single prompt, expected a list: use generate"),
        ({"input_ids": [TOKENS]}, r'a dict, expected a list of prompts: its \["input_ids"\]'),
    ],
)
def test_lists_of_prompts_that_are_none(prompts: Any, message: str, model: LanguageModel) -> None:
    with pytest.raises(PromptError, match=message):
        model.generate_all(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": {}}, r"sampling is a dict, expected Sampling: Sampling\(\*\*\.\.\.\)$"),
        ({"sampling": 0.7}, r"sampling is a float, expected Sampling: Sampling\(temperature"),
        ({"sampling": 0}, "sampling is an int, expected Sampling"),
        ({"stop": 5}, r'stop is an int, expected strings: stop=\["one", "two"\]'),
        ({"stop": None}, "stop is None, expected strings"),
        ({"stop": b"end"}, "stop is a bytes, expected strings"),
        ({"max_tokens": True}, "max_tokens: found True, expected an integer, 1 or more"),
        ({"max_tokens": 0}, "max_tokens: found 0, expected an integer, 1 or more"),
        (
            {"max_tokens": 2.0},
            "max_tokens: found 2.0, expected an integer, 1 or more .a float is no",
        ),
        ({"max_tokens": "9"}, "max_tokens: found '9', expected an integer, 1 or more .a str is no"),
        ({"max_tokens": -(10**5000)}, "found an integer of 39 digits or more, expected"),
    ],
)
def test_options(options: Any, message: str, model: LanguageModel) -> None:
    for call in (model.generate, model.stream, lambda one, **o: model.generate_all([one], **o)):
        with pytest.raises(OptionError, match=message):
            call(TOKENS, **options)


def test_other_options(model: LanguageModel, loaded: Loader) -> None:
    wrong: Any
    for wrong in (0, 257, True, 2.0, "9", 10**5000):
        with pytest.raises(OptionError, match=r"window: found .*, expected 1 to 256, the context"):
            model.perplexity("To be or not to be", window=wrong)
        with pytest.raises(OptionError, match=r"context: .* 1 to 256, the model's limit"):
            loaded("bitnet-2b", context=wrong)
    for wrong in (-1, 257, None):
        with pytest.raises(OptionError, match=r"positions: found .* 0 to 256"):
            model.bytes_per_token(wrong)
    for wrong in ("int4", 5, {}):
        with pytest.raises(
            OptionError, match=r"kv: found .*, expected 'float32', 'float16' or 'int8'"
        ):
            loaded("bitnet-2b", kv=wrong)
    for wrong in ("int8", "", None):
        with pytest.raises(
            OptionError, match=r"activations: found .*, expected 'trained', 'float32'"
        ):
            loaded("bitnet-2b", activations=wrong)
    for wrong in (5, "To be", [1.5], [-1], [1 << 40]):
        with pytest.raises(RsrError):
            model.decode(wrong)
