"""The KV cache: shapes, size, and refused options."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsr_runtime import OptionError
from rsr_runtime.llm import ModelError
from rsr_runtime.llm.config import Config, read_config
from rsr_runtime.llm.kv_cache import KVCache
from rsr_runtime.llm.layers.attention import KeysAndValues
from rsr_testing.process import run_python


def document(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 80,
        "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, **changes,
    }  # fmt: skip


def config(**changes: Any) -> Config:
    return read_config({"config.json": json.dumps(document(**changes)).encode()})


def layer(cache: KVCache, i: int) -> tuple[npt.NDArray[Any], ...]:
    """Return the arrays of a layer: keys, values and, in int8, the scales of both."""
    state = cache.states[i]
    assert isinstance(state, KeysAndValues)
    return state.arrays


def test_int8_has_scales() -> None:
    cache = KVCache(config(), 33, "int8")
    keys, values, *scales = layer(cache, 1)
    assert keys.dtype == values.dtype == np.int8
    assert keys.shape == (2, 3, 20, 16)
    assert values.shape == (2, 48, 32)
    for of_one in scales:
        assert of_one.dtype == np.float32
        assert of_one.shape == (2, 48)
    assert len(scales) == 2
    assert sum(map(len, cache.arrays_at(7))) == 7 * 3 * 2 * (20 + 32 + 2 * 4)


# In a process of its own, whose memory nothing else takes or gives back.
FILL = """
import mmap, sys
from pathlib import Path
from rsr_runtime.llm.config import read_config
from rsr_runtime.llm.kv_cache import KVCache

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

config = read_config({"config.json": sys.argv[1].encode()})
before = resident()
cache = KVCache(config, 1 << 17, sys.argv[2])
reserved = sum(map(len, cache.arrays_at(1 << 17)))
print((resident() - before) / reserved)
for state in cache.states:
    for array in state.arrays:
        array[:, : array.shape[1] // 8] = 1
print((resident() - before) / reserved)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kv", ["float16", "int8"])
def test_memory_is_taken_as_it_is_written(kv: str) -> None:
    """A context of 131,072 positions takes memory for those that are filled, in pages."""
    done = run_python(FILL, json.dumps(document(num_attention_heads=2, hidden_size=128)), kv)
    assert done.returncode == 0, done.stderr
    reserved, filled = map(float, done.stdout.split())
    assert reserved < 1 / 20
    assert 1 / 9 < filled < 1 / 2  # an eighth, in huge pages of 2 MiB


@pytest.mark.parametrize(("kv", "dtype"), [("float32", np.float32), ("float16", np.uint16)])
def test_layout(kv: str, dtype: type) -> None:
    """Heads of 20, whose values are padded to 32; 33 positions take three blocks of 16."""
    cache = KVCache(config(), 33, kv)
    for i in range(3):
        keys, values = layer(cache, i)
        assert keys.dtype == values.dtype == dtype
        assert keys.shape == (2, 3, 20, 16)
        assert values.shape == (2, 48, 32)
        assert not keys.any()
        assert not values.any()
    assert layer(cache, 0)[0] is not layer(cache, 1)[0]
    assert layer(cache, 2)[0] is layer(cache, 2)[0]


@pytest.mark.parametrize(("kv", "itemsize"), [("float32", 4), ("float16", 2)])
@pytest.mark.parametrize("context", [1, 16, 33])
def test_bytes_of_a_position_do_not_depend_on_the_context(
    kv: str, itemsize: int, context: int
) -> None:
    """Three layers of two heads: 20 features of keys and 32 of values, as they lie there."""
    cache = KVCache(config(), context, kv)
    for positions in (0, 1, 10):
        nbytes = sum(map(len, cache.arrays_at(positions)))
        assert nbytes == positions * 3 * 2 * (20 + 32) * itemsize


@pytest.mark.parametrize("kv", ["bfloat16", "", "FLOAT16", None, 16])
def test_other_dtypes(kv: Any) -> None:
    with pytest.raises(OptionError, match="kv: found .*expected 'float32', 'float16' or 'int8'"):  # noqa: RUF043
        KVCache(config(), 16, kv)


def test_more_memory_than_there_is() -> None:
    huge = config(num_attention_heads=1 << 20, num_key_value_heads=1 << 20, head_dim=1 << 10)
    with pytest.raises(
        OptionError, match="not enough memory for keys and values of 16,777,216 positions"
    ):
        KVCache(huge, 1 << 24, "float32")


def test_append_truncate_snapshot_and_restore() -> None:
    cache = KVCache(config(), 40, "float16")
    start = cache.snapshot()
    cache.append(30)
    later = cache.snapshot()
    cache.append(4)
    assert cache.length == 34
    cache.restore(later)
    assert cache.length == 30
    cache.truncate(35)  # not that many are filled
    assert cache.length == 30
    cache.truncate(29)
    cache.append(5)  # position 29 is another one now
    with pytest.raises(ModelError, match="the snapshot of 30 positions is of another cache, or"):
        cache.restore(later)
    with pytest.raises(ModelError, match="the snapshot of 0 positions is of another cache"):
        cache.restore(KVCache(config(), 40, "float16").snapshot())
    cache.restore(start)
    assert cache.length == 0


@pytest.mark.parametrize("kv", ["float16", "float32", "int8"])
@pytest.mark.parametrize("length", [0, 1, 16, 21])
def test_a_copy_of_a_prefix(kv: str, length: int) -> None:
    source, copy = (KVCache(config(), 40, kv) for _ in range(2))
    rng = np.random.default_rng(1)
    for i in range(3):
        for cells in layer(source, i):
            cells[:] = rng.integers(1, 127, cells.shape)
    source.append(21)
    copy.append(3)
    before = copy.snapshot()
    copy.copy_prefix(source, length)
    assert copy.length == length
    for i in range(3):
        keys, expected = (
            layer(one, i)[0].swapaxes(2, 3).reshape(2, -1, 20) for one in (copy, source)
        )
        np.testing.assert_array_equal(keys[:, :length], expected[:, :length])
        values, expected = layer(copy, i)[1], layer(source, i)[1]
        np.testing.assert_array_equal(values[:, :length], expected[:, :length])
        assert not values[:, length:].any()
    with pytest.raises(ModelError):
        copy.restore(before)
