"""A discrete-event simulation of two hosts that connect to each other through their NATs, SYN by SYN.

The model covers sockets and NATs as far as they affect the outcome:

- A host listens on and connects from one local endpoint. An attempt is one connect(): the kernel retransmits its SYN
  (`SYN_TIMES_S`) until it is answered or fails. After a pause the next attempt follows.
- An outbound SYN creates a connection tracking entry in its NAT for the endpoints of the attempt, and the mapping
  records the contacted endpoint. A RST that answers the SYN deletes the entry, but not the record. (A NAT without
  `NatBehavior.reset_closes` keeps the record in the same way.)
- An inbound SYN is matched against the entry first, then against the mapping and the filter (`_arrive`).

Only pauses and losses are random; they use the generator that is passed in. A run without them draws nothing. Times are
in seconds from the first SYN.
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
"""When Linux sends a SYN and its retransmissions (tcp_syn_linear_timeouts = 4, kernels since 6.5)."""

PAUSE_S = (0.05, 0.15)
"""Bounds of the client's pause after a refused attempt, in seconds. The pause is random, so that two clients do not
refuse each other in lockstep forever."""

_RETRANSMISSION_S = 1.0

_WITHIN_CONNECT = 0.5
"""The assumed probability that an ICMP error arrives during connect(), on a path without delay."""


class End(Enum):
    """How a run ended; the hosts are connected in the first three cases."""

    CROSSED = auto()
    """Both SYNs were accepted and reached connecting sockets (a simultaneous open, RFC 9293 section 3.5)."""
    ADMITTED = auto()
    """The filter accepted the SYN of `Run.dialler`."""
    UNDIALLED = auto()
    """The same, at a port from which the other host does not connect, while it has no attempt."""
    STALE = auto()
    """The SYN of `Run.dialler` matched an entry of an earlier attempt of the other host."""
    SPENT = auto()
    """No attempt was left."""
    LATE = auto()
    """The deadline passed first."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one run. `connected_s`: when each host was connected, None if they were not.

    `dialler` is the index of the host whose SYN decided (0 if none did). `attempt` (from 1) and `again` (whether it was
    a retransmission) describe that SYN. `chance` says whether the run was random.
    """

    end: End
    connected_s: tuple[float, float] | None
    dialler: int
    attempt: int
    again: bool
    chance: bool

    @property
    def time_s(self) -> float | None:
        """When the later host was connected; None if they were not."""
        return None if self.connected_s is None else max(self.connected_s)


def dependent(nat: NatBehavior | None) -> bool:
    """Return whether the host's SYNs come from another port than the registered one."""
    return nat is not None and nat.destination_dependent


def admits_anyone(nat: NatBehavior | None) -> bool:
    """Return whether the registered port accepts packets from any endpoint."""
    return nat is None or nat.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT


