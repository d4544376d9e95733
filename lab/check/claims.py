"""Convert claims and observations of a behavior to facts: (transport, field) -> text.

Fields that the probe observes have the names of its report, other fields those of `NatBehavior`. `ip` is the transport
of fields that do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from punchlab.lab.check.examine import Observed
from punchlab.lab.check.requirements import Facts
from punchlab.punch.nat.behavior import (
    REQ_4_SILENCE_S,
    FilteringBehavior,
    Hairpinning,
    NatBehavior,
    PortAllocation,
    Unsolicited,
)
from punchlab.punch.nat.probe import NotTested

TRANSPORTS = ("udp", "tcp")

Found = Mapping[str, Any]
"""The report of `punch probe --json`."""

_YES_NO = {True: "yes", False: "no"}
_TRANSLATED = {True: "translated", False: "not translated"}


def claims(behavior: NatBehavior | None) -> dict[tuple[str, str], str]:
    """Return the facts that `punch probe` must observe. A public host (None) claims that no device changes or filters
    packets.
    """
    promised = {("ip", "address"): _TRANSLATED[behavior is not None and behavior.translates]}
    for transport in TRANSPORTS:
        promised |= {(transport, field): word for field, word in _probed(behavior, transport).items()}
    return promised


def _probed(behavior: NatBehavior | None, transport: str) -> dict[str, str]:
    promised = {"remote_endpoint": "unchanged", "pooling": "paired"}
    if behavior is None:
        return promised | {"filtering": "endpoint-independent"}
    promised |= {
        "mapping": str(behavior.mapping),
        "filtering": str(behavior.filtering),
        "port_allocation": str(behavior.port_allocation),
        "pooling": str(behavior.pooling),
    }
    if behavior.port_allocation is PortAllocation.BLOCKS:
        # One host observes random ports of its own block. The width of the block is in `port_range`.
        promised["port_allocation"] = str(PortAllocation.RANDOM)
    if behavior.port_allocation is PortAllocation.SEQUENTIAL:
        promised["port_delta"] = str(behavior.port_delta)
    if behavior.translates:
        # Over TCP the SYN-ACK bypasses the NAT, so no connection is established.
        unseen = transport == "tcp" and behavior.hairpinning is Hairpinning.INTERNAL_SOURCE
        promised["hairpinning"] = str(Hairpinning.NONE if unseen else behavior.hairpinning)
    if transport == "tcp":
        early = behavior.unsolicited is Unsolicited.SILENT_THEN_ICMP and behavior.silence_s < REQ_4_SILENCE_S
        promised["unsolicited"] = str(Unsolicited.PORT_UNREACHABLE if early else behavior.unsolicited)
    else:
        promised["icmp_errors"] = str(behavior.icmp_errors)
    return promised


def examined_claims(behavior: NatBehavior) -> dict[tuple[str, str], str]:
    """Return the facts that an examination from both ends must observe."""
    promised = {
        ("tcp", "simultaneous_open"): "yes",
        ("tcp", "icmp_errors"): str(behavior.icmp_errors),
        ("udp", "refresh"): str(behavior.refresh),
        ("udp", "fragments"): "reassembled",
    }
    if behavior.filtering is FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT:
        promised["tcp", "reset_closes"] = _YES_NO[behavior.reset_closes]
    for each in fields(behavior.timeouts):
        transport, _, _ = each.name.partition("_")
        promised[transport, f"timeouts.{each.name}"] = str(getattr(behavior.timeouts, each.name))
    for transport in TRANSPORTS:
        promised[transport, "icmp_ends_mapping"] = "no"
        if not behavior.port_overloading or behavior.port_allocation is PortAllocation.PRESERVING:
            # Two hosts share a random port only by chance.
            promised[transport, "port_overloading"] = _YES_NO[behavior.port_overloading]
    return promised


def probed(found: Found) -> Facts:
    """Return the facts that the probe observed, or the reasons why it could not observe them."""
    facts = {("ip", "address"): _TRANSLATED[found["translated"]]}
    for transport in TRANSPORTS:
        reasons = found[transport]["not_tested"]
        for field, value in found[transport].items():
            if field != "not_tested" and (value is not None or field in reasons):
                facts[transport, field] = str(NotTested(reasons[field])) if field in reasons else str(value)
    return facts


def unprobed(behavior: NatBehavior | None, why: str) -> Facts:
    """Return "not tested" with the reason for all claims that a failed probe should observe."""
    return dict.fromkeys(claims(behavior), str(NotTested(why)))


def examined(seen: Observed, timeouts: Mapping[str, str]) -> Facts:
    """Return the facts that an examination observed. `timeouts` are those of the kernel of the NAT with real
    timeouts.
    """
    facts = {
        ("tcp", "simultaneous_open"): _word(seen.simultaneous_open, "yes", "no"),
        ("udp", "refresh"): str(seen.refresh),
        ("udp", "fragments"): _word(seen.reassembles, "reassembled", "lost"),
        ("tcp", "reset_closes"): "depends on the sender"
        if seen.reset_closes is None
        else _word(seen.reset_closes, "yes", "no"),
        ("tcp", "icmp_errors"): _word(seen.icmp_translated["tcp"], "translated", "swallowed"),
    }
    for name, seconds in timeouts.items():
        idled = seen.idled[name]
        word = f"{seconds}, but {idled} when idle" if isinstance(idled, str) else _word(idled, seconds, "")
        facts[name.partition("_")[0], f"timeouts.{name}"] = word
    for transport in TRANSPORTS:
        facts[transport, "icmp_ends_mapping"] = _word(seen.icmp_survived[transport], "no", "yes")
        facts[transport, "port_overloading"] = _word(seen.overloads[transport], "yes", "no")
    return facts


def _word(seen: bool | NotTested, yes: str, no: str) -> str:
    if isinstance(seen, NotTested):
        return str(seen)
    return yes if seen else no
