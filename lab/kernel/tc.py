"""Traffic control over rtnetlink, as much as netem needs (pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h in uapi/linux).

Written with struct: it is a handful of fixed messages, and pyroute2 takes half a second to import.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from punchlab.lab.kernel.namespace import Namespace

ROOT, SEGMENTER, NETEM = 0xFFFFFFFF, 0x10000, 0x20000
"""Handles: the interface's root, our tbf (1:), our netem (2:)."""

_RTM_NEWLINK, _RTM_NEWQDISC, _RTM_GETQDISC, _RTM_NEWTFILTER = 16, 36, 38, 44
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFF_UP = 3, 18, 1, 1
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2, _TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 2, 7, 1, 3
_TCA_NETEM_RATE, _TCA_NETEM_RATE64, _TCA_NETEM_LATENCY64, _TCA_NETEM_JITTER64, _TCA_NETEM_PRNG_SEED = 6, 8, 10, 11, 14
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST, _LINKLAYER_ETHERNET = 1, 4, 6, 1
_INGRESS_PARENT, _INGRESS = 0xFFFFFFF1, 0xFFFF0000
_TCA_MATCHALL_ACT, _TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 2, 1, 2, 2
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_ETH_P_ALL, _SIOCGIFMTU, _U32_MAX = 3, 0x8921, 0xFFFFFFFF

_MESSAGE = struct.Struct("=IHHII")
_TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True)
class Statistics:
    """What a netem did, in packets."""

    sent: int
    held: int
    dropped: int


class TcSocket:
    """Requests to the kernel about one namespace's interfaces, by index. A context manager. Methods raise OSError."""

    def __init__(self, space: Namespace) -> None:
        with space.entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def mtu(self, interface: str) -> int:
        """The interface's largest IP packet in bytes."""
        request = struct.pack("16sI12x", interface.encode(), 0)
        return int(struct.unpack_from("16xi", fcntl.ioctl(self._socket, _SIOCGIFMTU, request))[0])

    def add_netem(
        self,
        index: int,
        parent: int,
        *,
        limit: int,
        delay_s: float,
        jitter_s: float,
        loss: float,
        bandwidth: float | None,
        seed: int,
    ) -> None:
        """A netem with a queue of `limit` packets, a `loss` from 0 to 1 and a `bandwidth` in bit/s (None: no limit).

        Linux before 6.6 ignores the seed.
        """
        # tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; the times are overridden by the 64-bit ones.
        options = struct.pack("=6I", 0, limit, round(loss * _U32_MAX), 0, 0, 0)
        options += _attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", round(delay_s * 1e9)))
        options += _attribute(_TCA_NETEM_JITTER64, struct.pack("=q", round(jitter_s * 1e9)))
        options += _attribute(_TCA_NETEM_PRNG_SEED, struct.pack("=Q", seed))
        if bandwidth is not None:
            rate = round(bandwidth / 8)
            if rate >= _U32_MAX:
                options += _attribute(_TCA_NETEM_RATE64, struct.pack("=Q", rate))
            options += _attribute(_TCA_NETEM_RATE, struct.pack("=IiIi", min(rate, _U32_MAX), 0, 0, 0))
        self._add_qdisc(index, NETEM, parent, "netem", options)

    def add_segmenter(self, index: int, frame: int) -> None:
        """At the root a tbf without a rate to speak of, which cuts what is longer than a frame (bytes) to frames."""
        rate = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, _U32_MAX)
        options = _attribute(_TCA_TBF_PARMS, rate + struct.pack("=12x3I", 0, 0, 0))
        options += _attribute(_TCA_TBF_RATE64, struct.pack("=Q", 1 << 40))
        options += _attribute(_TCA_TBF_BURST, struct.pack("=I", frame))
        self._add_qdisc(index, SEGMENTER, ROOT, "tbf", options)

    def add_detour(self, index: int, name: str, detour: int) -> None:
        """What comes in on `index` first leaves by a new ifb device, whose name and index are given."""
        kind = _attribute(_IFLA_INFO_KIND, b"ifb\0")
        link = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, detour, _IFF_UP, _IFF_UP)
        link += _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINKINFO, kind)
        self._request(_RTM_NEWLINK, link)
        self._add_qdisc(index, _INGRESS, _INGRESS_PARENT, "ingress", b"")
        # tc_mirred: index, capabilities, action, reference and bind counts, what to do, interface
        redirect = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, detour)
        action = _attribute(_TCA_ACT_KIND, b"mirred\0")
        action += _attribute(_TCA_ACT_OPTIONS, _attribute(_TCA_MIRRED_PARMS, redirect))
        options = _attribute(_TCA_MATCHALL_ACT, _attribute(1, action))
        priority_and_protocol = 1 << 16 | socket.htons(_ETH_P_ALL)
        body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _INGRESS, priority_and_protocol)
        self._request(_RTM_NEWTFILTER, body + _attribute(_TCA_KIND, b"matchall\0") + _attribute(_TCA_OPTIONS, options))

    def netems(self) -> dict[int, Statistics]:
        """The statistics of every netem, by interface index."""
        body = _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        self._socket.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETQDISC, flags, 0, 0) + body)
        found: dict[int, Statistics] = {}
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset < len(data):
                length, kind, *_ = _MESSAGE.unpack_from(data, offset)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                _, index, *_ = _TCMSG.unpack_from(data, offset + _MESSAGE.size)
                attributes = dict(_attributes(data[offset + _MESSAGE.size + _TCMSG.size : offset + length]))
                if attributes[_TCA_KIND] == b"netem\0":
                    numbers = dict(_attributes(attributes[_TCA_STATS2]))
                    _, sent = struct.unpack_from("=QI", numbers[_TCA_STATS_BASIC])
                    held, _, dropped = struct.unpack_from("=III", numbers[_TCA_STATS_QUEUE])
                    found[index] = Statistics(sent, held, dropped)
                offset += (length + 3) & ~3

    def _add_qdisc(self, index: int, handle: int, parent: int, kind: str, options: bytes) -> None:
        body = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
        body += _attribute(_TCA_KIND, kind.encode() + b"\0") + _attribute(_TCA_OPTIONS, options)
        try:
            self._request(_RTM_NEWQDISC, body)
        except OSError as error:
            raise OSError(error.errno, f"{kind}: {error.strerror}") from error

    def _request(self, kind: int, body: bytes) -> None:
        flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
        self._socket.send(_MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 0, 0) + body)
        (code,) = struct.unpack_from("=i", self._socket.recv(1 << 16), _MESSAGE.size)
        if code:
            raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
