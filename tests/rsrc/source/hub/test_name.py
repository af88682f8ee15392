"""The names of models on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

import rsrc
from rsrc.source.hub.name import HubName, hub_name, possible_name
from rsrc.source.open import is_source, open_checkpoint


@pytest.mark.parametrize(
    ("written", "name", "canonical"),
    [
        ("hf://a/b", HubName("a/b"), "hf://a/b"),
        ("hf://models/a/b/", HubName("a/b"), "hf://a/b"),
        ("hf://a/b@v1.0", HubName("a/b", "v1.0"), "hf://a/b@v1.0"),
        ("hf://a/b@main/m.gguf", HubName("a/b", file="m.gguf"), "hf://a/b/m.gguf"),
        ("hf://a/b@refs/pr/1/x/m.gguf", HubName("a/b", "refs/pr/1", "x/m.gguf"), None),
        ("hf://a/b@my%2Fbranch/m.gguf", HubName("a/b", "my/branch", "m.gguf"), None),
        ("https://huggingface.co/a/b", HubName("a/b"), "hf://a/b"),
        ("https://huggingface.co/a/b/tree/main", HubName("a/b"), "hf://a/b"),
        ("hf.co/a/b.c", HubName("a/b.c"), "hf://a/b.c"),
        ("https://hf.co/a/b/blob/main/m.gguf", HubName("a/b", file="m.gguf"), "hf://a/b/m.gguf"),
        (
            "https://huggingface.co/a/b/resolve/v2/x/m%201.gguf?download=true",
            HubName("a/b", "v2", "x/m 1.gguf"),
            "hf://a/b@v2/x/m 1.gguf",
        ),
    ],
)
def test_names(written: str, name: HubName, canonical: str | None) -> None:
    assert hub_name(written) == hub_name(Path(written)) == name
    assert str(name) == (canonical or written)
    assert hub_name(str(name)) == name
    assert is_source(written)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("https://example.org/m.gguf", "an address: download the file, then name it here"),
        ("hf://datasets/a/b", "not a model: expected hf://ORG/NAME"),
        ("https://huggingface.co/datasets/a/b", "not a model: expected hf://ORG/NAME"),
        ("hf://a", "expected hf://ORG/NAME, hf://ORG/NAME@REVISION or .../FILE"),
        ("hf://a/b@", "expected hf://ORG/NAME, hf://ORG/NAME@REVISION or .../FILE"),
    ],
)
def test_other_addresses(written: str, why: str) -> None:
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint(written)
    assert str(caught.value) == f"{written}: {why}"


def test_an_id_that_may_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded that was not asked for by hf:// or an address."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert possible_name(Path("org/x@v1")) == HubName("org/x", "v1")
    assert is_source(Path("org/x"))
    with pytest.raises(rsrc.SourceError) as caught:
        open_checkpoint("org/x")
    assert str(caught.value) == (
        "org/x: no such file or directory; hf://org/x names a model of the Hugging Face Hub"
    )
    for path in (
        "models/none", "a/b/c", "none", "/a/b", "./none", "../a", "a/b.safetensors", "a/m.gguf",
    ):  # fmt: skip
        with pytest.raises(rsrc.SourceError) as caught:
            open_checkpoint(path)
        assert str(caught.value) == f"{Path(path)}: no such file or directory"
