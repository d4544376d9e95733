"""Presets: the five classic NAT types, firewalls, and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from punchlab.lab.errors import InputError
from punchlab.lab.inputs.choices import one_of
from punchlab.lab.nat.devices import DEVICES
from punchlab.lab.nat.preset import Confidence, Preset
from punchlab.punch.nat.behavior import (
    BehaviorError,
    FilteringBehavior,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    PortMapping,
    Unsolicited,
)

_TERMS = "RFC 3489 section 5, in the terms of RFC 4787"


def _classic(behavior: NatBehavior | None) -> Preset:
    return Preset(behavior, _TERMS, Confidence.DEFINITION)


def _cone(filtering: FilteringBehavior) -> Preset:
    return _classic(NatBehavior(MappingBehavior.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING))


_CLASSICS = {
    "none": _classic(None),
    "full_cone": _cone(FilteringBehavior.ENDPOINT_INDEPENDENT),
    "restricted_cone": _cone(FilteringBehavior.ADDRESS_DEPENDENT),
    "port_restricted_cone": _cone(FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT),
    "symmetric": _classic(
        NatBehavior(
            MappingBehavior.ADDRESS_AND_PORT_DEPENDENT,
            FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
            PortAllocation.RANDOM,
        )
    ),
}


def _firewall(filtering: FilteringBehavior) -> Preset:
    wall = NatBehavior(MappingBehavior.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING, translates=False)
    return Preset(wall, "RFC 6092 (IPv6 simple security), in the terms of RFC 4787", Confidence.DEFINITION)


_FIREWALLS = {
    "firewall_open": _firewall(FilteringBehavior.ENDPOINT_INDEPENDENT),
    "firewall_address": _firewall(FilteringBehavior.ADDRESS_DEPENDENT),
    "firewall": _firewall(FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT),
}

PRESETS: Mapping[str, Preset] = MappingProxyType({**_CLASSICS, **_FIREWALLS, **DEVICES})
"""All presets by name. `none` is a public host without a NAT."""

CLASSICS: tuple[str, ...] = tuple(_CLASSICS)
"""The five classic types, from the easiest to the hardest to traverse."""

FIREWALLS: tuple[str, ...] = tuple(_FIREWALLS)
"""Stateful firewalls that do not translate, from the most to the least permissive filtering."""

OWN_ANSWER = "preset"
"""For `behavior`: keep the value of the preset."""


def behavior(
    nat: str | NatBehavior, unsolicited: str = OWN_ANSWER, port_mapping: str = OWN_ANSWER
) -> NatBehavior | None:
    """Return the behavior of the preset `nat`, with this answer to unsolicited SYNs and this port mapping.

    Returns None for a public host, and a `NatBehavior` unchanged. Raises `InputError` for an unknown preset, answer or
    port mapping.
    """
    for field, value, kind in (("unsolicited", unsolicited, Unsolicited), ("port_mapping", port_mapping, PortMapping)):
        one_of(field, value, (OWN_ANSWER, *kind))
    if isinstance(nat, NatBehavior):
        return nat
    found = preset(nat).behavior
    if found is None:
        return None
    if unsolicited != OWN_ANSWER:
        found = replace(found, unsolicited=Unsolicited(unsolicited))
    if port_mapping != OWN_ANSWER:
        try:
            found = replace(found, port_mapping=PortMapping(port_mapping))
        except BehaviorError as error:
            raise InputError("port_mapping", port_mapping, f"no port mapping for the NAT {nat} ({error})") from None
    return found


def preset(name: str) -> Preset:
    """Return the preset called `name`. Raises `InputError`."""
    return PRESETS[one_of("nat", name, PRESETS)]


def named(names: str) -> tuple[str, ...]:
    """Return preset names from a comma-separated list of names or groups (`classics`, `firewalls`, `all`).

    Raises `InputError`.
    """
    groups = {"classics": CLASSICS, "firewalls": FIREWALLS, "all": tuple(PRESETS)}
    chosen = dict.fromkeys(name for word in names.split(",") for name in groups.get(word, (word,)))
    for name in chosen:
        one_of("nat", name, (*PRESETS, *groups))
    return tuple(chosen)
