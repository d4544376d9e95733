"""What a preset is: a behavior under a name, and on whose word."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from punchlab.punch.nat.behavior import NatBehavior


class Confidence(StrEnum):
    """How well a preset is founded."""

    DEFINITION = "definition"
    """The name means this behavior."""
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Preset:
    """A behavior (None: no NAT), where it is from, and which of its fields the source does not claim.

    `not_claimed` are names of fields of `NatBehavior`, or `timeouts.NAME`: there the source says nothing, "any" or a
    percentage, and the value is this project's choice.
    """

    behavior: NatBehavior | None
    source: str
    confidence: Confidence
    not_claimed: frozenset[str] = frozenset()
