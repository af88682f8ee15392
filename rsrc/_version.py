"""The version of the distribution, in one place: pyproject.toml."""

from importlib.metadata import version

__version__ = version("rsr-ternary")
