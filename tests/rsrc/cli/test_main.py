"""The command line: options, exit codes, JSON, output to terminals and pipes."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import rsr_runtime
import rsrc
from rsr_formats import RsrFile, validate
from rsr_formats.errors import NotRsrError, TruncatedError
from rsr_formats.pages import huge_page_size
from rsr_formats.records import PREAMBLE
from rsr_testing.checkpoints import Kit
from rsr_testing.process import SIGINT_ENDS, end_of, started, wait_until
from rsrc.cli.main import main
from rsrc.compiler.report import Report, TensorReport
from rsrc.compiler.target import native_target
from rsrc.inspection import file as rsrc_inspect

T = np.random.default_rng(13).integers(-1, 2, (100, 40)).astype(np.int8)
Run = Callable[..., Result]
# click 8.1 mixes stdout and stderr unless told not to; 8.2 keeps them apart and cannot be told.
SEPARATE: dict[str, Any] = {"mix_stderr": False}
RUNNER = CliRunner(**SEPARATE if "mix_stderr" in inspect.signature(CliRunner).parameters else {})

# What a model is, and whether it can be run.
SUPPORT = {"architecture", "family", "runs", "chat", "embeds", "not_understood", "not_applied"}


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command in this process; exceptions other than a clean exit are raised."""

    def invoke(*arguments: object, code: int = 0) -> Result:
        result = RUNNER.invoke(main, list(map(str, arguments)), prog_name="rsrc")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        if code == 1:
            assert re.fullmatch(r"rsrc: [^\n]+\n", result.stderr), result.stderr
            assert result.stdout == ""
        return result

    return invoke


@pytest.fixture
def source(kit: Kit, tmp_path: Path) -> Path:
    tensors: dict[str, Any] = {"w": T, "norm": np.ones(40, np.float32)}
    return kit.save(tmp_path / "s.safetensors", tensors, {"format": "pt"})


@pytest.fixture
def rsr(source: Path, tmp_path: Path) -> Path:
    rsrc.compile(source, tmp_path / "x.rsr", target="avx512")
    return tmp_path / "x.rsr"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rsrc", *map(str, arguments)]


SAMPLING = [
    "-n, --max-tokens", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty",
    "--seed", "--stop TEXT",
]  # fmt: skip
LOADING = ["--context", "--kv [float16|float32|int8]", "--memory [auto|map|huge]", "--threads"]

# What is promised of each command.
OPTIONS = {
    "compile": [
        "SOURCE", "-o, --output", "--encoding [auto|ranked|permuted]",
        "--target [native|generic|avx2|avx512|neon]", "--direction [auto|expand|reduce]", "-k ",
        "--quantize [absmean|absmedian|twn]", "--per tensor|row|group:N", "lossy", "--head [int8]",
        "--include GLOB", "--exclude GLOB", "--zstd LEVEL", "--threads",
        "--executor dask://HOST:PORT", "--force", "--json",
    ],
    "inspect": ["FILE", "--tensor NAME", "--block J", "--json"],
    "verify": ["FILE", "--against SOURCE", "--json"],
    "decompile": [
        "FILE", "-o, --output", "--to [source|bitnet|int8|float|gguf]",
        "--type [TQ1_0|TQ2_0|Q2_0|PQ2_0]", "--force",
    ],
    "unpack": ["FILE", "-o, --output", "--force", "--json"],
    "diff": ["OLD NEW", "-o, --output", "--stat", "--force", "--json"],
    "patch": ["OLD DELTA", "-o, --output", "--force", "--json"],
    "eval": [
        "FILE", "--tasks", "--num-fewshot", "--limit", "--include-path", "--apply-chat-template",
        "-o, --output FILE", "--force", "--lora [NAME=]DIR", *LOADING, "--json",
    ],
    "export-transformers": ["FILE DIRECTORY", "--force"],
    "bench": ["[FILE]", "--shape MxN", "--plot FILE.png", "--json"],
    "demo": [],
    "info": ["--json"],
    "run": [
        "FILE", "-p, --prompt TEXT", "--file PATH", "--template-var NAME=VALUE", *SAMPLING,
        "--lora [NAME=]DIR", *LOADING, "--json",
    ],
    "chat": [
        "FILE", "--system TEXT", "--template-var NAME=VALUE", *SAMPLING, "--lora [NAME=]DIR",
        *LOADING,
    ],
    "embed": [
        "FILE [TEXT]...", "--file PATH", "--prompt TEXT", "--prompt-name NAME", "--dimensions N",
        "--normalize / --no-normalize", "--pooling [lasttoken|", "-o, --output FILE", "--force",
        *LOADING, "--json",
    ],
    "perplexity": ["FILE TEXT", "--window", "--lora [NAME=]DIR", *LOADING, "--json"],
    "serve": [
        "FILE", "--host", "--port", "--parallel", "--queue", "--api-key KEY",
        "--api-key-file FILE", "--insecure", "--cors ORIGIN", "--cache-dir DIR", "--embeddings",
        "--template-var NAME=VALUE", "--speculate [ngram|off]", "--lora [NAME=]DIR", *LOADING,
    ],
}  # fmt: skip


