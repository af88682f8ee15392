"""The commands run, chat and perplexity: in a pipe, on a terminal, interrupted, and refused."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rsr_formats.pages import AvailableMemory
from rsr_runtime import llm
from rsr_testing.adapters import write_adapter
from rsr_testing.commands import ENVIRONMENT, MAIN, SLOW, done, refused, rsrc
from rsr_testing.language_models import LanguageModels
from rsr_testing.paths import DIGITS
from rsr_testing.process import SIGINT_RAISES, Ended, end_of, started
from rsr_testing.terminal import Terminal, read_until
from rsrc.cli.main import main

Process = subprocess.Popen[bytes]
Running = AbstractContextManager[Process]

PROMPT = "The weights of a trained network"
DURATION = r"(\d{1,3} ms|\d+\.\d\d s)"
RATE = r"at \d+\.\d tokens/s"


def start(code: str, *arguments: object, **options: Any) -> Running:
    return started(SIGINT_RAISES + code, *arguments, **{"env": ENVIRONMENT, **options})


def ended(process: Process, stdin: bytes | None = None) -> Ended:
    found = end_of(process, stdin)
    assert "Traceback" not in found.stderr
    return found


def piped(
    code: str, *arguments: object, stdin: bytes | None = None, **options: Any
) -> tuple[int, bytes]:
    """Run the program with pipes; return its exit status and its output."""
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    with start(code, *arguments, **options) as process:
        return ended(process, stdin)[:2]


# --- run ------------------------------------------------------------------------------------------


def test_scarce_memory_is_named_in_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = AvailableMemory(1000)
    monkeypatch.setattr("rsr_runtime.llm.scarce_memory.available_memory", lambda: little)
    found = rsrc("run", path, "-p", PROMPT, "-n", 3)
    assert done(found) == done(rsrc("run", path, "-p", PROMPT, "-n", 3, "--context", 64))
    first = found.stderr.splitlines()[0]
    assert first.startswith(f"rsrc: {path}: the weights have ")
    assert "but 1.0 kB of memory are available: " in first


def test_run_writes_the_text(path: Path) -> None:
    with llm.load(path) as model:
        expected = model.generate(PROMPT, max_tokens=20)
    result = rsrc("run", path, "-p", PROMPT, "-n", 20)
    assert done(result) == expected.text + "\n"
    assert re.fullmatch(
        rf"{expected.prompt_tokens} prompt tokens in {DURATION}, 20 tokens {RATE} \(-n reached\)\n",
        result.stderr,
    )
    one = rsrc("run", path, "-p", PROMPT, "-n", 1)
    assert re.search(rf" in {DURATION}, 1 token \(-n reached\)\n$", one.stderr)


def test_a_text_that_ends_by_itself_or_with_the_context(
    path: Path, language_models: LanguageModels, tmp_path: Path
) -> None:
    result = rsrc("run", path, "-p", PROMPT, "--context", 40)
    done(result)
    assert result.stderr.endswith("(the context is full)\n")
    found = json.loads(done(rsrc("run", path, "-p", PROMPT, "-n", 9, "--json")))
    tokens = found["texts"][0]["tokens"]
    ends = {"generation_config.json": json.dumps({"eos_token_id": tokens[4:5]}).encode()}
    ending = language_models.variant("bitnet-2b", tmp_path, ends)
    result = rsrc("run", ending, "-p", PROMPT)
    assert done(result)
    assert f" {tokens.index(tokens[4]) + 1} tokens" in result.stderr
    assert result.stderr.endswith("(ended)\n")


def test_the_prompt_on_stdin(path: Path) -> None:
    """Without the newline at its end, which an editor or echo put there; only that one."""
    wanted = done(rsrc("run", path, "-p", PROMPT, "-n", 9))
    assert done(rsrc("run", path, "-n", 9, stdin=PROMPT)) == wanted
    assert done(rsrc("run", path, "-n", 9, stdin=PROMPT + "\n")) == wanted
    wanted = done(rsrc("run", path, "-p", PROMPT + "\n", "-n", 9))
    assert done(rsrc("run", path, "-n", 9, stdin=PROMPT + "\n\n")) == wanted


def test_several_prompts(path: Path) -> None:
    with llm.load(path) as model:
        results = model.generate_all([PROMPT, "the rows"], max_tokens=9)
    texts = [result.text for result in results]
    result = rsrc("run", path, "-p", PROMPT, "-p", "the rows", "-n", 9)
    assert done(result) == (f"==> {PROMPT} <==\n{texts[0]}\n\n==> the rows <==\n{texts[1]}\n")
    count = sum(r.prompt_tokens for r in results)
    assert re.fullmatch(rf"{count} prompt tokens in {DURATION}, 18 tokens {RATE}\n", result.stderr)


def test_json(path: Path) -> None:
    result = rsrc("run", path, "-p", PROMPT, "-p", "é\u2028", "-n", 9, "--json")
    assert done(result).isascii()
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert list(found) == ["texts"]
    first, second = found["texts"]
    assert list(first) == [
        "prompt", "text", "tokens", "finish_reason", "prompt_tokens", "prompt_seconds", "seconds",
        "drafted_tokens", "accepted_tokens", "tokens_per_second",
    ]  # fmt: skip
    assert first["prompt"] == PROMPT
    assert second["prompt"] == "é\u2028"
    assert len(first["tokens"]) == 9
    assert first["finish_reason"] == "length"
    assert first["text"] + "\n" == done(rsrc("run", path, "-p", PROMPT, "-n", 9))


DRAWN = ("--temperature", "1.2", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.001")


def test_a_seed_is_a_text(path: Path) -> None:
    arguments = ("run", path, "-p", PROMPT, "-n", 20, *DRAWN, "--repetition-penalty", "1.1")
    first = done(rsrc(*arguments, "--seed", 1))
    assert done(rsrc(*arguments, "--seed", 1)) == first
    assert done(rsrc(*arguments, "--seed", 2)) != first
    sampling = llm.Sampling(1.2, 50, 0.95, 0.001, 1.1, 1)
    with llm.load(path) as model:
        assert first == model.generate(PROMPT, max_tokens=20, sampling=sampling).text + "\n"


def test_a_filter_says_that_the_text_is_drawn(path: Path) -> None:
    """The model is greedy, unless it is asked for something that only makes sense otherwise."""
    arguments = ("run", path, "-p", PROMPT, "-n", 12, "--seed", 3)
    greedy = done(rsrc(*arguments))
    assert done(rsrc(*arguments, "--temperature", 0)) == greedy
    assert done(rsrc(*arguments, "--repetition-penalty", 1)) == greedy
    drawn = done(rsrc(*arguments, "--top-k", 40))
    assert drawn != greedy
    assert done(rsrc(*arguments, "--top-k", 40, "--temperature", 1)) == drawn
    assert done(rsrc(*arguments, "--top-k", 40, "--temperature", 0)) == greedy


def test_settings_of_the_model_and_options(language_models: LanguageModels, tmp_path: Path) -> None:
    """Options win, even over invalid settings; settings that are not applied are named."""
    settings = {
        "do_sample": True, "top_k": -1, "repetition_penalty": "x", "max_length": 0, "num_beams": 3,
        "guidance_scale": 1.0, "penalty_alpha": 0.6, "stop_strings": 5,
    }  # fmt: skip
    files = {"generation_config.json": json.dumps(settings).encode()}
    changed = language_models.variant("bitnet-2b", tmp_path, files)
    options = ["--top-k", 20, "--repetition-penalty", 1, "-n", 3, "--stop", "zzzz", "--seed", 1]
    result = rsrc("run", changed, "-p", PROMPT, *options)
    assert done(result)
    named = "rsrc: generation_config.json: not applied: num_beams = 3, penalty_alpha = 0.6\n"
    assert result.stderr.startswith(named)
    done(rsrc("run", changed, "-p", PROMPT, *options[2:], "--temperature", 0))
    said = rsrc("run", changed, "-p", PROMPT, *options[2:])
    assert said.exit_code == 1
    assert "generation_config.json: top_k is -1, expected a whole number, 0 (off)" in said.stderr


def test_penalties(path: Path) -> None:
    plain = done(rsrc("run", path, "-p", PROMPT, "-n", 30))
    for option in ("--presence-penalty", "--frequency-penalty", "--repetition-penalty"):
        assert done(rsrc("run", path, "-p", PROMPT, "-n", 30, option, 2)) != plain


def test_stop(path: Path) -> None:
    whole = done(rsrc("run", path, "-p", PROMPT, "-n", 30, *DRAWN, "--seed", 1))
    stop = next(c for c in whole[3:] if c.isalpha())
    arguments = ("run", path, "-p", PROMPT, "-n", 30, *DRAWN, "--seed", 1)
    result = rsrc(*arguments, "--stop", "unseen", "--stop", stop)
    assert done(result) == whole[: whole.index(stop)] + "\n"
    assert result.stderr.endswith("(ended)\n")


def test_how_a_model_is_loaded_changes_nothing_of_a_text(path: Path) -> None:
    wanted = done(rsrc("run", path, "-p", PROMPT, "-n", 9, "--kv", "float32"))
    for options in (("--memory", "huge"), ("--threads", 1), ("--threads", 2), ("--context", 64)):
        arguments = ("run", path, "-p", PROMPT, "-n", 9, "--kv", "float32", *options)
        assert done(rsrc(*arguments)) == wanted


def test_activations(path: Path, language_models: LanguageModels, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(PROMPT * 20, encoding="utf-8")
    for file, activations in ((path, "float32"), (language_models.path("bonsai"), "int8-group")):
        with llm.load(file, activations=activations) as model:  # type: ignore[arg-type]
            expected = model.generate(PROMPT, max_tokens=9).text
            perplexity = model.perplexity(PROMPT * 20)
        options = ("--activations", activations)
        assert done(rsrc("run", file, "-p", PROMPT, "-n", 9, *options)) == expected + "\n"
        found = done(rsrc("perplexity", file, text, *options))
        assert f": perplexity {perplexity.value:.4f}," in found
        assert found != done(rsrc("perplexity", file, text))


def test_speculation_changes_no_text(path: Path) -> None:
    """How much is guessed depends on the clock; that something is guessed does not."""
    repeating = ("run", path, "-p", "ab ab ab ab", "-n", 60)
    wanted = done(rsrc(*repeating))
    result = rsrc(*repeating, "--speculate", "ngram")
    assert done(result) == wanted
    assert re.search(rf"\d tokens {RATE}, \d+ of \d+ guessed tokens? right \(", result.stderr)
    (found,) = json.loads(done(rsrc(*repeating, "--speculate", "ngram", "--json")))["texts"]
    assert found["text"] + "\n" == wanted
    assert 0 < found["accepted_tokens"] <= found["drafted_tokens"]
    messages = "ab ab ab ab\nab ab ab ab\n"
    arguments = ("chat", path, "-n", 20)
    wanted = done(rsrc(*arguments, stdin=messages))
    assert done(rsrc(*arguments, "--speculate", "ngram", stdin=messages)) == wanted


def test_several_prompts_are_not_speculated_upon(path: Path) -> None:
    for output in ((), ("--json",)):
        prompts = ("run", path, "-p", "ab ab", "-p", "ab", "-n", 2, *output)
        result = rsrc(*prompts, "--speculate", "ngram")
        assert done(result)
        assert "several prompts run as one batch, in which --speculate changes" in result.stderr
        assert "speculate" not in rsrc(*prompts, "--speculate", "off").stderr


def test_adapters_are_added_up(path: Path, tmp_path: Path) -> None:
    with llm.load(path) as model:
        one = write_adapter(tmp_path / "one", model, 1)
        two = write_adapter(tmp_path / "two", model, 2)
    with llm.load(path, adapters=[one, two]) as model:
        chat = llm.Chat(model)
        said = "".join(chat.say("Hi", max_tokens=9, adapter=["one", "two"]))
        texts = [
            model.generate(PROMPT, max_tokens=9, adapter=choice).text
            for choice in (None, "one", ["one", "two"])
        ]
    assert len(set(texts)) == 3
    run = ("run", path, "-p", PROMPT, "-n", 9)
    assert done(rsrc(*run, "--lora", one)) == texts[1] + "\n"
    assert done(rsrc(*run, "--lora", f"x={one}", "--lora", two)) == texts[2] + "\n"
    both = done(rsrc(*run, "-p", PROMPT, "--lora", one, "--lora", two))
    assert both.count(texts[2]) == 2
    found = done(rsrc("chat", path, "-n", 9, "--lora", one, "--lora", two, stdin="Hi\n"))
    assert said.strip() in found
    link = tmp_path / "link"
    link.symlink_to(one, target_is_directory=True)
    assert done(rsrc(*run, "--lora", one, "--lora", link))  # another name
    assert "are both named" in refused(rsrc(*run, "--lora", one, "--lora", f"one={two}"), 2)
    assert "found no adapter_config.json" in refused(rsrc(*run, "--lora", tmp_path))
    for empty in ("", "one=", "=", f"={one}"):
        assert "expected DIR or NAME=DIR" in refused(rsrc(*run, "--lora", empty), 2)
    text = tmp_path / "text"
    text.write_text(PROMPT)
    with llm.load(path, adapters=[one]) as model:
        wanted = model.perplexity(PROMPT, adapter="one").value
    found = json.loads(done(rsrc("perplexity", path, text, "--lora", one, "--json")))
    assert (found["perplexity"], found["adapters"]) == (wanted, ["one"])
    assert "with one\n" in done(rsrc("perplexity", path, text, "--lora", one))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "chat"])
def test_files_that_are_none(command: str, path: Path, tmp_path: Path) -> None:
    assert "No such file" in refused(rsrc(command, tmp_path / "none.rsr", stdin="x"))
    for source in (tmp_path, tmp_path / "model.safetensors", tmp_path / "model.gguf"):
        if source != tmp_path:
            source.write_bytes(b"x")
        message = refused(rsrc(command, source, stdin="x"))
        model = source if source.suffix == ".gguf" else tmp_path  # a directory has config.json
        assert message.endswith(
            f"{source}: a checkpoint; compile it first: rsrc compile {model} -o FILE.rsr\n"
        )
    (tmp_path / "text.rsr").write_bytes(b"text" * 4000)
    assert "not a .rsr file" in refused(rsrc(command, tmp_path / "text.rsr", stdin="x"))
    (tmp_path / "half.rsr").write_bytes(path.read_bytes()[:10_000])
    refused(rsrc(command, tmp_path / "half.rsr", stdin="x"))


def test_what_is_no_language_model(tmp_path: Path) -> None:
    digits = DIGITS
    done(rsrc("compile", digits, "-o", tmp_path / "digits.rsr"))
    message = refused(rsrc("run", tmp_path / "digits.rsr", "-p", "x"))
    assert message.startswith(f"rsrc: {tmp_path / 'digits.rsr'}: the file has no config.json")
    assert "compile the model's directory" in message


TOKENIZER = "tokenizer.json"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({TOKENIZER: None}, "no tokenizer.json"),
        ({TOKENIZER: b"{}"}, "tokenizer.json"),
        ({TOKENIZER: b"\xff\x00damaged"}, "tokenizer.json"),
        ({TOKENIZER: b'{"model": "\x1b[31m"}'}, "tokenizer.json"),
        ({"generation_config.json": b"[]"}, "generation_config.json"),
        ({"generation_config.json": b'{"do_sample": 3}'}, "do_sample is 3"),
        ({"generation_config.json": b'{"do_sample": true, "top_k": -1}'}, "top_k is -1"),
    ],
)
def test_damaged_files_of_a_model(
    files: dict[str, bytes | None],
    expected: str,
    language_models: LanguageModels,
    tmp_path: Path,
) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, files)
    message = refused(rsrc("run", path, "-p", "x"))
    assert message.startswith(f"rsrc: {path}: ")
    assert expected in message
    assert "\x1b" not in message


def test_an_architecture_that_is_not_known(language_models: LanguageModels, tmp_path: Path) -> None:
    path = language_models.variant(
        "bitnet-2b", tmp_path, config={"architectures": ["Gemma\x1b[1mForCausalLM"]}
    )
    message = refused(rsrc("run", path, "-p", "x"))
    assert "is not supported. docs/llm.md lists what runs" in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-p", ""), "the prompt is empty"),
        (("-p", "x" * 600), "leaves no room in a context of 256: shorten it"),
        (
            ("-p", PROMPT, "--context", 8),
            "set a larger one with --context (the model's limit is 256)",
        ),
        (("-p", "x", "--context", 257), "context: found 257, expected 1 to 256, the model's limit"),
        (("-p", "x", "--stop", ""), "found stop string ''"),
        (("-p", "x", "--temperature", "nan"), "temperature is nan"),
        (("-p", "x", "--temperature", "inf"), "temperature is inf"),
        (("-p", "x", "--seed", 10**400), "seed is "),
    ],
)
def test_run_refuses(path: Path, arguments: Sequence[object], expected: str) -> None:
    assert expected in refused(rsrc("run", path, *arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", 0), ("--temperature", -1), ("--top-p", 1.1), ("--top-k", -1), ("--min-p", 2),
        ("--repetition-penalty", 0), ("--seed", -1), ("--context", 0), ("--kv", "int4"),
        ("--memory", "all"), ("--threads", 0), ("--activations", "int8"), ("--unknown",),
    ],
)  # fmt: skip
def test_usage(path: Path, arguments: Sequence[object]) -> None:
    for command in ("run", "chat"):
        refused(rsrc(command, path, *arguments, stdin="x"), 2)


def test_text_that_is_no_utf8(path: Path, tmp_path: Path) -> None:
    data = "naïve".encode("latin-1")
    text = tmp_path / "text.txt"
    text.write_bytes(data)
    for result in (
        rsrc("run", path, stdin=data),
        rsrc("chat", path, stdin=data),
        rsrc("perplexity", path, text),
    ):
        message = refused(result)
        assert "not UTF-8: byte 0xef at offset 2; convert it first (iconv -t utf-8)" in message
    assert "text.txt" in message
    text.write_bytes(data + b"\0")
    assert refused(rsrc("run", path, "--file", text)).endswith(
        "text.txt: expected text, found binary data\n"
    )
    for result in (rsrc("run", path, "--file", path), rsrc("perplexity", path, path)):
        assert refused(result).endswith(
            f"{path}: expected text, found a .rsr file, which is compiled already\n"
        )
    assert "prompt is empty" in refused(rsrc("run", path, stdin=b""))


def test_help_is_not_cut() -> None:
    assert "..." not in done(rsrc("--help")).partition("Commands:")[2]


# --- perplexity ---------------------------------------------------------------------------------


def test_perplexity(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(PROMPT * 20 + "é", encoding="utf-8")
    with llm.load(path) as model:
        expected = model.perplexity(PROMPT * 20 + "é")
        narrow = model.perplexity(PROMPT * 20 + "é", 16)
    assert done(rsrc("perplexity", path, text)) == (
        f"{text}: perplexity {expected.value:.4f}, {expected.tokens} tokens predicted, "
        "in windows of 256\n"
    )
    piped = done(rsrc("perplexity", path, "-", stdin=text.read_bytes()))
    assert piped == done(rsrc("perplexity", path, text)).replace(str(text), "-")
    result = rsrc("perplexity", path, text, "--window", 16, "--json")
    assert json.loads(done(result)) == {
        "file": str(path), "text": str(text), "perplexity": narrow.value,
        "tokens": narrow.tokens, "window": 16,
    }  # fmt: skip


def test_json_has_no_infinity(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text(PROMPT)
    beyond = llm.Perplexity(math.inf, 3, 16)
    monkeypatch.setattr("rsr_runtime.llm.LanguageModel.perplexity", lambda *_: beyond)
    result = CliRunner().invoke(main, ["perplexity", str(path), str(text), "--json"])
    assert json.loads(result.stdout, parse_constant=pytest.fail)["perplexity"] is None


def test_perplexity_refuses(path: Path, tmp_path: Path) -> None:
    assert "No such file" in refused(rsrc("perplexity", path, tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert "expected at least 2" in refused(rsrc("perplexity", path, empty))
    text = tmp_path / "text"
    text.write_text(PROMPT, encoding="utf-8")
    swapped = refused(rsrc("perplexity", text, path))
    assert str(text) in swapped
    assert "not a .rsr file" in swapped
    message = refused(rsrc("perplexity", path, text, "--window", 257))
    assert "window: found 257, expected 1 to 256" in message


# --- chat in a pipe -----------------------------------------------------------------------------


def test_every_line_is_a_message(path: Path) -> None:
    with llm.load(path) as model:
        conversation = llm.Chat(model, "You sort rows.")
        answers = ["".join(conversation.say(t, max_tokens=9)) for t in ("Hello", "And then?")]
    result = rsrc(
        "chat", path, "--system", "You sort rows.", "-n", 9, stdin="Hello\n\n \n And then? \n"
    )
    assert done(result) == "".join(f"{a}\n" for a in answers)
    assert result.stderr == ""


def test_commands(path: Path) -> None:
    hello = done(rsrc("chat", path, "-n", 9, stdin="Hello"))
    result = rsrc("chat", path, "-n", 9, stdin="Hello\n/reset\nHello\n/exit\nHello\n")
    assert done(result) == hello * 2
    assert result.stderr == ""
    result = rsrc("chat", path, "-n", 9, stdin="/help\nHello\n")
    assert done(result) == hello
    assert result.stderr.startswith("/reset      start a new conversation\n/undo ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nothing", "unknown command /nothing; /help lists all"),
        ("/SAVE q", "unknown command /SAVE: commands are lowercase, /save; /help lists them"),
        ("/exit now", "/exit takes no argument; /help lists the commands"),
        ("/help me", "/help takes no argument; /help lists the commands"),
    ],
)
def test_a_line_that_only_looks_like_a_command(path: Path, line: str, message: str) -> None:
    result = rsrc("chat", path, "-n", 3, stdin=f"{line}\nHello\n")
    assert done(result) == done(rsrc("chat", path, "-n", 3, stdin="Hello\n"))
    assert result.stderr == f"rsrc: {message}\n"


def test_a_path_is_no_command(path: Path) -> None:
    result = rsrc("chat", path, "-n", 9, stdin="/usr/bin/env\n/tmp is full?\n")
    assert done(result)
    assert result.stderr == ""


def test_a_line_ends_with_a_newline_only(path: Path) -> None:
    """Unicode's line separators do not end a line."""
    with llm.load(path) as model:
        answer = "".join(llm.Chat(model).say("one\u2028two\x0bthree", max_tokens=9))
    assert done(rsrc("chat", path, "-n", 9, stdin="one\u2028two\x0bthree\r\n")) == answer + "\n"


