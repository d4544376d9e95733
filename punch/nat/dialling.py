"""Two hosts dial each other through their NATs: what happens to each SYN, as a model of discrete events.

The model knows sockets and NATs only as far as it matters to who meets whom:

- A host listens and dials from one local endpoint. An attempt is one connect(): its SYN is sent again as the kernel
  does (`SYN_TIMES_S`), until it is answered or ends in an error; then comes a pause and the next attempt.
- A SYN that leaves makes a connection tracking entry in its NAT, for the very endpoints of the attempt; and it is
  remembered by the mapping who was contacted. The entry dies of a RST that answers the SYN, the other does not. (What
  `NatBehavior.reset_closes` denies is remembered in the same way.)
- A SYN that arrives is compared with the entry first, then with the mapping and the filter (`_meet`).

Nothing here is drawn but pauses and losses, from the generator that is passed in; a run without either draws nothing.
Times are in seconds from the first SYN.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

from punchlab.punch.nat.behavior import FilteringBehavior, IcmpErrors, NatBehavior, Pooling, Unsolicited

SYN_TIMES_S = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 19.0, 35.0)
"""When Linux sends a SYN and its retransmissions (tcp_syn_linear_timeouts = 4, kernels from 6.5 on)."""

PAUSE_S = (0.05, 0.15)
"""How long the client waits after a refusal before it dials again: uniformly distributed, so that two clients do not
refuse each other in lockstep for ever."""

_RETRANSMISSION_S = 1.0

_WITHIN_CONNECT = 0.5
"""The assumed probability that an ICMP error comes back within connect(), on a path without delay."""


class End(Enum):
    """How a run ended; the first three connected."""

    CROSSED = auto()
    """Both SYNs were admitted and met connecting sockets (a simultaneous open, RFC 9293 section 3.5)."""
    ADMITTED = auto()
    """The SYN of `Run.dialler` found the other's filter open."""
    UNDIALLED = auto()
    """The same, at a port that the other host does not dial from, while it does not dial."""
    STALE = auto()
    """The SYN of `Run.dialler` found an entry that its attempt had left behind."""
    SPENT = auto()
    """No attempt was left."""
    LATE = auto()
    """The deadline came first."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `connected_s`: when each host was connected, None if they were not.

    `dialler` is the index of the host whose SYN decided (0 where none did); `attempt` (from 1) and `again` (whether it
    was a retransmission) are that SYN's. `chance` says whether anything was drawn.
    """

    end: End
    connected_s: tuple[float, float] | None
    dialler: int
    attempt: int
    again: bool
    chance: bool

    @property
    def time_s(self) -> float | None:
        """When the later host was connected, None if they were not."""
        return None if self.connected_s is None else max(self.connected_s)


def dependent(nat: NatBehavior | None) -> bool:
    """Whether the host's SYN comes from another port than the registered one."""
    return nat is not None and nat.destination_dependent


def admits_anyone(nat: NatBehavior | None) -> bool:
    """Whether the registered port is open to all."""
    return nat is None or nat.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT


