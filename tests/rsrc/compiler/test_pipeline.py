"""`rsrc.compile` as a whole: its report, its errors, and that a failure leaves no files."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsr_runtime
import rsrc
from rsr_formats import RsrFile
from rsr_formats.writer import RsrWriter
from rsr_testing.checkpoints import Kit
from rsrc.compiler import pipeline

RNG = np.random.default_rng(11)
T = RNG.integers(-1, 2, (200, 90)).astype(np.int8)
TENSORS: dict[str, Any] = {
    "layers.0.weight": T,
    "layers.1.weight": (T * 0.5).astype(np.float16),
    "head.weight": np.sign(RNG.standard_normal((40, 50))).astype(np.float32),
    "embed.weight": RNG.standard_normal((30, 20)).astype(np.float32),
    "norm.weight": np.ones(90, np.float32),
    "empty": np.zeros(0, np.float32),
}


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "test"}')
    kit.save(folder / "model.safetensors", TENSORS, {"format": "pt"})
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder / "x.rsr"


class TestReport:
    def test_contents(self, source: Path, output: Path) -> None:
        report = rsrc.compile(str(source), os.fspath(output), target="avx512", threads=3)
        assert (report.source, report.output, report.threads) == (str(source), str(output), 3)
        assert report.files == ("config.json",)
        assert report.source_bytes == sum(t.nbytes for t in TENSORS.values())
        assert report.output_bytes == output.stat().st_size
        assert 0 < report.seconds < 60
        tensors = {t.name: t for t in report.tensors}
        assert list(tensors) == list(TENSORS)
        assert [t.kind for t in report.tensors] == ["ternary"] * 2 + ["binary"] + ["dense"] * 3
        for name, t in tensors.items():
            assert t.shape == TENSORS[name].shape
            assert t.source_bytes == TENSORS[name].nbytes
            assert t.weights == (0 if t.kind == "dense" else TENSORS[name].size)
            assert (t.reason is None) == (t.kind != "dense") == (t.k is not None)

        w = tensors["layers.1.weight"]
        assert (w.source_dtype, w.layout, w.scale) == ("F16", "float", "per tensor")
        assert (w.encoding, w.packing, w.direction, w.k) == ("ranked", "w16", "expand", 3)
        index = 2 * 10 * 224  # 10 words for 90 columns; 200 rows padded to a multiple of 32
        assert w.bytes == index + 4
        assert w.bits_per_weight == 8 * (index + 4) / T.size
        assert tensors["embed.weight"].reason == ("F32, not ternary: row 0 has several magnitudes")
        assert tensors["norm.weight"].bytes == 360
        weights = sum(t.weights for t in report.tensors)
        bits = sum(8 * t.bytes for t in report.tensors if t.kind != "dense")
        assert report.bits_per_weight == pytest.approx(bits / weights)

    def test_json(self, source: Path, output: Path) -> None:
        report = rsrc.compile(source, output, zstd=1)
        found = json.loads(json.dumps(report.to_dict()))
        assert found["bits_per_weight"] == report.bits_per_weight
        assert found["tensors"][0]["name"] == "layers.0.weight"
        assert found["tensors"][0]["shape"] == [200, 90]

    def test_file_says_what_the_report_says(self, source: Path, output: Path) -> None:
        report = rsrc.compile(source, output)
        header = RsrFile(output).header
        assert header.producer == f"rsrc {rsrc.__version__}"
        assert header.metadata == {"format": "pt"}
        assert [t.name for t in header.tensors] == [t.name for t in report.tensors]
        with rsr_runtime.load(output) as model:
            assert bytes(model.files["config.json"]) == b'{"model_type": "test"}'


@pytest.mark.parametrize(
    ("options", "indexed"),
    [
        ({"include": ["layers.*"]}, ["layers.0.weight", "layers.1.weight"]),
        ({"include": ["layers.[0]*", "head.weight"]}, ["layers.0.weight", "head.weight"]),
        ({"include": ["*"], "exclude": ["layers.?.weight"]}, ["head.weight"]),
        ({"exclude": ["h*", "*.0.*"]}, ["layers.1.weight"]),
    ],
)
def test_include_exclude(
    source: Path, output: Path, options: dict[str, Any], indexed: list[str]
) -> None:
    report = rsrc.compile(source, output, **options)
    assert [t.name for t in report.tensors if t.kind != "dense"] == indexed
    reasons = {t.name: t.reason for t in report.tensors}
    for name in set(TENSORS) - set(indexed):
        assert "include" in options or reasons[name] != "not matched by --include"
    if "exclude" in options:
        assert "matched by --exclude" in reasons.values()
    assert report.notes == ()


def test_patterns_that_match_nothing_are_noted(source: Path, output: Path) -> None:
    include, exclude = ["layers.*", "layer.*"], ["typo*", "layers.1.*"]
    assert rsrc.compile(source, output, include=include, exclude=exclude).notes == (
        "include 'layer.*' matches no tensor: patterns are compared with whole names",
        "exclude 'typo*' matches no tensor: patterns are compared with whole names",
    )


class TestNothingToCompile:
    def test_float_master(self, kit: Kit, tmp_path: Path, output: Path) -> None:
        source = kit.save(tmp_path / "s.safetensors", {"w": TENSORS["embed.weight"]})
        with pytest.raises(
            rsrc.NothingToCompileError,
            match=r"none of its 1 tensors is .*'w' stays dense: F32, .*--quantize absmean",
        ):
            rsrc.compile(source, output)
        assert list(output.parent.iterdir()) == []

    def test_filters(self, source: Path, output: Path) -> None:
        for options in ({"include": ["nothing"]}, {"exclude": ["*"]}):
            with pytest.raises(rsrc.NothingToCompileError, match="Check --include and --exclude"):
                rsrc.compile(source, output, **options)  # type: ignore[arg-type]

    def test_quantized_names(self, kit: Kit, tmp_path: Path, output: Path) -> None:
        source = kit.save(tmp_path / "s.safetensors", {"embed": TENSORS["embed.weight"]})
        with pytest.raises(rsrc.NothingToCompileError, match="--include overrides") as caught:
            rsrc.compile(source, output, quantize="absmean")
        assert "--quantize" not in str(caught.value)

    def test_no_tensors(self, kit: Kit, tmp_path: Path, output: Path) -> None:
        source = kit.save(tmp_path / "s.safetensors", {})
        with pytest.raises(rsrc.NothingToCompileError, match="none of its 0 tensors"):
            rsrc.compile(source, output)


class TestOutput:
    def test_exists(self, source: Path, output: Path) -> None:
        output.write_bytes(b"precious")
        with pytest.raises(rsrc.OutputExistsError, match="--force"):
            rsrc.compile(source, output)
        assert output.read_bytes() == b"precious"
        rsrc.compile(source, output, force=True)
        RsrFile(output).verify()

    def test_is_checked_before_the_source_is_read(self, tmp_path: Path, output: Path) -> None:
        output.write_bytes(b"")
        with pytest.raises(rsrc.OutputExistsError):
            rsrc.compile(tmp_path / "nowhere", output)
        with pytest.raises(FileNotFoundError) as caught:
            rsrc.compile(tmp_path / "nowhere", tmp_path / "no folder" / "x.rsr")
        assert caught.value.filename == str((tmp_path / "no folder").resolve())

    @pytest.mark.parametrize("force", [False, True])
    def test_is_a_folder(self, source: Path, output: Path, force: bool) -> None:
        with pytest.raises(rsrc.OutputExistsError, match="not a regular file"):
            rsrc.compile(source, output.parent, force=force)

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    @pytest.mark.parametrize("through_link", [False, True])
    def test_is_part_of_the_source(
        self, source: Path, output: Path, name: str, through_link: bool
    ) -> None:
        target = source / name
        before = target.read_bytes()
        if through_link:
            output.symlink_to(target)
        with pytest.raises(rsrc.OptionError, match="is part of the source"):
            rsrc.compile(source, output if through_link else target, force=True)
        assert target.read_bytes() == before

    @pytest.mark.parametrize("sharded", [False, True])
    def test_is_the_config_beside_the_source(self, kit: Kit, tmp_path: Path, sharded: bool) -> None:
        """config.json is read for the scale rule although the .rsr file does not keep it."""
        config = tmp_path / "config.json"
        config.write_text("{}")
        source = kit.save(tmp_path / "m.safetensors", {"w": T})
        if sharded:
            source = kit.save_sharded(tmp_path, {source.name: {"w": T}})
        with pytest.raises(rsrc.OptionError, match="is part of the source"):
            rsrc.compile(source, config, force=True)
        assert config.read_text() == "{}"

    def test_may_be_a_new_config(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "m.safetensors", {"w": T})
        rsrc.compile(source, tmp_path / "config.json")
        assert [t.name for t in RsrFile(tmp_path / "config.json").header.tensors] == ["w"]

    def test_is_the_index(self, kit: Kit, tmp_path: Path) -> None:
        index = kit.save_sharded(tmp_path, {"1.safetensors": {"w": T}})
        with pytest.raises(rsrc.OptionError, match="is part of the source"):
            rsrc.compile(index, index, force=True)

    @pytest.mark.skipif(sys.platform == "win32", reason="such names are not allowed")
    def test_strange_names(self, source: Path, output: Path) -> None:
        for name in ("[bold]x.rsr", "ü 😀\n.rsr", "-x", "%s{0}"):
            report = rsrc.compile(source, output.with_name(name))
            names = [t.name for t in RsrFile(output.with_name(name)).header.tensors]
            assert names == [t.name for t in report.tensors]


def fail_in_the_source(monkeypatch: pytest.MonkeyPatch, source: Path) -> type[Exception]:
    """Truncate the source after its tensors have been recognized."""
    original = pipeline.write

    def cut_then_write(*arguments: Any) -> Any:
        os.truncate(source / "model.safetensors", 20_000)
        return original(*arguments)

    monkeypatch.setattr(pipeline, "write", cut_then_write)
    return rsrc.SourceError


def fail_while_writing(monkeypatch: pytest.MonkeyPatch, source: Path) -> type[Exception]:
    original = RsrWriter._write
    written = 0

    def write(self: RsrWriter, piece: Any) -> Any:
        nonlocal written
        written += len(piece)
        if written > 30_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, piece)

    monkeypatch.setattr(RsrWriter, "_write", write)
    return OSError


def fail_while_syncing(monkeypatch: pytest.MonkeyPatch, source: Path) -> type[Exception]:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    return OSError


def fail_while_renaming(monkeypatch: pytest.MonkeyPatch, source: Path) -> type[Exception]:
    def replace(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))

    monkeypatch.setattr(Path, "replace", replace)
    return PermissionError


def fail_by_interrupt(monkeypatch: pytest.MonkeyPatch, source: Path) -> type[BaseException]:
    original = RsrWriter._write
    calls = 0

    def write(self: RsrWriter, piece: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return original(self, piece)

    monkeypatch.setattr(RsrWriter, "_write", write)
    return KeyboardInterrupt


@pytest.mark.parametrize(
    "fail",
    [
        fail_in_the_source,
        fail_while_writing,
        fail_while_syncing,
        fail_while_renaming,
        fail_by_interrupt,
    ],
)
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("encoding", ["ranked", "permuted"])
def test_failure_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    output: Path,
    fail: Callable[[pytest.MonkeyPatch, Path], type[BaseException]],
    existing: bool,
    encoding: str,
) -> None:
    if existing:
        output.write_bytes(b"precious")
    with pytest.raises(fail(monkeypatch, source)):
        rsrc.compile(source, output, encoding=encoding, force=existing, threads=2)
    assert [p.name for p in output.parent.iterdir()] == (["x.rsr"] if existing else [])
    assert not existing or output.read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_full_disk(kit: Kit, source: Path, output: Path) -> None:
    """The same with an error of the system: a limit on the size of files."""
    output.write_bytes(b"precious")
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
from rsrc.cli.main import main
main()
"""
    done = kit.python(code, "compile", source, "-o", output, "--force")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rsrc: {os.strerror(errno.EFBIG)}\n"
    assert [p.name for p in output.parent.iterdir()] == ["x.rsr"]
    assert output.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "options", [{}, {"encoding": "permuted", "zstd": 1, "exclude": ["layers.0*"]}]
)
def test_progress(source: Path, output: Path, options: dict[str, Any]) -> None:
    seen: list[tuple[str, int, int]] = []
    rsrc.compile(source, output, progress=lambda *call: seen.append(call), **options)
    total = sum(t.nbytes for t in TENSORS.values())  # not twice: each phase is half of it
    assert {call[2] for call in seen} == {total}
    done = [call[1] for call in seen]
    assert done == sorted(done)
    assert done[-1] == total
    recognized = [call[0] for call in seen[: len(TENSORS)]]
    assert set(recognized) == set(TENSORS)
    assert done[len(TENSORS) - 1] == total // 2
    assert {call[0] for call in seen[len(TENSORS) :]} >= set(TENSORS) - {"empty"}


