"""Matrices compiled for a benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import rsr_runtime as rsr
from rsr_runtime import Matrix

from ..common.scratch import scratch_folder
from ..compiler.pipeline import compile


def compile_matrix(W: npt.NDArray[np.int8], *options: dict[str, Any]) -> list[Matrix]:
    """Compile a matrix the way a user would, once with each of `options`, and load it.

    Args:
        W: (out_features, in_features), int8, contiguous; values -1, 0, 1.
        options: keywords of `rsrc.compile`.

    Returns:
        The matrices, mapped as from any file; the mappings outlive the files.
    """
    matrices = []
    with scratch_folder() as folder:
        source = folder / "random.safetensors"
        save_file({"random": W}, source)
        for i, keywords in enumerate(options):
            output = source.with_name(f"{i}.rsr")
            compile(source, output, **keywords)
            matrix = rsr.load(output)["random"]
            assert isinstance(matrix, Matrix)
            matrices.append(matrix)
    return matrices
