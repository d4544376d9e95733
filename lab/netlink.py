"""rtnetlink requests in batches: pyroute2 encodes the messages, one socket per namespace carries them.

Interfaces have indexes that the caller chose, so nothing is ever looked up; a batch is one send, and its answers are
read until every request is acknowledged.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    rt_scope,
    rt_type,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from lab.errors import LabError
from lab.namespace import Namespace

LOOPBACK_INDEX = 1
_ETHERNET_LENGTH, _NLMSG_ERROR, _IFF_UP, _NUD_PERMANENT = 6, 2, 1, 0x80
_IFINFOMSG_SIZE, _IFLA_OPERSTATE, _OPERSTATE_UP = 16, 16, 6
_UP_TIMEOUT_S = 5.0
_RT_TABLE_MAIN, _RTPROT_STATIC, _IFA_F_NODAD = 254, 4, 0x02
_LAST_RESORT = 1 << 20
"""The metric of a blackhole: every other route to the prefix goes before it."""
_HEADER = struct.Struct("=IHHII")


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


class RouteSocket:
    """Queue requests with the methods, send them with `commit`. Usable as a context manager.

    Addresses and prefixes ("a.b.c.d/len") are IPv4 or IPv6, interface indexes ints, hardware addresses "aa:bb:…".
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._batch = bytearray()
        self._labels: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def add_veth(self, name: str, index: int, mac: str, peer: tuple[str, int, str, Namespace]) -> None:
        """A veth pair: this end here, the other end (name, index, hardware address) in the peer's namespace."""
        peer_name, peer_index, peer_mac, peer_namespace = peer
        message = ifinfmsg()
        message["index"] = index
        message["attrs"] = [
            ("IFLA_IFNAME", name),
            ("IFLA_ADDRESS", mac),
            (
                "IFLA_LINKINFO",
                {
                    "attrs": [
                        ("IFLA_INFO_KIND", "veth"),
                        (
                            "IFLA_INFO_DATA",
                            {
                                "attrs": [
                                    (
                                        "VETH_INFO_PEER",
                                        {
                                            "index": peer_index,
                                            "attrs": [
                                                ("IFLA_IFNAME", peer_name),
                                                ("IFLA_ADDRESS", peer_mac),
                                                ("IFLA_NET_NS_FD", peer_namespace.fd),
                                            ],
                                        },
                                    )
                                ]
                            },
                        ),
                    ]
                },
            ),
        ]
        self._queue(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"veth {name}")

    def add_bridge(self, name: str, index: int) -> None:
        """An Ethernet bridge, up, without spanning tree."""
        message = ifinfmsg()
        message["index"], message["flags"], message["change"] = index, _IFF_UP, _IFF_UP
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]})]
        self._queue(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"bridge {name}")

    def enslave(self, index: int, bridge: int) -> None:
        """Make the interface a port of the bridge, and up."""
        message = ifinfmsg()
        message["index"], message["flags"], message["change"] = index, _IFF_UP, _IFF_UP
        message["attrs"] = [("IFLA_MASTER", bridge)]
        self._queue(message, RTM_NEWLINK, 0, f"port {index}")

    def set_up(self, index: int) -> None:
        """Bring the interface up."""
        message = ifinfmsg()
        message["index"], message["flags"], message["change"] = index, _IFF_UP, _IFF_UP
        self._queue(message, RTM_NEWLINK, 0, f"interface {index} up")

    def set_down(self, index: int) -> None:
        """Take the interface down; its routes and neighbors go with it."""
        message = ifinfmsg()
        message["index"], message["flags"], message["change"] = index, 0, _IFF_UP
        self._queue(message, RTM_NEWLINK, 0, f"interface {index} down")

    def wait_until_up(self, indexes: Sequence[int]) -> None:
        """Return when the interfaces pass packets. Raises `LabError` if that takes unreasonably long.

        Of a veth pair, the end that was set up first drops what it should send until the kernel has noticed that there
        is a carrier. Asking for its state makes newer kernels (6.8) notice; older ones notice in their own time.
        """
        missing, deadline = set(indexes), time.monotonic() + _UP_TIMEOUT_S
        while missing:
            if time.monotonic() > deadline:
                raise LabError(f"netlink: interface {min(missing)} did not come up")
            for index in missing:
                message = ifinfmsg()
                message["index"] = index
                self._queue(message, RTM_GETLINK, 0, f"state of interface {index}")
            missing -= {index for index, state in self._exchange() if state == _OPERSTATE_UP}
            if missing:
                time.sleep(0.001)  # an older kernel notices when its worker runs; nothing tells us before

    def add_address(self, index: int, interface: str) -> None:
        """Give the interface an address with its prefix length ("192.168.1.2/24")."""
        self._queue(_address(index, interface), RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, f"address {interface}")

    def delete_address(self, index: int, interface: str) -> None:
        """Take an address from the interface."""
        self._queue(_address(index, interface), RTM_DELADDR, 0, f"no address {interface}")

    def add_route(self, destination: str, gateway: str) -> None:
        """A route by a gateway; destination is a prefix, "0.0.0.0/0" for the default."""
        self._queue(
            _route(destination, gateway), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, f"route {destination} via {gateway}"
        )

    def replace_route(self, destination: str, gateway: str) -> None:
        """Another gateway for a destination."""
        self._queue(
            _route(destination, gateway),
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            f"route {destination} now via {gateway}",
        )

    def add_blackhole(self, destination: str) -> None:
        """Drop in silence what is for the destination, as long as no other route leads there."""
        self._queue(_route(destination, None), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, f"blackhole {destination}")

    def delete_blackhole(self, destination: str) -> None:
        """Take back `add_blackhole`."""
        self._queue(_route(destination, None), RTM_DELROUTE, 0, f"no blackhole {destination}")

    def add_neighbor(self, index: int, address: str, mac: str) -> None:
        """A permanent neighbor entry, so that no ARP exchange ever crosses an impaired link."""
        message = _neighbor(index, address)
        message["state"] = _NUD_PERMANENT
        message["attrs"].append(("NDA_LLADDR", mac))
        # It may take the place of one that ARP has just found.
        self._queue(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, f"neighbor {address}")

    def delete_neighbor(self, index: int, address: str) -> None:
        """Forget a neighbor."""
        self._queue(_neighbor(index, address), RTM_DELNEIGH, 0, f"no neighbor {address}")

    def commit(self) -> None:
        """Send what is queued. Raises `LabError` naming the first request that the kernel refused, and why."""
        self._exchange()

    def _exchange(self) -> list[tuple[int, int]]:
        """Send what is queued; the (index, operational state) of each interface that was asked for."""
        states: list[tuple[int, int]] = []
        if not self._labels:
            return states
        self._socket.send(self._batch)
        labels, self._labels, self._batch = self._labels, [], bytearray()
        answered, refused = 0, ""
        while answered < len(labels):
            data = self._socket.recv(1 << 16)
            offset = 0
            while offset < len(data):
                length, kind, _flags, sequence, _pid = _HEADER.unpack_from(data, offset)
                if kind == _NLMSG_ERROR:
                    answered += 1
                    (code,) = struct.unpack_from("=i", data, offset + _HEADER.size)
                    if code and not refused:
                        refused = f"{labels[sequence]}: {os.strerror(-code)}"
                elif kind == RTM_NEWLINK:
                    states.append(_link_state(data[offset : offset + length]))
                offset += (length + 3) & ~3
        if refused:
            raise LabError(f"netlink: {refused}")
        return states

    def _queue(self, message: nlmsg, kind: int, flags: int, label: str) -> None:
        message["header"]["type"] = kind
        message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
        message["header"]["sequence_number"] = len(self._labels)
        message.encode()
        self._batch += message.data
        self._batch += bytes(-len(self._batch) % 4)
        self._labels.append(label)


