"""Untrusted sources, by the name of the attack: rejected quickly and in little memory.

What is refused takes less than two seconds, and what is opened, however it was made, less than
64 MiB of memory beyond the size of its files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rsrc
from rsr_formats import IndexedTensor, RsrError, create
from rsr_formats.errors import OutputExistsError
from rsr_formats.model_files import MAX_CONFIG, MAX_FILE
from rsr_formats.records import MAX_METADATA, TERNARY, Scale, SourceRecord
from rsr_testing.checkpoints import Kit
from rsrc.compiler.options import CompileOptions
from rsrc.compiler.recognize import recognize
from rsrc.source.open import open_checkpoint
from rsrc.source.safetensors import MAX_HEADER, MAX_INDEX, MAX_TENSORS

SECONDS = 2
linux = pytest.mark.skipif(sys.platform != "linux", reason="FIFOs, /proc, address space limits")

T = np.array([[1, 0, -1], [0, 0, 1]], np.int8)
PACKED: dict[str, Any] = {"w": np.array([[0xA1, 0x18], [0x90, 0x0A]], np.uint8)}
SCALE = {"w_scale": np.array([4], np.float32)}


@contextmanager
def soon() -> Iterator[None]:
    """Fail if the block takes too long; end it if it hangs."""

    def hangs(number: int, frame: object) -> None:
        raise AssertionError("it hangs")

    start = time.process_time()
    if hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, hangs)
        signal.alarm(60)
    try:
        yield
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    assert time.process_time() - start < SECONDS


def refused(source: Path, match: str) -> None:
    """Check that the source is rejected quickly, with a message of bounded length."""
    with soon(), pytest.raises(rsrc.SourceError, match=match) as caught:
        open_checkpoint(source)
    assert len(str(caught.value)) < 4000 + len(str(source))


def with_header(path: Path, text: bytes, body: bytes = b"", size: int | None = None) -> Path:
    size = len(text) if size is None else size
    path.write_bytes(size.to_bytes(8, "little") + text + body)
    return path


def entry(**fields: object) -> bytes:
    """Return the header of one tensor `w` of two bytes, with some fields changed."""
    return json.dumps(
        {"w": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]} | fields}
    ).encode()


def many_entries(count: int, prefix: str = "") -> bytes:
    empty = '"%s%x":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(empty % (prefix, i) for i in range(count)) + "}").encode()


@pytest.fixture
def few_tensors(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the limit: reaching it takes seconds."""
    monkeypatch.setattr("rsrc.source.safetensors.MAX_TENSORS", 100)
    return 100


