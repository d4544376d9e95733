"""What a probing client and an edge say to each other, at the path `/probe` of the edge's WebSocket.

    edge -> client   vantage  {edge, public, stun}                     once, at the beginning
    client -> edge   dial     {id, transport, ip, port, patience_s}    knock at `port` of the client's own address
    edge -> client   dialled  {id, origin, result, icmp, seconds}      what came of it
                     refused  {id, reason}                             nothing was sent

`stun` lists the edge's STUN endpoints, the primary first, then the other port of its address, then the same of a second
address if there is one. A `dial` names the edge's address that it is to come from (`ip`), and of the target only the
port: the target's address is always the one that the edge sees this client at, so that no third party can be named.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, FrameError
from punchlab.punch.fields import decode, encode

PATH = "/probe"
MAX_PATIENCE_S = 30.0
MAX_STUN = 4

Transport = Literal["tcp", "udp"]
_ICMP = {(3, 3): "port-unreachable", (3, 10): "host-prohibited", (3, 13): "admin-prohibited"}
CONNECTED = "connected"
SILENCE = "timeout"


@dataclass(frozen=True, slots=True)
class Vantage:
    """What an edge can look from: its STUN endpoints; `public` is the client as this edge sees it."""

    edge: str
    public: Endpoint
    stun: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Dial:
    """A wish to be knocked at: a SYN, or a STUN Binding indication, from a fresh port of the edge's address `ip`."""

    id: int
    transport: Transport
    ip: str
    port: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Dialled:
    """What came of it: `connected`, `timeout` for silence, or an errno name, with the ICMP (type, code) if any."""

    id: int
    origin: Endpoint
    result: str
    icmp: tuple[int, int] | None
    seconds: float

    @property
    def answer(self) -> str:
        """In the words of a finding: `accept`, `drop`, `reset`, a kind of ICMP error, or the errno."""
        if self.icmp is not None:
            return _ICMP.get(self.icmp, f"icmp {self.icmp[0]}/{self.icmp[1]}")
        return {CONNECTED: "accept", SILENCE: "drop", "ECONNREFUSED": "reset"}.get(self.result, self.result)


@dataclass(frozen=True, slots=True)
class Refused:
    """The edge does not want to."""

    id: int
    reason: str


def vantage_frame(vantage: Vantage) -> str:
    """`vantage` as text."""
    stun = [str(each) for each in vantage.stun]
    return encode("vantage", {"edge": vantage.edge, "public": str(vantage.public), "stun": stun})


def parse_vantage(frame: str | bytes) -> Vantage:
    """The edge's first frame. Raises `FrameError`."""
    _, fields = decode(frame, "vantage")
    stun = fields.get("stun")
    if not isinstance(stun, list) or len(stun) not in (2, MAX_STUN):
        raise FrameError("stun: expected a list of 2 or 4 endpoints")
    endpoints = tuple(_endpoint("stun", each) for each in stun)
    return Vantage(_text(fields, "edge"), _endpoint("public", fields.get("public")), endpoints)


def dial_frame(dial: Dial) -> str:
    """`dial` as text."""
    fields = {"transport": dial.transport, "ip": dial.ip, "port": dial.port, "patience_s": dial.patience_s}
    return encode("dial", {"id": dial.id, **fields})


def parse_dial(frame: str | bytes) -> Dial:
    """Any frame of a probing client. Raises `FrameError`."""
    _, fields = decode(frame, "dial")
    transport = _text(fields, "transport")
    if transport not in ("tcp", "udp"):
        raise FrameError("transport: expected tcp or udp")
    patience = _number(fields, "patience_s", MAX_PATIENCE_S)
    return Dial(
        _whole(fields, "id", 2**31),
        cast("Transport", transport),
        _text(fields, "ip"),
        _port(fields),
        patience,
    )


def dialled_frame(dialled: Dialled) -> str:
    """`dialled` as text."""
    fields = {"origin": str(dialled.origin), "result": dialled.result, "icmp": dialled.icmp}
    return encode("dialled", {"id": dialled.id, **fields, "seconds": round(dialled.seconds, 6)})


def refused_frame(refused: Refused) -> str:
    """`refused` as text."""
    return encode("refused", {"id": refused.id, "reason": refused.reason})


def parse_outcome(frame: str | bytes) -> Dialled | Refused:
    """Any later frame of an edge. Raises `FrameError`."""
    kind, fields = decode(frame, "dialled", "refused")
    identity = _whole(fields, "id", 2**31)
    if kind == "refused":
        return Refused(identity, _text(fields, "reason"))
    icmp = fields.get("icmp")
    if icmp is not None and not (isinstance(icmp, list) and len(icmp) == 2 and all(type(each) is int for each in icmp)):
        raise FrameError("icmp: expected a type and a code, or null")
    return Dialled(
        identity,
        _endpoint("origin", fields.get("origin")),
        _text(fields, "result"),
        None if icmp is None else (icmp[0], icmp[1]),
        _number(fields, "seconds", 1e6),
    )


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isprintable():
        raise FrameError(f"{name}: expected 1 to 128 printable characters")
    return value


def _number(fields: Mapping[str, object], name: str, limit: float) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise FrameError(f"{name}: expected a number from 0 to {limit:g}")
    return float(value)


def _whole(fields: Mapping[str, object], name: str, limit: int) -> int:
    value = _number(fields, name, limit)
    if value != int(value):
        raise FrameError(f"{name}: expected a whole number")
    return int(value)


def _port(fields: Mapping[str, object]) -> int:
    port = _whole(fields, "port", 65535)
    if port == 0:
        raise FrameError("port: expected a number from 1 to 65535")
    return port


def _endpoint(name: str, value: object) -> Endpoint:
    try:
        endpoint = Endpoint.parse(value) if isinstance(value, str) else None
    except ArgumentError:
        endpoint = None
    if endpoint is None or endpoint.family != socket.AF_INET or not endpoint.is_unicast:
        raise FrameError(f"{name}: expected a unicast IPv4 address and a port")
    return endpoint
