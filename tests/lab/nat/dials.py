"""Many pairs of hosts connect in parallel, each through its own two NATs, as the client does.

Every cell has its own lab. Every attempt of a cell uses new ports, so that no state of another affects it. Waiting
needs no CPU, so hundreds of attempts run in one event loop.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import random
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from punchlab import Lab
from punchlab.lab.oracle.outcome import Dial, Prediction, predict_outcome
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.punch.nat.syn_simulation import PAUSE_S, SynSimulation
from punchlab.topologies import AB

HOSTS = ("a", "b")
FIRST_PORTS = (41000, 51000)
PATIENCE_S = 60.0
LATE_S = 0.008
REPLAYS = 30
STARTED_APART_S = 0.015
GREETING, GREETING_S = struct.Struct("=B8sd"), 0.2
"""Number, token and time of the connection; the maximum lateness of the greeting."""
_UNDER_WAY = (0, errno.EINPROGRESS)


@dataclass(frozen=True)
class Cell:
    """The parameters. `loss` is the percentage of each access link; `strategy` is the client's."""

    a: NatBehavior | None
    b: NatBehavior | None
    delay_ms: int
    skew_ms: int
    attempts: int | None = 1
    loss: int = 0
    strategy: str = "keep"
    deadline_s: float = 2.8

    @property
    def dial(self) -> Dial:
        kept = (1 - self.loss / 100) ** 2
        return Dial(self.delay_ms / 1000, self.skew_ms / 1000, self.attempts, self.deadline_s, 1 - kept)

    @property
    def prediction(self) -> Prediction:
        return predict_outcome(self.a, self.b, self.dial)


@dataclass(frozen=True)
class Dialled:
    """The result of one attempt.

    `direct_s`: when both hosts were connected, None if they were not. `moments_s`: when each host made its attempts.
    Both count from the first SYN. `late_s`: the maximum lateness of the links.
    """

    direct_s: float | None
    moments_s: Sequence[Sequence[float]]
    late_s: float

    @property
    def direct(self) -> bool:
        return self.direct_s is not None


@dataclass(frozen=True)
class Result:
    """`punctual`: whether this process met its times, so that the pauses had the intended length."""

    cell: Cell
    dials: Sequence[Dialled]
    punctual: bool

    @property
    def direct(self) -> int:
        return sum(dialled.direct for dialled in self.dials)

    def contradicts(self, dialled: Dialled) -> bool | None:
        """Return whether the oracle's model, given the actual attempts, contradicts the kernel.

        None if that depends on the lateness of a packet or of its processing: `LATE_S`, or, for a contradiction, the
        maximum lateness of a link.
        """
        replayed = self._replayed(dialled, LATE_S)
        if replayed == {dialled.direct}:
            return False
        return True if len(replayed) == 1 and replayed == self._replayed(dialled, dialled.late_s) else None

    def _replayed(self, dialled: Dialled, late_s: float) -> set[bool]:
        """Return the possible outcomes of these attempts with packets on time, or late by up to `late_s`."""
        cell = self.cell
        order = [0, 1] if dialled.moments_s[0][0] < dialled.moments_s[1][0] else [1, 0]
        moments = [dialled.moments_s[index] for index in order]
        draw, outcomes = random.Random(0), set()
        for late in (0.0, *[late_s] * REPLAYS):
            dialling = SynSimulation(
                [(cell.a, cell.b)[index] for index in order],
                skew_s=moments[1][0],
                delay_s=cell.dial.delay_s + late / 2,
                attempts=cell.attempts,
                deadline_s=cell.deadline_s,
                jitter_s=late / 2,
            )
            outcomes.add(dialling.run(draw, moments).time_s is not None)
        return outcomes


