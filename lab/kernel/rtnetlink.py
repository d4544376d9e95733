"""Build links, addresses, neighbors and routes with batched rtnetlink requests, one socket per namespace.

The caller chooses the interface indexes, so no lookups are needed. Many requests share one send, and only the last one
asks for an acknowledgment, because the kernel always reports errors. Encoding with struct takes microseconds per
message; pyroute2 takes milliseconds, and its import 0.1 to 0.5 s. See rtnetlink(7) and rtnetlink.h, if_link.h, veth.h
in include/uapi/linux.
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
from punchlab.lab.kernel import netlink
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.netlink import attribute, text

LOOPBACK_INDEX = 1
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE, _RTM_NEWNEIGH = 16, 18, 20, 24, 28
_NEW, _REPLACE = netlink.CREATE | netlink.EXCL, netlink.CREATE | netlink.REPLACE

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 3, 10, 16
_IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 28, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_RTEXT_FILTER_SKIP_STATS, _OPERSTATE_UP = 8, 6
_IFA_ADDRESS, _IFA_LOCAL, _RTA_DST, _RTA_GATEWAY, _NDA_DST, _NDA_LLADDR = 1, 2, 1, 5, 1, 2
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, _NUD_PERMANENT = 254, 4, 0, 1, 0x80
_IFA_F_NODAD = 0x02
_IFF_UP = 1

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths, type of service, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_UNSIGNED = struct.Struct("=I")

_REQUESTS_PER_SEND = 64
"""The socket buffers hold the answers to this many requests, even if the kernel rejects all of them."""
_STATES_PER_SEND = 16
_ANSWER_BYTES = 1 << 17
_UP_TIMEOUT_S = 5.0


class RouteSocket:
    """A queue of requests for one namespace, sent by `commit`. Usable as a context manager.

    Addresses and prefixes ("a.b.c.d/len") are IPv4 or IPv6, interface indexes are ints, MAC addresses "aa:bb:…".
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = netlink.open_socket(socket.NETLINK_ROUTE)
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
        """Add a veth pair. The first end is in this namespace or in `where`, the peer (name, index, MAC, namespace) in
        its own.
        """
        peer_name, peer_index, peer_mac, peer_namespace = peer
        other = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, peer_index, 0, 0)
        other += _named(peer_name, peer_mac) + attribute(_IFLA_NET_NS_FD, _UNSIGNED.pack(peer_namespace.fd))
        data = attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other))
        body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _named(name, mac)
        if where is not None:
            body += attribute(_IFLA_NET_NS_FD, _UNSIGNED.pack(where.fd))
        body += attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth") + data)
        self._queue(_RTM_NEWLINK, _NEW, body, f"veth {name}")

    def add_bridge(self, name: str, index: int) -> None:
        """Add an Ethernet bridge, up, without spanning tree."""
        body = _up(index) + text(_IFLA_IFNAME, name)
        body += attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"))
        self._queue(_RTM_NEWLINK, _NEW, body, f"bridge {name}")

    def enslave(self, index: int, bridge: int) -> None:
        """Make the interface a port of the bridge and set it up."""
        self._queue(_RTM_NEWLINK, 0, _up(index) + attribute(_IFLA_MASTER, _UNSIGNED.pack(bridge)), f"port {index}")

    def set_up(self, index: int) -> None:
        """Set the interface up."""
        self._queue(_RTM_NEWLINK, 0, _up(index), f"interface {index} up")

    def wait_until_up(self, indexes: Sequence[int]) -> None:
        """Wait until the interfaces pass packets. Raises `LabError` after 5 seconds.

        The end of a veth pair that was set up first drops packets until the kernel detects the carrier. The query makes
        Linux 6.8 detect it; older kernels detect it asynchronously.
        """
        missing, deadline = list(indexes), time.monotonic() + _UP_TIMEOUT_S
        brief = attribute(_IFLA_EXT_MASK, _UNSIGNED.pack(_RTEXT_FILTER_SKIP_STATS))
        while missing:
            if time.monotonic() > deadline:
                raise LabError(f"netlink: interface {missing[0]} did not come up")
            for index in missing:
                body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + brief
                self._queue(_RTM_GETLINK, 0, body, f"interface {index}")
            up = {label for label, _kind, body in self._exchange(_STATES_PER_SEND) if _is_up(body)}
            missing = [index for index in missing if f"interface {index}" not in up]
            if missing:
                time.sleep(0.001)  # an older kernel updates the state in a worker and sends no notification before

    def add_address(self, index: int, interface: str) -> None:
        """Add an address with its prefix length ("192.168.1.2/24") to the interface."""
        family, address, length = _prefix(interface)
        # The lab assigns unique addresses; duplicate address detection would block an IPv6 address for a second.
        flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        body = _IFADDRMSG.pack(family, length, flags, _RT_SCOPE_UNIVERSE, index)
        body += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
        self._queue(_RTM_NEWADDR, _NEW, body, f"address {interface}")

    def add_route(self, destination: str, gateway: str) -> None:
        """Add a route through a gateway. The default destination is "0.0.0.0/0" or "::/0"."""
        family, network, length = _prefix(destination)
        scope, kind = _RT_SCOPE_UNIVERSE, _RTN_UNICAST
        body = _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, kind, 0)
        body += attribute(_RTA_GATEWAY, _address(gateway)[1])
        body += attribute(_RTA_DST, network) if length else b""
        self._queue(_RTM_NEWROUTE, _NEW, body, f"route {destination} via {gateway}")

    def add_neighbor(self, index: int, address: str, mac: str) -> None:
        """Add a permanent neighbor entry, so that no ARP or neighbor discovery crosses an impaired link."""
        # It can replace an entry that ARP has just created.
        family, packed = _address(address)
        body = _NDMSG.pack(family, index, _NUD_PERMANENT, 0, 0)
        body += attribute(_NDA_DST, packed) + attribute(_NDA_LLADDR, _hardware(mac))
        self._queue(_RTM_NEWNEIGH, _REPLACE, body, f"neighbor {address}")

    def commit(self) -> None:
        """Send the queued requests. Raises `LabError` for the first request that the kernel rejects."""
        for label, kind, body in self._exchange(_REQUESTS_PER_SEND):
            if kind == netlink.ERROR:
                raise LabError(f"netlink: {label}: {os.strerror(netlink.error_code(body))}")

    def _exchange(self, at_once: int) -> Sequence[tuple[str, int, bytes]]:
        """Send the queued requests, at most `at_once` per send. Return (label of the request, type, body) of the
        answers.

        Acknowledgments are omitted.
        """
        queued, self._queued = self._queued, []
        answers: list[tuple[str, int, bytes]] = []
        for start in range(0, len(queued), at_once):
            requests = queued[start : start + at_once]
            self._socket.send(b"".join(_messages(requests)))
            answers += self._answers([label for *_request, label in requests])
        return answers

    def _answers(self, labels: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
        last = False
        while not last:
            for kind, sequence, body in netlink.messages(self._socket.recv(_ANSWER_BYTES)):
                failed = kind != netlink.ERROR or netlink.error_code(body)
                last = last or (kind == netlink.ERROR and sequence == len(labels) - 1)
                if failed:
                    yield labels[sequence], kind, body

    def _queue(self, kind: int, flags: int, body: bytes, label: str) -> None:
        self._queued.append((kind, flags, body, label))


def hardware_address(number: int) -> str:
    """Return a locally administered unicast MAC address for the `number`-th interface of a lab."""
    raw = bytes([0x02, 0]) + number.to_bytes(4, "big")
    return raw.hex(":")


def _messages(requests: Sequence[tuple[int, int, bytes, str]]) -> Iterator[bytes]:
    last = len(requests) - 1
    for sequence, (kind, flags, body, _label) in enumerate(requests):
        yield netlink.message(kind, flags | (netlink.ACK if sequence == last else 0), body, sequence)


def _up(index: int) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)


def _named(name: str, mac: str) -> bytes:
    return text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, _hardware(mac))


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


def _is_up(link: bytes) -> bool:
    """Return whether the body of an RTM_NEWLINK has the operational state up."""
    return netlink.find(link, _IFINFOMSG.size, len(link), _IFLA_OPERSTATE) == bytes([_OPERSTATE_UP])
