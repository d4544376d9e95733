"""`lowttl`: one side opens a pinhole with a SYN that expires before it reaches the peer's NAT; then the other connects.

If a NAT answers an early SYN by a RST, that RST closes the pinhole that the SYN has opened. So the first SYN must not
arrive: its time to live ends between the two NATs, and no NAT can reject it (Guha and Francis, "Characterization and
Measurement of TCP Traversal through NATs and Firewalls", IMC 2005, STUNT #1 and #2; first in Eppinger, "TCP Connections
for P2P Apps", CMU-ISRI-05-104). In STUNT #2 the opener then abandons its SYN and listens. A NAT that tracks sequence
numbers, as Linux does, drops the SYN-ACK of that listener, because it answers none of the NAT's outbound SYNs. So here
the opener keeps its attempt, and the other's SYN reaches it as in a simultaneous open. ICMP Time Exceeded would fail
the connect, and is ignored (`low_ttl_syn`).

One pinhole suffices, because the other side opens its own when it connects. If both mappings are endpoint-independent,
this works with any timing, and without any delay between the NATs.

The sender measures the time to live (`mortal_ttl`), and the receiver does so if the sender finds none. If neither finds
one (the two NATs are adjacent, or no router answers), both connect as in `keep`. Host candidates are tried at once.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import SignalError, TamperedError
from punchlab.punch.net.hops import MAX_HOPS, mortal_ttl
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.meeting import Meeting, Strategy

READY, OPEN, UNABLE = b"ready", b"open", b"unable"


class LowTtl(Strategy):
    """See the top of this module."""

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        meeting.begin_key()
        meeting.puncher.accept()
        await meeting.start()
        for target in meeting.targets:
            if target.kind == "private":
                meeting.puncher.dial(target)
        leads = meeting.role == "sender"
        try:
            # The sender opens a pinhole if it can; otherwise the receiver does.
            await (_open(meeting) if leads else _wait(meeting))
        except _UnableError:
            try:
                await (_wait(meeting) if leads else _open(meeting))
            except (_UnableError, SignalError, TamperedError) as error:
                meeting.report("strategy", name="keep", why=f"no SYN can expire before the peer's NAT: {error}")
        except (SignalError, TamperedError) as error:
            meeting.report("strategy", name="keep", why=str(error))
        meeting.fire()


class _UnableError(Exception):
    """The side whose turn it is cannot open a pinhole."""


async def _open(meeting: Meeting) -> None:
    """Open a pinhole when the peer is ready, and send a signal. Never returns, because the connect continues."""
    public = meeting.peer.contact.public
    ttl = None
    if meeting.admission.datagrams(Candidate(public, "public"), MAX_HOPS):
        ttl = await mortal_ttl(meeting.own.public.ip, public.ip)
    await _expect(meeting, READY)
    if ttl is None:
        await meeting.signal(UNABLE)
        raise _UnableError("no router on the path answers")
    for target in meeting.targets:
        if target.kind == "public":
            meeting.puncher.dial(target, ttl=ttl)
    await meeting.signal(OPEN)
    meeting.report("opened", ttl=ttl)
    await asyncio.get_running_loop().create_future()


async def _wait(meeting: Meeting) -> None:
    """Wait until the peer's pinhole is open."""
    await meeting.signal(READY)
    await _expect(meeting, OPEN)


async def _expect(meeting: Meeting, wanted: bytes) -> None:
    while (received := await meeting.next_signal()) != wanted:
        if received == UNABLE:
            raise _UnableError("the peer found no router either")
