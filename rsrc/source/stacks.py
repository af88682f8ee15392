"""Cut the three-dimensional tensors of a mixture of experts into the matrices of the experts.

The matrices get the names that they have in checkpoints with one tensor for each, so all later
stages know only those. Each is a range of the file, so no stage holds more than one expert.

| tensor in a layer | shape | where |
|---|---|---|
| `mlp.experts.gate_up_proj` | [experts, 2 * expert width, hidden] | transformers 5 |
| `mlp.experts.down_proj` | [experts, hidden, expert width] | transformers 5 |
| `mlp.switch_mlp.gate_proj.weight`, `.scales`, `.biases` | [experts, rows, words or groups] | MLX |
| `blk.N.ffn_gate_exps.weight`, `_up_exps`, `_down_exps` | [experts, rows, columns] | GGUF |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from rsr_formats.architectures import ANY_PREFIX, of_config
from rsr_formats.experts import EXPERTS, MAX_EXPERTS
from rsr_formats.records import DTYPE_BITS, Stack

from ..common.errors import SourceError
from .checkpoint import Checkpoint
from .gguf.tensor import GgufTensor
from .tensor import SourceTensor

_LAYER = rf"(?P<layer>(?:{ANY_PREFIX})layers\.(?:0|[1-9][0-9]{{0,8}})\.)"
_FUSED = re.compile(rf"{_LAYER}mlp\.experts\.(?P<module>gate_up_proj|down_proj)")
_MLX = re.compile(
    rf"{_LAYER}mlp\.switch_mlp\.(?P<module>(?:gate|up|down)_proj\.(?:weight|scales|biases))"
)
# The name in a GGUF file is `ffn_gate_exps` (gguf/names.py).
_GGUF = re.compile(rf"{_LAYER}mlp\.experts\.(?P<module>(?:gate|up|down)_proj\.weight)")
_FUSED_PARTS = {
    "gate_up_proj": (".gate_proj.weight", ".up_proj.weight"),
    "down_proj": (".down_proj.weight",),
}


def cut_stacks(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the matrices of experts instead of three-dimensional tensors.

    `Checkpoint.stacks` then says what the tensors were. Those of GGUF files are left out: their
    block types have no name outside GGUF, so nothing restores them. If such a tensor is in a
    rotated basis, so is each of its matrices.

    Raises:
        SourceError: a matrix is there by itself as well.
    """
    if not any(len(t.shape) == 3 for t in checkpoint.tensors.values()):
        return checkpoint
    known = of_config(checkpoint.config)
    if known is None or not known.has_experts:
        return checkpoint
    tensors: dict[str, SourceTensor] = {}
    stacks: list[Stack] = []
    basis = checkpoint.basis
    for tensor in checkpoint.tensors.values():
        stack = _stack_of(tensor)
        for part in [tensor] if stack is None else _parts(tensor, stack):
            if part.name in tensors:
                raise SourceError(
                    f"{checkpoint.path}: {part.name!r} is there twice: by itself, and in a tensor "
                    "of all experts of the layer"
                )
            tensors[part.name] = part
        if stack is not None and basis is not None and tensor.name in basis.names:
            basis = replace(basis, names=(basis.names - {tensor.name}).union(stack.parts()))
        if stack is not None and not isinstance(tensor, GgufTensor):
            stacks.append(stack)
    return replace(checkpoint, tensors=tensors, stacks=tuple(stacks), basis=basis)


def _stack_of(tensor: SourceTensor) -> Stack | None:
    """Return how a tensor consists of the matrices of experts; None if it does not."""
    if len(tensor.shape) != 3 or 0 in tensor.shape or tensor.shape[0] > MAX_EXPERTS:
        return None
    if isinstance(tensor, GgufTensor):
        found, suffixes = _GGUF.fullmatch(tensor.name), None
        if tensor.kind.is_flat:
            return None  # one scale of all experts, in a tail
    elif DTYPE_BITS[tensor.dtype] % 8:
        return None
    elif (found := _FUSED.fullmatch(tensor.name)) is not None:
        suffixes = _FUSED_PARTS[found["module"]]
    else:
        found, suffixes = _MLX.fullmatch(tensor.name), None
    if found is None:
        return None
    suffixes = suffixes or (f".{found['module']}",)
    if tensor.shape[1] % len(suffixes):
        return None
    return Stack(tensor.name, tensor.shape, f"{found['layer']}{EXPERTS}.", suffixes)


def _parts(tensor: SourceTensor, stack: Stack) -> Iterator[SourceTensor]:
    """Yield the matrices of a tensor, which are equal parts of its bytes."""
    shape = stack.part_shape
    count = stack.shape[0] * len(stack.suffixes)
    step = tensor.stored_nbytes // count
    for i, name in enumerate(stack.parts()):
        yield replace(
            tensor, name=name, shape=shape, offset=tensor.offset + i * step,
            nbytes=tensor.nbytes // count,
        )  # fmt: skip
