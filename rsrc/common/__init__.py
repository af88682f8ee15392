"""Shared by all rooms: array types, errors, progress, console output, scratch folders."""
