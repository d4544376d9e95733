"""The process that delays packets: it reads NFQUEUE sockets, holds each packet until it is due, and sends the verdict.

It is a single-threaded process, so that no interpreter lock of another program affects its timing. It ends with its
parent, or when the parent closes the control socket. Requests are JSON, one per SOCK_SEQPACKET message, with the
sockets attached (SCM_RIGHTS). Each request is answered:

    {"open": LAB, "links": [{"queue": N, "seed": S, "delay_s": …, …}, …]}   -> {}          one socket per link
    {"counters": LAB}                                                       -> {"counters": [[…], …]}
    {"close": LAB}                                                          -> {"counters": [[…], …]}
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import json
import os
import select
import socket
import struct
import sys
import time
from bisect import bisect_left
from itertools import accumulate
from typing import Any

from punchlab.lab.impair.impairment import Impairment
from punchlab.lab.impair.schedule import Schedule
from punchlab.lab.kernel import nfnetlink

LINKS_PER_REQUEST = 200
"""The kernel passes at most 253 descriptors in a message (SCM_MAX_FD)."""
REQUEST_BYTES = 1 << 17

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 1, 0o4000, 0o2000000, 1
_TIMERSPEC = struct.Struct("@qqqq")
_PACKETS_PER_TURN = 256
"""The number of packets read from one link before other links and due packets are served."""
_VERDICTS_PER_SEND = 1024
"""32 KB, well below the smallest send buffer."""


class Lateness:
    """A histogram of how late packets were released. The median is exact to 10 us, the maximum exact."""

    _WIDTH_NS, _BUCKETS = 10_000, 2000

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self._worst_ns = 0

    def add(self, late_ns: int) -> None:
        """Add the lateness of one packet."""
        self._counts[min(late_ns // self._WIDTH_NS, self._BUCKETS - 1)] += 1
        self._worst_ns = max(self._worst_ns, late_ns)

    def summary(self) -> tuple[float | None, float | None]:
        """Return the median and the maximum in seconds, None without packets."""
        seen = list(accumulate(self._counts))
        if not seen[-1]:
            return None, None
        bucket = bisect_left(seen, seen[-1] / 2)
        median_ns = min((bucket + 0.5) * self._WIDTH_NS, self._worst_ns)
        return median_ns / 1e9, self._worst_ns / 1e9


class HeldLink:
    """One directed link: its queue, held packets and counters."""

    def __init__(self, queue: socket.socket, number: int, impairment: Impairment, seed: str) -> None:
        self.queue = queue
        self._number = number
        self._schedule = Schedule(impairment, seed)
        self._lossy = impairment.loss > 0
        self._lengths = impairment.bandwidth is not None
        self._in_order = impairment.in_order
        self._limit = impairment.limit
        self._held: list[tuple[int, int, int]] = []  # heap of (due, order of arrival, packet id)
        self._packets = self._dropped = self._overflowed = 0
        self._lateness = Lateness()

    @property
    def next_due(self) -> int | None:
        """When the first held packet is due, or None."""
        return self._held[0][0] if self._held else None

    def receive(self, buffer: bytearray) -> bool:
        """Read and schedule packets, at most `_PACKETS_PER_TURN`. Return whether the queue is empty."""
        read, schedule, held, clock = self.queue.recv_into, self._schedule, self._held, time.monotonic_ns
        dropped: list[int] = []
        empty = False
        for _ in range(_PACKETS_PER_TURN):
            try:
                size = read(buffer)
            except BlockingIOError:
                empty = True
                break
            identity = nfnetlink.packet_id(buffer)
            if identity is None:
                continue
            self._packets += 1
            if self._lossy and schedule.lost():
                dropped.append(identity)
            elif len(held) >= self._limit:
                self._overflowed += 1
                dropped.append(identity)
            else:
                length = nfnetlink.packet_length(buffer, size) if self._lengths else 0
                heapq.heappush(held, (schedule.departure(clock(), length), self._packets, identity))
        if dropped:
            self._dropped += len(dropped)
            self._decide(nfnetlink.NF_DROP, dropped)
        return empty

    def release(self, now: int) -> None:
        """Release every packet that is due."""
        held, late = self._held, self._lateness.add
        released: list[int] = []
        while held and held[0][0] <= now:
            due, _, identity = heapq.heappop(held)
            released.append(identity)
            late(now - due)
        if not released:
            return
        if self._in_order:
            self.queue.send(nfnetlink.accept_up_to(self._number, released[-1]))
        else:
            self._decide(nfnetlink.NF_ACCEPT, released)

    def _decide(self, verdict: int, identities: list[int]) -> None:
        for start in range(0, len(identities), _VERDICTS_PER_SEND):
            chunk = identities[start : start + _VERDICTS_PER_SEND]
            self.queue.send(nfnetlink.verdicts(self._number, verdict, chunk))

    def counters(self) -> list[float | None]:
        """Return the fields of `lab.impair.link.Counters`."""
        return [self._packets, self._dropped, self._overflowed, *self._lateness.summary()]


class Timer:
    """A timerfd, because the timeout of epoll has a resolution of milliseconds."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._armed: int | None = None

    def arm(self, due: int | None) -> None:
        """Make `fd` readable at this CLOCK_MONOTONIC time in ns, or never for None."""
        if due == self._armed:
            return
        self._armed = due
        seconds, nanoseconds = divmod(due, 1_000_000_000) if due is not None else (0, 0)
        spec = _TIMERSPEC.pack(0, 0, seconds, nanoseconds)
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def expired(self) -> None:
        """Reset the timer after it fired."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # armed again between firing and reading
            return
        self._armed = None


class Engine:
    """All links of all labs of the parent process."""

    def __init__(self, control: socket.socket, parent: int) -> None:
        self._control = control
        self._poll = select.epoll()
        self._timer = Timer()
        self._links: dict[int, HeldLink] = {}  # by descriptor
        self._labs: dict[int, list[HeldLink]] = {}
        self._buffer = bytearray(1 << 16)
        # Not PR_SET_PDEATHSIG: it fires when the thread that started this process ends.
        self._parent = os.pidfd_open(parent)
        for fd in (control.fileno(), self._timer.fd, self._parent):
            self._poll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the parent ends or closes the control socket."""
        while True:
            for fd, _ in self._poll.poll():
                link = self._links.get(fd)
                if link is not None:
                    link.receive(self._buffer)
                elif fd == self._timer.fd:
                    self._timer.expired()
                elif fd == self._parent or (fd == self._control.fileno() and not self._serve()):
                    return
            self._release()

    def _release(self) -> None:
        earliest: int | None = None
        now = time.monotonic_ns()
        for link in self._links.values():
            due = link.next_due
            if due is not None and due <= now:
                link.release(now)
                due = link.next_due
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        self._timer.arm(earliest)

    def _serve(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, LINKS_PER_REQUEST)
        if not data:
            return False
        request = json.loads(data)
        answer: dict[str, Any] = {}
        if "open" in request:
            self._open(request["open"], request["links"], descriptors)
        elif "counters" in request:
            answer["counters"] = self._counters(self._labs[request["counters"]])
        else:
            answer["counters"] = self._close(request["close"])
        self._control.send(json.dumps(answer).encode())
        return True

    def _open(self, lab: int, links: list[dict[str, Any]], descriptors: list[int]) -> None:
        for link, descriptor in zip(links, descriptors, strict=True):
            number, seed = link.pop("queue"), link.pop("seed")
            queue = socket.socket(fileno=descriptor)
            queue.setblocking(False)
            held = HeldLink(queue, number, Impairment(**link), seed)
            self._links[descriptor] = held
            self._labs.setdefault(lab, []).append(held)
            self._poll.register(descriptor, select.EPOLLIN)

    def _close(self, lab: int) -> list[list[float | None]]:
        links = self._labs.pop(lab)
        counters = self._counters(links)
        for link in links:
            del self._links[link.queue.fileno()]
            self._poll.unregister(link.queue)
            link.queue.close()
        return counters

    def _counters(self, links: list[HeldLink]) -> list[list[float | None]]:
        for link in links:
            while not link.receive(self._buffer):  # include packets that are still in the queue
                pass
        return [link.counters() for link in links]


def main(control: int, parent: int) -> None:
    """Serve on the control socket's descriptor for the process `parent`."""
    gc.disable()  # there are no reference cycles, and a collection would delay packets
    with contextlib.suppress(PermissionError):  # without it, a delay of 100 ms has a median of 101 ms on a busy machine
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    with socket.socket(fileno=control) as channel, contextlib.suppress(ProcessLookupError):  # the parent has ended
        Engine(channel, parent).run()


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
    os._exit(0)  # at once, without freeing all modules
