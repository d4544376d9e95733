"""Findings of a NAT probe, derived from observations in the terms of the RFCs. This module does no I/O.

The tests follow RFC 5780 section 4. The mapping follows from the external endpoints that several servers see for one
local endpoint. The filtering follows from which endpoints can send to a mapping that was created towards one of them.
If there were not enough servers to distinguish the cases, the finding is a `NotTested` with the reason, never a guess.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from punchlab.punch.nat.behavior import REQ_4_SILENCE_S, FilteringBehavior, MappingBehavior, PortAllocation, Unsolicited

Address = tuple[str, int]
"""IPv4 address and port."""

SEQUENTIAL = "sequential"
"""Port allocation: each new mapping gets the port of the previous one plus a constant."""


@dataclass(frozen=True, slots=True)
class NotTested:
    """A finding that could not be determined, and why."""

    why: str

    def __str__(self) -> str:
        return f"not tested: {self.why}"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A mapping survived `above_s` idle seconds, and not `below_s` (None: it survived every test)."""

    above_s: float
    below_s: float | None

    def __str__(self) -> str:
        if self.below_s is None:
            return f"more than {self.above_s:g} s"
        return f"between {self.above_s:g} s and {self.below_s:g} s"


FEWEST_PORTS = 4
"""With fewer mappings, neither a sequence nor a single external address is significant."""

Value = str | int | float | tuple[int, int] | Lifetime | NotTested | None
"""One finding. None: not applicable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The findings for one transport.

    `port_range` contains the lowest and highest external port seen, `port_delta` the step of sequential ports.
    `pooling` is `paired` if all mappings had the same external address (RFC 4787 REQ-2). `hairpinning` is `none`, or
    the source of a hairpinned packet: `external-source` (RFC 4787 REQ-9a) or `internal-source`. `icmp_errors` is
    `translated`, or `swallowed` by the NAT or by a firewall in front of the server. `remote_endpoint` says whether the
    sender's endpoint arrives `unchanged` or `changed`. `unsolicited` is the answer to an unsolicited packet: `drop`,
    `reset`, `port-unreachable`, `host-prohibited`, `admin-prohibited`, `silent-then-icmp` (port unreachable after six
    seconds) or `icmp TYPE/CODE`; `unsolicited_answer_s` is its delay.
    """

    mapping: MappingBehavior | NotTested
    filtering: FilteringBehavior | NotTested
    port_allocation: str | NotTested
    port_delta: int | NotTested | None
    port_range: tuple[int, int] | None
    pooling: str | NotTested
    hairpinning: str | NotTested
    icmp_errors: str | NotTested
    remote_endpoint: str | NotTested
    unsolicited: str | NotTested
    unsolicited_answer_s: float | None
    mapping_lifetime: Lifetime | NotTested

    def items(self) -> list[tuple[str, Value]]:
        """Return (field, value) pairs in the order above."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def to_json(self) -> dict[str, object]:
        """Return plain values; a finding that was not tested is null, and `not_tested` has the reason."""
        plain: dict[str, object] = {}
        reasons: dict[str, str] = {}
        for name, value in self.items():
            match value:
                case NotTested(why):
                    plain[name], reasons[name] = None, why
                case Lifetime(above, below):
                    plain[name] = {"above_s": above, "below_s": below}
                case _:
                    plain[name] = value
        return {**plain, "not_tested": reasons}


@dataclass(frozen=True, slots=True)
class Report:
    """The findings for each transport. `external` is the address that servers see instead of `local`."""

    local: str
    external: str
    udp: Findings
    tcp: Findings

    @property
    def translated(self) -> bool:
        """Whether there is a NAT: servers see another address than the host's own."""
        return self.local != self.external

    def to_json(self) -> str:
        """Return one JSON object on one line."""
        return json.dumps(
            {
                "translated": self.translated,
                "local": self.local,
                "external": self.external,
                "udp": self.udp.to_json(),
                "tcp": self.tcp.to_json(),
            }
        )


def unsolicited(answer: str, after_s: float) -> str:
    """Return the answer to an unsolicited SYN in the terms of RFC 5382 REQ-4, which names a delayed ICMP error."""
    if answer == Unsolicited.PORT_UNREACHABLE and after_s >= REQ_4_SILENCE_S:
        return Unsolicited.SILENT_THEN_ICMP
    return answer


def mapping(
    first: Address, other_port: Address | None, other_address: Address | None, other_both: Address | None
) -> MappingBehavior | NotTested:
    """Return the mapping behavior (RFC 5780 section 4.3), given the external endpoints of one local endpoint.

    They were seen by the first server endpoint, by another port of its address, by another address, and by another port
    of that address; None if there was no such server endpoint.
    """
    if other_address is None or other_both is None:
        if other_port is not None and other_port != first:
            return MappingBehavior.ADDRESS_AND_PORT_DEPENDENT
        return NotTested("needs a server with a second address")
    if first == other_address:
        if {other_port or first, other_both} == {first}:
            return MappingBehavior.ENDPOINT_INDEPENDENT
        return NotTested(
            "the mapping depends on the destination port and not on its address, or it has changed during the test"
        )
    if other_address == other_both and other_port in (None, first):
        return MappingBehavior.ADDRESS_DEPENDENT
    return MappingBehavior.ADDRESS_AND_PORT_DEPENDENT


def filtering(from_other_port: bool | None, from_other_address: bool | None) -> FilteringBehavior | NotTested:
    """Return the filtering behavior (RFC 5780 section 4.4) of a mapping that was created towards one endpoint.

    The arguments say whether packets from another port of that address, and from another address and port, arrived;
    None if no server could send them.
    """
    if from_other_port is False and not from_other_address:
        return FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT
    match from_other_address, from_other_port:
        case None, _:
            return NotTested("needs a server with a second address")
        case True, _:
            return FilteringBehavior.ENDPOINT_INDEPENDENT
        case _, True:
            return FilteringBehavior.ADDRESS_DEPENDENT
    return NotTested("needs a server with a second port")


def pooling(addresses: Sequence[str]) -> str | NotTested:
    """Return how external addresses are chosen (RFC 4787 REQ-2), given those of fresh sockets."""
    if len(set(addresses)) > 1:
        return "arbitrary"
    return "paired" if len(addresses) >= FEWEST_PORTS else NotTested("too few answers")


def port_allocation(ports: Sequence[tuple[int, int]]) -> tuple[PortAllocation | str, int | None]:
    """Return how external ports are chosen (RFC 4787 section 4.2), and the delta of sequential ports.

    `ports` are the (local, external) ports of fresh sockets with random local ports, in the order of their mappings.
    Half of the steps must agree, because other hosts may create mappings in between, and a range may wrap. Raises
    `ValueError` for fewer than four.
    """
    if len(ports) < FEWEST_PORTS:
        raise ValueError(f"{len(ports)} mappings; expected at least {FEWEST_PORTS} to determine the port allocation")
    kept = sum(local == external for local, external in ports)
    if 2 * kept > len(ports):
        return PortAllocation.PRESERVING, None
    externals = [external for _local, external in ports]
    steps = [after - before for before, after in pairwise(externals)]
    step, count = Counter(steps).most_common(1)[0]
    if step != 0 and 2 * count >= len(steps):
        return SEQUENTIAL, step
    return PortAllocation.RANDOM, None
