"""Open a checkpoint: from a path to tensors whose bytes can be read."""