class TestUsage:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_help(self, run: Run, name: str) -> None:
        for flag in ("--help", "-h"):
            text = re.sub(r"\s+", " ", run(name, flag).stdout)
            assert text.startswith(f"Usage: rsrc {name} ")
            for option in OPTIONS[name]:
                assert option in text

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
    def test_closed_streams(self, rsr: Path, closed: str) -> None:
        line = shlex.join(command("inspect", str(rsr)))
        done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, check=True)
        assert (done.stdout == b"") == (closed == ">&-")
        assert done.stderr == b""

    def test_every_command_is_listed(self, run: Run) -> None:
        text = run("--help").stdout
        assert re.findall(r"^  ([\w-]+) ", text[text.index("Commands:") :], re.M) == sorted(OPTIONS)
        for flag in ("--version", "-V"):
            assert run(flag).stdout == f"rsrc, version {rsrc.__version__}\n"

    def test_help_ends_with_examples_whose_options_exist(self, run: Run) -> None:
        examples = [run("--help").stdout, run("compile", "--help").stdout]
        lines = re.findall(r"^ +(?:\$ )?rsrc ((?:compile|run) .*)$", "\n".join(examples), re.M)
        assert len(lines) == 5
        for line in lines:
            name, *arguments = shlex.split(line)
            main.commands[name].make_context(name, arguments)  # parses, and runs nothing

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ("rsrc comp", ["compile"]),
            ("rsrc compile --tar", ["--target"]),
            ("rsrc compile --target avx", ["avx2", "avx512"]),
        ],
    )
    def test_completion(self, words: str, found: list[str]) -> None:
        environment = {
            **os.environ, "_RSRC_COMPLETE": "bash_complete", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        code = "import sys; sys.argv[0] = 'rsrc'; from rsrc.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode().split() == [f"plain,{word}" for word in found]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nonsense"],
            ["compile"],
            ["compile", "x.safetensors"],
            ["compile", "x", "-o", "y", "--encoding", "best"],
            ["compile", "x", "-o", "y", "--target", "vax"],
            ["compile", "x", "-o", "y", "--direction", "up"],
            ["compile", "x", "-o", "y", "--quantize", "int4"],
            ["compile", "x", "-o", "y", "--per", "row"],
            ["compile", "x", "-o", "y", "--quantize", "twn", "--per", "group:0"],
            ["compile", "x", "-o", "y", "-k", "0"],
            ["compile", "x", "-o", "y", "-k", "17"],
            ["compile", "x", "-o", "y", "--zstd", "23"],
            ["compile", "x", "-o", "y", "--threads", "0"],
            ["compile", "x", "-o", "y", "--executor", "slurm://host:1"],
            ["compile", "x", "y", "-o", "z"],
            ["unpack", "x"],
            ["diff", "x", "y"],
            ["diff", "x", "-o", "d"],
            ["diff", "x", "y", "-o", "d", "--stat"],
            ["patch", "x", "-o", "y"],
            ["patch", "x", "d"],
            ["inspect"],
            ["inspect", "x", "--block", "0"],
            ["inspect", "x", "--tensor", "w", "--block", "one"],
            ["verify"],
            ["decompile", "x"],
            ["decompile", "x", "-o", "y", "--to", "onnx"],
            ["decompile", "x", "-o", "y", "--to", "gguf", "--type", "Q4_0"],
            ["decompile", "x", "-o", "y", "--type", "TQ1_0"],
            ["decompile", "x", "-o", "y", "--to", "float", "--type", "TQ2_0"],
            ["bench"],
            ["bench", "x", "--shape", "3x3"],
            ["bench", "--shape", "3by3"],
            ["bench", "--shape", "0x3"],
            ["info", "--nonsense"],
        ],
    )
    def test_wrong_usage_exits_2(self, run: Run, arguments: list[str]) -> None:
        assert "Usage: rsrc" in run(*arguments, code=2).stderr

    def test_as_a_module(self) -> None:
        done = subprocess.run(command("--version"), capture_output=True, text=True, check=True)
        assert done.stdout == f"rsrc, version {rsrc.__version__}\n"


