"""Links by NFQUEUE, for kernels without netem: the kernel queues the packets of a link to the engine process, which
lets each go when it is due.

Where a packet is held decides what captures show and whether NATs stay true:

- At the router end wherever one end is a router, so that captures at hosts and NATs are stamped when a packet really
  leaves or arrives there, not before or after the link's delay.
- On the receiving side in the raw table, before connection tracking: a packet held inside a NAT after tracking is not
  yet confirmed, so the NAT's hole would open late.
- On the sending side only in routers: in a host, TCP counts held packets as unsent (TCP small queues) and stalls
  (4.5 Mbit/s over 10 ms, against 1000).
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
    """Where the packets of one directed link are held: on their way into, or out of, an interface."""

    end: LinkEnd
    incoming: bool

    @property
    def queue(self) -> int:
        """The queue's number, unique in its namespace, and the same every time."""
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
    """Where to hold the link's packets. Raises `LabError` where none of its ends will do."""
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
        """Packets that the kernel dropped because the engine did not read fast enough."""
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
    """The implementation of `lab.impair.link.Implementation` by NFQUEUE."""

    name = "nfqueue"

    def why_not(self) -> str | None:
        """Tried for real: a queue and a rule in a throw-away namespace."""
        (space,) = namespace.create(1)
        end = LinkEnd(space, "lo", 1)
        try:
            with space.entered():
                nfnetlink.open_queue(1, lengths=False, whole=True).close()
            _apply_rules([Hold(end, incoming=True), Hold(end, incoming=False)])
        except (OSError, LabError) as error:
            return f"no NFQUEUE here ({error}); install iptables and the modules nfnetlink_queue and xt_NFQUEUE"
        finally:
            space.close()
        return None

    def apply(self, links: Sequence[DirectedLink], seed: int) -> NfqueueApplied:
        """Impair the links; in force on return. Raises `LabError`."""
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
        if socket.if_nametoindex(hold.end.interface) != hold.end.index:  # iptables would not notice
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        whole = not impairment.per_packet
        return nfnetlink.open_queue(hold.queue, lengths=impairment.bandwidth is not None, whole=whole)


def _apply_rules(holds: Sequence[Hold]) -> None:
    """One iptables-restore per namespace and family, all at the same time."""
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
            for command in ("iptables-restore", "ip6tables-restore") if _speaks_ipv6() else ("iptables-restore",):
                process = subprocess.Popen(
                    [command, "--noflush", "--wait"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                loading.append((process, text))
    refusals: list[str] = []
    for process, text in loading:
        _, complaint = process.communicate(text)
        if process.returncode:
            refusals.append(complaint.strip() or f"status {process.returncode}")
    if refusals:
        raise LabError(f"links: iptables-restore: {refusals[0]}")


def _speaks_ipv6() -> bool:
    """Whether IPv6 is on in the namespace that this thread is in."""
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    return disabled.exists() and disabled.read_text().strip() == "0"
