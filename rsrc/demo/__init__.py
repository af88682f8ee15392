"""The embedded examples: a network that reads digits, and a language model that writes."""

from . import digits, language


def run() -> None:
    """Compile both examples, run them and show what they do."""
    digits.run()
    language.run()
