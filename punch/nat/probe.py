"""What a probe of a NAT observed, read in the words of the RFCs. No input or output.

The tests are those of RFC 5780 section 4: a mapping is told from what servers at several endpoints see of one local
endpoint, filtering from which endpoints get through to a mapping that was made towards one of them. Where fewer
endpoints were to be had than a distinction needs, the answer is a `NotTested` that says so, never a guess.
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
"""Port allocation: every new mapping gets the last one's port plus a constant."""


@dataclass(frozen=True, slots=True)
class NotTested:
    """Something could not be found out, and why."""

    why: str

    def __str__(self) -> str:
        return f"not tested: {self.why}"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A mapping lived through `above_s` seconds of idling, and not through `below_s` (None: nothing killed it)."""

    above_s: float
    below_s: float | None

    def __str__(self) -> str:
        if self.below_s is None:
            return f"more than {self.above_s:g} s"
        return f"between {self.above_s:g} s and {self.below_s:g} s"


FEWEST_PORTS = 4
"""With fewer mappings a step is no sequence, and one external address no rule."""

Value = str | int | float | tuple[int, int] | Lifetime | NotTested | None
"""One finding. None: it does not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found over one transport.

    `port_range` are the lowest and the highest external port that was seen, `port_delta` the step of sequential ones.
    `pooling` is `paired` when one external address served every mapping (RFC 4787 REQ-2). `hairpinning` is `none`, or
    which source a hairpinned packet has: `external-source` (RFC 4787 REQ-9a) or `internal-source`. `icmp_errors` is
    `translated`, or `swallowed`, be it by the NAT or by a firewall before the server. `remote_endpoint` says whether
    the sender's endpoint arrives `unchanged` or `changed`. `unsolicited` is the answer to what no mapping waits for:
    `drop`, `reset`, `port-unreachable`, `host-prohibited`, `admin-prohibited`, `silent-then-icmp` (port unreachable,
    after six seconds) or `icmp TYPE/CODE`, and `unsolicited_answer_s` how long that took.
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
        """Field -> value, in the order above."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def to_json(self) -> dict[str, object]:
        """Plain values; what was not tested is null, and `not_tested` says why."""
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
    """What was found over each transport. `external` is the address that servers see instead of `local`."""

    local: str
    external: str
    udp: Findings
    tcp: Findings

    @property
    def translated(self) -> bool:
        """Whether there is a NAT at all: servers see another address than the host's own."""
        return self.local != self.external

    def to_json(self) -> str:
        """One JSON object, on one line."""
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
    """The answer to an unsolicited SYN in the words of RFC 5382 REQ-4: one that comes after its time has a name."""
    if answer == Unsolicited.PORT_UNREACHABLE and after_s >= REQ_4_SILENCE_S:
        return Unsolicited.SILENT_THEN_ICMP
    return answer


def mapping(
    first: Address, other_port: Address | None, other_address: Address | None, other_both: Address | None
) -> MappingBehavior | NotTested:
    """The mapping behavior (RFC 5780 section 4.3), from the external endpoints of one local endpoint.

    They are those seen by the first server endpoint, by another port of its address, by another address, and by
    another port of that; None for an endpoint that there was not.
    """
    if other_address is None or other_both is None:
        if other_port is not None and other_port != first:
            return MappingBehavior.ADDRESS_AND_PORT_DEPENDENT
        return NotTested("a server with a second address is needed")
    if first == other_address:
        if {other_port or first, other_both} == {first}:
            return MappingBehavior.ENDPOINT_INDEPENDENT
        return NotTested(
            "the mapping depends on the destination's port and not on its address, or it changed meanwhile"
        )
    if other_address == other_both and other_port in (None, first):
        return MappingBehavior.ADDRESS_DEPENDENT
    return MappingBehavior.ADDRESS_AND_PORT_DEPENDENT


def filtering(from_other_port: bool | None, from_other_address: bool | None) -> FilteringBehavior | NotTested:
    """The filtering behavior (RFC 5780 section 4.4): who got through to a mapping that was made towards one endpoint.

    That is, another port of the same address, and another address and port; None for who could not try.
    """
    if from_other_port is False and not from_other_address:
        return FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT
    match from_other_address, from_other_port:
        case None, _:
            return NotTested("a server with a second address is needed")
        case True, _:
            return FilteringBehavior.ENDPOINT_INDEPENDENT
        case _, True:
            return FilteringBehavior.ADDRESS_DEPENDENT
    return NotTested("a server with a second port is needed")


def pooling(addresses: Sequence[str]) -> str | NotTested:
    """How external addresses are chosen (RFC 4787 REQ-2), from those of fresh sockets; one of them needs a few."""
    if len(set(addresses)) > 1:
        return "arbitrary"
    return "paired" if len(addresses) >= FEWEST_PORTS else NotTested("too few answers")


def port_allocation(ports: Sequence[tuple[int, int]]) -> tuple[PortAllocation | str, int | None]:
    """How external ports are chosen (RFC 4787 section 4.2), and the delta of sequential ones.

    `ports` are (local, external) ports of fresh sockets in the order in which their mappings were made, the local ones
    drawn at random. Half of the steps have to agree: other hosts' mappings may come between ours, and a range may wrap.
    Raises `ValueError` for fewer than four.
    """
    if len(ports) < FEWEST_PORTS:
        raise ValueError(f"{len(ports)} mappings do not tell how ports are allocated")
    kept = sum(local == external for local, external in ports)
    if 2 * kept > len(ports):
        return PortAllocation.PRESERVING, None
    externals = [external for _local, external in ports]
    steps = [after - before for before, after in pairwise(externals)]
    step, count = Counter(steps).most_common(1)[0]
    if step != 0 and 2 * count >= len(steps):
        return SEQUENTIAL, step
    return PortAllocation.RANDOM, None
