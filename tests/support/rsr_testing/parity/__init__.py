"""The other side of every comparison with transformers: needs the extra ``parity``."""
