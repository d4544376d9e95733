"""rtnetlink requests in batches, one socket per namespace (rtnetlink(7); uapi/linux: rtnetlink.h, if_link.h, veth.h).

Interfaces have indexes that the caller chose, so nothing is ever looked up; many requests go in one send, and only the
last of them asks to be acknowledged, for what the kernel refuses it tells in any case. The half a dozen kinds of
messages are written with struct: that takes microseconds, and a library that knows all of netlink takes milliseconds
for them (and half a second to import).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from punchlab.lab.errors import LabError
from punchlab.lab.kernel.namespace import Namespace

LOOPBACK_INDEX = 1
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 18, 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWNEIGH, _RTM_DELNEIGH = 24, 25, 28, 29
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_NEW, _REPLACE = _NLM_F_CREATE | _NLM_F_EXCL, _NLM_F_CREATE | _NLM_F_REPLACE

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 3, 10, 16
_IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_RTEXT_FILTER_SKIP_STATS, _OPERSTATE_UP = 8, 6
_IFA_ADDRESS, _IFA_LOCAL, _RTA_DST, _RTA_GATEWAY, _RTA_PRIORITY, _NDA_DST, _NDA_LLADDR = 1, 2, 1, 5, 6, 1, 2
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, _RTN_LOCAL, _RTN_BLACKHOLE, _NUD_PERMANENT = (
    254,
    4,
    0,
    1,
    2,
    6,
    0x80,
)
_IFA_F_NODAD = 0x02
_IFF_UP = 1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, type of service, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_ATTRIBUTE, _UNSIGNED = struct.Struct("=HH"), struct.Struct("=I")

_LAST_RESORT = 1 << 20
"""The metric of a blackhole: every other route to the prefix goes before it."""

_REQUESTS_PER_SEND = 64
"""A socket's buffers take the answers to so many, even if they are all refused."""
_STATES_PER_SEND = 16
_ANSWER_BYTES = 1 << 17
_UP_TIMEOUT_S = 5.0


