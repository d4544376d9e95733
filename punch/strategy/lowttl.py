"""`lowttl`: one side opens its NAT with a SYN that dies on the way; then the other dials.

Where NATs answer a SYN that comes too early by RST, that RST shuts the door which the SYN has opened. So the first SYN
must not arrive: its time to live ends between the two NATs, and no NAT gets to refuse it (Guha and Francis,
"Characterization and Measurement of TCP Traversal through NATs and Firewalls", IMC 2005, STUNT #1 and #2; first in
Eppinger, "TCP Connections for P2P Apps", CMU-ISRI-05-104). In STUNT #2 the opener then gives up its SYN and listens.
A NAT that keeps track of sequence numbers, as Linux's does, drops the SYN-ACK of that listener: it belongs to no SYN
that the NAT has seen leave. So here the opener keeps its attempt, and the other's SYN meets it as in a simultaneous
open; the router's ICMP error about the end of the SYN would fail the connect, and is ignored (`low_ttl_syn`).

One door is enough: the other side's opens as it dials. Where the mapping of both is endpoint-independent this needs no
timing at all, and works at any skew and without any delay between the NATs.

The time to live is measured (`mortal_ttl`), by the sender, and if that finds none by the receiver. If neither finds one
(the two NATs are neighbors, or no router answers), both dial as `keep` does. Private candidates are dialled at once.
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
            # The leader opens, if it can; otherwise the other does.
            await (_open(meeting) if leads else _wait(meeting))
        except _UnableError:
            try:
                await (_wait(meeting) if leads else _open(meeting))
            except (_UnableError, SignalError, TamperedError) as error:
                meeting.report("strategy", name="keep", why=f"no SYN can be made to end on the way: {error}")
        except (SignalError, TamperedError) as error:
            meeting.report("strategy", name="keep", why=str(error))
        meeting.fire()


class _UnableError(Exception):
    """Who was to open the door cannot."""


async def _open(meeting: Meeting) -> None:
    """Open our NAT once the peer is ready, and say so. Never returns, for our part is done."""
    public = meeting.peer.contact.public
    ttl = None
    if meeting.admission.datagrams(Candidate(public, "public"), MAX_HOPS):
        ttl = await mortal_ttl(meeting.own.public.ip, public.ip)
    await _hear(meeting, READY)
    if ttl is None:
        await meeting.signal(UNABLE)
        raise _UnableError("no router on the way answers")
    for target in meeting.targets:
        if target.kind == "public":
            meeting.puncher.dial(target, ttl=ttl)
    await meeting.signal(OPEN)
    meeting.report("opened", ttl=ttl)
    await asyncio.get_running_loop().create_future()


async def _wait(meeting: Meeting) -> None:
    """Wait until the peer's door is open."""
    await meeting.signal(READY)
    await _hear(meeting, OPEN)


async def _hear(meeting: Meeting, wanted: bytes) -> None:
    while (said := await meeting.next_signal()) != wanted:
        if said == UNABLE:
            raise _UnableError("the peer found no router either")
