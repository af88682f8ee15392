"""Write golden.rsr: what version 1.3 adds, dense tensors that are quantised.

The file beside this script was written once and is read for ever
(tests/formats/test_golden_1_3.py). Do not write it again: a change of the format gets a new folder.

    python tests/golden/v1.3/make_golden_1_3.py OUT.rsr
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rsr_formats import DenseTensor, create
from rsr_formats.records import Quantized

# Rows of the embedding; those of the head are q * scale, what it is made of is lost.
EMBEDDING = [[127.0, -63.5, 31.75, 0.0], [0.0, 0.0, 0.0, 0.0], [0.25, 0.5, -1.0, 0.125]]
TIED_Q = [[127, -64, 32, 0], [0, 0, 0, 0], [32, 64, -127, 16]]  # 63.5, 31.75, 63.5, 15.875
TIED_SCALE = np.array([127, 0, 1], "<f4") / np.float32(127)
HEAD_Q = [[127, -1], [-127, 126]]
HEAD_SCALE = [0.5, 2.0]


def write(path: Path) -> None:
    """Write the golden file."""
    bf16 = (np.array(EMBEDDING, "<f4").view("<u4") >> 16).astype("<u2")
    with create(path) as writer:
        tensors = [
            DenseTensor("embedding.weight", "BF16", (3, 4), writer.add([bf16.tobytes()])),
            DenseTensor(
                "head.weight", "I8", (2, 2), writer.add([np.array(HEAD_Q, "i1").tobytes()]),
                Quantized("absmax", "head.weight", "F16"),
            ),
            DenseTensor(
                "head.weight_scale", "F32", (2,),
                writer.add([np.array(HEAD_SCALE, "<f4").tobytes()]),
            ),
            DenseTensor(
                "tied.weight", "I8", (3, 4), writer.add([np.array(TIED_Q, "i1").tobytes()]),
                Quantized("absmax", "embedding.weight", "BF16"),
            ),
            DenseTensor("tied.weight_scale", "F32", (3,), writer.add([TIED_SCALE.tobytes()])),
        ]  # fmt: skip
        writer.finish(
            producer="rsr-ternary golden v1.3",
            metadata={"purpose": "read for ever"},
            files=[],
            tensors=tensors,
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