def _family(address: _Versioned) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _address(index: int, interface: str) -> nlmsg:
    parsed = ipaddress.ip_interface(interface)
    message = ifaddrmsg()
    message["family"], message["prefixlen"], message["index"] = _family(parsed), parsed.network.prefixlen, index
    # We number the wires ourselves; detecting duplicates would keep an IPv6 address from use for a second.
    message["flags"] = _IFA_F_NODAD if parsed.version == 6 else 0
    message["attrs"] = [("IFA_LOCAL", str(parsed.ip)), ("IFA_ADDRESS", str(parsed.ip))]
    return message


def _route(destination: str, gateway: str | None) -> nlmsg:
    """By the gateway; a blackhole without one."""
    network = ipaddress.ip_network(destination)
    message = rtmsg()
    message["family"], message["dst_len"] = _family(network), network.prefixlen
    message["table"], message["proto"], message["scope"] = _RT_TABLE_MAIN, _RTPROT_STATIC, rt_scope["universe"]
    if gateway is None:
        message["type"], message["attrs"] = rt_type["blackhole"], [("RTA_PRIORITY", _LAST_RESORT)]
    else:
        message["type"], message["attrs"] = rt_type["unicast"], [("RTA_GATEWAY", gateway)]
    if network.prefixlen:
        message["attrs"].append(("RTA_DST", str(network.network_address)))
    return message


def _neighbor(index: int, address: str) -> nlmsg:
    message = ndmsg()
    message["family"], message["ifindex"] = _family(ipaddress.ip_address(address)), index
    message["attrs"] = [("NDA_DST", address)]
    return message


def _link_state(message: bytes) -> tuple[int, int]:
    """Index and IFLA_OPERSTATE of an RTM_NEWLINK message; read by hand, for a full decoding takes a millisecond."""
    (index,) = struct.unpack_from("=i", message, _HEADER.size + 4)
    offset = _HEADER.size + _IFINFOMSG_SIZE
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if kind == _IFLA_OPERSTATE:
            return index, message[offset + 4]
        offset += (max(length, 4) + 3) & ~3
    return index, 0


def hardware_address(number: int) -> str:
    """A locally administered unicast MAC address for the `number`-th interface of a lab."""
    raw = bytes([0x02, 0]) + number.to_bytes(4, "big")
    return raw.hex(":")