class TestHeader:
    @pytest.mark.parametrize("size", [0, 1 << 20, 1 << 62, 1 << 63, (1 << 64) - 1])
    def test_size_that_is_not_there(self, tmp_path: Path, size: int) -> None:
        path = with_header(tmp_path / "x.safetensors", entry(), b"ab", size)
        refused(path, rf"its header claims {size} bytes, but the file has \d+ more")

    @pytest.mark.parametrize("size", [MAX_HEADER + 1, 100_000_000])
    def test_size_beyond_the_limit(self, tmp_path: Path, size: int) -> None:
        path = with_header(tmp_path / "x.safetensors", b"{", size=size)
        os.truncate(path, 8 + size)
        refused(path, f"its header has {size} bytes, the limit is {MAX_HEADER}")

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            pytest.param(b'{"w":' + b"[" * (MAX_HEADER - 5), "not valid JSON", id="nested lists"),
            pytest.param(b'{"w":' * (MAX_HEADER // 5), "not valid JSON", id="nested maps"),
            pytest.param(
                b'{"w":[' + b"[]," * (MAX_HEADER // 3 - 3) + b"0]}", "longer than", id="many lists"
            ),
            pytest.param(b'{"' + b"x" * (MAX_HEADER - 9) + b'":0}', "longer than", id="long name"),
            pytest.param(
                b'{"__metadata__":{"a":"' + b"x" * (MAX_HEADER - 50) + b'"}}',
                f"longer than {MAX_METADATA}",
                id="long metadata",
            ),
            pytest.param(
                b'{"__metadata__":{' + b'"":"",' * (MAX_HEADER // 6 - 9) + b'"":""}}',
                f"longer than {MAX_METADATA}",
                id="much metadata",
            ),
            pytest.param(b" " * MAX_HEADER, "does not begin with '{'", id="white space"),
            pytest.param(b"{" + b" " * (MAX_HEADER - 1), "not valid JSON", id="white space inside"),
            pytest.param(b"{}" + b"\0" * 9, "something follows", id="zeros behind"),
            pytest.param(b'{"\\ud800":0}', "not valid Unicode", id="half a surrogate pair"),
            pytest.param(
                b'{"__metadata__":{"a":"\\udfff"}}', "not valid Unicode", id="in metadata"
            ),
            pytest.param(b'{"__metadata__":{"a":1}}', "expected a map of strings", id="metadata"),
            pytest.param(b'{"__metadata__":[]}', "expected a map of strings", id="metadata list"),
            pytest.param(b'{"":{}}', "expected a name of 1 to 1024 bytes", id="no name"),
            pytest.param(b'{"w":null}', "expected the fields dtype", id="null"),
            pytest.param(b'{"w":{"dtype":"I8"}}', "expected the fields dtype", id="fields missing"),
            pytest.param(b'{"w":1e999999}', "expected the fields dtype", id="large number"),
            pytest.param(b'{"w":' + b"9" * 4000 + b"}", "w", id="many digits"),
        ],
    )
    def test_bomb(self, tmp_path: Path, text: bytes, match: str) -> None:
        refused(with_header(tmp_path / "x.safetensors", text), match)

    @pytest.mark.parametrize(
        "shape",
        [-1, [-2], [2.0], [True, 2], ["2"], [None], [[2]], "2", {"0": 2}, None, [1 << 63],
         [1 << 64], [1 << 32, 1 << 32], [1 << 62] * 8, [(1 << 63) - 1], [3], [1e308],
         [float("nan")]],
    )  # fmt: skip
    def test_shape(self, tmp_path: Path, shape: object) -> None:
        path = with_header(tmp_path / "x.safetensors", entry(shape=shape), b"ab")
        refused(path, "tensor 'w': (shape|I8 .* does not take 2 bytes)")

    @pytest.mark.parametrize(
        "dtype", [None, 8, True, [], {}, "", "i8", "I9", "I8 ", "T2", "x" * 99]
    )
    def test_dtype(self, tmp_path: Path, dtype: object) -> None:
        path = with_header(tmp_path / "x.safetensors", entry(dtype=dtype), b"ab")
        refused(path, "tensor 'w': unknown dtype")

    @pytest.mark.parametrize(
        "offsets",
        [[0], [0, 2, 2], [0.0, 2.0], [False, 2], ["0", "2"], None, {}, "02", [-2, 0], [0, 1 << 63],
         [(1 << 64) - 2, 1 << 64], [2, 0], [2, 2], [0, 3], [1, 3], [(1 << 63) - 3, (1 << 63) - 1]],
    )  # fmt: skip
    def test_offsets(self, tmp_path: Path, offsets: object) -> None:
        path = with_header(tmp_path / "x.safetensors", entry(data_offsets=offsets), b"ab")
        refused(path, "tensor 'w'")

    def test_more_tensors_than_the_limit(self, tmp_path: Path, few_tensors: int) -> None:
        path = with_header(tmp_path / "x.safetensors", many_entries(few_tensors))
        assert len(open_checkpoint(path).tensors) == few_tensors
        with_header(path, many_entries(few_tensors + 1))
        refused(path, f"more than {few_tensors} tensors")

    def test_more_tensors_than_the_limit_in_all_shards(
        self, tmp_path: Path, few_tensors: int
    ) -> None:
        weight_map = {}
        for prefix in ("a", "b"):
            name = f"{prefix}.safetensors"
            with_header(tmp_path / name, many_entries(few_tensors // 2 + 1, prefix))
            weight_map[f"{prefix}0"] = name
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, f"more than {few_tensors} tensors")

    def test_metadata_beyond_the_limit_in_all_shards(self, kit: Kit, tmp_path: Path) -> None:
        weight_map = {}
        for i in range(3):
            note = {f"{i}": "x" * (MAX_METADATA // 2)}
            kit.save(tmp_path / f"{i}.safetensors", {f"t{i}": T}, note)
            weight_map[f"t{i}"] = f"{i}.safetensors"
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, f"more than {MAX_METADATA} bytes of metadata")


OPEN_IN_LITTLE = """
import resource, sys
from pathlib import Path
from rsr_formats import RsrError
from rsrc.source.open import open_checkpoint
source = Path(sys.argv[1])
size = sum(p.stat().st_size for p in (source.iterdir() if source.is_dir() else [source]))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (80 << 20) + size
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    checkpoint = open_checkpoint(source)
    print("opened", len(checkpoint.tensors), len(checkpoint.config))
except RsrError as error:
    print("refused", error)
"""


@linux
class TestMemory:
    """The worst case within the limits, in a process whose memory is limited."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param(
                b'{"__metadata__":{"a":"' + "\U0001f600".encode() + b'"},'
                + many_entries(MAX_TENSORS)[1:],
                f"opened {MAX_TENSORS}",
                id="tensors and an emoji",
            ),
            pytest.param(
                ('{"__metadata__":{"a":"' + "x" * (MAX_METADATA - 99) + '\U0001f600"}}').encode(),
                "opened 0",
                id="metadata",
            ),
            pytest.param(
                b'{"__metadata__":{"a":[' + b"[]," * (MAX_METADATA // 3 - 9) + b"0]}}",
                "refused",
                id="metadata of lists",
            ),
        ],
    )  # fmt: skip
    def test_header(self, kit: Kit, tmp_path: Path, text: bytes, expected: str) -> None:
        path = with_header(tmp_path / "x.safetensors", text)
        result = kit.python(OPEN_IN_LITTLE, path)
        assert result.stdout.startswith(expected), result.stderr[-500:]

    def test_index(self, kit: Kit, tmp_path: Path) -> None:
        weight_map = {f"{i:x}": "x.safetensors" for i in range(MAX_TENSORS)}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
        with_header(tmp_path / "x.safetensors", many_entries(MAX_TENSORS))
        result = kit.python(OPEN_IN_LITTLE, tmp_path)
        assert result.stdout.startswith(f"opened {MAX_TENSORS}"), result.stderr[-500:]

    @pytest.mark.parametrize("item", ["{}", "[]", '{"":0}', '"ab"', "0.5", "{}\n"])
    def test_config(self, kit: Kit, tmp_path: Path, item: str) -> None:
        kit.save(tmp_path / "model.safetensors", {"a": T})
        count = (MAX_CONFIG - 20) // (len(item) + 1)
        (tmp_path / "config.json").write_text('{"a": [' + ",".join([item] * count) + "]}")
        result = kit.python(OPEN_IN_LITTLE, tmp_path)
        assert result.stdout == "opened 1 1\n", result.stderr[-500:]


class TestIndex:
    def test_a_thousand_shards(self, kit: Kit, tmp_path: Path) -> None:
        shards = {f"{i:04}.safetensors": {f"t{i}": T} for i in range(1000)}
        source = kit.save_sharded(tmp_path, shards)
        with soon():
            assert len(open_checkpoint(source).tensors) == 1000

    def test_a_thousand_missing_shards(self, tmp_path: Path) -> None:
        weight_map = {f"t{i}": f"{i:04}{'x' * 200}" for i in range(1000)}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, r"1000 of 1000 shards missing: 0000x+, .* and 980 more; download them$")

    def test_a_thousand_tensors_in_other_shards(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "x.safetensors", {"a": T})
        weight_map = {f"t{i}{'x' * 900}": "x.safetensors" for i in range(1000)}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, r"not in the shard named: t0x+ \(in x\.safetensors\), .* and 980 more$")

    def test_ten_million_entries(self, tmp_path: Path) -> None:
        index = tmp_path / "model.safetensors.index.json"
        index.write_bytes(b'{"weight_map":{')
        os.truncate(index, 10_000_000 * 16)  # sparse; it is not read
        refused(index, f"160,000,000 bytes, the limit is {MAX_INDEX:,}")

    def test_more_entries_than_the_limit(self, tmp_path: Path, few_tensors: int) -> None:
        index = tmp_path / "model.safetensors.index.json"
        weight_map = {f"{i:x}": "x" for i in range(few_tensors + 1)}
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, f"more than {few_tensors} tensors")

    def test_what_it_says_beside_is_bounded(self, tmp_path: Path) -> None:
        index = tmp_path / "model.safetensors.index.json"
        index.write_bytes(b'{"metadata":[' + b"[]," * 5_000_000 + b'0],"weight_map":{}}')
        refused(index, "not an index of shards: .* longer than 65536 bytes")


class TestLinks:
    """Links are followed: the Hugging Face cache consists of them, snapshots/*/x -> ../../blobs/y.

    An index must not *name* a file elsewhere (test_open.py): the index comes from a stranger, but
    the links were made on this machine.
    """

    def test_a_snapshot_of_the_hugging_face_cache(self, kit: Kit, tmp_path: Path) -> None:
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "5eb1"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        kit.save_sharded(blobs, {"1.safetensors": PACKED, "2.safetensors": SCALE})
        (blobs / "config").write_text('{"quantization_config": {"linear_class": "autobitlinear"}}')
        names = {name: name for name in ("1.safetensors", "2.safetensors")}
        names |= {"model.safetensors.index.json": "model.safetensors.index.json"}
        for name, blob in (names | {"config.json": "config"}).items():
            try:
                (snapshot / name).symlink_to(Path("../../blobs") / blob)
            except OSError:
                pytest.skip("this system lets us make no links")
        report = rsrc.compile(snapshot, tmp_path / "x.rsr")
        assert report.tensors[0].scale == "multiply by weight_scale (autobitlinear)"
        assert report.files == ("config.json",)

    @linux
    def test_dangling_and_circular(self, tmp_path: Path) -> None:
        (tmp_path / "1.safetensors").symlink_to("nowhere")
        (tmp_path / "2.safetensors").symlink_to("2.safetensors")
        index = tmp_path / "model.safetensors.index.json"
        weight_map = {"a": "1.safetensors", "b": "2.safetensors"}
        index.write_text(json.dumps({"weight_map": weight_map}))
        refused(index, r"2 of 2 shards missing: 1\.safetensors \(a link to a .*\), 2\.safet")
        refused(tmp_path / "2.safetensors", r"a link to a file that is missing \(2\.safetensors\)")


@linux
class TestNoRegularFile:
    """Nothing blocks on a FIFO or reads endlessly from a device."""

    @pytest.fixture(params=["fifo", "folder", "device"])
    def make(self, request: pytest.FixtureRequest) -> Any:
        def make(path: Path) -> Path:
            match request.param:
                case "fifo":
                    os.mkfifo(path)
                case "folder":
                    path.mkdir()
                case _:
                    path.symlink_to("/dev/zero")
            return path

        return make

    def test_source(self, tmp_path: Path, make: Any) -> None:
        path = make(tmp_path / "x.safetensors")
        refused(path, "not a regular file|no .safetensors or .gguf file in this directory")

    def test_shard(self, tmp_path: Path, make: Any) -> None:
        make(tmp_path / "1.safetensors")
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
        refused(
            index, r"1 of 1 shards missing: 1\.safetensors \(not a regular file\); download them$"
        )

    def test_index(self, tmp_path: Path, make: Any) -> None:
        path = make(tmp_path / "model.safetensors.index.json")
        refused(path, "not a regular file|no .safetensors or .gguf file in this directory")
        refused(tmp_path, "not a regular file|no .safetensors or .gguf file in this directory")

    def test_lone_file_of_a_folder(self, tmp_path: Path, make: Any) -> None:
        make(tmp_path / "any.safetensors")
        refused(tmp_path, "not a regular file")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_model_file(self, kit: Kit, tmp_path: Path, make: Any, name: str) -> None:
        kit.save(tmp_path / "model.safetensors", {"a": T})
        make(tmp_path / name)
        refused(tmp_path, f"{name}: not a regular file")

    def test_output(self, kit: Kit, tmp_path: Path, make: Any) -> None:
        source = kit.save(tmp_path / "model.safetensors", {"a": T})
        output = make(tmp_path / "out.rsr")
        with soon(), pytest.raises(OutputExistsError, match="not a regular file"):
            rsrc.compile(source, output, force=True)


class TestOutput:
    @linux
    def test_a_link_to_the_source(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "model.safetensors", {"a": T})
        before = source.read_bytes()
        soft, hard = tmp_path / "soft.rsr", tmp_path / "hard.rsr"
        soft.symlink_to(source)
        hard.hardlink_to(source)
        for output in (soft, hard):
            with pytest.raises(rsrc.OptionError, match="is part of the source"):
                rsrc.compile(source, output, force=True)
        assert source.read_bytes() == before

    @linux
    def test_a_circular_link(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "model.safetensors", {"a": T})
        output = tmp_path / "out.rsr"
        output.symlink_to("out.rsr")
        with pytest.raises(OSError, match="symbolic links"):
            rsrc.compile(source, output, force=True)
        assert output.is_symlink()

    @linux
    def test_a_link_is_followed(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "model.safetensors", {"a": T})
        (tmp_path / "disk").mkdir()
        output = tmp_path / "out.rsr"
        output.symlink_to("disk/out.rsr")
        rsrc.compile(source, output)
        assert output.is_symlink()
        assert (tmp_path / "disk" / "out.rsr").is_file()


@linux
def test_scales_of_rows_without_columns(kit: Kit, tmp_path: Path) -> None:
    """Two scales may claim two billion rows: decompiling once made 16 GiB of them."""
    shape = ((1 << 31) - 1, 0)
    with create(tmp_path / "x.rsr") as writer:
        ranks, scale = writer.add([]), writer.add([np.array([1, 2], "<f4").tobytes()])
        source = SourceRecord("float", "F32", shape)
        record = IndexedTensor(
            "w", shape, TERNARY, 3, "expand", "ranked", "w16", {"ranks": ranks}, source,
            Scale(1 << 30, scale),
        )  # fmt: skip
        writer.finish(producer="", metadata={}, files=[], tensors=[record])
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from rsrc.export.decompile import decompile\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + (64 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "decompile(*sys.argv[1:])"
    )
    result = kit.python(code, tmp_path / "x.rsr", tmp_path / "x.safetensors")
    assert result.returncode == 0, result.stderr[-500:]
    assert open_checkpoint(tmp_path / "x.safetensors").tensors["w"].shape == shape


class TestModelFiles:
    def test_a_config_of_gigabytes(self, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "model.safetensors", PACKED | SCALE)
        (tmp_path / "config.json").write_bytes(b"{")
        os.truncate(tmp_path / "config.json", 5 << 30)
        refused(tmp_path, rf"config\.json: {5 << 30:,} bytes, the limit is {MAX_CONFIG:,}")
        with (
            soon(),
            pytest.raises(rsrc.SourceError, match="the limit is"),
        ):  # config is read on access
            rsrc.compile(source, tmp_path / "x.rsr")

    def test_a_tokenizer_of_gigabytes(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "model.safetensors", {"a": T})
        (tmp_path / "tokenizer.json").write_bytes(b"{")
        os.truncate(tmp_path / "tokenizer.json", 5 << 30)
        refused(tmp_path, rf"tokenizer\.json: {5 << 30:,} bytes, the limit is {MAX_FILE:,}")

    @pytest.mark.parametrize(
        "text",
        [b"", b"\0", b"\xff\xfe", b"nul", b"[" * MAX_CONFIG, b'{"a":' * (MAX_CONFIG // 5), b"1"],
    )
    def test_damaged_config(self, kit: Kit, tmp_path: Path, text: bytes) -> None:
        kit.save(tmp_path / "model.safetensors", PACKED | SCALE)
        (tmp_path / "config.json").write_bytes(text)
        with soon(), pytest.raises(rsrc.SourceError, match=r"config\.json: "):
            rsrc.compile(tmp_path, tmp_path / "x.rsr")

    def test_large_tokenizers_are_not_parsed(self, kit: Kit, tmp_path: Path) -> None:
        kit.save(tmp_path / "model.safetensors", {"a": T})
        (tmp_path / "tokenizer.json").write_bytes(b"{" + b"[" * (2 << 20) + b"\xff}\n")
        assert rsrc.compile(tmp_path, tmp_path / "x.rsr").files == ("tokenizer.json",)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from(["bitnet", "bitlinear", "autobitlinear", "online", "offline", "w", "gptq"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
QUANTIZATION = ("quant_method", "linear_class", "quantization_mode", "modules_to_not_convert",
                "use_rms_norm", "bits", "group_size")  # fmt: skip
CONFIG = ("architectures", "model_type", "hidden_size", "intermediate_size", "num_attention_heads",
          "num_key_value_heads", "head_dim", "num_hidden_layers", "vocab_size", "torch_dtype",
          "tie_word_embeddings", "quantization", "text_config", "weight_bits")  # fmt: skip


def some_of(keys: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, ANY_JSON))


@given(
    some_of(CONFIG),
    ANY_JSON | some_of(QUANTIZATION),
    st.sampled_from(["w", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]),
)
@settings(max_examples=150, deadline=None)
def test_any_value_in_any_field_of_the_config(
    kit: Kit, scratch: Path, config: dict[str, Any], quantization: Any, name: str
) -> None:
    folder = scratch / "config"
    folder.mkdir(exist_ok=True)
    tensors = {name: PACKED["w"], f"{name}_scale": SCALE["w_scale"], "codes": T, "master": T / 3.0}
    tensors["master"] = tensors["master"].astype(np.float32)
    kit.save(folder / "model.safetensors", tensors)
    text = json.dumps(config | {"quantization_config": quantization})
    (folder / "config.json").write_text(text)
    longest = 0
    for quantize in (None, "absmean"):
        try:
            recognize(open_checkpoint(folder), CompileOptions(quantize=quantize))
        except RsrError as error:
            longest = max(longest, len(str(error)))
    assert longest < 2000
