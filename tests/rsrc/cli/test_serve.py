"""The command serve: from the first line on stderr to the signal that ends it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from rsr_runtime import llm
from rsr_testing.adapters import write_adapter
from rsr_testing.commands import ENVIRONMENT, MAIN, SLOW, refused, rsrc
from rsr_testing.process import SIGINT_RAISES, started

ENDS = {str(token): -100 for token in range(299, 304)}  # never end a text
get, post = partial(httpx.get, timeout=60), partial(httpx.post, timeout=60)


@contextmanager
def served(
    *arguments: object, models: str = "model", **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the command on a free port; yield its URL and the process."""
    environment = {**ENVIRONMENT, **environment}
    with started(
        SIGINT_RAISES + MAIN, "serve", *arguments, "--port", "0", env=environment
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        match = re.match(rf"rsrc: serving {models} at (http://\S+:\d+) ", line)
        assert match is not None, line
        yield match[1], process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_it_serves_until_a_signal(path: Path, name: str) -> None:
    with served(path) as (url, process):
        body = {"prompt": "The weights", "max_tokens": 12, "temperature": 0}
        answer = post(f"{url}/v1/completions", json=body).json()
        with llm.load(path) as model:
            assert answer["choices"][0]["text"] == model.generate("The weights", max_tokens=12).text
        number = getattr(signal, name)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output == b""
    (line,) = errors.decode().splitlines()
    assert re.search(r" [0-9a-f]{16} POST /v1/completions 200 \d+\.\d{3} s$", line)


def test_it_names_the_adapters(path: Path, tmp_path: Path) -> None:
    with llm.load(path) as model:
        one = write_adapter(tmp_path / "one", model, 1)
    with served(path, "--lora", one, "--lora", f"x={one}", models="model, one, x") as (url, _):
        body = {"model": "x", "prompt": "The weights", "max_tokens": 2}
        assert post(f"{url}/v1/completions", json=body).json()["model"] == "x"


def test_a_signal_waits_for_requests(path: Path) -> None:
    slow = "import rsr_runtime.llm.decoder as d, time\nh = d.Decoder.hidden\n"
    slow += "d.Decoder.hidden = lambda *a: (time.sleep(0.02), h(*a))[1]\n"
    environment = {**ENVIRONMENT}
    with started(slow + MAIN, "serve", path, "--port", "0", env=environment) as process:
        assert process.stderr is not None
        url = process.stderr.readline().decode().split()[4]
        found: list[httpx.Response] = []
        body = {"prompt": "a", "max_tokens": 40, "temperature": 0, "logit_bias": ENDS}
        asking = threading.Thread(
            target=lambda: found.append(post(f"{url}/v1/completions", json=body))
        )
        asking.start()
        while "rsr_requests_processing 1" not in get(f"{url}/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert found[0].json()["usage"]["completion_tokens"] == 40


def test_a_second_interrupt_ends_requests_at_once(path: Path) -> None:
    slow = SIGINT_RAISES + SLOW.replace("0.03", "0.3")
    with started(slow + MAIN, "serve", path, "--port", "0", env=ENVIRONMENT) as process:
        assert process.stderr is not None
        url = process.stderr.readline().decode().split()[4]

        def ask() -> None:
            body = {"prompt": "a", "max_tokens": 40, "logit_bias": ENDS}
            with suppress(httpx.HTTPError):
                post(f"{url}/v1/completions", json=body)

        asking = threading.Thread(target=ask)
        asking.start()
        while "rsr_requests_processing 1" not in get(f"{url}/metrics").text:
            pass
        process.send_signal(signal.SIGINT)
        while get(f"{url}/health").status_code == 200:  # until it takes no more requests
            pass
        process.send_signal(signal.SIGINT)
        again = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        assert time.monotonic() - again < 5  # of the 10 seconds that one signal gives
        asking.join(60)
    assert process.returncode == 128 + signal.SIGINT


def test_an_empty_key_in_the_environment_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSR_API_KEY", " ")
    assert "RSR_API_KEY" in refused(rsrc("serve", path))


def test_keys_come_from_file_option_and_environment(path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n\n two \n", encoding="utf-8-sig")

    def status(url: str, key: str) -> int:
        return get(f"{url}/models", headers={"api-key": key}).status_code

    with served(path, "--api-key-file", keys, "--api-key", " three ") as (url, _):
        assert [status(url, key) for key in ("one", "two", "three", "", "four")] == [
            200, 200, 200, 401, 401,
        ]  # fmt: skip
    with served(path, RSR_API_KEY="of the environment\n") as (url, _):
        assert [status(url, key) for key in ("of the environment", "of")] == [200, 401]


def test_other_addresses_are_refused_without_a_key(path: Path, tmp_path: Path) -> None:
    assert "--api-key-file" in refused(rsrc("serve", path, "--host", "0.0.0.0"))
    empty = tmp_path / "keys"
    empty.write_text("\n")
    assert "no key" in refused(rsrc("serve", path, "--api-key-file", empty))
    empty.write_bytes(b"\xff\xfek")
    assert "UTF-8" in refused(rsrc("serve", path, "--api-key-file", empty))
    assert "--api-key" in refused(rsrc("serve", path, "--api-key", " "), code=2)
    for origin in ("example.org", "https://example.org/", "://"):
        assert "like https://example.org" in refused(rsrc("serve", path, "--cors", origin))
    with served(path, "--host", "0.0.0.0", "--insecure") as (url, _):
        port = url.rsplit(":", 1)[1]
        assert get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_a_taken_port_is_refused(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "another --port" in refused(rsrc("serve", path, "--port", port))


def test_a_missing_package_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = "importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None if name == "uvicorn" else object())
    assert "rsr-ternary[serve]" in refused(rsrc("serve", path))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.rsr"
    file.write_bytes(b"no model")
    assert "a.rsr" in refused(rsrc("serve", file, "--port", 0))


def test_template_variables_are_for_all_requests(path: Path) -> None:
    with served(path, "--template-var", "bos_token=zz") as (url, _):
        body = {"messages": [{"role": "user", "content": "a"}]}
        tokens = post(f"{url}/tokenize", json=body).json()["tokens"]
        text = post(f"{url}/detokenize", json={"tokens": tokens}).json()["prompt"]
        assert text.startswith("zz<|start_header_id|>")
