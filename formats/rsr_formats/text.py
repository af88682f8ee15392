"""Names from strangers' files, fit to be printed."""


def printable(text: str) -> str:
    """Return `text` with control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
