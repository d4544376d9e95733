"""A preset: a behavior with a name, a source and a confidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from punchlab.punch.nat.behavior import NatBehavior


class Confidence(StrEnum):
    """How reliable the source of a preset is."""

    DEFINITION = "definition"
    """The name is defined as this behavior."""
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Preset:
    """A behavior (None: no NAT), its source, and the fields that the source does not claim.

    `not_claimed` contains fields of `NatBehavior` or `timeouts.NAME`. For these, the source gives no value, "any" or a
    percentage, and this project chose the value.
    """

    behavior: NatBehavior | None
    source: str
    confidence: Confidence
    not_claimed: frozenset[str] = frozenset()
