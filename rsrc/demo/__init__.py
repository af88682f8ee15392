"""The embedded examples: a network that reads digits, and a language model that writes."""

from . import digits, language


def run() -> None:
    """Compile and run both examples, and print their output."""
    digits.run()
    language.run()
