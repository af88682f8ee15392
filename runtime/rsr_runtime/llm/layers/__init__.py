"""The layers of a decoder: one module for each kind of sublayer, and what all kinds share."""