class TestRefused:
    """Exit code 1, one sentence on stderr, nothing on stdout: `run` checks that."""

    def test_compile(self, run: Run, source: Path, rsr: Path, tmp_path: Path) -> None:
        out = tmp_path / "y.rsr"
        missing = tmp_path / "no folder"
        for arguments, message in (
            ([tmp_path / "nowhere", "-o", out], "no such file or directory"),
            ([source, "-o", rsr], "use --force"),
            ([source, "-o", tmp_path], "not a regular file"),
            ([source, "-o", missing / "y.rsr"], f"{missing}: No such file or directory"),
            ([source, "-o", source, "--force"], "is part of the source"),
            ([source, "-o", out, "-k", "4"], "w: k = 4, expected 1 to 3"),
            ([source, "-o", out, "--direction", "reduce"], "use --encoding permuted"),
            ([source, "-o", out, "--include", "x*"], "Check --include and --exclude"),
            ([rsr, "-o", out], "x.rsr: a .rsr file, which is compiled already: run it with"),
        ):
            assert message in run("compile", *arguments, code=1).stderr
        assert not out.exists()

    def test_damaged_source(self, run: Run, source: Path, tmp_path: Path) -> None:
        source.write_bytes(source.read_bytes()[:-1])
        error = run("compile", source, "-o", tmp_path / "y.rsr", code=1).stderr
        assert error.startswith(f"rsrc: {source}: not a valid safetensors file: ")

    def test_inspect_of_a_git_lfs_pointer(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_text(
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 1178623968\n"
        )
        for file in (path, tmp_path):
            assert run("inspect", file, code=1).stderr == (
                f"rsrc: {path}: a Git LFS pointer to 1,178,623,968 bytes and not the file itself: "
                "run `git lfs pull` where it was cloned, or download it again\n"
            )
        assert "a Git LFS pointer to 1,178" in run("run", path, "-p", "x", code=1).stderr

    def test_inspect_of_a_directory_without_its_index(
        self, run: Run, source: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        source.rename(folder / "model-00001-of-00002.safetensors")
        assert run("inspect", folder, code=1).stderr == (
            f"rsrc: {folder}: 1 of 2 shards missing: model-00002-of-00002.safetensors; "
            "download them\n"
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ["run", "-p", "x"], ["chat"], ["perplexity", "FILE", "text"], ["verify"], ["bench"],
            ["bench", "--model"], ["decompile", "-o", "x.safetensors"], ["unpack", "-o", "x.rsr"],
        ],
    )  # fmt: skip
    def test_what_is_no_rsr_file(
        self, run: Run, source: Path, rsr: Path, tmp_path: Path, arguments: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Every command that takes a .rsr file says the same of what is none."""
        monkeypatch.chdir(tmp_path)

        def error(file: Path | str) -> str:
            if "FILE" in arguments:
                return run(*(file if a == "FILE" else a for a in arguments), code=1).stderr
            return run(*arguments, file, code=1).stderr

        folder = source.parent
        assert error(source) == (
            f"rsrc: {source}: a checkpoint; compile it first: rsrc compile {folder} -o FILE.rsr\n"
        )
        assert error(folder) == f"rsrc: {folder}: a directory: name a .rsr file in it, x.rsr\n"
        rsr.unlink()
        assert error(folder) == (
            f"rsrc: {folder}: a checkpoint; compile it first: rsrc compile {folder} -o FILE.rsr\n"
        )
        for name in ("org/name", "hf://org/name"):
            assert "run `rsrc compile hf://org/name -o name.rsr` first" in error(name)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows")
    @pytest.mark.parametrize("command", ["run", "verify", "inspect", "bench"])
    def test_a_fifo_or_a_dangling_link(self, run: Run, tmp_path: Path, command: str) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link.rsr").symlink_to("nowhere")
        more = ["-p", "x"] if command == "run" else []
        for name, message in (
            ("fifo", "not a regular file"),
            ("link.rsr", "a link to a file that is missing (nowhere): download it again"),
        ):
            path = tmp_path / name
            assert run(command, path, *more, code=1).stderr == f"rsrc: {path}: {message}\n"

    @pytest.mark.parametrize("command", ["compile", "decompile", "unpack"])
    def test_no_output_to_stdout(self, run: Run, rsr: Path, tmp_path: Path, command: str) -> None:
        error = run(command, rsr, "-o", "-", "--force", code=2).stderr
        assert "output to stdout is not supported: give the name of a file" in error

    def test_a_directory_where_a_file_belongs(self, run: Run, rsr: Path, tmp_path: Path) -> None:
        error = run("unpack", rsr, "-o", tmp_path, "--force", code=1).stderr
        assert (
            error == f"rsrc: {tmp_path} is a directory, not a regular file: choose another name\n"
        )

    def test_others(self, run: Run, source: Path, rsr: Path, tmp_path: Path) -> None:
        for arguments, message in (
            (["inspect", tmp_path / "no"], f"{tmp_path / 'no'}: No such file or directory"),
            (["inspect", __file__], "not a .rsr file"),
            (["inspect", rsr, "--tensor", "v"], "has no tensor 'v'; it has 'w', 'norm'\n"),
            (["inspect", rsr, "--tensor", "norm", "--block", "0"], "is dense"),
            (["inspect", rsr, "--tensor", "w", "--block", "14"], "14 column blocks, 0 to 13"),
            (["inspect", rsr, "--tensor", "w", "--block", "-1"], "14 column blocks"),
            (["verify", source], "a checkpoint; compile it first: rsrc compile "),
            (["verify", rsr, "--against", tmp_path / "no"], "no such file"),
            (["decompile", rsr, "-o", source], "use --force"),
            (["decompile", rsr, "-o", rsr, "--force"], "is part of the source"),
            (["decompile", source, "-o", tmp_path / "y"], "a checkpoint; compile it first"),
            (["decompile", rsr, "-o", tmp_path], "with files in it"),
            (["decompile", rsr, "-o", tmp_path, "--force"], "with files in it"),
            (["decompile", rsr, "-o", tmp_path / "y.safetensors", "--to", "bitnet"], "a directory"),
        ):
            assert message in run(*arguments, code=1).stderr

    def test_a_name_cannot_steer_the_terminal(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        name = "w\x1b[31m\n[bold]:smile:[/x]\x07"
        source = kit.save(tmp_path / "s.safetensors", {name: T, "\x1bd": T[0]}, {"\x1bk": "\x1bv"})
        rsr = tmp_path / "x.rsr"
        shown = "w\\x1b[31m\\n[bold]:smile:[/x]\\x07"
        output = run("compile", source, "-o", rsr).stdout + run("inspect", rsr).stdout
        output += run("inspect", rsr, "--tensor", name).stdout
        assert output.count(shown) == 2
        output += run("inspect", rsr, "--tensor", name, "--block", 0).stdout
        kit.save(source, {"\x1bd": T})
        output += run("verify", rsr, "--against", source, code=1).stderr
        assert not re.search(r"[^\n -\x7e\x80-\U0010ffff]", output)

    def test_a_file_name_cannot_either(self, run: Run, kit: Kit, rsr: Path) -> None:
        """What is no control character, and is allowed, can still turn text around."""

        def add(document: dict[str, Any]) -> None:
            norm = next(t for t in document["tensors"] if t["name"] == "norm")
            document["tensors"].remove(norm)
            document["files"] = [{"name": "a\u202etxt", "section": norm["section"]}]

        shown = run("inspect", kit.tamper(rsr, add)).stdout
        assert "file a\\u202etxt, 160 B" in shown
        assert "\u202e" not in shown

    def test_many_names_are_counted(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        source = kit.save(tmp_path / "s.safetensors", dict.fromkeys("abcdef", T))
        rsrc.compile(source, tmp_path / "x.rsr")
        error = run("inspect", tmp_path / "x.rsr", "--tensor", "v", code=1).stderr
        assert error.endswith("it has 'a', 'b', 'c', 'd', 'e' and 1 more\n")

    def test_unknown_instruction_set(self) -> None:
        done = subprocess.run(
            command("info"), capture_output=True, text=True, env=os.environ | {"RSR_ISA": "mmx"},
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"rsrc: RSR_ISA: [^\n]+'mmx'[^\n]+\n", done.stderr)


class TestCompile:
    def test_table(self, run: Run, source: Path, tmp_path: Path) -> None:
        rsr = tmp_path / "y.rsr"
        text = run("compile", source, "-o", rsr, "--threads", 1).stdout
        for part in ("ternary", "dense", "bits/w", "dense: 1-dimensional"):
            assert part in text
        assert re.search(rf"^{re.escape(str(rsr))}: \d+\.\d\d s, .* on 1 thread$", text, re.M)

    @pytest.mark.parametrize("options", [[], ["--zstd", "3"], ["--head", "int8"]])
    def test_the_rows_of_the_table_add_up_to_the_file(
        self, run: Run, kit: Kit, tmp_path: Path, options: list[str]
    ) -> None:
        head = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
        tensors: dict[str, Any] = {
            "w": T,
            "b": np.where(T < 0, -1, 1).astype("f4"),
            "lm_head.weight": head,
        }
        (tmp_path / "model").mkdir()
        kit.save(tmp_path / "model" / "model.safetensors", tensors)
        (tmp_path / "model" / "config.json").write_text("{}")
        rsr = tmp_path / "y.rsr"
        text = run("compile", tmp_path / "model", "-o", rsr, *options).stdout
        parts = {
            cells[1].strip(): int(cells[5].replace(",", ""))
            for line in text.splitlines()
            if len(cells := line.split("│")) > 6
        }
        assert list(parts) == ["ternary", "binary", "dense", "files", "header", "padding", "total"]
        assert parts.pop("total") == sum(parts.values()) == rsr.stat().st_size
        found = run("compile", tmp_path / "model", "-o", rsr, "--force", "--json", *options).stdout
        report = json.loads(found)
        assert report["output_parts"] == parts
        assert sum(t["bytes"] for t in report["tensors"] if t["kind"] == "dense") == parts["dense"]
        sections = RsrFile(rsr).header.sections
        stored = sum(parts[kind] for kind in ("ternary", "binary", "dense", "files"))
        assert stored == sum(s.stored_size for s in sections)

    def test_options_reach_the_compiler(self, run: Run, source: Path, tmp_path: Path) -> None:
        rsr = tmp_path / "y.rsr"
        options = "--encoding permuted --direction expand -k 2 --zstd 3 --threads 2 --target avx2"
        report = json.loads(run("compile", source, "-o", rsr, "--json", *options.split()).stdout)
        (w,) = (t for t in report["tensors"] if t["name"] == "w")
        assert (w["encoding"], w["direction"], w["k"]) == ("permuted", "expand", 2)
        assert report["threads"] == 2
        assert RsrFile(rsr).header.sections[0].codec == "zstd"
        found = run("compile", source, "-o", rsr, "--force", "--json", "--exclude", "n*").stdout
        assert [t["reason"] for t in json.loads(found)["tensors"]].count(None) == 1

    def test_json(self, run: Run, source: Path, tmp_path: Path) -> None:
        rsr = tmp_path / "y.rsr"
        report = json.loads(run("compile", source, "-o", rsr, "--json").stdout)
        fields = {*Report.__dataclass_fields__, *SUPPORT} - {"support"}
        assert set(report) == {*fields, "reused", "bits_per_weight", "stored_ratio"}
        assert report["stored_ratio"] == {"ternary": 1, "dense": 1, "all": 1}
        assert report["output_bytes"] == rsr.stat().st_size
        for tensor in report["tensors"]:
            assert set(tensor) == set(TensorReport.__dataclass_fields__)

    def test_the_ratio_of_compression(self, run: Run, source: Path, tmp_path: Path) -> None:
        rsr = tmp_path / "y.rsr"
        report = json.loads(run("compile", source, "-o", rsr, "--json", "--zstd", 3).stdout)
        sections = RsrFile(rsr).header.sections
        stored, raw = sum(s.stored_size for s in sections), sum(s.size for s in sections)
        assert sum(t["bytes"] for t in report["tensors"]) == stored
        assert sum(t["raw_bytes"] for t in report["tensors"]) == raw
        ratio = report["stored_ratio"]
        assert set(ratio) == {"ternary", "dense", "all"}
        assert ratio["all"] == stored / raw
        assert ratio["dense"] == sections[-1].stored_size / 160 < 0.2  # forty times 1.0
        text = run("compile", source, "-o", rsr, "--force", "--zstd", 3).stdout
        assert re.search(rf"total .* {100 * stored / raw:.1f} % │", text)
        assert "of raw" not in run("compile", source, "-o", rsr, "--force").stdout

    def test_quantize(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        w = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
        source = kit.save(tmp_path / "s.safetensors", {"a.weight": w})
        rsr, back = tmp_path / "x.rsr", tmp_path / "back.safetensors"
        assert "--quantize absmean" in run("compile", source, "-o", rsr, code=1).stderr
        run("compile", source, "-o", rsr, "--quantize", "absmean")
        assert "holds all 1 tensors" in run("verify", rsr, "--against", source).stdout
        assert (
            "quantized values instead of the source's: 1 tensor\n"
            in run("decompile", rsr, "-o", back).stdout
        )


class TestInspect:
    KEYS = {"name", "kind", "shape", "dtype", "bytes"}  # noqa: RUF012
    DENSE = KEYS | {"quantised"}
    INDEXED = KEYS | {
        "layout", "digits", "base", "k", "direction", "encoding", "packing", "blocks",
        "bits_per_weight", "scales", "scale",
    }  # fmt: skip

    def test_file(self, run: Run, rsr: Path) -> None:
        text = run("inspect", rsr).stdout
        assert text.startswith(f"{rsr}: format 1.0, ")
        assert "100x40" in text
        assert "metadata format = pt" in text
        found = json.loads(run("inspect", rsr, "--json").stdout)
        assert set(found) == {
            "path", "bytes", "version", "producer", "metadata", "files", "tensors", "stacks",
            "advice", *SUPPORT,
        }  # fmt: skip
        for tensor in found["tensors"]:
            assert set(tensor) == (self.DENSE if tensor["kind"] == "dense" else self.INDEXED)

    def test_figures_of_one_tensor(self, run: Run, rsr: Path) -> None:
        text = run("inspect", rsr, "--tensor", "w").stdout
        nbytes = RsrFile(rsr).header.tensors[0].nbytes
        assert nbytes > 1000
        assert re.search(r"^ shape +100 x 40 *$", text, re.M)
        assert re.search(rf"^ bytes +{nbytes:,} *$", text, re.M)
        assert re.search(r"^ bits per weight +\d\.\d{3} *$", text, re.M)
        assert re.search(r"^ shape +40 *$", run("inspect", rsr, "--tensor", "norm").stdout, re.M)

    def test_a_packed_source_has_the_shape_of_its_weights(
        self, run: Run, kit: Kit, tmp_path: Path
    ) -> None:
        """uint8 [rows / 4, columns] of Hugging Face holds four rows in a byte."""
        source = kit.save(
            tmp_path / "s.safetensors",
            {"w": np.full((25, 40), 0b01100100, np.uint8), "w_scale": np.ones(1, np.float32)},
        )
        assert "100x40" in run("inspect", source).stdout
        (w, _) = json.loads(run("inspect", source, "--json").stdout)["tensors"]
        assert (w["shape"], w["weight_shape"]) == ([25, 40], [100, 40])

    def test_the_version_is_the_file_s(
        self, run: Run, rsr: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(validate, "VERSION", (2, 5))
        assert run("inspect", rsr).stdout.startswith(f"{rsr}: format 1.0, ")

    @pytest.mark.parametrize(
        ("target", "native", "advice"),
        [
            ("avx512", "avx512", None),
            ("avx2", "neon", None),
            ("avx2", "avx512", "2 of 3 ranked tensors are in packing n4s1: .* --target avx512 "),
            ("generic", "avx2", "2 of 3 ranked tensors are in packing w16: .* --target avx2 "),
        ],
    )
    def test_advice(
        self, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        target: str, native: str, advice: str | None,
    ) -> None:  # fmt: skip
        t = np.array([[1, 0, -1]], np.int8)
        tensors: dict[str, Any] = {
            "a": t,
            "b": t.T.copy(),
            "binary": np.array([[1, -1]], np.int8),
            "c": t / 3,
        }
        source = kit.save(tmp_path / "s.safetensors", tensors)
        rsrc.compile(source, tmp_path / "x.rsr", target=target)
        monkeypatch.setattr(rsrc_inspect, "native_target", lambda: native)
        found = rsrc_inspect.inspect_file(tmp_path / "x.rsr")["advice"]
        assert found is None if advice is None else re.match(advice, found)

    def test_scales_of_groups(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        w = np.repeat(np.array([[1, 2], [3, -4], [0, 1]], np.float32), 32, axis=1)
        rsr = tmp_path / "y.rsr"
        rsrc.compile(kit.save(tmp_path / "y.safetensors", {"w": w}), rsr)
        text = run("inspect", rsr, "--tensor", "w").stdout
        assert re.search(r"scales +6, one per row and 32 columns \(F16\)", text)
        assert "format 1.1" in run("inspect", rsr).stdout
        assert "holds all 1 tensors" in run(
            "verify", rsr, "--against", tmp_path / "y.safetensors"
        ).stdout  # fmt: skip

    def test_advice_is_printed(self, run: Run, source: Path, tmp_path: Path) -> None:
        target = "avx2" if native_target() != "avx2" else "avx512"
        rsrc.compile(source, tmp_path / "y.rsr", target=target)
        advice = json.loads(run("inspect", tmp_path / "y.rsr", "--json").stdout)["advice"]
        assert "recompile with --target" in advice
        assert advice in run("inspect", tmp_path / "y.rsr").stdout

    @pytest.mark.parametrize("name", ["w", "norm"])
    def test_tensor(self, run: Run, rsr: Path, name: str) -> None:
        found = json.loads(run("inspect", rsr, "--tensor", name, "--json").stdout)
        assert set(found) == (self.DENSE if name == "norm" else self.INDEXED) | {"sections"}
        text = run("inspect", rsr, "--tensor", name).stdout
        for section in found["sections"]:
            assert set(section) == {"role", "offset", "stored_size", "size", "codec", "sha256"}
            assert section["sha256"][:16] in text

    def test_digits_up_to_2(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        """A kind of its own in every report, and values above 1 in the patterns of a block."""
        w = np.resize(np.array([2, -1, 0, 1, 2], np.int8), (8, 6))
        source = kit.save(tmp_path / "s.safetensors", {"w": w, "t": np.sign(w)})
        rsr = tmp_path / "x.rsr"
        shown = json.loads(run("inspect", source, "--json").stdout)["tensors"]
        before = next(t for t in shown if t["name"] == "w")
        assert (before["becomes"], before["k"]) == ("quaternary", 2)
        assert "1 quaternary" in run("inspect", source).stdout
        report = json.loads(run("compile", source, "-o", rsr, "--json").stdout)
        assert report["output_parts"]["quaternary"] == 64  # 32 rows of one word
        assert "quaternary" in run("compile", source, "-o", rsr, "--force").stdout
        shown = json.loads(run("inspect", rsr, "--json").stdout)["tensors"]
        after = next(t for t in shown if t["name"] == "w")
        assert (after["kind"], after["digits"], after["base"]) == ("quaternary", [-1, 0, 1, 2], 4)
        block = run("inspect", rsr, "--tensor", "w", "--block", 0).stdout
        assert "+2 -" in block
        assert "holds all 2 tensors" in run("verify", rsr, "--against", source).stdout

    @pytest.mark.parametrize("encoding", ["ranked", "permuted"])
    def test_block(self, run: Run, source: Path, tmp_path: Path, encoding: str) -> None:
        rsr = tmp_path / "y.rsr"
        rsrc.compile(source, rsr, encoding=encoding, direction="expand", k=3)
        found = json.loads(run("inspect", rsr, "--tensor", "w", "--block", 13, "--json").stdout)
        assert set(found) == self.INDEXED | {
            "block", "columns", "stride", "patterns", "permutation", "segments",
        }  # fmt: skip
        assert found["columns"] == [39, 40]
        sigma, L = found["permutation"], found["segments"]
        for s, pattern in enumerate(found["patterns"]):
            for row in sigma[L[s] : L[s + 1]]:
                assert [T[row, 39], 0, 0] == pattern
        assert sorted(sigma) == list(range(100))
        text = run("inspect", rsr, "--tensor", "w", "--block", 13).stdout
        rows = re.findall(r"│ (\d+) +│ +([-0+]) 0 0 │ +(\d+) │ +(\d+) │ █+ +│ ([\d ]+)", text)
        assert [r[:4] for r in rows] == [
            (str(s), sign, str(L[s]), str(L[s + 1] - L[s]))
            for s, sign in ((4, "-"), (13, "0"), (22, "+"))
        ]
        assert rows[0][4].split() == [str(row) for row in sigma[:6]]
        assert "3 segments hold 100 rows, 24 are empty" in text

    def test_a_stdout_without_block_characters(self, rsr: Path) -> None:
        done = subprocess.run(
            command("inspect", rsr, "--tensor", "w", "--block", 0), capture_output=True, check=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert b"segment" in done.stdout


class TestVerify:
    def test_good(self, run: Run, rsr: Path, source: Path) -> None:
        text = run("verify", rsr).stdout
        assert text == f"{rsr}: intact: 2 tensors in 2 sections, {rsr.stat().st_size:,} bytes\n"
        text = run("verify", rsr, "--against", source).stdout
        assert text.endswith(f"{rsr}: holds all 2 tensors of {source}\n")

    def test_json(self, run: Run, rsr: Path, source: Path) -> None:
        expected: dict[str, Any] = {"file": str(rsr), "tensors": 2, "sections": 2}
        expected |= {"bytes": rsr.stat().st_size, "against": None, "compared": None, "quantised": 0}
        expected |= {"added": []}
        assert json.loads(run("verify", rsr, "--json").stdout) == expected
        found = json.loads(run("verify", rsr, "--against", source, "--json").stdout)
        assert found == expected | {"against": str(source), "compared": 2}

    def test_quantized_tensors_are_named_as_such(self, run: Run, kit: Kit, tmp_path: Path) -> None:
        source, rsr = tmp_path / "f.safetensors", tmp_path / "f.rsr"
        kit.save(source, {"w.weight": np.array([[0.1, -2.0, 3.0]], np.float32)})
        assert (
            "absmean per tensor (post-training, lossy)"
            in run("compile", source, "-o", rsr, "--quantize", "absmean").stdout
        )
        text = run("verify", rsr, "--against", source).stdout
        assert text.endswith(
            "holds all 1 tensors of " + f"{source}, 1 re-quantized as when compiled\n"
        )

    def test_mismatch(self, run: Run, kit: Kit, rsr: Path, source: Path) -> None:
        kit.save(source, {"w": -T, "norm": np.ones(40, np.float32)})
        error = run("verify", rsr, "--against", source, code=1).stderr
        assert f"{rsr} does not match {source}: w: first differs at byte" in error

    @pytest.mark.parametrize("options", [{}, {"encoding": "permuted"}, {"zstd": 3}])
    def test_any_flipped_byte(
        self, run: Run, tmp_path: Path, digits_source: Path, options: dict[str, Any]
    ) -> None:
        """Each is found, and the sentence says where: the tensor, the padding, the header."""
        path = tmp_path / "d.rsr"
        rsrc.compile(digits_source, path, **options)
        header = RsrFile(path).header
        whole = path.read_bytes()
        end = PREAMBLE.unpack(whole[: PREAMBLE.size])[4]
        chance = random.Random(14)
        positions = dict.fromkeys(range(PREAMBLE.size), "")
        positions |= dict.fromkeys((*range(end, len(whole), 41), len(whole) - 1), "header")
        positions |= dict.fromkeys((PREAMBLE.size, 4095), "padding")
        for s, owner in zip(header.sections, header.owners(), strict=True):
            inside = range(s.offset, s.offset + s.stored_size)
            for i in (inside[0], inside[-1], *chance.sample(inside, min(20, len(inside)))):
                positions[i] = f"{owner} is damaged"
            after = s.offset + s.stored_size
            if after % 4096:
                positions |= dict.fromkeys((after, after // 4096 * 4096 + 4095), "padding")
        with path.open("r+b", buffering=0) as file:
            for position, message in positions.items():
                file.seek(position)
                file.write(bytes([whole[position] ^ chance.choice((1, 0x80, 0xFF))]))
                assert message in run("verify", path, code=1).stderr, position
                file.seek(position)
                file.write(whole[position : position + 1])
        run("verify", path, "--against", digits_source)

    def test_any_cut(self, run: Run, tmp_path: Path, digits_source: Path) -> None:
        path = tmp_path / "d.rsr"
        rsrc.compile(digits_source, path)
        whole = path.read_bytes()
        cuts = {0, *range(1, 80), 4095, 4096, 4097, *range(len(whole) - 40, len(whole))}
        for length in cuts | set(random.Random(15).sample(range(len(whole)), 100)):
            path.write_bytes(whole[:length])
            with pytest.raises(TruncatedError, match="truncated"):
                rsr_runtime.load(path)
        assert "truncated" in run("verify", path, code=1).stderr
        path.write_bytes(b"GGUF" + whole[4:])
        with pytest.raises(NotRsrError):
            rsr_runtime.load(path)


def test_decompile(run: Run, kit: Kit, rsr: Path, source: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    assert run("decompile", rsr, "-o", back).stdout == f"{back}: {back.stat().st_size:,} bytes\n"
    assert kit.judge(back) == kit.judge(source)
    run("decompile", rsr, "-o", back, code=1)
    run("decompile", rsr, "-o", back, "--force")


@pytest.mark.parametrize("to", ["source", "bitnet", "int8", "float"])
def test_decompile_to_a_directory(run: Run, rsr: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    lines = run("decompile", rsr, "-o", out, "--to", to).stdout.splitlines()
    paths = sorted(out.iterdir())
    assert lines[: len(paths)] == [f"{p}: {p.stat().st_size:,} bytes" for p in paths]
    assert out / "model.safetensors" in paths
    assert ("linear_class 'autobitlinear'" in lines[-1]) == (to == "bitnet")
    run("compile", out, "-o", tmp_path / "again.rsr")


def test_decompile_to_gguf(run: Run, rsr: Path, tmp_path: Path) -> None:
    for arguments in ([], ["--type", "TQ1_0"]):
        out = tmp_path / "x.gguf"
        text = run("decompile", rsr, "-o", out, "--to", "gguf", "--force", *arguments).stdout
        assert text.startswith(f"{out}: {out.stat().st_size:,} bytes\n")
        assert "llama.cpp cannot run the file: the .rsr file has no config.json" in text
        blocks = 256 if arguments else 64  # of TQ1_0, and of Q2_0, the smallest
        assert f"because the length of their rows is not a multiple of {blocks}" in text
        assert out.read_bytes()[:4] == b"GGUF"
    run("decompile", rsr, "-o", tmp_path / "x.gguf", "--to", "gguf", code=1)


def test_unpack(run: Run, rsr: Path, source: Path, tmp_path: Path) -> None:
    small, out = tmp_path / "small.rsr", tmp_path / "out.rsr"
    rsrc.compile(source, small, target="avx512", zstd=9)
    before, after = small.stat().st_size, rsr.stat().st_size
    assert run("unpack", small, "-o", out).stdout == f"{out}: {after:,} bytes, from {before:,}\n"
    assert out.read_bytes() == rsr.read_bytes()
    assert "use --force" in run("unpack", small, "-o", out, code=1).stderr
    found = json.loads(run("unpack", small, "-o", out, "--force", "--json").stdout)
    assert found == {
        "file": str(small), "bytes": before, "output": str(out), "output_bytes": after,
    }  # fmt: skip


def test_diff_and_patch(run: Run, rsr: Path, kit: Kit, tmp_path: Path) -> None:
    other, delta, out = tmp_path / "other.rsr", tmp_path / "d.rsrd", tmp_path / "out.rsr"
    changed = T.copy()
    changed[0, :3] = -1, 0, 1
    source = kit.save(tmp_path / "o.safetensors", {"w": changed, "norm": np.ones(5, np.float32)})
    rsrc.compile(source, other, target="avx512")
    made = run("diff", rsr, other, "-o", delta).stdout
    assert made.startswith(f"{delta}: {delta.stat().st_size:,} bytes, ")
    found = json.loads(run("diff", rsr, other, "-o", delta, "--force", "--json").stdout)
    assert found["delta_bytes"] == delta.stat().st_size
    assert (found["old_bytes"], found["new_bytes"]) == (rsr.stat().st_size, other.stat().st_size)
    assert set(found) == {
        "old", "new", "output", "old_bytes", "new_bytes", "delta_bytes", "copied", "changed",
        "carried",
    }  # fmt: skip
    size = other.stat().st_size
    assert run("patch", rsr, delta, "-o", out).stdout == f"{out}: {size:,} bytes, verified\n"
    assert out.read_bytes() == other.read_bytes()
    assert "use --force" in run("patch", rsr, delta, "-o", out, code=1).stderr
    assert json.loads(run("patch", rsr, delta, "-o", out, "--force", "--json").stdout) == {
        "old": str(rsr), "delta": str(delta), "output": str(out), "output_bytes": size,
    }  # fmt: skip
    assert "is the new file of this delta already" in (
        run("patch", other, delta, "-o", out, "--force", code=1).stderr
    )
    for first, second, message in (
        (rsr, other, "not a .rsrd file, but a .rsr file: make a delta with `rsrc diff`"),
        (delta, rsr, "apply it with `rsrc patch OLD.rsr DELTA.rsrd -o NEW.rsr`"),
    ):
        assert message in run("patch", first, second, "-o", tmp_path / "x", code=1).stderr


def test_a_delta_is_not_named_like_a_model(run: Run, rsr: Path, tmp_path: Path) -> None:
    third = tmp_path / "third.rsr"
    third.write_bytes(b"a model")
    errors = run("diff", rsr, rsr, "-o", third, "--force", code=2).stderr
    assert "-o names the delta, FILE.rsrd" in errors
    assert third.read_bytes() == b"a model"


def test_diff_stat(run: Run, rsr: Path, kit: Kit, tmp_path: Path) -> None:
    other = tmp_path / "other.rsr"
    source = kit.save(tmp_path / "o.safetensors", {"w": -T, "v": np.ones(5, np.float32)})
    rsrc.compile(source, other, target="avx512")
    found = json.loads(run("diff", rsr, other, "--stat", "--json").stdout)
    tensors = {t["name"]: t for t in found["tensors"]}
    assert {name: t["status"] for name, t in tensors.items()} == {
        "w": "changed", "norm": "removed", "v": "added",
    }  # fmt: skip
    assert tensors["w"]["changed"] == tensors["w"]["changed_sign"] == np.mean(T != 0)
    assert tensors["w"]["became_zero"] == tensors["w"]["became_nonzero"] == 0
    assert found["indexed"]["weights"] == T.size
    assert found["files"] == []
    table = run("diff", rsr, other, "--stat").stdout
    assert f"{np.mean(T != 0):.2%}" in table
    assert "0 tensors of 3 the same" in table
    same = run("diff", rsr, rsr, "--stat").stdout
    assert same == "2 tensors of 2 the same\n"


def test_info(run: Run) -> None:
    found = json.loads(run("info", "--json").stdout)
    assert set(found) == {"cpu", "target", "packing", "format_version", "versions"}
    assert found["target"] == native_target()
    assert found["versions"]["rsr-ternary"] == rsrc.__version__
    assert found["cpu"]["isa"] in found["cpu"]["supported_isas"]
    text = run("info").stdout
    target = f"native target     {found['target']}: packing {found['packing']}"
    for part in ("kernels in use", found["cpu"]["isa"], target, rsrc.__version__, "safetensors"):
        assert part in text
    size = huge_page_size()
    assert f"huge pages        {'none' if size is None else f'of {size >> 20} MiB'}" in text


class TestStreams:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["compile", "s.safetensors", "-o", "y.rsr"],
            ["compile", "s.safetensors", "-o", "y.rsr", "--json"],
            ["inspect", "x.rsr"],
            ["verify", "x.rsr", "--against", "s.safetensors"],
            ["decompile", "x.rsr", "-o", "y.safetensors"],
            ["unpack", "x.rsr", "-o", "y.rsr"],
            ["diff", "x.rsr", "x.rsr", "-o", "d.rsrd"],
            ["diff", "x.rsr", "x.rsr", "--stat"],
        ],
    )
    def test_a_pipe_gets_nothing_on_stderr(
        self, rsr: Path, tmp_path: Path, arguments: list[str]
    ) -> None:
        done = subprocess.run(command(*arguments), capture_output=True, cwd=tmp_path, check=True)
        assert done.stderr == b""
        assert b"\x1b" not in done.stdout
        assert done.stdout

    @pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
    @pytest.mark.parametrize(
        ("verb", "arguments"),
        [
            ("compiling", ["compile", "s[x].safetensors", "-o", "y.rsr"]),
            ("verifying", ["verify", "x.rsr"]),
            ("comparing", ["verify", "x.rsr", "--against", "s.safetensors"]),
            ("decompiling", ["decompile", "x.rsr", "-o", "y.safetensors"]),
            ("unpacking", ["unpack", "x.rsr", "-o", "y.rsr"]),
            ("comparing", ["diff", "x.rsr", "x.rsr", "-o", "d.rsrd"]),
        ],
    )
    def test_a_terminal_gets_a_progress_bar(
        self, kit: Kit, rsr: Path, tmp_path: Path, verb: str, arguments: list[str]
    ) -> None:
        kit.save(tmp_path / "s[x].safetensors", {"[/x][bold]": T})
        screen, status, stdout = on_a_terminal(command(*arguments), tmp_path)
        assert status == 0, screen
        assert verb in screen
        assert "━" in screen
        assert "Traceback" not in screen
        if verb == "compiling":
            for part in ("recognizing", "1 of 1", "kB", "/s", "0:00:00"):
                assert part in screen
        assert stdout  # the result goes elsewhere, without the bar
        assert verb not in stdout

    @pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
    def test_a_closed_pipe_is_no_error(self, kit: Kit, tmp_path: Path) -> None:
        tensors: dict[str, Any] = {f"tensor.{i}": T[:3, :3] for i in range(2000)}
        rsrc.compile(kit.save(tmp_path / "s.safetensors", tensors), tmp_path / "x.rsr")
        for extra in ([], ["--json"]):
            with subprocess.Popen(
                command("inspect", tmp_path / "x.rsr", *extra),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                process.stdout.read(10)
                process.stdout.close()
                assert b"Traceback" not in process.stderr.read()
                assert process.wait(20) in (0, 1)


def on_a_terminal(arguments: list[str], folder: Path) -> tuple[str, int, str]:
    """Run a command whose stderr is a terminal; return stderr, the exit status and stdout."""
    import pty

    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=slave
    ) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux reports that the other end has closed
            while piece := os.read(master, 65536):
                shown += piece
        os.close(master)
        assert process.stdout is not None
        text = process.stdout.read().decode()
        status = process.wait(30)
    return shown.decode(), status, text


COMPILE = "from rsrc.cli.main import main\nmain()\n"


@pytest.fixture(scope="module")
def large(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A source that takes a second or so at the compression level used here, and the result."""
    t = np.random.default_rng(16).integers(-1, 2, (10, 1024, 1024)).astype(np.int8)
    tensors: dict[str, Any] = {f"w{i}": w for i, w in enumerate(t)}
    folder = tmp_path_factory.mktemp("large")
    source = kit.save(folder / "s.safetensors", tensors)
    rsrc.compile(source, folder / "x.rsr", zstd=19)
    return source, (folder / "x.rsr").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
class TestKilled:
    """A compilation that ends at any time leaves no OUT, or the old one unharmed."""

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
    @pytest.mark.parametrize("existing", [False, True])
    def test_killed(
        self, large: tuple[Path, bytes], tmp_path: Path, name: str, existing: bool
    ) -> None:
        source, complete = large
        chance = random.Random(17)
        interrupted = 0
        for delay in (None, 0, chance.uniform(0.01, 0.4)):
            folder = tmp_path / str(delay)
            folder.mkdir()
            output = folder / "x.rsr"
            if existing:
                output.write_bytes(b"precious")
            options = ["compile", source, "-o", output, "--zstd", 19, "--force"]
            status, error = killed(options, getattr(signal, name), folder, delay)
            if output.exists() and output.read_bytes() == complete:
                continue  # it had ended before
            interrupted += 1
            assert output.exists() == existing
            assert not existing or output.read_bytes() == b"precious"
            if name == "SIGKILL":  # what is left is not named OUT and hinders no other run
                assert all(re.fullmatch(r"x\.rsr|\.x\.rsr\.\w{12}\.tmp", p.name)
                           for p in folder.iterdir())  # fmt: skip
            else:
                assert [p.name for p in folder.iterdir()] == (["x.rsr"] if existing else [])
            if delay is not None:  # before, the interpreter may still be starting
                assert (
                    status == {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGKILL": -9}[name]
                ), error
                assert "Traceback" not in error
        assert interrupted >= 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
class TestInterrupted:
    """How a running compilation reacts to signals."""

    def test_it_ends_soon_and_starts_again(self, large: tuple[Path, bytes], tmp_path: Path) -> None:
        source, complete = large
        other = tmp_path / ".x.rsr.0123456789ab.tmp"  # of a run that was killed, or still runs
        other.write_bytes(b"not ours")
        options = ["compile", source, "-o", tmp_path / "x.rsr", "--zstd", 19]
        with started(SIGINT_ENDS + COMPILE, *options) as process:
            wait_until(lambda: len(list(tmp_path.iterdir())) == 2, process)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)  # right after it: it does not disturb the first
            assert end_of(process).status in (130, 143)
            assert time.monotonic() - start < 10  # measured: below 1; this machine may be busy
        assert [p.name for p in tmp_path.iterdir()] == [other.name]
        rsrc.compile(source, tmp_path / "x.rsr", zstd=19)
        assert (tmp_path / "x.rsr").read_bytes() == complete
        assert other.read_bytes() == b"not ours"

    def test_what_is_ignored_stays_ignored(self, large: tuple[Path, bytes], tmp_path: Path) -> None:
        """As nohup does."""
        source, complete = large
        options = ["compile", source, "-o", tmp_path / "x.rsr", "--zstd", 19]
        ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        with started(ignoring + COMPILE, *options) as process:
            wait_until(lambda: bool(list(tmp_path.iterdir())), process)
            process.send_signal(signal.SIGHUP)
            assert end_of(process).status == 0
        assert (tmp_path / "x.rsr").read_bytes() == complete


def killed(
    options: list[Any], number: signal.Signals, folder: Path, delay: float | None
) -> tuple[int, str]:
    """Kill a command `delay` after its temporary file appeared (None: soon after it began)."""
    with started(SIGINT_ENDS + COMPILE, *options) as process:
        if delay is None:
            time.sleep(random.uniform(0.02, 0.3))
        else:
            wait_until(lambda: bool(list(folder.glob(".*"))), process)
            time.sleep(delay)
        process.send_signal(number)
        status, _, error = end_of(process)
    return status, error
