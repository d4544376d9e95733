"""The interface of a strategy, and the data that it gets before and after the peer is known."""

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
class PunchContext:
    """The data and operations of one punch, after the two clients have received each other's contacts.

    `targets` are the candidates to connect to. `start_at` is an instant of `time.monotonic()` before which no connect
    may start (None: at once). `begin_key` starts the computation of the session key, which takes tens of milliseconds
    of CPU: a strategy that waits anyway calls it before, the others leave it to `connect_all`. `targets6` are the
    peer's IPv6 candidates. Strategies do not handle them: `dial_ipv6` runs in parallel, because IPv6 has no NAT and
    firewalls accept connections when both sides connect at once (RFC 6092 section 3.3). Packets to the peer that the
    puncher does not send need the permission of `admission`.
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
    targets6: Sequence[Candidate] = ()

    async def leave(self) -> None:
        """Leave the rendezvous; its FIN is sent before the first SYN."""
        await self.rendezvous.leave()
        self.report("rendezvous_closed")

    async def start(self) -> None:
        """Return when the first connect may start."""
        if self.start_at is not None:
            await sleep_until(self.start_at)

    def connect_all(self) -> None:
        """Connect to every target, and accept connections."""
        self.puncher.connect_all()
        self.begin_key()

    async def dial_ipv6(self) -> None:
        """Connect to the peer's IPv6 candidates, and accept IPv6 connections, from the start instant on."""
        if self.targets6:
            await self.start()
            self.puncher.dial_ipv6(self.targets6)
            self.begin_key()

    async def signal(self, data: bytes) -> None:
        """Send a signal to the peer through the edges: at most 64 times, not after `leave`. Raises `SignalError`."""
        self.begin_key()
        await self.signals.send(data)

    async def next_signal(self) -> bytes:
        """Return a signal of the peer, each once, in any order. Raises `SignalError` and `TamperedError`."""
        self.begin_key()
        return await self.signals.receive()


@dataclass(frozen=True)
class Preparation:
    """What a strategy knows before its client registers: the edge, and the `local` address to punch from.

    The strategy calls `outdate` when its traits are no longer correct: the client then prepares and registers again,
    unless the peer is already known. `stun` counts the uses of STUN servers that the edge supplies.
    """

    edge: EdgeUrl
    local: Endpoint
    report: Reporter
    outdate: Callable[[], None]
    stun: Servers


class Strategy(Protocol):
    """A way to connect to a known peer."""

    async def prepare(self, preparation: Preparation) -> str | None:  # noqa: ARG002 (the interface's name)
        """Return the traits, which the edge sends to the peer, as at most 512 printable ASCII characters.

        Called after the connection to the edge is made and before each registration, each time after `close`, because
        the network may have changed. If an edge changes the traits, the authentication of connections fails.
        """
        return None

    async def close(self) -> None:
        """Undo everything that `prepare` has set up. Called at the end, and before each `prepare`."""
        return

    async def punch(self, context: PunchContext) -> None:
        """Connect. Runs while connections are examined, and is cancelled when one is agreed on.

        The puncher continues after this returns. Raises `PunchFailedError` to give up before the deadline.
        """
