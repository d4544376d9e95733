"""Impair links with netem, the kernel's network emulator (tc-netem(8)).

netem delays packets on egress. Packets from a host or NAT to a router are held in the router: an ifb device receives
the incoming packets. So a capture at the sender has the time when a packet left the sender; captures come after the
queueing discipline. All other packets are held at the sender's egress.

Jitter is uniform, netem's default. netem counts a large (GSO) buffer as one packet. Where packets must have wire size,
a tbf with practically unlimited rate precedes netem and splits the buffer.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

from punchlab.lab.errors import LabError
from punchlab.lab.impair.impairment import Impairment
from punchlab.lab.impair.link import Applied, Counters, DirectedLink, LinkEnd
from punchlab.lab.impair.schedule import ETHERNET_HEADER
from punchlab.lab.kernel import namespace
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.tc import ROOT, SEGMENTER, Statistics, TcSocket

_DETOURS = 1 << 20
"""The ifb of interface N has index _DETOURS + N, above all indexes that callers choose."""


class NetemApplied(Applied):
    """Links with one netem each."""

    name = "netem"

    def __init__(self, links: Sequence[DirectedLink]) -> None:
        self._links = links
        self._last: Sequence[Counters | None] | None = None

    def counters(self) -> Sequence[Counters | None]:
        """See `Applied.counters`. netem counts loss and overflow together, so overflow is known only without loss."""
        if self._last is not None:
            return self._last
        statistics: dict[Namespace, dict[int, Statistics]] = {}
        for space in {_holder(link).namespace for link in self._links if link.impairment}:
            with TcSocket(space) as channel:
                statistics[space] = channel.netems()
        return [
            _counters(link, statistics[_holder(link).namespace][_device(link)]) if link.impairment else None
            for link in self._links
        ]

    def close(self) -> None:
        """See `Applied.close`. The kernel frees a netem with its interface."""
        self._last = self.counters()


class Netem:
    """The implementation of `lab.impair.link.Implementation` with netem."""

    name = "netem"

    def why_not(self) -> str | None:
        """Test it in a temporary namespace."""
        (space,) = namespace.create(1)
        impairment = Impairment(delay_s=0.001, loss=0.1)
        host, router = LinkEnd(space, "lo", 1, "host"), LinkEnd(space, "lo", 1, "router")
        try:
            self.apply([DirectedLink(host, router, impairment), DirectedLink(router, host, impairment)], seed=0)
        except LabError as error:
            remedy = "load sch_netem, sch_tbf and ifb (Ubuntu: linux-modules-extra-$(uname -r))"
            return f"netem does not work ({error}); {remedy}"
        finally:
            space.close()
        return None

    def apply(self, links: Sequence[DirectedLink], seed: int) -> NetemApplied:
        """Impair the links, in force on return. Raises `LabError`."""
        by_namespace = defaultdict[Namespace, list[tuple[int, DirectedLink]]](list)
        for position, link in enumerate(links):
            if link.impairment:
                by_namespace[_holder(link).namespace].append((position, link))
        for space, impaired in by_namespace.items():
            with TcSocket(space) as channel:
                for position, link in impaired:
                    try:
                        _impair(channel, link, zlib.crc32(f"{seed}/{position}".encode()))
                    except OSError as error:
                        raise LabError(f"links: {link}: {error.strerror}") from error
        return NetemApplied(links)


def _detoured(link: DirectedLink) -> bool:
    return link.receiver.kind == "router" and link.sender.kind != "router"


def _holder(link: DirectedLink) -> LinkEnd:
    return link.receiver if _detoured(link) else link.sender


def _device(link: DirectedLink) -> int:
    return _DETOURS + link.receiver.index if _detoured(link) else link.sender.index


def _impair(channel: TcSocket, link: DirectedLink, seed: int) -> None:
    device = _device(link)
    if _detoured(link):
        channel.add_detour(link.receiver.index, f"ifb{link.receiver.index}", device)
    parent = ROOT
    if link.impairment.per_packet:
        channel.add_segmenter(device, channel.mtu(_holder(link).interface) + ETHERNET_HEADER)
        parent = SEGMENTER | 1
    channel.add_netem(
        device,
        parent,
        limit=link.impairment.limit,
        delay_s=link.impairment.delay_s,
        jitter_s=link.impairment.jitter_s,
        loss=link.impairment.loss,
        bandwidth=link.impairment.bandwidth,
        seed=seed,
    )


def _counters(link: DirectedLink, netem: Statistics) -> Counters:
    overflowed = None if link.impairment.loss else netem.dropped
    return Counters(netem.sent + netem.held + netem.dropped, netem.dropped, overflowed)
