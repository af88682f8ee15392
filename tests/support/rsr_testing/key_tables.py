"""Write the tables of keys into docs/checkpoints.md, between two comments.

    PYTHONPATH=tests/support python -m rsr_testing.key_tables

``tests/test_checkpoints.py`` fails where they are not up to date.
"""

from __future__ import annotations

import json

from rsr_formats.architectures import ARCHITECTURES
from rsr_formats.keys import HARMLESS, UNSUPPORTED, USED
from rsr_formats.keys.config import CONFIG, QUANTIZATION, ROPE
from rsr_formats.keys.generation import GENERATION
from rsr_formats.keys.gguf import ARCHITECTURE, GENERAL, TOKENIZER
from rsr_formats.keys.key import Key, Keys
from rsr_testing.paths import ROOT

DOCUMENT = ROOT / "docs" / "checkpoints.md"
BEGIN, END = "<!-- tables of keys -->\n", "<!-- end of the tables of keys -->\n"

_TABLES: dict[str, Keys] = {
    "config.json": CONFIG,
    "`rope_parameters` or `rope_scaling` in config.json": ROPE,
    "`quantization_config`, or MLX's `quantization`, in config.json": QUANTIZATION,
    "generation_config.json": GENERATION,
    "GGUF metadata: general keys": GENERAL,
    "GGUF metadata: tokenizer": TOKENIZER,
    "GGUF metadata: keys after the name of the architecture and a dot": ARCHITECTURE,
}
_SETS = {USED: "used", HARMLESS: "changes nothing", UNSUPPORTED: "not supported"}


def tables() -> str:
    """Return all tables as Markdown; keys that have everything in common share a row."""
    known = [f"### {title}\n\n{_table(keys)}" for title, keys in _TABLES.items()]
    return "\n".join([*known, f"### config.json of single classes\n\n{_own()}"])


def document() -> str:
    """Return docs/checkpoints.md with tables that are up to date."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _table(keys: Keys) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for kind, word in _SETS.items():
        for name, key in keys.items():
            if key.kind == kind:
                rows.setdefault((word + _except(key), key.note), []).append(f"`{name}`")
    lines = [f"|{', '.join(names)}|{words}|{note}|" for (words, note), names in rows.items()]
    return "\n".join(["|key|set|meaning|", "|---|---|---|", *lines, ""])


def _own() -> str:
    """Return the table of the keys that some classes read although the tables say otherwise."""
    lines = []
    for a in ARCHITECTURES:
        keys = {**a.own_keys, **{f.key: f.default for f in a.factors if f.key}}
        if keys:
            read = ", ".join(f"`{key}` ({json.dumps(value)})" for key, value in keys.items())
            lines.append(f"|`{a.name}`|{read}|")
    head = "These classes read the keys that are named here; in brackets: what an absent key means."
    return "\n".join([head, "", "|class|keys|", "|---|---|", *lines, ""])


def _except(key: Key) -> str:
    values = list(dict.fromkeys(json.dumps(value) for value in key.neutral))
    return f", except {', '.join(f'`{value}`' for value in values)}" if values else ""


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