class RouteSocket:
    """Queue requests with the methods, send them with `commit`. Usable as a context manager.

    Addresses and prefixes ("a.b.c.d/len") are IPv4 or IPv6, interface indexes ints, hardware addresses "aa:bb:…".
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._queued: list[tuple[int, int, bytes, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def add_veth(
        self, name: str, index: int, mac: str, peer: tuple[str, int, str, Namespace], *, where: Namespace | None = None
    ) -> None:
        """A veth pair: this end here, or in the namespace `where`, the other (name, index, …) in the peer's."""
        peer_name, peer_index, peer_mac, peer_namespace = peer
        other = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, peer_index, 0, 0)
        other += _named(peer_name, peer_mac) + _attribute(_IFLA_NET_NS_FD, _UNSIGNED.pack(peer_namespace.fd))
        data = _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
        body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _named(name, mac)
        if where is not None:
            body += _attribute(_IFLA_NET_NS_FD, _UNSIGNED.pack(where.fd))
        body += _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"veth\0") + data)
        self._queue(_RTM_NEWLINK, _NEW, body, f"veth {name}")

    def add_bridge(self, name: str, index: int) -> None:
        """An Ethernet bridge, up, without spanning tree."""
        body = _up(index) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        body += _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, b"bridge\0"))
        self._queue(_RTM_NEWLINK, _NEW, body, f"bridge {name}")

    def enslave(self, index: int, bridge: int) -> None:
        """Make the interface a port of the bridge, and up."""
        self._queue(_RTM_NEWLINK, 0, _up(index) + _attribute(_IFLA_MASTER, _UNSIGNED.pack(bridge)), f"port {index}")

    def set_up(self, index: int) -> None:
        """Bring the interface up."""
        self._queue(_RTM_NEWLINK, 0, _up(index), f"interface {index} up")

    def set_down(self, index: int) -> None:
        """Take the interface down; its routes and neighbors go with it."""
        body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, _IFF_UP)
        self._queue(_RTM_NEWLINK, 0, body, f"interface {index} down")

    def wait_until_up(self, indexes: Sequence[int]) -> None:
        """Return when the interfaces pass packets. Raises `LabError` if that takes unreasonably long.

        Of a veth pair, the end that was set up first drops what it should send until the kernel has noticed that there
        is a carrier. Asking for its state makes newer kernels (6.8) notice; older ones notice in their own time.
        """
        missing, deadline = list(indexes), time.monotonic() + _UP_TIMEOUT_S
        brief = _attribute(_IFLA_EXT_MASK, _UNSIGNED.pack(_RTEXT_FILTER_SKIP_STATS))
        while missing:
            if time.monotonic() > deadline:
                raise LabError(f"netlink: interface {missing[0]} did not come up")
            for index in missing:
                body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + brief
                self._queue(_RTM_GETLINK, 0, body, f"interface {index}")
            up = {label for label, message in self._exchange(_STATES_PER_SEND) if _is_up(message)}
            missing = [index for index in missing if f"interface {index}" not in up]
            if missing:
                time.sleep(0.001)  # an older kernel notices when its worker runs; nothing tells us before

    def add_address(self, index: int, interface: str) -> None:
        """Give the interface an address with its prefix length ("192.168.1.2/24")."""
        self._queue(_RTM_NEWADDR, _NEW, _own_address(index, interface), f"address {interface}")

    def delete_address(self, index: int, interface: str) -> None:
        """Take an address from the interface."""
        self._queue(_RTM_DELADDR, 0, _own_address(index, interface), f"no address {interface}")

    def add_route(self, destination: str, gateway: str) -> None:
        """A route by a gateway; destination is a prefix, "0.0.0.0/0" or "::/0" for the default."""
        self._queue(_RTM_NEWROUTE, _NEW, _route(destination, gateway), f"route {destination} via {gateway}")

    def replace_route(self, destination: str, gateway: str) -> None:
        """Another gateway for a destination."""
        self._queue(_RTM_NEWROUTE, _REPLACE, _route(destination, gateway), f"route {destination} now via {gateway}")

    def add_blackhole(self, destination: str) -> None:
        """Drop in silence what is for the destination, as long as no other route leads there."""
        self._queue(_RTM_NEWROUTE, _NEW, _route(destination, None), f"blackhole {destination}")

    def delete_blackhole(self, destination: str) -> None:
        """Take back `add_blackhole`."""
        self._queue(_RTM_DELROUTE, 0, _route(destination, None), f"no blackhole {destination}")

    def add_neighbor(self, index: int, address: str, mac: str) -> None:
        """A permanent neighbor entry, so that no ARP or neighbor discovery ever crosses an impaired link."""
        # It may take the place of one that ARP has just found.
        body = _neighbor(index, address, _NUD_PERMANENT) + _attribute(_NDA_LLADDR, _hardware(mac))
        self._queue(_RTM_NEWNEIGH, _REPLACE, body, f"neighbor {address}")

    def delete_neighbor(self, index: int, address: str) -> None:
        """Forget a neighbor."""
        self._queue(_RTM_DELNEIGH, 0, _neighbor(index, address, 0), f"no neighbor {address}")

    def commit(self) -> None:
        """Send what is queued. Raises `LabError` naming the first request that the kernel refused, and why."""
        for label, message in self._exchange(_REQUESTS_PER_SEND):
            _length, kind, *_ = _HEADER.unpack_from(message)
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", message, _HEADER.size)
                raise LabError(f"netlink: {label}: {os.strerror(-code)}")

    def _exchange(self, at_once: int) -> Sequence[tuple[str, bytes]]:
        """Send what is queued, so many at once; every answer but acknowledgments, with its request's label."""
        queued, self._queued = self._queued, []
        answers: list[tuple[str, bytes]] = []
        for start in range(0, len(queued), at_once):
            requests = queued[start : start + at_once]
            self._socket.send(b"".join(_messages(requests)))
            answers += self._answers([label for *_request, label in requests])
        return answers

    def _answers(self, labels: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        last = False
        while not last:
            data, offset = self._socket.recv(_ANSWER_BYTES), 0
            while offset < len(data):
                length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
                code = 0
                if kind == _NLMSG_ERROR:
                    last = sequence == len(labels) - 1
                    (code,) = struct.unpack_from("=i", data, offset + _HEADER.size)
                if kind != _NLMSG_ERROR or code:
                    yield labels[sequence], data[offset : offset + length]
                offset += (length + 3) & ~3

    def _queue(self, kind: int, flags: int, body: bytes, label: str) -> None:
        self._queued.append((kind, flags, body, label))


def hardware_address(number: int) -> str:
    """A locally administered unicast MAC address for the `number`-th interface of a lab."""
    raw = bytes([0x02, 0]) + number.to_bytes(4, "big")
    return raw.hex(":")


def _messages(requests: Sequence[tuple[int, int, bytes, str]]) -> Iterator[bytes]:
    last = len(requests) - 1
    for sequence, (kind, flags, body, _label) in enumerate(requests):
        flags |= _NLM_F_REQUEST | (_NLM_F_ACK if sequence == last else 0)
        yield _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0)
        yield body


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _up(index: int) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)


def _named(name: str, mac: str) -> bytes:
    return _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_ADDRESS, _hardware(mac))


def _own_address(index: int, interface: str) -> bytes:
    family, address, length = _prefix(interface)
    # We number the wires ourselves; detecting duplicates would keep an IPv6 address from use for a second.
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    body = _IFADDRMSG.pack(family, length, flags, _RT_SCOPE_UNIVERSE, index)
    return body + _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)


def _route(destination: str, gateway: str | None) -> bytes:
    """By the gateway; a blackhole without one."""
    family, network, length = _prefix(destination)
    kind = _RTN_BLACKHOLE if gateway is None else _RTN_UNICAST
    body = _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, kind, 0)
    if gateway is None:
        body += _attribute(_RTA_PRIORITY, _UNSIGNED.pack(_LAST_RESORT))
    else:
        body += _attribute(_RTA_GATEWAY, _address(gateway)[1])
    return body + (_attribute(_RTA_DST, network) if length else b"")


def _neighbor(index: int, address: str, state: int) -> bytes:
    family, packed = _address(address)
    return _NDMSG.pack(family, index, state, 0, 0) + _attribute(_NDA_DST, packed)


def _hardware(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _address(text: str) -> tuple[socket.AddressFamily, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except OSError:
        raise LabError(f"netlink: {text!r} is no IP address") from None


def _prefix(text: str) -> tuple[socket.AddressFamily, bytes, int]:
    address, _slash, length = text.partition("/")
    family, packed = _address(address)
    return family, packed, int(length) if length else 8 * len(packed)


def _is_up(message: bytes) -> bool:
    """Whether it is an RTM_NEWLINK whose IFLA_OPERSTATE is up."""
    offset = _HEADER.size + _IFINFOMSG.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if kind == _IFLA_OPERSTATE:
            return message[offset + _ATTRIBUTE.size] == _OPERSTATE_UP
        offset += (max(length, _ATTRIBUTE.size) + 3) & ~3
    return False
