"""Time a language model that many use at once: clients side by side, long prompts, conversations.

    python benchmarks/serving.py MODEL.rsr [--clients 1,4,8] [--tokens 48] [--threads N]
    python benchmarks/serving.py --url http://127.0.0.1:8080 --vocabulary 128256

Without --url, the engine is called in this process. With it, the same jobs go to a server's
/v1/completions, whose prompts may be tokens. Three things are measured:

- "clients": texts that are generated side by side; tokens per second of all, from the moment in
  which each has its first token.
- "beside": the time to the first token of a prompt of 30 tokens that comes while a prompt of 2,000
  tokens is read.
- "conversation": the time to the first token after 8 more tokens of a conversation of 1,500 tokens,
  in steps of one generated token.

Prompts are random tokens. A model without a tokenizer takes that of --tokenizer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import rsr_runtime as rsr
from reporting import Lines, Row, measuring_parser, report
from rsr_runtime import llm
from rsr_runtime.llm.job import Failed, TokenAdded
from rsr_runtime.llm.tokenizer import Tokenizer

Ask = Callable[[list[int], int], Iterator[float]]  # prompt, tokens -> the time of each token
SHORT, LONG, CONVERSATION, TURN = 30, 2000, 1500, 8  # tokens


def asking_engine(engine: llm.Engine) -> Ask:
    """Return a function that gives jobs to an engine of this process."""

    def ask(prompt: list[int], tokens: int) -> Iterator[float]:
        for event in engine.submit(llm.Job(prompt, max_tokens=tokens, sampling=llm.Sampling())):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, TokenAdded):
                yield time.perf_counter()

    return ask


def asking_server(url: str) -> Ask:
    """Return a function that sends jobs to a server."""
    address = urlsplit(url)

    def ask(prompt: list[int], tokens: int) -> Iterator[float]:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=600)
        body = {
            "model": "default", "prompt": prompt, "max_tokens": tokens, "temperature": 0,
            "stream": True, "ignore_eos": True,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{url}: {response.status} {response.read(500).decode()}")
        for line in response:
            if line.startswith(b"data: {") and b'"finish_reason":null' in line.replace(b" ", b""):
                yield time.perf_counter()
        connection.close()

    return ask


class Prompts:
    """Random prompts, each new."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._rng = np.random.default_rng(3)

    def __call__(self, tokens: int) -> list[int]:
        """Return a prompt of so many tokens."""
        found: list[int] = self._rng.integers(0, self._vocabulary, tokens).tolist()
        return found


def measure_clients(ask: Ask, prompts: Prompts, clients: int, tokens: int) -> Row:
    """Generate texts side by side; the rate counts while all of them are generated."""
    own = [prompts(SHORT) for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        times = list(pool.map(lambda prompt: list(ask(prompt, tokens)), own))
    first, last = max(one[0] for one in times), min(one[-1] for one in times)
    counted = sum(first < each <= last for one in times for each in one)
    return {"what": "clients", "clients": clients, "tokens_per_second": counted / (last - first)}


def measure_beside(ask: Ask, prompts: Prompts) -> Row:
    """Ask with a short prompt while a long one is read."""
    start = time.perf_counter()
    long: list[float] = []
    thread = threading.Thread(target=lambda: long.extend(ask(prompts(LONG), 1)))
    thread.start()
    time.sleep(0.5)
    asked = time.perf_counter()
    first = next(ask(prompts(SHORT), 1))
    thread.join()
    return {
        "what": "beside", "seconds": first - asked, "long_seconds": long[0] - start,
        "was_beside": first < long[0],
    }  # fmt: skip


def measure_conversation(ask: Ask, prompts: Prompts) -> Row:
    """Go on with a conversation; steps are those of a text after it."""
    conversation = prompts(CONVERSATION)
    list(ask(conversation, 1))
    found = []
    for _ in range(3):
        conversation += prompts(TURN)
        start = time.perf_counter()
        times = list(ask(conversation, 8))
        found.append((times[0] - start, (times[-1] - times[0]) / (len(times) - 1)))
    first, step = min(found)
    return {"what": "conversation", "seconds": first, "step_seconds": step, "steps": first / step}


def main() -> None:
    """Measure and report."""
    parser = measuring_parser(__doc__, 0, "line")
    parser.add_argument("model", nargs="?", help="a .rsr file of a language model")
    parser.add_argument("--url", help="a server, instead of MODEL")
    parser.add_argument("--vocabulary", type=int, default=2000, help="of the server's model (2000)")
    parser.add_argument("--clients", default="1,4,8", help="texts side by side (1,4,8)")
    parser.add_argument("--tokens", type=int, default=48, help="of each text (48)")
    parser.add_argument("--only", choices=("clients", "beside", "conversation"), help="(all)")
    parser.add_argument("--threads", type=int, help="(all processors)")
    parser.add_argument("--kv", choices=("float16", "float32", "int8"), default="float16")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, if the model has none")
    options = parser.parse_args()
    if (options.model is None) == (options.url is None):
        parser.error("give either MODEL or --url")
    with ExitStack() as stack:
        if options.url:
            ask, vocabulary = asking_server(options.url), options.vocabulary
        else:
            ask, vocabulary = _engine(options, stack)
        rows = _measure(ask, Prompts(vocabulary), options)
    names = ["", "seconds", "tokens/s or steps"]
    lines: Lines = [_line(row) for row in rows]
    report(options, rows, [("Serving", [names, *lines])])


def _engine(options: argparse.Namespace, stack: ExitStack) -> tuple[Ask, int]:
    if options.threads:
        rsr.set_num_threads(options.threads)
    model = stack.enter_context(llm.load(options.model, context=4096, kv=options.kv))
    if options.tokenizer:
        model._tokenizer = Tokenizer({"tokenizer.json": options.tokenizer.read_bytes()})
    most = max(map(int, options.clients.split(",")))
    return asking_engine(stack.enter_context(llm.Engine(model, most))), model.config.vocab_size


def _measure(ask: Ask, prompts: Prompts, options: argparse.Namespace) -> list[Row]:
    list(ask(prompts(2 * SHORT), 4))  # reads the weights
    rows: list[Row] = []
    if options.only in (None, "clients"):
        for clients in map(int, options.clients.split(",")):
            rows.append(measure_clients(ask, prompts, clients, options.tokens))
    if options.only in (None, "beside"):
        rows.append(measure_beside(ask, prompts))
    if options.only in (None, "conversation"):
        rows.append(measure_conversation(ask, prompts))
    return rows


def _line(row: Row) -> list[str]:
    if row["what"] == "clients":
        return [f"{row['clients']} clients", "", f"{row['tokens_per_second']:.1f}"]
    if row["what"] == "beside":
        name = f"first of {SHORT} beside {LONG}" + ("" if row["was_beside"] else " (after it)")
        return [name, f"{row['seconds']:.2f} of {row['long_seconds']:.1f}", ""]
    return [f"{TURN} after {CONVERSATION}", f"{row['seconds']:.3f}", f"{row['steps']:.1f}"]


if __name__ == "__main__":
    main()
