"""Where the repository's own files lie."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
BENCHMARKS = ROOT / "benchmarks"
GOLDEN = ROOT / "tests" / "golden"
DIGITS = EXAMPLES / "digits" / "model.safetensors"
