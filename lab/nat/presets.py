"""Names for behaviors: the five kinds that every text on NAT traversal speaks of (RFC 3489 section 5)."""

from __future__ import annotations

from collections.abc import Mapping as ReadOnlyDict
from dataclasses import replace
from types import MappingProxyType

from lab.errors import InputError
from punch.nat.behavior import Filtering, Mapping, NatBehavior, PortAllocation, Unsolicited

PRESETS: ReadOnlyDict[str, NatBehavior | None] = MappingProxyType(
    {
        "none": None,
        "full_cone": NatBehavior(
            Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, PortAllocation.PRESERVING
        ),
        "restricted_cone": NatBehavior(
            Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, PortAllocation.PRESERVING
        ),
        "port_restricted_cone": NatBehavior(
            Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
        ),
        "symmetric": NatBehavior(
            Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.RANDOM
        ),
    }
)
"""Name -> behavior; `none` is a public host without a NAT."""

CLASSICS: tuple[str, ...] = ("none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric")
"""The five classic kinds, from the friendliest to the hardest."""


def behavior(name: str, unsolicited: Unsolicited = Unsolicited.DROP) -> NatBehavior | None:
    """The behavior called `name` with the given answer to unsolicited SYNs; None for a public host.

    Raises `InputError` for a name that is not a preset.
    """
    if name not in PRESETS:
        raise InputError("nat", name, f"one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return preset and replace(preset, unsolicited=unsolicited)


def named(names: str) -> tuple[str, ...]:
    """Preset names from one word: a comma-separated list, `classics`, or `all`. Raises `InputError`."""
    groups = {"classics": CLASSICS, "all": tuple(PRESETS)}
    chosen = dict.fromkeys(name for word in names.split(",") for name in groups.get(word, (word,)))
    for name in chosen:
        if name not in PRESETS:
            raise InputError("nat", name, f"one of {', '.join((*PRESETS, *groups))}")
    return tuple(chosen)
