"""rsrc embed: vectors on stdout, as JSON and in a file; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest

from rsr_runtime import llm
from rsr_runtime.llm.pooling import MODES
from rsr_testing.commands import done, refused, rsrc
from rsr_testing.embedding_models import EMBEDDING_FAMILIES, TEXTS
from rsr_testing.language_models import LanguageModels
from rsrc.cli.embed import embed


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EMBEDDING_FAMILIES["qwen3-embedding"].build(tmp_path_factory.mktemp("encoder"))


def test_forms_of_output(encoder: Path, tmp_path: Path) -> None:
    with llm.load(encoder) as model:
        expected = model.embed(TEXTS, prompt_name="query", dimensions=9)
    options = ("--prompt-name", "query", "--dimensions", 9)
    lines = done(rsrc("embed", encoder, *TEXTS, *options)).splitlines()
    np.testing.assert_array_equal([json.loads(line) for line in lines], expected)
    found = json.loads(done(rsrc("embed", encoder, *options, "--json", *TEXTS)))
    assert (found["file"], found["dimensions"]) == (str(encoder), 9)
    assert [one["text"] for one in found["texts"]] == TEXTS
    np.testing.assert_array_equal([one["embedding"] for one in found["texts"]], expected)
    output = tmp_path / "v.npy"
    text = tmp_path / "texts"
    text.write_bytes("\r\n".join(TEXTS).encode() + b"\r\n")
    for given, stdin in ((["--file", text], None), ([], text.read_bytes())):
        done(rsrc("embed", encoder, *given, *options, "-o", output, "--force", stdin=stdin))
        found = np.load(output)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "already exists: use --force" in refused(rsrc("embed", encoder, "a", "-o", output))


def test_options(encoder: Path) -> None:
    options = ("--prompt", "Q: ", "--pooling", "mean", "--no-normalize", "--kv", "float32")
    (line,) = done(rsrc("embed", encoder, "in the end", *options)).splitlines()
    with llm.load(encoder, kv="float32") as model:
        expected = model.embed(["in the end"], prompt="Q: ", pooling="mean", normalize=False)
    np.testing.assert_array_equal([json.loads(line)], expected)


def test_texts_that_are_cut_are_named(encoder: Path) -> None:
    found = rsrc("embed", encoder, "a", "b " * 130)
    assert len(done(found).splitlines()) == 2
    said = "rsrc: 1 text cut to 250 tokens, the most that the model was made for: text 1 has 261\n"
    assert found.stderr == said


def test_refused(encoder: Path, language_models: LanguageModels, tmp_path: Path) -> None:
    model = language_models.path("bitnet-2b")
    assert "does not say how to pool the states" in refused(rsrc("embed", model, "a"))
    done(rsrc("embed", model, "a", "--pooling", "lasttoken"))
    for command in (["run", "-p", "a"], ["chat"], ["perplexity", __file__]):
        name, *rest = command
        said = refused(rsrc(name, encoder, *rest, stdin="a\n"))
        assert "no output head: it embeds texts (rsrc embed" in said
    for wrong in (
        ["a", "--file", encoder],
        ["a", "--prompt", "b", "--prompt-name", "c"],
        ["a", "-o", tmp_path / "v.npy", "--json"],
        ["a", "-o", tmp_path / "v.csv"],
        ["a", "-o", tmp_path / "v"],
        ["a", "--pooling", "most"],
    ):
        refused(rsrc("embed", encoder, *wrong), 2)
    assert not list(tmp_path.iterdir())
    # As by the server, although this tokenizer ends every text with a token.
    for given in (["a", ""], ["--prompt-name", "query", ""]):
        assert "is empty" in refused(rsrc("embed", encoder, *given))
    assert "text 1 is empty" in refused(rsrc("embed", encoder, stdin="a\n\nb\n"))


def test_every_rule_of_pooling_is_a_choice() -> None:
    (option,) = (one for one in embed.params if one.name == "pooling")
    assert isinstance(option.type, click.Choice)
    assert sorted(option.type.choices) == sorted(MODES)
