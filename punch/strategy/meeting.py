"""What a strategy is, and what it has in hand once the peer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.events import Reporter
from punchlab.punch.frames import Peer, Role, Welcome
from punchlab.punch.punching.admission import Admission
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.punching.puncher import Puncher, sleep_until
from punchlab.punch.punching.quota import Servers
from punchlab.punch.rendezvous.connection import Rendezvous
from punchlab.punch.rendezvous.signals import Signals


@dataclass(frozen=True, eq=False)
class Meeting:
    """Two clients that know each other and have not punched yet.

    `targets` are the peer's addresses to dial, `start_at` is an instant of `time.monotonic()` before which nothing may
    be dialled (None: at once), `begin_key` starts the computation of the session key, which takes tens of milliseconds
    of a CPU: a strategy that waits anyway calls it before, the others leave it to `fire`. `beside` are IPv6 addresses
    of the peer, to dial beside its IPv4 ones. They are no strategy's business: `dial_beside` runs beside every one of
    them, for there is no NAT on the way, and firewalls open when both dial at once (RFC 6092 section 3.3). What is sent
    to the peer other than by the puncher, `admission` has to allow.
    """

    role: Role
    own: Welcome
    peer: Peer
    targets: Sequence[Candidate]
    rendezvous: Rendezvous
    puncher: Puncher
    signals: Signals
    traits: str | None
    start_at: float | None
    begin_key: Callable[[], None]
    report: Reporter
    admission: Admission
    beside: Sequence[Candidate] = ()

    async def leave(self) -> None:
        """Leave the rendezvous: its FIN is out before the first SYN."""
        await self.rendezvous.leave()
        self.report("rendezvous_closed")

    async def start(self) -> None:
        """Return when it is time to dial."""
        if self.start_at is not None:
            await sleep_until(self.start_at)

    def fire(self) -> None:
        """Dial every target, and accept whoever dials us."""
        self.puncher.fire()
        self.begin_key()

    async def dial_beside(self) -> None:
        """Dial the peer's IPv6 addresses, and be reachable at our own, from the time to dial on."""
        if self.beside:
            await self.start()
            self.puncher.dial_beside(self.beside)
            self.begin_key()

    async def signal(self, data: bytes) -> None:
        """Say something to the peer by way of the edges: at most 64 times, not after `leave`. Raises `SignalError`."""
        self.begin_key()
        await self.signals.send(data)

    async def next_signal(self) -> bytes:
        """What the peer says: each signal once, in no certain order. Raises `SignalError` and `TamperedError`."""
        self.begin_key()
        return await self.signals.receive()


@dataclass(frozen=True)
class Preparation:
    """What a strategy knows before its client registers: the edge, and the `local` address to punch from.

    The strategy calls `outdate` when the traits are no longer correct: the client prepares and registers again, unless
    the peer is known by then. `stun` counts how often the STUN servers are used that the edge names.
    """

    edge: EdgeUrl
    local: Endpoint
    report: Reporter
    outdate: Callable[[], None]
    stun: Servers


class Strategy(Protocol):
    """One way to make a connection to a peer that is known."""

    async def prepare(self, preparation: Preparation) -> str | None:  # noqa: ARG002 (the interface's name)
        """Find out what the peer has to know, as at most 512 printable ASCII characters: the traits.

        Comes after the connection to the edge is made and before each registration, each time after `close`: the
        network may have changed. An edge that changes traits is
        found out when the connection is authenticated, and not before.
        """
        return None

    async def close(self) -> None:
        """Undo everything that outlives the punch or was prepared. Called at the end, and before each `prepare`."""
        return

    async def punch(self, meeting: Meeting) -> None:
        """Dial. Runs beside the examination of whatever connects, and is cancelled when a connection is agreed on.

        The puncher goes on after this returns. Raises `PunchFailedError` to give up before the deadline.
        """
