"""From text to tokens and back, within limits."""
