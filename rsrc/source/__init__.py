"""Open a source: from a path to tensors whose bytes can be read. Start at `open`."""