def admits_dialled(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Whether the peer's SYN is admitted once the host behind `nat` has dialled the peer's registered endpoint."""
    if nat is None or admits_anyone(nat):
        return True
    if dependent(nat):
        return False
    return nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT or not dependent(peer)


def occupies(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Whether the host's own SYN keeps out one that comes from where it goes, at a port that is open to all."""
    return dependent(nat) and admits_anyone(nat) and not dependent(peer)


def strays(nat: NatBehavior | None) -> bool:
    """Whether the host's SYN may come from another address than the registered one."""
    return nat is not None and dependent(nat) and nat.pooling is Pooling.ARBITRARY


@dataclass(slots=True)
class _Side:
    """One host and its NAT.

    An attempt is `alive` from its SYN to its error; the entry is open until `entry_until`; `strayed` says whether the
    SYNs come from another address than the registered one.
    """

    nat: NatBehavior | None
    attempts: int | None
    attempt: int = 0
    alive: bool = False
    dialled_s: float = 0.0
    sent_s: float = 0.0
    entry_until: float = 0.0
    contacted: bool = False
    strayed: bool = False


class Dialling:
    """Two hosts, the first of which dials at 0 and the second at `skew_s` (not negative).

    `delay_s` of a packet varies by up to `jitter_s`, as on two equal links (a triangular distribution).
    """

    def __init__(
        self,
        nats: Sequence[NatBehavior | None],
        *,
        skew_s: float,
        delay_s: float,
        attempts: int | None,
        deadline_s: float,
        loss: float = 0.0,
        jitter_s: float = 0.0,
    ) -> None:
        self._nats, self._attempts = nats, attempts
        self._skew, self._delay, self._deadline = skew_s, delay_s, deadline_s
        self._loss, self._jitter = loss, jitter_s

    def run(self, draw: random.Random, moments: Sequence[Sequence[float]] | None = None) -> Run:
        """Let it happen once. `moments` says when each host made its attempts, where that is known."""
        self._draw, self._moments, self._chance = draw, moments, self._loss > 0 or self._jitter > 0
        self._sides = [_Side(nat, self._attempts) for nat in self._nats]
        for side in self._sides:
            if side.nat is not None and strays(side.nat):
                self._chance = True
                side.strayed = draw.randrange(side.nat.pool_size) > 0
        self._events: list[tuple[float, int, str, int, int, int]] = []
        self._serial = count()
        self._plan(0.0, "dial", 0)
        self._plan(self._skew, "dial", 1)
        while self._events:
            now, _serial, what, index, attempt, knock = heapq.heappop(self._events)
            if now >= self._deadline:
                return self._ended(End.LATE)
            match what:
                case "dial":
                    self._dial(now, index)
                case "knock":
                    self._knock(now, index, attempt, knock)
                case "silence":
                    self._broken_silence(now, index, attempt)
                case "reset" | "error":
                    self._refused(now, index, attempt, reset=what == "reset")
                case "arrive":
                    ended = self._meet(now, index, attempt, knock)
                    if ended is not None:
                        return ended
        return self._ended(End.SPENT)

    def _plan(self, when: float, what: str, index: int, attempt: int = 0, knock: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._serial), what, index, attempt, knock))

    def _lost(self) -> bool:
        return self._loss > 0 and self._draw.random() < self._loss

    def _flight(self) -> float:
        """How long a packet is under way."""
        if not self._jitter:
            return self._delay
        return max(0.0, self._delay + self._draw.triangular(-self._jitter, self._jitter))

    def _dial(self, now: float, index: int) -> None:
        side = self._sides[index]
        side.attempt += 1
        side.alive, side.dialled_s = True, now
        self._knock(now, index, side.attempt, 0)

    def _knock(self, now: float, index: int, attempt: int, knock: int) -> None:
        """The SYN of an attempt is sent, for the first time or again."""
        side = self._sides[index]
        if not side.alive or side.attempt != attempt:
            return
        side.sent_s, side.contacted = now, True
        if side.nat is not None:
            side.entry_until = now + side.nat.timeouts.tcp_transitory_s
        if knock + 1 < len(SYN_TIMES_S):
            self._plan(side.dialled_s + SYN_TIMES_S[knock + 1], "knock", index, attempt, knock + 1)
        if not self._lost():
            self._plan(now + self._flight(), "arrive", index, attempt, knock)

    def _meet(self, now: float, index: int, attempt: int, knock: int) -> Run | None:
        """The SYN of a host arrives at the other's NAT; what became of both if that is decided."""
        dialler, side = self._sides[index], self._sides[1 - index]
        same = not dependent(dialler.nat) and not dependent(side.nat)
        tracked = now < side.entry_until
        if same and side.alive and (side.nat is None or tracked):
            crossed = max(now, side.sent_s + self._delay)
            if side.sent_s + self._delay >= dialler.dialled_s:
                return self._connected(End.CROSSED, crossed + self._delay, now, index, attempt, knock)
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, knock)
        if same and tracked:
            # The listener's SYN-ACK has a sequence number of its own, so the NAT takes it for a stray; and its kernel
            # then refuses to dial an endpoint that it is answering. Nobody gets out of this before the deadline.
            return self._ended(End.STALE, index, attempt, knock)
        if tracked and occupies(side.nat, dialler.nat):
            return None
        if admits_anyone(side.nat):
            undialled = occupies(side.nat, dialler.nat)
            end = End.UNDIALLED if undialled else End.ADMITTED
            return self._connected(end, now + 2 * self._delay, now, index, attempt, knock)
        if side.contacted and not dependent(side.nat) and _by_address(side.nat) and not dialler.strayed:
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, knock)
        if side.contacted and same and side.nat is not None and not side.nat.reset_closes:
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, knock)
        self._answer(now, index, attempt)
        return None

    def _answer(self, now: float, index: int, attempt: int) -> None:
        """The other NAT's answer to a SYN that it does not admit."""
        nat, own = self._nats[1 - index], self._nats[index]
        if nat is None or self._lost():
            return
        if nat.unsolicited is Unsolicited.RESET:
            self._plan(now + self._flight(), "reset", index, attempt)
            return
        deaf = own is not None and own.icmp_errors is IcmpErrors.SWALLOWED
        if nat.unsolicited is Unsolicited.SILENT_THEN_ICMP and not deaf:
            self._plan(now + nat.silence_s, "silence", index, attempt)
        elif nat.unsolicited.icmp_code is not None and not deaf and not self._within_connect():
            self._plan(now + self._flight(), "error", index, attempt)

    def _within_connect(self) -> bool:
        """Whether an ICMP error comes back within connect(), which then does not end the attempt; by chance.

        That happens on a path without delay. Linux reports an error that it receives while connect() holds the socket
        in `sk_err_soft` only (tcp_v4_err), and the attempt goes on. Whether connect() still holds it depends on
        microseconds.
        """
        if self._delay or self._jitter:
            return False
        self._chance = True
        return self._draw.random() < _WITHIN_CONNECT

    def _broken_silence(self, now: float, index: int, attempt: int) -> None:
        """RFC 5382 REQ-4: an error comes late, and not at all if a SYN of the same connection has gone out."""
        side = self._sides[1 - index]
        same = not dependent(self._nats[index]) and not dependent(side.nat)
        if not (same and side.contacted):
            self._plan(now + self._flight(), "error", index, attempt)

    def _refused(self, now: float, index: int, attempt: int, *, reset: bool) -> None:
        side = self._sides[index]
        if reset:
            side.entry_until = 0.0
        if not side.alive or side.attempt != attempt:
            return
        side.alive = False
        if self._moments is not None:
            further = self._moments[index][attempt : attempt + 1]
            if further:
                self._plan(max(now, further[0]), "dial", index)
        elif side.attempts is None or side.attempt < side.attempts:
            self._chance = True
            self._plan(now + self._draw.uniform(*PAUSE_S), "dial", index)

    def _connected(self, end: End, when: float, now: float, index: int, attempt: int, knock: int) -> Run:
        """The other host answers the SYN `now`, so the dialler is connected a delay later, and the other one `when`."""
        # The SYN-ACK and the last ACK get lost as well; either is made good by a retransmission.
        repaired = 0.0
        for _packet in range(2):
            while self._lost():
                repaired += _RETRANSMISSION_S
        when, first = when + repaired, now + self._delay + repaired
        if when >= self._deadline:
            return self._ended(End.LATE)
        return Run(end, (first, when) if index == 0 else (when, first), index, attempt, knock > 0, self._chance)

    def _ended(self, end: End, index: int = 0, attempt: int = 0, knock: int = 0) -> Run:
        return Run(end, None, index, attempt, knock > 0, self._chance)


def _by_address(nat: NatBehavior | None) -> bool:
    return nat is not None and nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT
