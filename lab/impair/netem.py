"""Links by netem, the kernel's own network emulator (tc-netem(8)), at the sender's egress.

Jitter is uniform, netem's default. netem takes a big (GSO) buffer for one packet; where single packets matter, a tbf
with no rate to speak of is put before it, which cuts them to wire size.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence

from lab import namespace
from lab.errors import LabError
from lab.impair.impairment import Impairment
from lab.impair.link import Applied, Counters, DirectedLink, LinkEnd
from lab.impair.schedule import ETHERNET_HEADER
from lab.namespace import Namespace

_RTM_NEWQDISC, _RTM_GETQDISC, _NLMSG_ERROR, _NLMSG_DONE = 36, 38, 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2, _TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 2, 7, 1, 3
_TCA_NETEM_RATE, _TCA_NETEM_RATE64, _TCA_NETEM_LATENCY64, _TCA_NETEM_JITTER64, _TCA_NETEM_PRNG_SEED = 6, 8, 10, 11, 14
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET, _SIOCGIFMTU = 1, 0x8921
_ROOT, _SEGMENTER, _NETEM = 0xFFFFFFFF, 0x10000, 0x20000
_U32_MAX = 0xFFFFFFFF

_MESSAGE = struct.Struct("=IHHII")
_TCMSG = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_ATTRIBUTE = struct.Struct("=HH")


class NetemApplied(Applied):
    """Links with a netem each."""

    name = "netem"

    def __init__(self, links: Sequence[DirectedLink]) -> None:
        self._links = links
        self._last: Sequence[Counters | None] | None = None

    def counters(self) -> Sequence[Counters | None]:
        """See `Applied.counters`. netem counts loss and overflow together: they can be told apart without loss only."""
        if self._last is not None:
            return self._last
        statistics = {
            (space, interface): numbers
            for space in {link.sender.namespace for link in self._links if link.impairment}
            for interface, numbers in _statistics(space).items()
        }
        counters: list[Counters | None] = []
        for link in self._links:
            if link.impairment:
                sent, held, dropped = statistics[link.sender.namespace, link.sender.index]
                overflowed = None if link.impairment.loss else dropped
                counters.append(Counters(sent + held + dropped, dropped, overflowed))
            else:
                counters.append(None)
        return counters

    def close(self) -> None:
        """See `Applied.close`. The kernel frees a netem with its interface."""
        self._last = self.counters()


class Netem:
    """The implementation of `lab.impair.link.Implementation` by netem."""

    name = "netem"

    def why_not(self) -> str | None:
        """Tried for real: a netem on the loopback of a throw-away namespace."""
        (space,) = namespace.create(1)
        end = LinkEnd(space, "lo", 1)
        try:
            self.apply([DirectedLink(end, end, Impairment(delay_s=0.001, loss=0.1))], seed=0)
        except (OSError, LabError) as error:
            return f"no netem here ({error}); load sch_netem and sch_tbf (Ubuntu: linux-modules-extra-$(uname -r))"
        finally:
            space.close()
        return None

    def apply(self, links: Sequence[DirectedLink], seed: int) -> NetemApplied:
        """Impair the links; in force on return. Raises `LabError`."""
        by_namespace: dict[Namespace, list[tuple[int, DirectedLink]]] = {}
        for position, link in enumerate(links):
            if link.impairment:
                by_namespace.setdefault(link.sender.namespace, []).append((position, link))
        for space, impaired in by_namespace.items():
            with _route_socket(space) as channel:
                for position, link in impaired:
                    _impair(channel, link, zlib.crc32(f"{seed}/{position}".encode()))
        return NetemApplied(links)


def _impair(channel: socket.socket, link: DirectedLink, seed: int) -> None:
    impairment, index = link.impairment, link.sender.index
    try:
        parent = _ROOT
        if impairment.per_packet:
            parent = _SEGMENTER | 1
            options = _segmenter_options(_mtu(channel, link.sender) + ETHERNET_HEADER)
            _request(channel, index, _SEGMENTER, _ROOT, b"tbf", options)
        _request(channel, index, _NETEM, parent, b"netem", _netem_options(impairment, seed))
    except OSError as error:
        raise LabError(f"links: {link}: netem: {error.strerror}") from error


def _netem_options(impairment: Impairment, seed: int) -> bytes:
    # tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; the times are overridden by the 64-bit ones.
    options = struct.pack("=6I", 0, impairment.limit, round(impairment.loss * _U32_MAX), 0, 0, 0)
    options += _attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", round(impairment.delay_s * 1e9)))
    options += _attribute(_TCA_NETEM_JITTER64, struct.pack("=q", round(impairment.jitter_s * 1e9)))
    options += _attribute(_TCA_NETEM_PRNG_SEED, struct.pack("=Q", seed))
    if impairment.bandwidth is not None:
        rate = round(impairment.bandwidth / 8)
        if rate >= _U32_MAX:
            options += _attribute(_TCA_NETEM_RATE64, struct.pack("=Q", rate))
        options += _attribute(_TCA_NETEM_RATE, struct.pack("=IiIi", min(rate, _U32_MAX), 0, 0, 0))
    return options


def _segmenter_options(frame: int) -> bytes:
    rate_specification = struct.pack("=BBHhHI", 0, _LINKLAYER_ETHERNET, 0, 0, 0, _U32_MAX)
    parameters = rate_specification + struct.pack("=12x3I", 0, 0, 0)
    return (
        _attribute(_TCA_TBF_PARMS, parameters)
        + _attribute(_TCA_TBF_RATE64, struct.pack("=Q", 1 << 40))
        + _attribute(_TCA_TBF_BURST, struct.pack("=I", frame))
    )


def _route_socket(space: Namespace) -> socket.socket:
    with space.entered():
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _mtu(channel: socket.socket, end: LinkEnd) -> int:
    request = struct.pack("16sI12x", end.interface.encode(), 0)
    return int(struct.unpack_from("16xi", fcntl.ioctl(channel, _SIOCGIFMTU, request))[0])


def _request(channel: socket.socket, index: int, handle: int, parent: int, kind: bytes, options: bytes) -> None:
    body = (
        _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
        + _attribute(_TCA_KIND, kind + b"\0")
        + _attribute(_TCA_OPTIONS, options)
    )
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    channel.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_NEWQDISC, flags, 0, 0) + body)
    answer = channel.recv(1 << 16)
    (code,) = struct.unpack_from("=i", answer, _MESSAGE.size)
    if code:
        raise OSError(-code, os.strerror(-code))


def _statistics(space: Namespace) -> dict[int, tuple[int, int, int]]:
    """By interface index: what its netem has sent, holds and dropped, in packets."""
    found: dict[int, tuple[int, int, int]] = {}
    with _route_socket(space) as channel:
        body = _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        channel.send(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETQDISC, flags, 0, 0) + body)
        while True:
            data = channel.recv(1 << 18)
            offset = 0
            while offset < len(data):
                length, kind, *_ = _MESSAGE.unpack_from(data, offset)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                _, index, *_ = _TCMSG.unpack_from(data, offset + _MESSAGE.size)
                attributes = dict(_attributes(data[offset + _MESSAGE.size + _TCMSG.size : offset + length]))
                if attributes[_TCA_KIND] == b"netem\0":
                    statistics = dict(_attributes(attributes[_TCA_STATS2]))
                    _, sent = struct.unpack_from("=QI", statistics[_TCA_STATS_BASIC])
                    held, _, dropped = struct.unpack_from("=III", statistics[_TCA_STATS_QUEUE])
                    found[index] = sent, held, dropped
                offset += (length + 3) & ~3


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