def test_a_conversation_that_grows_too_long(path: Path) -> None:
    long = "Sort the rows of each block. " * 9
    hello = done(rsrc("chat", path, "-n", 9, stdin="Hello\n"))
    result = rsrc("chat", path, "-n", 9, stdin=f"Hello\n{long}\n/reset\nHello\n")
    assert result.exit_code == 1
    assert result.stdout == hello  # a program that counts answers must not take another for it
    assert result.stderr.startswith("rsrc: the prompt has ")
    assert result.stderr.endswith(" in a context of 256: shorten it\n")


def test_chat_without_a_template(language_models: LanguageModels, tmp_path: Path) -> None:
    path = language_models.variant("bitnet-2b", tmp_path, {"tokenizer_config.json": None})
    message = refused(rsrc("chat", path, stdin="Hello\n"))
    assert message.startswith(f"rsrc: {path}: the file has no chat template")
    assert "rsrc run" in message


def test_an_answer_comes_before_the_next_message(path: Path) -> None:
    """A program at the other end of the pipe can wait for it."""
    with start(MAIN, "chat", path, "-n", 3, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"Hello\n")
            process.stdin.flush()
            read_until(process.stdout.fileno(), b"\n")
            process.stdin.write(b"/reset\n")
        assert ended(process, b"Hello\n")[0] == 0


