"""Compiles checkpoints in one folder and checks that they come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rsr_runtime
import rsrc
from rsr_formats import IndexedTensor, RsrFile
from rsrc.compiler.report import TensorReport
from rsrc.export.decompile import decompile
from rsrc.inspection.compare import compare
from rsrc.layouts import BY_NAME

from .checkpoints import Kit, Raw

Array = npt.NDArray[Any]
Reports = dict[str, TensorReport]

# One shifts the tensors after it to odd offsets; the other is ternary, whatever becomes of them.
ANCHORS: dict[str, Array] = {
    "odd": np.zeros(1, np.uint8),
    "anchor": np.array([[1, 0, -1]], np.int8),
}


class Bench:
    """One checkpoint after another, in one folder."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.rsr = folder / "x.rsr"

    def configure(self, config: dict[str, Any] | None) -> None:
        """Write config.json, or remove it."""
        path = self.folder / "config.json"
        path.unlink(missing_ok=True)
        if config is not None:
            path.write_text(json.dumps(config))

    def compile(
        self, tensors: Mapping[str, Array | Raw], *, anchors: bool = True, **options: Any
    ) -> Reports:
        """Compile tensors from one file, after `ANCHORS` unless told otherwise."""
        source = self.folder / "model.safetensors"
        self.kit.save(source, {**ANCHORS, **tensors} if anchors else tensors)
        return self.compile_source(source, **options)

    def one(self, tensor: Array | Raw, **options: Any) -> TensorReport:
        """Compile one tensor, named w."""
        return self.compile({"w": tensor}, **options)["w"]

    def compile_source(self, source: Path, **options: Any) -> Reports:
        """Compile a file or a folder, and check that it comes back."""
        self.rsr.unlink(missing_ok=True)
        reports = {t.name: t for t in rsrc.compile(source, self.rsr, **options).tensors}
        files = [source] if source.is_file() else source.glob("*.safetensors")
        expected = {name: t for file in files for name, t in self.kit.judge(file).items()}
        if all(t.layout is None or BY_NAME[t.layout].lossless for t in reports.values()):
            assert self.decompiled() == expected
        assert compare(self.rsr, source) == len(expected)
        return reports

    def decompiled(self) -> dict[str, Raw]:
        """Return the tensors that the .rsr file gives back."""
        back = self.folder / "back.safetensors"
        decompile(self.rsr, back, force=True)
        return self.kit.judge(back)

    def matrix(self, name: str = "w") -> rsr_runtime.Matrix:
        matrix = rsr_runtime.load(self.rsr, verify=True)[name]
        assert isinstance(matrix, rsr_runtime.Matrix)
        return matrix

    def digits(self, name: str = "w") -> list[list[int]]:
        """Return the digit values of a matrix."""
        values: list[list[int]] = self.matrix(name).to_dense(np.int8).tolist()
        return values

    def record(self, name: str = "w") -> IndexedTensor:
        (t,) = (t for t in RsrFile(self.rsr).header.tensors if t.name == name)
        assert isinstance(t, IndexedTensor)
        return t

    def grid(self, name: str = "w") -> tuple[int, int | None, str]:
        """Return rows, columns and dtype of the scales in a matrix's record."""
        scale = self.record(name).scale
        assert scale is not None
        return scale.rows, scale.columns, scale.dtype
