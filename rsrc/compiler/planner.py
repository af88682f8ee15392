"""Stages 2 and 3, recognize and plan, for a source whose files may arrive one after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from rsr_formats.records import Rotation

from ..common.errors import OptionError
from ..common.progress import ByteCounter
from ..source.checkpoint import Checkpoint
from ..workers.pool import Workers
from .head import HeadPlan, find_head, plan_head
from .options import CompileOptions
from .plan import Plan, plan
from .recognize import Recognition, Recognized
from .rotate import rotations_of


class Planner:
    """Plans all tensors of a source.

    Args:
        checkpoint: the opened source.
        options: of the compilation.
        workers: examine the tensors.
        counter: is told about them.

    Attributes:
        rotations: of the matrices in a rotated basis, by name; complete when `plans` has ended.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: CompileOptions,
        workers: Workers,
        counter: ByteCounter,
    ) -> None:
        self.rotations: dict[str, Rotation] = {}
        self._checkpoint, self._options, self._counter = checkpoint, options, counter
        self._recognition = Recognition(checkpoint, options, workers, counter.advance)

    def plans(self) -> Generator[list[Plan], None, None]:
        """Yield the plans of tensors whose file is on this machine, until the next are requested.

        Together they are in the order of the source. The plan of a head that is made from the
        embedding comes last.

        Raises:
            SourceError: a tensor is damaged, or a file cannot be fetched.
            NothingToCompileError: no tensor is ternary or binary.
            OptionError: an option is impossible for a tensor.
        """
        checkpoint, options = self._checkpoint, self._options
        head = None if options.head is None else find_head(checkpoint).name
        made: HeadPlan | None = None
        with closing(checkpoint.in_turn()) as parts:
            for tensors in parts:
                self._counter.begin("recognizing", len(tensors))
                chosen: list[Recognized | HeadPlan] = []
                for found in self._recognition.of(tensors):
                    if found.tensor.name != head:
                        chosen.append(found)
                        continue
                    made = plan_head(checkpoint, found)
                    chosen.append(found if made.is_added else made)
                yield plan(chosen, options)
        self._recognition.check()
        self.rotations = rotations_of(checkpoint, self._recognition.found)
        if head is not None and made is None:
            raise OptionError(
                f"head: {head!r} is auxiliary to another tensor: compile without --head"
            )
        if made is not None and made.is_added:
            yield [made]