# --- interrupted --------------------------------------------------------------------------------


posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


@posix
def test_an_interrupted_text(endless: Path) -> None:
    """The output so far, a newline and a summary are written."""
    with start(SLOW + MAIN, "run", endless, "-p", PROMPT) as process:
        assert process.stdout is not None
        first = read_until(process.stdout.fileno(), None)
        process.send_signal(signal.SIGINT)
        code, rest, err = ended(process)
    assert code == 130
    with llm.load(endless) as model:
        whole = model.generate(PROMPT).text.encode()
    written = first + rest
    assert written.endswith(b"\n")
    assert whole.startswith(written[:-1])
    assert len(written) < len(whole)
    assert err.endswith("(interrupted)\n")
    assert err.count("\n") == 1


@posix
def test_an_interrupted_answer_in_a_pipe_ends_everything(endless: Path) -> None:
    with start(SLOW + MAIN, "chat", endless, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Hello\nHello again\n")
        process.stdin.flush()
        read_until(process.stdout.fileno(), None)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 130
    assert out.endswith(b"\n")
    assert err == ""


@posix
def test_an_interrupt_that_is_ignored_stays_so(path: Path) -> None:
    """As in a shell's job in the background."""
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    with start(ignoring + SLOW + MAIN, "run", path, "-p", PROMPT, "-n", 20) as process:
        assert process.stdout is not None
        first = read_until(process.stdout.fileno(), None)
        process.send_signal(signal.SIGINT)
        code, rest, err = ended(process)
    assert code == 0
    assert (first + rest).decode() == done(rsrc("run", path, "-p", PROMPT, "-n", 20))
    assert "20 tokens" in err


@posix
@pytest.mark.parametrize("arguments", [("run",), ("run", "--json", "-n", "3")])
def test_a_reader_that_goes_away(path: Path, arguments: Sequence[str]) -> None:
    command, *options = arguments
    with start(SLOW + MAIN, command, path, "-p", PROMPT, *options) as process:
        assert process.stdout is not None
        if "--json" not in options:
            read_until(process.stdout.fileno(), None)
        process.stdout.close()
        process.stdout = None
        assert ended(process) == (1, b"", "")


# --- locales ------------------------------------------------------------------------------------


C = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@posix
def test_a_locale_that_knows_ascii_alone(path: Path) -> None:
    """Text is read and written in UTF-8 there, too."""
    prompt = "naïve \u2028 é"
    wanted = done(rsrc("run", path, "-p", prompt, "-n", 20)).encode()
    assert not wanted.isascii()
    assert piped(MAIN, "run", path, "-p", prompt, "-n", 20, env=C) == (0, wanted)
    assert piped(MAIN, "run", path, "-n", 20, env=C, stdin=prompt.encode()) == (0, wanted)


@posix
def test_letters_that_the_output_lacks(path: Path) -> None:
    """Question marks, rather than an end."""
    text = done(rsrc("run", path, "-p", "the rows", "-p", PROMPT, "-n", 20))
    wanted = text.encode("iso8859-1", "replace")
    assert wanted != text.encode()
    latin = {**C, "PYTHONIOENCODING": "iso8859-1"}
    assert piped(MAIN, "run", path, "-p", "the rows", "-p", PROMPT, "-n", 20, env=latin) == (
        0,
        wanted,
    )
    text = done(rsrc("run", path, "-p", "the rows", "-n", 20))
    assert piped(MAIN, "run", path, "-p", "the rows", "-n", 20, env=latin) == (
        0,
        text.encode("iso8859-1", "replace"),
    )


@pytest.mark.parametrize("option", ["--prompt", "--stop", "--system"])
def test_arguments_that_are_no_utf8(path: Path, option: str) -> None:
    """Python passes on such bytes as halves of surrogate pairs."""
    command = "chat" if option == "--system" else "run"
    message = refused(rsrc(command, path, option, "na\udcefve", stdin="x"))
    assert message == (
        f"rsrc: {option}: not UTF-8: byte 0xef at offset 2; convert it first (iconv -t utf-8)\n"
    )
    given = "na\udcc3\udcafve"  # "ï" in UTF-8, where the locale is ASCII
    result = rsrc(command, path, option, given, "-n", 3, stdin="x\n")
    assert done(result) == done(rsrc(command, path, option, "naïve", "-n", 3, stdin="x\n"))


# --- on a terminal ------------------------------------------------------------------------------


# A text with an escape sequence, a bell, C1 and other control characters, and letters.
STEERED = """
from rsr_runtime.llm.tokenizer import StreamingDetokenizer
texts = iter(["a\\x1b[31m\\x07b\\x9b2Jc\\x7f\\r\\x08d", "\\te\\nf", "\\u3000g\\u00a0h\\u200di"])
StreamingDetokenizer.push = lambda self, token: next(texts, "")
StreamingDetokenizer.finish = lambda self: ""
"""


@posix
def test_a_model_does_not_steer_the_terminal(path: Path, terminal: Callable[..., Terminal]) -> None:
    """Control characters are left out; in a pipe all of the text is there."""
    code, out = terminal(STEERED + MAIN, "run", path, "-p", "x", "-n", 3).end()
    assert code == 0
    assert out.startswith("a[31mb2Jcd\te\r\nf\u3000g\u00a0h\u200di\r\n\x1b[2m")
    assert piped(STEERED + MAIN, "run", path, "-p", "x", "-n", 3) == (
        0, "a\x1b[31m\x07b\x9b2Jc\x7f\r\x08d\te\nf\u3000g\u00a0h\u200di\n".encode(),
    )  # fmt: skip


@posix
def test_a_conversation_on_a_terminal(endless: Path, terminal: Callable[..., Terminal]) -> None:
    session = terminal(SLOW + MAIN, "chat", endless)
    assert "/help lists commands\r\n" in session.until("> ")
    session.type("/nothing\n")
    assert "unknown command /nothing; /help lists all\r\n" in session.until("> ")
    for _ in range(2):
        session.type("Hello\n")
        if session.until("2004l\r").endswith("\r"):  # readline gives the terminal back
            assert session.until(None)  # the answer has begun
        session.type("\x03")
        assert re.search(
            rf"\x1b\[2mfirst token after {DURATION}, \d+ tokens?( {RATE})? \(interrupted\)\x1b",
            session.until("> "),
        )
    session.type("Sort the rows of each block. " * 9 + "\n")
    dropped = r"dropped the \d oldest messages: the conversation no longer fits the context of 256 "
    assert re.search(rf"{dropped}tokens\r\n", session.until("> "))
    session.type("Sort the rows of each block. " * 20 + "\n")
    assert "in a context of 256: shorten it\r\n" in session.until("> ")
    session.type("/reset\n")
    assert "a new conversation\r\n" in session.until("> ")
    session.type("/exit\n")
    assert session.end()[0] == 0


@posix
def test_leaving_at_the_prompt(path: Path, terminal: Callable[..., Terminal]) -> None:
    session = terminal(MAIN, "chat", path)
    session.until("> ")
    code, out = session.press("\x04")
    assert code == 0
    assert "Traceback" not in out


@posix
def test_an_interrupt_at_the_prompt_clears_the_line(
    path: Path, terminal: Callable[..., Terminal]
) -> None:
    session = terminal(MAIN, "chat", path)
    session.until("> ")
    session.type("/nothing")
    session.until("/nothing")
    assert "leaves" not in session.interrupt()
    session.type("/reset\n")  # alone: with what was there it would be no command
    assert "a new conversation\r\n" in session.until("> ")
    assert "Ctrl-D or /exit leaves\r\n" in session.interrupt()
    session.type("/exit\n")
    assert session.end()[0] == 0


@posix
def test_run_on_a_terminal_wants_a_prompt(path: Path, terminal: Callable[..., Terminal]) -> None:
    code, out = terminal(MAIN, "run", path).end()
    assert code == 2
    assert "give a prompt with -p, or on stdin, or in a file with --file" in out


@posix
def test_progress_on_a_terminal(
    path: Path, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(PROMPT * 9, encoding="utf-8")
    code, out = terminal(MAIN, "perplexity", path, text, "--window", 16).end()
    assert code == 0
    assert "predicting" in out
    assert "perplexity " in out
