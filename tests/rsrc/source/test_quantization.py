"""How `quantization_config` is interpreted, and that hostile values do no harm."""

from __future__ import annotations

import time
from typing import Any

import pytest

import rsrc
from rsr_formats.text import shown
from rsrc.source.quantization import Quantization


def quantization(**values: Any) -> Quantization:
    return Quantization({"quantization_config": values})


@pytest.mark.parametrize("value", [None, {}, [], "bitnet", 3])
def test_none(value: Any) -> None:
    found = Quantization({} if value is None else {"quantization_config": value})
    assert (found.is_given, found.is_bitnet, found.method) == (False, False, None)
    assert (found.linear_class, found.mode) == ("bitlinear", "offline")


@pytest.mark.parametrize("value", [3, True, ["bitnet"], {"bitnet": 1}, "BitNet", "x" * 1000])
def test_other_methods(value: Any) -> None:
    found = quantization(quant_method=value)
    assert not found.is_bitnet
    assert found.method == (value[:64] if isinstance(value, str) else shown(value))


@pytest.mark.parametrize("value", [None, 3, [], {}, "novel", "x" * 1000])
def test_values_that_are_refused(value: Any) -> None:
    expected = r"expected 'bitlinear' \(divide by weight_scale\) or 'autobitlinear' \(multiply\)$"
    with pytest.raises(rsrc.SourceError, match=f"^config.json: linear_class is .*, {expected}"):
        _ = quantization(linear_class=value).linear_class
    with pytest.raises(rsrc.SourceError, match=r"quantization_mode is .{,70}, expected 'offline'"):
        _ = quantization(quantization_mode=value).mode


@pytest.mark.parametrize(
    ("skipped", "name", "converted"),
    [
        (None, "model.layers.3.mlp.up_proj.weight", True),
        (None, "lm_head.weight", False),
        (None, "model.embed_tokens.weight", False),
        ([], "lm_head.weight", True),  # the list alone decides
        ([], "model.embed_tokens.weight", False),  # not a linear layer
        (["lm_head"], "lm_head.weight", False),
        (["lm_head.weight"], "lm_head.weight", False),
        (["lm_head"], "model.lm_head.weight", False),
        (["fc1"], "model.layers.23.fc1.weight", False),  # a suffix after a dot
        (["up_proj"], "model.layers.3.mlp.up_proj.weight", False),
        (["mlp.up_proj"], "model.layers.3.mlp.up_proj.weight", False),
        (["mlp.up"], "model.layers.3.mlp.up_proj.weight", True),
        (["model.layers.3"], "model.layers.3.mlp.up_proj.weight", False),  # and its submodules
        (["model.layers.3."], "model.layers.3.mlp.up_proj.weight", False),
        (["model.layers.3"], "model.layers.31.mlp.up_proj.weight", True),
        (["layers.3"], "model.layers.3.mlp.up_proj.weight", True),  # not in the middle
        (["a.*.*b"], "aXb.c.weight", False),  # the last "b" before a dot counts
        (["a.*b"], "a.bb.bc.weight", False),
        (["a.*b"], "a.bc.bc.weight", True),
        (["a.b.*"], "a-b.weight", False),  # a dot matches any character
        (["a.b.*"], "ab.weight", True),
        (["a.*a"], "a.weight", True),  # one "a" cannot match both
        ([3, None, ["lm_head"], "", "."], "lm_head.weight", True),
        ("lm_head", "lm_head.weight", False),  # no list: the default
        ({"lm_head": 1}, "a.weight", True),
    ],
)
def test_modules_to_not_convert(skipped: Any, name: str, converted: bool) -> None:
    assert quantization(modules_to_not_convert=skipped).converts(name) is converted


def test_expressions_do_not_run() -> None:
    with pytest.raises(
        rsrc.SourceError, match=r"has '\(a\+\)\+\$', a regular expression that is not"
    ):
        quantization(modules_to_not_convert=["(a+)+$"]).converts("a" * 40)


def test_patterns_take_no_time() -> None:
    """However many ".*" and dots: backtracking over 64 x 1000 combinations once took minutes."""
    skipped = [f"b{i}" + ".*a" * 15 + ".*b" for i in range(32)]  # fails at once
    skipped += [".*" * 20 + ".a" * 25 + f".*x{i}" for i in range(32)]  # fails at the end
    found = quantization(modules_to_not_convert=skipped)
    start = time.process_time()
    assert all(found.converts(f"{i}." + "a." * 495 + "weight") for i in range(100))
    assert time.process_time() - start < 5
    assert not found.converts("a." * 495 + "x7.weight")
    assert found.converts("a." * 495 + "x7y.weight")


def test_letters_of_patterns_are_counted() -> None:
    longest = "a" * 4095
    assert quantization(modules_to_not_convert=[f"{longest}.*b"]).converts("a")
    with pytest.raises(rsrc.SourceError, match=r"4097 letters in total, expected at most 4096"):
        quantization(modules_to_not_convert=[f"{longest}.*b", ".*c"]).converts("a")


def test_many_entries_take_no_time() -> None:
    many = ["a" * n for n in range(1000)]
    found = quantization(modules_to_not_convert=[*many, *(f"{a}.*x" for a in many[:64])])
    start = time.process_time()
    assert found.converts("b." * 1000)
    assert time.process_time() - start < 5
    with pytest.raises(rsrc.SourceError, match="has 65 entries"):
        quantization(modules_to_not_convert=[f"{a}.*" for a in many[:65]]).converts("b")
