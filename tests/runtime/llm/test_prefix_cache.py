"""Keys and values that are saved to disk and restored by an engine that starts again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsr_runtime import OptionError
from rsr_runtime.llm import Engine, Job
from rsr_runtime.llm import prefix_cache as module
from rsr_runtime.llm.job import Started
from rsr_testing.engines import run
from rsr_testing.loader import Loader


def tokens_of(count: int, seed: int) -> list[int]:
    result: list[int] = np.random.default_rng(seed).integers(3, 200, count).tolist()
    return result


SYSTEM = tokens_of(90, 1)
FIRST, SECOND = SYSTEM + tokens_of(9, 2), SYSTEM + tokens_of(5, 3)


def files(folder: Path) -> list[Path]:
    """Return the files, without one that is being written under a temporary name."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".tmp")


@pytest.mark.parametrize("kv", ["float16", "float32", "int8"])
def test_a_new_engine_computes_only_what_is_new(kv: Any, loaded: Loader, tmp_path: Path) -> None:
    folder = tmp_path / "of" / "caches"
    alone = [run(loaded("bitnet-2b", kv=kv), None, prompt)[1] for prompt in (FIRST, SECOND)]
    model = loaded("bitnet-2b", kv=kv)
    assert run(model, folder, FIRST, tokens_of(20, 4))[:2] == [0, alone[0]]
    assert len(files(folder)) == 1  # 20 tokens are not worth a file
    assert folder.stat().st_mode & 0o077 == 0
    assert files(folder)[0].stat().st_mode & 0o077 == 0
    again = loaded("bitnet-2b", kv=kv)
    assert run(again, folder, SECOND, FIRST) == [90, alone[1], 90, alone[0]]
    before = files(folder)
    assert run(loaded("bitnet-2b", kv=kv), folder, FIRST) == [98, alone[0]]
    assert files(folder) == before  # nothing new


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_idle_engine_saves_what_is_new(
    loaded: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_runtime.llm.engine._IDLE_SECONDS", 0.01)
    model = loaded("bitnet-2b")
    turn = FIRST + run(model, None, FIRST)[1] + tokens_of(65, 5)
    with Engine(model, parallel=2, cache_dir=tmp_path) as engine:
        list(engine.submit(Job(FIRST, max_tokens=6)))
        until(lambda: len(files(tmp_path)) == 1)
        first = files(tmp_path)
        list(engine.submit(Job(turn, max_tokens=6)))  # the file is replaced
        until(lambda: len(files(tmp_path)) == 1 and files(tmp_path) != first)
        second = files(tmp_path)
        list(engine.submit(Job(turn + tokens_of(9, 6), max_tokens=1)))  # too few for a file
    assert files(tmp_path) == second
    assert run(loaded("bitnet-2b"), tmp_path, turn)[0] == len(turn) - 1


def test_a_session_that_is_needed_is_not_written(loaded: Loader, tmp_path: Path) -> None:
    model = loaded("bitnet-2b")
    session = model.new_session()
    session.follow(FIRST)
    cache = module.PrefixCache(tmp_path, {(): bytes(32)}, model.context)
    needed = iter([False, True])
    cache.save([session], lambda: next(needed))
    assert not files(tmp_path)
    cache.save([session], lambda: False)
    assert len(files(tmp_path)) == 1


def test_files_of_other_models_and_settings_are_not_used(loaded: Loader, tmp_path: Path) -> None:
    run(loaded("bitnet-2b"), tmp_path, FIRST)
    others: list[dict[str, Any]] = [{"kv": "int8"}, {"context": 200}, {"activations": "float32"}]
    for options in others:
        assert run(loaded("bitnet-2b", **options), tmp_path, FIRST)[0] == 0
    assert run(loaded("1bitllm"), tmp_path, FIRST)[0] == 0
    assert run(loaded("bitnet-2b"), tmp_path, FIRST)[0] == 98


def flipped(at: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return damage


def cut(to: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, to)


def counted(count: int) -> Callable[[Path], None]:
    """Return a function that writes another number of tokens."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[40:44] = count.to_bytes(4, "little")
        path.write_bytes(data)

    return damage


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    target = path.rename(path.with_suffix(".moved"))
    path.symlink_to(target)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
@pytest.mark.parametrize(
    "damage",
    [flipped(0), flipped(9), flipped(60), flipped(-100), flipped(-1), cut(0), cut(30), cut(200),
     cut(5000), counted(0), counted(1), counted(2**32 - 1), a_pipe, a_link, a_folder],
)  # fmt: skip
def test_a_damaged_file_is_ignored(
    damage: Callable[[Path], None], loaded: Loader, tmp_path: Path
) -> None:
    model = loaded("bitnet-2b")
    expected = run(model, tmp_path, FIRST)
    (path,) = files(tmp_path)
    damage(path)
    cached, tokens = run(model, tmp_path, FIRST)
    assert tokens == expected[1]
    assert cached == 0


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
def test_nothing_of_other_users_is_used(
    loaded: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, me = loaded("bitnet-2b"), os.geteuid()
    run(model, tmp_path, FIRST)
    with Engine(model, cache_dir=tmp_path) as engine:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        started = next(engine.submit(Job(FIRST, max_tokens=1)))
    assert isinstance(started, Started)
    assert started.cached_tokens == 0
    with pytest.raises(OptionError, match="belongs to another user"):
        Engine(model, cache_dir=tmp_path)
    monkeypatch.undo()
    tmp_path.chmod(0o770)
    with pytest.raises(OptionError, match="other users may write to the folder"):
        Engine(model, cache_dir=tmp_path)


def test_the_folder_has_a_largest_size(
    loaded: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bitnet-2b")
    run(model, tmp_path, FIRST)
    (first,) = files(tmp_path)
    monkeypatch.setattr(module, "MOST_BYTES", first.stat().st_size * 5 // 2)
    for seed in range(3):
        if seed < 2:
            os.utime(first, (seed, seed))
        run(model, tmp_path, tokens_of(99, 10 + seed))
        found = files(tmp_path)
        assert len(found) == 2
        assert (first in found) == (seed == 0)
    assert run(model, tmp_path, tokens_of(99, 12))[0] == 98


def test_a_folder_that_cannot_be_used(loaded: Loader, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OptionError, match="the folder of the cache cannot be used"):
        Engine(loaded("bitnet-2b"), cache_dir=file)
