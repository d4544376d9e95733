"""The frames between a probing client and an edge, at the path `/probe` of the edge's WebSocket.

`stun` lists the edge's STUN endpoints: the primary one, the other port of its address, then the same ports of a second
address if there is one. A `dial` selects the address of the edge (`ip`), and only the port of the target: the address
of the target is always the one at which the edge sees this client, so that no third party can be made a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.fields import ICMP, IPV4_ENDPOINT, array, choice, number, text, whole

PATH = "/probe"
MAX_PATIENCE_S = 30.0
MAX_STUN = 4

Transport = Literal["tcp", "udp"]
_ICMP_NAMES = {(3, 3): "port-unreachable", (3, 10): "host-prohibited", (3, 13): "admin-prohibited"}
CONNECTED = "connected"
SILENCE = "timeout"

_TEXT, _ID = text(128), whole(0, 2**31)
_STUN = array(IPV4_ENDPOINT, (2, MAX_STUN), "a list of 2 or 4 unicast IPv4 endpoints")


@dataclass(frozen=True, slots=True)
class Vantage:
    """The first frame of an edge: its name, the client's reflexive address, and the edge's STUN endpoints."""

    TYPE: ClassVar[str] = "vantage"

    edge: Annotated[str, _TEXT]
    public: Annotated[Endpoint, IPV4_ENDPOINT]
    stun: Annotated[
        tuple[Endpoint, ...], array(IPV4_ENDPOINT, (2, MAX_STUN), "a list of 2 or 4 unicast IPv4 endpoints")
    ]


@dataclass(frozen=True, slots=True)
class Dial:
    """A request to send a SYN or a STUN Binding indication from a new port of the edge's address `ip`.

    `patience_s` is the timeout in seconds.
    """

    TYPE: ClassVar[str] = "dial"

    id: Annotated[int, _ID]
    transport: Annotated[Transport, choice("tcp", "udp")]
    ip: Annotated[str, _TEXT]
    port: Annotated[int, whole(1, 65535)]
    patience_s: Annotated[float, number(MAX_PATIENCE_S)]


@dataclass(frozen=True, slots=True)
class Dialled:
    """The result of a `dial`: `connected`, `timeout`, or an errno name, with the ICMP type and code if there is one."""

    TYPE: ClassVar[str] = "dialled"

    id: Annotated[int, _ID]
    origin: Annotated[Endpoint, IPV4_ENDPOINT]
    result: Annotated[str, _TEXT]
    icmp: Annotated[tuple[int, int] | None, ICMP.or_absent]
    seconds: Annotated[float, number(1e6, digits=6)]

    @property
    def answer(self) -> str:
        """The result as in a report: `accept`, `drop`, `reset`, a kind of ICMP error, or the errno name."""
        if self.icmp is not None:
            return _ICMP_NAMES.get(self.icmp, f"icmp {self.icmp[0]}/{self.icmp[1]}")
        return {CONNECTED: "accept", SILENCE: "drop", "ECONNREFUSED": "reset"}.get(self.result, self.result)


@dataclass(frozen=True, slots=True)
class Refused:
    """The edge rejects a `dial` and sends no packet."""

    TYPE: ClassVar[str] = "refused"

    id: Annotated[int, _ID]
    reason: Annotated[str, _TEXT]
