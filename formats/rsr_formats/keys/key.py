"""The meaning of a key in the settings of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["used", "harmless", "unsupported"]

USED: Literal["used"] = "used"
HARMLESS: Literal["harmless"] = "harmless"
UNSUPPORTED: Literal["unsupported"] = "unsupported"


@dataclass(frozen=True)
class Key:
    """What a key means to inference.

    Attributes:
        kind: `USED`, `HARMLESS` or `UNSUPPORTED`.
        note: for a used key what it sets, for a harmless one why it changes nothing, for an
            unsupported one what it would change.
        neutral: values of an unsupported key that change nothing or are supported. null is the
            same as absent.
    """

    kind: Kind
    note: str
    neutral: tuple[object, ...] = ()

    def has_effect(self, value: object) -> bool:
        """Return whether this value of an unsupported key would change the model."""
        if self.kind != UNSUPPORTED or value is None:
            return False
        return not any(type(value) is type(n) and value == n for n in self.neutral)


Keys = Mapping[str, Key]