def test_progress_with_phases(source: Path, output: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.phases: list[tuple[str, int]] = []
            self.names: list[set[str]] = []

        def begin(self, phase: str, tensors: int) -> None:
            self.phases.append((phase, tensors))
            self.names.append(set())

        def __call__(self, name: str, done: int, total: int) -> None:
            self.names[-1].add(name)

    recorder = Recorder()
    rsrc.compile(source, output, progress=recorder)
    assert recorder.phases == [("recognizing", len(TENSORS)), ("compiling", len(TENSORS))]
    assert recorder.names == [set(TENSORS), set(TENSORS)]


def test_exception_in_progress_ends_the_compilation(source: Path, output: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rsrc.compile(source, output, progress=stop)
    assert list(output.parent.iterdir()) == []


def peak_memory(kit: Kit, source: Path, output: Path, **options: Any) -> int:
    """Compile in a new process; return its peak memory in bytes."""
    code = """
import json, sys, rsrc
rsrc.compile(*sys.argv[1:3], **json.loads(sys.argv[3]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = kit.python(code, source, output, json.dumps(options))
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["packed", "negative zeros", "permuted", "64 threads"])
def test_memory(kit: Kit, tmp_path: Path, kind: str) -> None:
    """Peak memory stays below the largest ternary tensor plus 512 MiB, and in fact plus 256 MiB."""
    rows, columns = 20_000, 10_000  # 200 MB of bytes
    block = RNG.integers(0, 81, (200, columns))
    codes = np.array([[a // 27, a // 9 % 3, a // 3 % 3, a % 3] for a in range(81)], np.uint8)
    packed = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1).astype(np.uint8)[block]
    tensors = {"w": ["U8", [rows, columns]], "w_scale": ["F32", [1]]}
    data, last = packed.tobytes(), np.ones(1, np.float32).tobytes()
    if kind == "negative zeros":
        values = np.array([0x0000, 0x8000, 0x3C00, 0xBC00], np.uint16)
        rows //= 2
        data, last = values[block & 3].tobytes(), b""
        tensors = {"w": ["F16", [rows, columns]]}
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = 200_000_000 if name == "w" else 4
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path = tmp_path / "s.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(200_000_000 // len(data)):
            file.write(data)
        file.write(last)
    encoding = "permuted" if kind == "permuted" else "auto"
    threads = 64 if kind == "64 threads" else 2
    peak = peak_memory(kit, path, tmp_path / "x.rsr", encoding=encoding, threads=threads)
    path.unlink()
    (tmp_path / "x.rsr").unlink()
    assert peak < 200_000_000 + (512 << 20)
    assert peak < 200_000_000 + (256 << 20), f"{peak >> 20} MiB: within the promise, but it grew"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("shape", "options", "most"),
    [
        # Segment lists are a thousand times the tensor: 240 MB of them.
        pytest.param(
            (4, 20_000), {"encoding": "permuted", "direction": "expand", "k": 10}, 128, id="L"
        ),
        # Strips of 128 rows of half a million columns, 64 MB each.
        pytest.param((300, 500_000), {"threads": 8}, 128, id="wide"),
        pytest.param((500, 1000), {"zstd": 22}, 200, id="zstd"),
        pytest.param((1000, 500), {"encoding": "permuted", "zstd": 22}, 200, id="zstd permuted"),
    ],
)
def test_memory_beside_the_tensor(
    kit: Kit, tmp_path: Path, shape: tuple[int, int], options: dict[str, Any], most: int
) -> None:
    """Memory beside the tensor is bounded for every shape and all options."""
    t = np.tile(T.reshape(-1), -(-shape[0] * shape[1] // T.size))[: shape[0] * shape[1]]
    source = kit.save(tmp_path / "s.safetensors", {"w": t.reshape(shape)})
    peak = peak_memory(kit, source, tmp_path / "x.rsr", **options) - t.nbytes
    (tmp_path / "x.rsr").unlink()
    assert peak < most << 20, f"{peak >> 20} MiB"
