"""Compare what language models write with quantized and with float32 activations.

    python benchmarks/activations.py TEXT FILE.rsr... [--tokens 256] [--json] [--markdown]

TEXT is a file in UTF-8. For each model and each of "trained" and "int8-group" whose logits differ
from those above: the error of the logits of the first tokens of TEXT, as the root mean square over
that of the float32 ones; how often the most likely token is the same; the perplexity of all of TEXT
beside the one with float32; and how many tokens of a greedy text after the first 16 tokens of TEXT
are the same until one differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reporting import Lines, Row, report
from rsr_runtime import llm

PROMPT, GREEDY = 16, 64  # tokens


def read(path: Path, activations: Any, text: str, tokens: int) -> dict[str, Any]:
    """Return what a model makes of a text."""
    with llm.load(path, activations=activations) as model:
        encoded = model.tokenizer.encode(text)
        greedy = llm.Sampling(temperature=0)
        return {
            "logits": model.logits(encoded[: min(tokens, model.context)]),
            "perplexity": model.perplexity(text).value,
            "greedy": model.generate(encoded[:PROMPT], max_tokens=GREEDY, sampling=greedy).tokens,
        }


def compare(options: argparse.Namespace) -> Iterator[Row]:
    text = options.text.read_text(encoding="utf-8")
    for path in options.files:
        exact = read(path, "float32", text, options.tokens)
        seen = [exact["logits"]]
        for activations in ("trained", "int8-group"):
            found = read(path, activations, text, options.tokens)
            if any(np.array_equal(found["logits"], logits) for logits in seen):
                continue
            seen.append(found["logits"])
            error = found["logits"] - exact["logits"]
            same = found["logits"].argmax(axis=1) == exact["logits"].argmax(axis=1)
            pairs = zip(found["greedy"], exact["greedy"], strict=False)
            until = [i for i, (ours, theirs) in enumerate(pairs) if ours != theirs]
            yield {
                "file": str(path), "activations": activations,
                "logit_error": float(np.linalg.norm(error) / np.linalg.norm(exact["logits"])),
                "same_most_likely": float(same.mean()),
                "perplexity": found["perplexity"], "perplexity_float32": exact["perplexity"],
                "greedy_tokens": len(exact["greedy"]),
                "greedy_tokens_in_common": (until or [len(exact["greedy"])])[0],
            }  # fmt: skip


def table(rows: list[Row]) -> Lines:
    lines = [
        ["model", "activations", "error of logits", "same token", "perplexity", "float32", "greedy"]
    ]
    for r in rows:
        lines.append([
            r["file"], r["activations"], f"{r['logit_error']:.2%}", f"{r['same_most_likely']:.1%}",
            f"{r['perplexity']:.2f}", f"{r['perplexity_float32']:.2f}",
            f"{r['greedy_tokens_in_common']} of {r['greedy_tokens']}",
        ])  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.rsr")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--tokens", type=int, default=256, help="whose logits are compared (256)")
    options = parser.parse_args()
    rows = list(compare(options))
    report(options, rows, [("Activations", table(rows))], left=2)


if __name__ == "__main__":
    main()
