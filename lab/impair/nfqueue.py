"""Impair links with NFQUEUE, for kernels without netem.

The kernel queues the packets of a link to the engine process, which releases each packet when it is due. The place
where packets are held determines the times in captures and the timing of NATs:

- If one end is a router, packets are held there. So captures at hosts and NATs have the time when a packet leaves or
  arrives, not the time before or after the link's delay.
- On the receiving side, packets are held in the raw table, before connection tracking. A packet that is held in a NAT
  after tracking is not yet confirmed, so the NAT would create its mapping late.
- On the sending side, packets are held only in routers. In a host, TCP counts held packets as unsent (TCP small queues)
  and stalls: 4.5 Mbit/s instead of 1000 with a delay of 10 ms.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from punchlab.lab.errors import LabError
from punchlab.lab.impair.enginehost import HOST, EngineLab
from punchlab.lab.impair.impairment import Impairment
from punchlab.lab.impair.link import Applied, Counters, DirectedLink, LinkEnd
from punchlab.lab.kernel import namespace, nfnetlink
from punchlab.lab.kernel.namespace import Namespace

_QUEUES = 1 << 16


@dataclass(frozen=True)
class Hold:
    """Where the packets of one directed link are held: on ingress or egress of an interface."""

    end: LinkEnd
    incoming: bool

    @property
    def queue(self) -> int:
        """The number of the queue, unique in the namespace and always the same."""
        number = 2 * self.end.index + self.incoming
        if number >= _QUEUES:
            raise LabError(f"links: interface index {self.end.index} is too high for a queue number")
        return number

    @property
    def rule(self) -> tuple[str, str]:
        """The iptables table and the rule."""
        chain, option, table = ("PREROUTING", "-i", "raw") if self.incoming else ("POSTROUTING", "-o", "mangle")
        return table, f"-A {chain} {option} {self.end.interface} -j NFQUEUE --queue-num {self.queue}"


def place(link: DirectedLink) -> Hold:
    """Return where to hold the link's packets. Raises `LabError` if neither end is possible."""
    sender, receiver = link.sender.kind, link.receiver.kind
    if sender == "router" and receiver != "router":
        return Hold(link.sender, incoming=False)
    if receiver == "switch":
        raise LabError(
            f"links: {link}: NFQUEUE cannot hold packets between a {sender} and a switch in this direction; "
            "impair another link of the switch, or use netem"
        )
    return Hold(link.receiver, incoming=True)


class NfqueueApplied(Applied):
    """Links whose packets the engine holds."""

    name = "nfqueue"

    def __init__(self, holds: Sequence[Hold | None], lab: EngineLab) -> None:
        self._holds, self._lab = holds, lab
        self._last: Sequence[Counters | None] | None = None

    def counters(self) -> Sequence[Counters | None]:
        """See `Applied.counters`."""
        if self._last is None:
            return self._merge(self._unread(), HOST.counters(self._lab))
        return self._last

    def close(self) -> None:
        """See `Applied.close`."""
        if self._last is None:
            self._last = [None] * len(self._holds)
            self._last = self._merge(self._unread(), HOST.close(self._lab))

    def _merge(self, unread: Mapping[Hold, int], fields: Sequence[Sequence[Any]]) -> list[Counters | None]:
        counters, remaining = list[Counters | None](), iter(fields)
        for hold in self._holds:
            if hold is None:
                counters.append(None)
            else:
                packets, dropped, overflowed, median_s, worst_s = next(remaining)
                lost = unread[hold]
                counters.append(Counters(packets + lost, dropped + lost, overflowed + lost, median_s, worst_s))
        return counters

    def _unread(self) -> Mapping[Hold, int]:
        """Return the packets that the kernel dropped because the engine read too slowly."""
        by_namespace = defaultdict[Namespace, list[Hold]](list)
        for hold in self._holds:
            if hold is not None:
                by_namespace[hold.end.namespace].append(hold)
        lost: dict[Hold, int] = {}
        for space, holds in by_namespace.items():
            with space.entered():
                table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text()
            # queue number, port id, waiting, copy mode, copy range, dropped (queue full), dropped (socket full), …
            rows = [[int(field) for field in line.split()] for line in table.splitlines()]
            dropped = {row[0]: row[5] + row[6] for row in rows}
            lost.update({hold: dropped.get(hold.queue, 0) for hold in holds})
        return lost


class Nfqueue:
    """The implementation of `lab.impair.link.Implementation` with NFQUEUE."""

    name = "nfqueue"

    def why_not(self) -> str | None:
        """Test it with a queue and a rule in a temporary namespace."""
        (space,) = namespace.create(1)
        end = LinkEnd(space, "lo", 1)
        try:
            with space.entered():
                nfnetlink.open_queue(1, lengths=False, whole=True).close()
            _apply_rules([Hold(end, incoming=True), Hold(end, incoming=False)])
        except (OSError, LabError) as error:
            return f"NFQUEUE does not work ({error}); install iptables and the modules nfnetlink_queue and xt_NFQUEUE"
        finally:
            space.close()
        return None

    def apply(self, links: Sequence[DirectedLink], seed: int) -> NfqueueApplied:
        """Impair the links, in force on return. Raises `LabError`."""
        holds = [place(link) if link.impairment else None for link in links]
        HOST.start()
        requests: list[dict[str, Any]] = []
        with ExitStack() as stack:
            queues: list[socket.socket] = []
            for position, (link, hold) in enumerate(zip(links, holds, strict=True)):
                if hold is None:
                    continue
                impairment = link.impairment
                try:
                    queue = _open(hold, impairment)
                except OSError as error:
                    raise LabError(f"links: {link}: {error.strerror}") from error
                queues.append(stack.enter_context(queue))
                requests.append({"queue": hold.queue, "seed": f"{seed}/{position}", **asdict(impairment)})
            _apply_rules([hold for hold in holds if hold is not None])
            return NfqueueApplied(holds, HOST.open(requests, queues))


def _open(hold: Hold, impairment: Impairment) -> socket.socket:
    with hold.end.namespace.entered():
        if socket.if_nametoindex(hold.end.interface) != hold.end.index:  # iptables would not report an error
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        whole = not impairment.per_packet
        return nfnetlink.open_queue(hold.queue, lengths=impairment.bandwidth is not None, whole=whole)


def _apply_rules(holds: Sequence[Hold]) -> None:
    """Load the rules with one iptables-restore per namespace and family, in parallel."""
    rules = defaultdict[Namespace, defaultdict[str, list[str]]](lambda: defaultdict(list))
    for hold in holds:
        table, rule = hold.rule
        rules[hold.end.namespace][table].append(rule)
    loading: list[tuple[subprocess.Popen[str], str]] = []
    for space, tables in rules.items():
        text = "".join(
            f"*{table}\n" + "".join(f"{rule}\n" for rule in lines) + "COMMIT\n" for table, lines in tables.items()
        )
        with space.entered():
            for command in ("iptables-restore", "ip6tables-restore") if _has_ipv6() else ("iptables-restore",):
                process = subprocess.Popen(
                    [command, "--noflush", "--wait"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                loading.append((process, text))
    rejections: list[str] = []
    for process, text in loading:
        _, message = process.communicate(text)
        if process.returncode:
            rejections.append(message.strip() or f"status {process.returncode}")
    if rejections:
        raise LabError(f"links: iptables-restore: {rejections[0]}")


def _has_ipv6() -> bool:
    """Return whether IPv6 is enabled in this thread's namespace."""
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    return disabled.exists() and disabled.read_text().strip() == "0"
