"""Query interfaces, addresses, routes, qdiscs and connections of a namespace with pyroute2, as typed data."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from punchlab.lab.errors import LabError
from punchlab.lab.kernel.namespace import Namespace

_MAIN_TABLE, _UP = 254, 1
_FAMILIES = ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0"))
_ROUTE_TYPES = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ROOT = 0xFFFFFFFF
_TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"),
    *("LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)
_ASSURED, _SNAT, _DNAT = 1 << 2, 1 << 4, 1 << 5

Endpoint = tuple[str, int]
"""An IP address and a port."""


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """An interface. `kind` is "veth", "bridge", "ifb", … or None; `state` the operational state, such as "UP".

    `up` is the administrative state. `addresses` are "a.b.c.d/len" or IPv6.
    """

    index: int
    name: str
    kind: str | None
    mac: str
    mtu: int
    up: bool
    state: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route of the main table. The default destination is "0.0.0.0/0" or "::/0".

    `type` is "unicast", "blackhole", …; `gateway` and `interface` (a name) are None if the route has none.
    """

    destination: str
    type: str
    gateway: str | None
    interface: str | None
    metric: int


@dataclass(frozen=True, slots=True)
class QdiscState:
    """A queueing discipline and its counters. `handle` and `parent` are "1:", "1:1" or "root", as in tc(8).

    `backlog` is the number of bytes in the queue.
    """

    interface: str
    kind: str
    handle: str
    parent: str
    packets: int
    bytes: int
    drops: int
    backlog: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A conntrack entry. `original` and `reply` are (source, destination) as the first packet and its answer have them.

    `state` is the TCP state, None for other transports. `timeout_s` is the time until the entry expires.
    """

    transport: str
    original: tuple[Endpoint, Endpoint]
    reply: tuple[Endpoint, Endpoint]
    state: str | None
    assured: bool
    source_translated: bool
    destination_translated: bool
    timeout_s: int


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """The state of one namespace. Without connection tracking, `connections` is empty."""

    interfaces: tuple[InterfaceState, ...]
    routes: tuple[RouteState, ...]
    qdiscs: tuple[QdiscState, ...]
    connections: tuple[Connection, ...]


def inspect(space: Namespace, name: str) -> NamespaceState:
    """Return the state of the namespace. `name` is the node in error messages. Raises `LabError`."""
    from pyroute2 import IPRoute, NetlinkError, NFCTSocket

    try:
        with space.entered(), IPRoute() as route, NFCTSocket() as conntrack:
            interfaces = _interfaces(route.get_links(), route.get_addr())
            names = {each.index: each.name for each in interfaces}
            routes = [
                _route(each, names, default)
                for family, default in _FAMILIES
                for each in route.get_routes(family=family, table=_MAIN_TABLE)
            ]
            qdiscs = [_qdisc(each, names) for each in route.get_qdiscs()]
            connections = [_connection(each) for each in conntrack.dump()]
    except NetlinkError as error:
        raise LabError(f"{name}: netlink: {error.args[1]}") from None
    return NamespaceState(tuple(interfaces), tuple(routes), tuple(qdiscs), tuple(connections))


def _interfaces(links: Iterable[Any], addresses: Iterable[Any]) -> Sequence[InterfaceState]:
    by_index: dict[int, list[str]] = {}
    for each in addresses:
        own = each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")
        by_index.setdefault(each["index"], []).append(f"{own}/{each['prefixlen']}")
    return [
        InterfaceState(
            index=each["index"],
            name=each.get_attr("IFLA_IFNAME"),
            kind=None if (info := each.get_attr("IFLA_LINKINFO")) is None else info.get_attr("IFLA_INFO_KIND"),
            mac=each.get_attr("IFLA_ADDRESS"),
            mtu=each.get_attr("IFLA_MTU"),
            up=bool(each["flags"] & _UP),
            state=each.get_attr("IFLA_OPERSTATE"),
            addresses=tuple(by_index.get(each["index"], ())),
        )
        for each in links
    ]


def _route(found: Any, names: Mapping[int, str], default: str) -> RouteState:
    destination = found.get_attr("RTA_DST")
    return RouteState(
        destination=default if destination is None else f"{destination}/{found['dst_len']}",
        type=_ROUTE_TYPES.get(found["type"], str(found["type"])),
        gateway=found.get_attr("RTA_GATEWAY"),
        interface=names.get(found.get_attr("RTA_OIF")),
        metric=found.get_attr("RTA_PRIORITY") or 0,
    )


def _qdisc(found: Any, names: Mapping[int, str]) -> QdiscState:
    counters = found.get_attr("TCA_STATS2")
    basic, queue = counters.get_attr("TCA_STATS_BASIC"), counters.get_attr("TCA_STATS_QUEUE")
    return QdiscState(
        interface=names[found["index"]],
        kind=found.get_attr("TCA_KIND"),
        handle=_handle(found["handle"]),
        parent=_handle(found["parent"]),
        packets=basic["packets"],
        bytes=basic["bytes"],
        drops=queue["drops"],
        backlog=queue["backlog"],
    )


def _handle(number: int) -> str:
    major, minor = divmod(number, 1 << 16)
    return "root" if number == _ROOT else f"{major:x}:{minor:x}" if minor else f"{major:x}:"


def _connection(found: Any) -> Connection:
    status = found.get_attr("CTA_STATUS")
    protocol = found.get_attr("CTA_PROTOINFO")
    tcp = None if protocol is None else protocol.get_attr("CTA_PROTOINFO_TCP")
    original = found.get_attr("CTA_TUPLE_ORIG")
    number = original.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_NUM")
    return Connection(
        transport=_TRANSPORTS.get(number, str(number)),
        original=_endpoints(original),
        reply=_endpoints(found.get_attr("CTA_TUPLE_REPLY")),
        state=None if tcp is None else _TCP_STATES[tcp.get_attr("CTA_PROTOINFO_TCP_STATE")],
        assured=bool(status & _ASSURED),
        source_translated=bool(status & _SNAT),
        destination_translated=bool(status & _DNAT),
        timeout_s=found.get_attr("CTA_TIMEOUT") or 0,
    )


def _endpoints(found: Any) -> tuple[Endpoint, Endpoint]:
    addresses, ports = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")

    def endpoint(side: str) -> Endpoint:
        address = addresses.get_attr(f"CTA_IP_V4_{side}") or addresses.get_attr(f"CTA_IP_V6_{side}")
        return str(address), int(ports.get_attr(f"CTA_PROTO_{side}_PORT") or 0)

    return endpoint("SRC"), endpoint("DST")
