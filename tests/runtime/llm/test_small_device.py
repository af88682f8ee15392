"""A model larger than the memory of its control group, which the system enforces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rsr_formats.pages import huge_page_size
from rsr_testing.language_models import LanguageModels
from rsr_testing.memory_group import ENTER, forget_pages, memory_group
from rsr_testing.models import FAMILIES, Tensor
from rsr_testing.process import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has control groups")

MIB = 1 << 20
VOCABULARY = 600_000

# Newer systems have huge pages of files on their own: pieces that are moved are counted instead.
GENERATE = """
from rsr_runtime import _native, llm
import warnings
warnings.simplefilter("always")
moved = []
for name in ("collapse_into_huge_pages", "copy_into_huge_pages"):
    move = getattr(_native, name)
    setattr(_native, name, lambda *given, move=move: (moved.append(1), move(*given))[1])
with llm.load(sys.argv[2], memory=sys.argv[3]) as model:
    model.use_huge_pages()
    print(model.generate([5, 6, 7], max_tokens=4).tokens)
    print(len(moved) > 0)
"""

# Fills keys and values of far more positions than there is memory for.
FILL = """
from types import SimpleNamespace
from rsr_runtime import llm
from rsr_runtime.llm.kv_cache import KVCache
with llm.load(sys.argv[2]) as model:
    cache = KVCache(model.config, 1 << 20, "float32")
    assert cache.position_bytes << 20 > 256 << 20
    try:
        for positions in range(4096, 1 << 20, 4096):
            cache.check_room(positions)
            for array in cache.prefix(positions):
                array[:] = 1
    except llm.CacheMemoryError as error:
        print(positions * cache.position_bytes >> 20, error)
"""


@pytest.fixture(scope="module")
def large(language_models: LanguageModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose output head, which each token reads, has 77 MB."""

    def widen(tensors: dict[str, Tensor]) -> None:
        name = "model.embed_tokens.weight"
        rows = np.tile(tensors[name].values, (VOCABULARY // len(tensors[name].values) + 1, 1))
        tensors[name] = Tensor(tensors[name].dtype, rows[:VOCABULARY])

    folder = tmp_path_factory.mktemp("large")
    config = {**FAMILIES["bitnet-2b"].settings, "vocab_size": VOCABULARY}
    files = {"config.json": json.dumps(config).encode()}
    return language_models.variant("bitnet-2b", folder, files, widen)


def test_a_file_larger_than_memory_runs(large: Path) -> None:
    """Slowly, and with a warning; no pages move into huge ones, which cannot be dropped."""
    size = large.stat().st_size
    assert size > 64 * MIB
    whole = run_python("import sys\n" + GENERATE, "", large, "auto").stdout.splitlines()
    forget_pages(large)
    with memory_group(size) as group:
        limited = run_python(ENTER + GENERATE, group, large, "auto")
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout.splitlines() == [whole[0], "False"]
    assert whole[1:] == [str(huge_page_size() is not None)]
    assert f"available (limit of the control group {group})" in limited.stderr
    assert "the weights have" in limited.stderr


def test_a_copy_larger_than_memory_is_refused(large: Path) -> None:
    forget_pages(large)
    with memory_group(large.stat().st_size) as group:
        limited = run_python(ENTER + GENERATE, group, large, "huge")
    assert "memory 'huge' copies the file, which has" in limited.stderr
    assert limited.returncode == 1


def test_keys_and_values_end_before_the_memory_does(language_models: LanguageModels) -> None:
    with memory_group(192 * MIB) as group:
        limited = run_python(ENTER + FILL, group, language_models.path("bitnet-2b"))
    assert limited.returncode == 0, limited.stderr  # not -9, the signal of the system
    filled, message = limited.stdout.split(maxsplit=1)
    assert 16 < int(filled) < 192
    assert "keys and values of" in message
    assert "available (limit of the control group" in message
