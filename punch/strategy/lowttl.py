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

The sender measures the time to live (`ttl_between_nats`), and the receiver does so if the sender finds none. If neither
finds one (the two NATs are adjacent, or no router answers), both connect as in `keep`. Host candidates are tried at
once.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import SignalError, TamperedError
from punchlab.punch.net.hops import MAX_HOPS, ttl_between_nats
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.context import PunchContext, Strategy

READY, OPEN, UNABLE = b"ready", b"open", b"unable"


class LowTtl(Strategy):
    """See the module docstring."""

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        context.begin_key()
        context.puncher.accept()
        await context.start()
        for target in context.targets:
            if target.kind == "host":
                context.puncher.dial(target)
        leads = context.role == "sender"
        try:
            # The sender opens a pinhole if it can; otherwise the receiver does.
            await (_open(context) if leads else _wait(context))
        except _UnableError:
            try:
                await (_wait(context) if leads else _open(context))
            except (_UnableError, SignalError, TamperedError) as error:
                context.report("strategy", name="keep", why=f"no SYN can expire before the peer's NAT: {error}")
        except (SignalError, TamperedError) as error:
            context.report("strategy", name="keep", why=str(error))
        context.connect_all()


class _UnableError(Exception):
    """The side whose turn it is cannot open a pinhole."""


async def _open(context: PunchContext) -> None:
    """Open a pinhole when the peer is ready, and send a signal. Never returns, because the connect continues."""
    public = context.peer.contact.public
    ttl = None
    if context.admission.datagrams(Candidate(public, "srflx"), MAX_HOPS):
        ttl = await ttl_between_nats(context.own.public.ip, public.ip)
    await _expect(context, READY)
    if ttl is None:
        await context.signal(UNABLE)
        raise _UnableError("no router on the path answers")
    for target in context.targets:
        if target.kind == "srflx":
            context.puncher.dial(target, ttl=ttl)
    await context.signal(OPEN)
    context.report("opened", ttl=ttl)
    await asyncio.get_running_loop().create_future()


async def _wait(context: PunchContext) -> None:
    """Wait until the peer's pinhole is open."""
    await context.signal(READY)
    await _expect(context, OPEN)


async def _expect(context: PunchContext, wanted: bytes) -> None:
    while (received := await context.next_signal()) != wanted:
        if received == UNABLE:
            raise _UnableError("the peer found no router either")
