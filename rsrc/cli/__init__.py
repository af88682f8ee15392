"""The command line: parses options, calls the library, prints."""

from .main import main

__all__ = ["main"]