def admits_dialled(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Return whether the NAT accepts the peer's SYN once its host has connected to the peer's registered endpoint."""
    if nat is None or admits_anyone(nat):
        return True
    if dependent(nat):
        return False
    return nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT or not dependent(peer)


def occupies(nat: NatBehavior | None, peer: NatBehavior | None) -> bool:
    """Return whether the host's own SYN blocks a SYN from its destination, at a port that accepts any endpoint."""
    return dependent(nat) and admits_anyone(nat) and not dependent(peer)


def uses_other_address(nat: NatBehavior | None) -> bool:
    """Return whether the host's SYN may come from another address than the registered one."""
    return nat is not None and dependent(nat) and nat.pooling is Pooling.ARBITRARY


@dataclass(slots=True)
class _Side:
    """One host and its NAT.

    An attempt is `alive` from its SYN to its error. The entry exists until `entry_until`. `at_other_address` says
    whether the SYNs come from another address than the registered one.
    """

    nat: NatBehavior | None
    attempts: int | None
    attempt: int = 0
    alive: bool = False
    dialled_s: float = 0.0
    sent_s: float = 0.0
    entry_until: float = 0.0
    contacted: bool = False
    at_other_address: bool = False


class SynSimulation:
    """Two hosts; the first connects at 0, the second at `skew_s` (not negative).

    The `delay_s` of a packet varies by up to `jitter_s`, as on two equal links (a triangular distribution).
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
        """Simulate one run. `moments` contains the times of each host's attempts, if they are known."""
        self._draw, self._moments, self._chance = draw, moments, self._loss > 0 or self._jitter > 0
        self._sides = [_Side(nat, self._attempts) for nat in self._nats]
        for side in self._sides:
            if side.nat is not None and uses_other_address(side.nat):
                self._chance = True
                side.at_other_address = draw.randrange(side.nat.pool_size) > 0
        self._events: list[tuple[float, int, str, int, int, int]] = []
        self._serial = count()
        self._plan(0.0, "dial", 0)
        self._plan(self._skew, "dial", 1)
        while self._events:
            now, _serial, what, index, attempt, repeat = heapq.heappop(self._events)
            if now >= self._deadline:
                return self._ended(End.LATE)
            match what:
                case "dial":
                    self._connect(now, index)
                case "repeat":
                    self._send_syn(now, index, attempt, repeat)
                case "silence":
                    self._send_late_error(now, index, attempt)
                case "reset" | "error":
                    self._refused(now, index, attempt, reset=what == "reset")
                case "arrive":
                    ended = self._arrive(now, index, attempt, repeat)
                    if ended is not None:
                        return ended
        return self._ended(End.SPENT)

    def _plan(self, when: float, what: str, index: int, attempt: int = 0, repeat: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._serial), what, index, attempt, repeat))

    def _lost(self) -> bool:
        return self._loss > 0 and self._draw.random() < self._loss

    def _flight(self) -> float:
        """Return the delay of one packet."""
        if not self._jitter:
            return self._delay
        return max(0.0, self._delay + self._draw.triangular(-self._jitter, self._jitter))

    def _connect(self, now: float, index: int) -> None:
        side = self._sides[index]
        side.attempt += 1
        side.alive, side.dialled_s = True, now
        self._send_syn(now, index, side.attempt, 0)

    def _send_syn(self, now: float, index: int, attempt: int, repeat: int) -> None:
        """Send the SYN of an attempt, or a retransmission."""
        side = self._sides[index]
        if not side.alive or side.attempt != attempt:
            return
        side.sent_s, side.contacted = now, True
        if side.nat is not None:
            side.entry_until = now + side.nat.timeouts.tcp_transitory_s
        if repeat + 1 < len(SYN_TIMES_S):
            self._plan(side.dialled_s + SYN_TIMES_S[repeat + 1], "repeat", index, attempt, repeat + 1)
        if not self._lost():
            self._plan(now + self._flight(), "arrive", index, attempt, repeat)

    def _arrive(self, now: float, index: int, attempt: int, repeat: int) -> Run | None:
        """Handle the arrival of a host's SYN at the other's NAT; return the result if it is decided."""
        dialler, side = self._sides[index], self._sides[1 - index]
        same = not dependent(dialler.nat) and not dependent(side.nat)
        tracked = now < side.entry_until
        if same and side.alive and (side.nat is None or tracked):
            crossed = max(now, side.sent_s + self._delay)
            if side.sent_s + self._delay >= dialler.dialled_s:
                return self._connected(End.CROSSED, crossed + self._delay, now, index, attempt, repeat)
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, repeat)
        if same and tracked:
            # The listener's SYN-ACK has its own sequence number, so the NAT drops it. The listener's kernel then
            # refuses to connect to the endpoint of a half-open connection. This lasts until the deadline.
            return self._ended(End.STALE, index, attempt, repeat)
        if tracked and occupies(side.nat, dialler.nat):
            return None
        if admits_anyone(side.nat):
            undialled = occupies(side.nat, dialler.nat)
            end = End.UNDIALLED if undialled else End.ADMITTED
            return self._connected(end, now + 2 * self._delay, now, index, attempt, repeat)
        if side.contacted and not dependent(side.nat) and _by_address(side.nat) and not dialler.at_other_address:
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, repeat)
        if side.contacted and same and side.nat is not None and not side.nat.reset_closes:
            return self._connected(End.ADMITTED, now + 2 * self._delay, now, index, attempt, repeat)
        self._answer(now, index, attempt)
        return None

    def _answer(self, now: float, index: int, attempt: int) -> None:
        """Send the NAT's answer to a SYN that it does not accept."""
        nat, own = self._nats[1 - index], self._nats[index]
        if nat is None or self._lost():
            return
        if nat.unsolicited is Unsolicited.RESET:
            self._plan(now + self._flight(), "reset", index, attempt)
            return
        swallowed = own is not None and own.icmp_errors is IcmpErrors.SWALLOWED
        if nat.unsolicited is Unsolicited.SILENT_THEN_ICMP and not swallowed:
            self._plan(now + nat.silence_s, "silence", index, attempt)
        elif nat.unsolicited.icmp_code is not None and not swallowed and not self._within_connect():
            self._plan(now + self._flight(), "error", index, attempt)

    def _within_connect(self) -> bool:
        """Return whether an ICMP error arrives during connect() and therefore does not end the attempt; by chance.

        This happens on a path without delay. If an error arrives while connect() holds the socket, Linux only stores it
        in `sk_err_soft` (tcp_v4_err), and the attempt continues. Whether connect() still holds the socket depends on
        microseconds.
        """
        if self._delay or self._jitter:
            return False
        self._chance = True
        return self._draw.random() < _WITHIN_CONNECT

    def _send_late_error(self, now: float, index: int, attempt: int) -> None:
        """Send the delayed error of RFC 5382 REQ-4, unless a SYN of the same connection has gone out meanwhile."""
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

    def _connected(self, end: End, when: float, now: float, index: int, attempt: int, repeat: int) -> Run:
        """Return a connected run: the dialler is connected a delay after `now`, the other host at `when`."""
        # The SYN-ACK and the last ACK can be lost as well; each is retransmitted.
        repaired = 0.0
        for _packet in range(2):
            while self._lost():
                repaired += _RETRANSMISSION_S
        when, first = when + repaired, now + self._delay + repaired
        if when >= self._deadline:
            return self._ended(End.LATE)
        return Run(end, (first, when) if index == 0 else (when, first), index, attempt, repeat > 0, self._chance)

    def _ended(self, end: End, index: int = 0, attempt: int = 0, repeat: int = 0) -> Run:
        return Run(end, None, index, attempt, repeat > 0, self._chance)


def _by_address(nat: NatBehavior | None) -> bool:
    return nat is not None and nat.filtering is FilteringBehavior.ADDRESS_DEPENDENT
