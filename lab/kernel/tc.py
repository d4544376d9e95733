"""Traffic control over rtnetlink for netem (pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h in include/uapi/linux).

Every impaired build sends these few fixed messages, so struct encodes them; see `lab.kernel.rtnetlink`.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from punchlab.lab.kernel import netlink
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.netlink import attribute, text

ROOT, SEGMENTER, NETEM = 0xFFFFFFFF, 0x10000, 0x20000
"""Handles: the root of the interface, our tbf (1:), our netem (2:)."""

_RTM_NEWLINK, _RTM_NEWQDISC, _RTM_GETQDISC, _RTM_NEWTFILTER = 16, 36, 38, 44
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFF_UP = 3, 18, 1, 1
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2, _TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 2, 7, 1, 3
_TCA_NETEM_RATE, _TCA_NETEM_RATE64, _TCA_NETEM_LATENCY64, _TCA_NETEM_JITTER64, _TCA_NETEM_PRNG_SEED = 6, 8, 10, 11, 14
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST, _LINKLAYER_ETHERNET = 1, 4, 6, 1
_INGRESS_PARENT, _INGRESS = 0xFFFFFFF1, 0xFFFF0000
_TCA_MATCHALL_ACT, _TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 2, 1, 2, 2
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_ETH_P_ALL, _SIOCGIFMTU, _U32_MAX = 3, 0x8921, 0xFFFFFFFF

_TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change


@dataclass(frozen=True)
class Statistics:
    """Counters of a netem, in packets."""

    sent: int
    held: int
    dropped: int


class TcSocket:
    """Requests for the interfaces of one namespace, by index. A context manager. Methods raise OSError."""

    def __init__(self, space: Namespace) -> None:
        with space.entered():
            self._socket = netlink.open_socket(socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def mtu(self, interface: str) -> int:
        """Return the MTU of the interface in bytes."""
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
        """Add a netem with a queue of `limit` packets, a `loss` from 0 to 1 and a `bandwidth` in bit/s (None: no
        limit).

        Linux before 6.6 ignores the seed.
        """
        # tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter. The 64-bit attributes override the times.
        options = struct.pack("=6I", 0, limit, round(loss * _U32_MAX), 0, 0, 0)
        options += attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", round(delay_s * 1e9)))
        options += attribute(_TCA_NETEM_JITTER64, struct.pack("=q", round(jitter_s * 1e9)))
        options += attribute(_TCA_NETEM_PRNG_SEED, struct.pack("=Q", seed))
        if bandwidth is not None:
            rate = round(bandwidth / 8)
            if rate >= _U32_MAX:
                options += attribute(_TCA_NETEM_RATE64, struct.pack("=Q", rate))
            options += attribute(_TCA_NETEM_RATE, struct.pack("=IiIi", min(rate, _U32_MAX), 0, 0, 0))
        self._add_qdisc(index, NETEM, parent, "netem", options)

    def add_segmenter(self, index: int, frame: int) -> None:
        """Add a tbf at the root that splits GSO packets into frames of at most `frame` bytes. Its rate is practically
        unlimited.
        """
        rate = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, _U32_MAX)
        options = attribute(_TCA_TBF_PARMS, rate + struct.pack("=12x3I", 0, 0, 0))
        options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", 1 << 40))
        options += attribute(_TCA_TBF_BURST, struct.pack("=I", frame))
        self._add_qdisc(index, SEGMENTER, ROOT, "tbf", options)

    def add_detour(self, index: int, name: str, detour: int) -> None:
        """Redirect packets that arrive on `index` through a new ifb device with this name and index."""
        kind = text(_IFLA_INFO_KIND, "ifb")
        link = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, detour, _IFF_UP, _IFF_UP)
        link += text(_IFLA_IFNAME, name) + attribute(_IFLA_LINKINFO, kind)
        self._request(_RTM_NEWLINK, link)
        self._add_qdisc(index, _INGRESS, _INGRESS_PARENT, "ingress", b"")
        # tc_mirred: index, capabilities, action, reference count, bind count, redirect action, interface
        redirect = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, detour)
        action = text(_TCA_ACT_KIND, "mirred")
        action += attribute(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, redirect))
        options = attribute(_TCA_MATCHALL_ACT, attribute(1, action))
        priority_and_protocol = 1 << 16 | socket.htons(_ETH_P_ALL)
        body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _INGRESS, priority_and_protocol)
        self._request(_RTM_NEWTFILTER, body + text(_TCA_KIND, "matchall") + attribute(_TCA_OPTIONS, options))

    def netems(self) -> dict[int, Statistics]:
        """Return the counters of every netem by interface index."""
        self._socket.send(netlink.message(_RTM_GETQDISC, netlink.DUMP, _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)))
        found: dict[int, Statistics] = {}
        while True:
            for kind, _sequence, body in netlink.messages(self._socket.recv(1 << 18)):
                if kind in (netlink.DONE, netlink.ERROR):
                    return found
                _, index, *_ = _TCMSG.unpack_from(body)
                attributes = netlink.attributes(body, _TCMSG.size)
                if attributes[_TCA_KIND] == b"netem\0":
                    numbers = netlink.attributes(attributes[_TCA_STATS2])
                    _, sent = struct.unpack_from("=QI", numbers[_TCA_STATS_BASIC])
                    held, _, dropped = struct.unpack_from("=III", numbers[_TCA_STATS_QUEUE])
                    found[index] = Statistics(sent, held, dropped)

    def _add_qdisc(self, index: int, handle: int, parent: int, kind: str, options: bytes) -> None:
        body = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
        body += text(_TCA_KIND, kind) + attribute(_TCA_OPTIONS, options)
        try:
            self._request(_RTM_NEWQDISC, body)
        except OSError as error:
            raise OSError(error.errno, f"{kind}: {error.strerror}") from error

    def _request(self, kind: int, body: bytes) -> None:
        netlink.request(self._socket, kind, netlink.CREATE | netlink.EXCL, body)