class Loop:
    """Timers and sockets."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self.late_s: list[float] = []

    def at(self, moment: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (moment, next(self._serial), what))

    def watch(self, sock: socket.socket, events: int, what: Callable[[], None]) -> None:
        self._watched[sock.fileno()] = what
        self._poll.register(sock, events)

    def forget(self, sock: socket.socket) -> None:
        if self._watched.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock)

    def run(self, done: Callable[[], bool]) -> None:
        while not done():
            left = self._timers[0][0] - time.monotonic() if self._timers else 1.0
            # Not rounded up to a millisecond; the rest is a busy wait.
            for descriptor, _events in self._poll.poll(max(0, int(left * 1000))):
                if descriptor in self._watched:
                    self._watched[descriptor]()
            while self._timers and self._timers[0][0] <= (now := time.monotonic()):
                moment, _serial, what = heapq.heappop(self._timers)
                self.late_s.append(now - moment)
                what()


class Meeting:
    """One attempt of a cell."""

    def __init__(self, lab: Lab, cell: Cell, number: int, loop: Loop, stack: contextlib.ExitStack) -> None:
        self._lab, self._cell, self._loop, self._stack = lab, cell, loop, stack
        self._ports = [first + number for first in FIRST_PORTS]
        self._token = secrets.token_bytes(8)
        self._registered: list[tuple[str, int] | None] = [None, None]
        self._edge_connections: list[socket.socket] = []
        self._moments: list[list[float]] = [[], []]
        self._start = self._deadline = 0.0
        self._direct: float | None = None
        self.over = False

    @property
    def registered(self) -> bool:
        return None not in self._registered

    @property
    def dialled(self) -> Dialled:
        # A host that is connected before its planned first SYN does not send it.
        skew = self._cell.skew_ms / 1000
        planned = (self._start + max(0.0, -skew), self._start + max(0.0, skew))
        moments = [made or [plan] for made, plan in zip(self._moments, planned, strict=True)]
        first = min(made[0] for made in moments)
        return Dialled(
            None if self._direct is None else self._direct - first,
            [[moment - first for moment in made] for made in moments],
            2 * self._lab.lateness_s,
        )

    def register(self) -> None:
        """Discover both external endpoints through the edge."""
        for index in range(2):
            edge = self._lab.edges[0]
            registrar = self._stack.enter_context(edge.socket())
            registrar.bind((edge.address, 0))
            registrar.listen()
            self._loop.watch(registrar, select.POLLIN, partial(self._seen, index, registrar))
            connection = self._bound(index)
            assert connection.connect_ex(registrar.getsockname()) in _UNDER_WAY
            # The edge's kernel accepts the connection after the last ACK; data is retransmitted sooner than a SYN-ACK.
            self._loop.watch(connection, select.POLLOUT, partial(self._tell, connection))
            self._edge_connections.append(connection)

    def _tell(self, connection: socket.socket) -> None:
        self._loop.forget(connection)
        connection.send(b"x")

    def _seen(self, index: int, registrar: socket.socket) -> None:
        accepted, self._registered[index] = registrar.accept()
        self._stack.enter_context(accepted)
        self._loop.forget(registrar)
        registrar.close()

    def listen(self) -> None:
        """Listen before any host connects."""
        for index in range(2):
            listener = self._bound(index)
            listener.listen()
            self._loop.watch(listener, select.POLLIN, partial(self._accept, index, listener))

    def start(self, moment: float) -> None:
        """Let the first host connect at that `time.monotonic()` time."""
        self._start, skew = moment, self._cell.skew_ms / 1000
        self._deadline = moment + self._cell.deadline_s
        self._loop.at(moment + max(0.0, -skew), partial(self._dial, 0))
        self._loop.at(moment + max(0.0, skew), partial(self._dial, 1))
        # A host connected at the deadline still has to receive the other's greeting.
        self._loop.at(self._deadline + 2 * self._cell.delay_ms / 1000 + GREETING_S, self._end)

    def _end(self) -> None:
        self.over = True

    def _bound(self, index: int) -> socket.socket:
        made = self._stack.enter_context(self._lab[HOSTS[index]].socket())
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.bind(("0.0.0.0", self._ports[index]))
        made.setblocking(False)
        return made

    def _dial(self, index: int) -> None:
        if self.over or time.monotonic() >= self._deadline:
            return
        if not self._moments[index] and self._cell.strategy == "reuse":
            self._edge_connections[index].shutdown(socket.SHUT_WR)
        target = self._registered[1 - index]
        assert target is not None
        connection = self._bound(index)
        self._moments[index].append(time.monotonic())
        # Without delay, an ICMP error has already arrived as a soft error; the client ends the attempt.
        error = connection.connect_ex(target)
        if error == errno.EINPROGRESS:
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or error
        if error in _UNDER_WAY:
            self._loop.watch(connection, select.POLLOUT, partial(self._answered, index, connection))
        else:
            self._refused(index, connection)

    def _answered(self, index: int, connection: socket.socket) -> None:
        self._loop.forget(connection)
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused(index, connection)
        else:
            self._greet(index, connection)

    def _refused(self, index: int, connection: socket.socket) -> None:
        connection.close()
        made = self._moments[index]
        if self._cell.attempts is None or len(made) < self._cell.attempts:
            # The rejection arrived a round trip after the SYN; this loop can process it later when it is busy.
            now, due = time.monotonic(), made[-1] + 2 * self._cell.delay_ms / 1000
            refused = due if due < now < due + PAUSE_S[0] else now
            self._loop.at(refused + random.uniform(*PAUSE_S), partial(self._dial, index))

    def _accept(self, index: int, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            accepted = self._stack.enter_context(listener.accept()[0])
            accepted.setblocking(False)
            self._greet(index, accepted)

    def _greet(self, index: int, connection: socket.socket) -> None:
        """Exchange greetings to check that this is the peer: a socket can connect to itself."""
        connected = time.monotonic()
        with contextlib.suppress(OSError):
            connection.send(GREETING.pack(index, self._token, connected))
        self._loop.watch(connection, select.POLLIN, partial(self._heard, index, connection, connected))

    def _heard(self, index: int, connection: socket.socket, connected: float) -> None:
        self._loop.forget(connection)
        with contextlib.suppress(OSError):
            greeting = connection.recv(GREETING.size)
            if len(greeting) != GREETING.size:
                return
            number, token, other_connected = GREETING.unpack(greeting)
            if (number, token) == (1 - index, self._token) and not self.over:
                both = max(connected, other_connected)
                if both <= self._deadline:
                    self._direct = both
                self._end()


def dial_cells(cells: Sequence[Cell], repetitions: int = 1, seed: int = 0) -> list[Result]:
    """Run attempts in all cells in parallel, `repetitions` in each."""
    with contextlib.ExitStack() as stack:
        loop = Loop()
        meetings: list[list[Meeting]] = []
        for number, cell in enumerate(cells):
            topology = AB(
                nat_a=cell.a or "none",
                nat_b=cell.b or "none",
                delay=f"{cell.delay_ms}ms",
                edge_delay="0ms",
                loss=cell.loss or None,
            )
            lab = stack.enter_context(Lab(topology, seed=seed + number))
            meetings.append([Meeting(lab, cell, each, loop, stack) for each in range(repetitions)])
        everyone = [meeting for cell in meetings for meeting in cell]
        for meeting in everyone:
            meeting.register()
        end = time.monotonic() + PATIENCE_S
        loop.run(lambda: all(meeting.registered for meeting in everyone) or time.monotonic() > end)
        assert all(meeting.registered for meeting in everyone), "a host cannot reach the edge"
        for meeting in everyone:
            meeting.listen()
        start = time.monotonic() + 0.05
        # Shuffle, so that a temporary disturbance of this machine does not affect all attempts of one cell.
        for number, meeting in enumerate(random.sample(everyone, len(everyone))):
            meeting.start(start + number * STARTED_APART_S)
        loop.run(lambda: all(meeting.over for meeting in everyone))
        punctual = sorted(loop.late_s)[len(loop.late_s) * 9 // 10] < LATE_S
        return [
            Result(cell, [meeting.dialled for meeting in dialled], punctual)
            for cell, dialled in zip(cells, meetings, strict=True)
        ]
