"""Parts of tokenizers that several tests build."""

from __future__ import annotations

from tokenizers import decoders, normalizers


def sentencepiece_normalizer() -> normalizers.Normalizer:
    """Mark the beginning of the text and every blank, as SentencePiece does."""
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def sentencepiece_decoder() -> decoders.Decoder:
    """Return what undoes the normalizer, in a vocabulary that falls back on bytes."""
    return decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
