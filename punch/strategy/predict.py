"""`predict`: a host behind a NAT with sequential ports sends its peer the possible external ports of its SYN.

This is for a host with destination-dependent mapping and sequential ports, and a peer whose endpoint is the registered
one. `punch.nat.port_prediction` has the theory, the sources and the probability of success. The host measures the delta
before the registration (`punch.strategy.allocation`). Then the host

1. queries its latest port by a SYN to the edge's STUN server, connects to the peer, and queries its port again, in
   three consecutive system calls: the port of its connect lies between the two ports, whatever other hosts do;
2. connects to the peer's other candidates only now, because each of them uses a port of the sequence as well;
3. sends the ports in between to the peer as a signal, and some that follow.

The peer connects as in `reuse`. When the signal arrives, it connects to all of the ports, from the address that the
host connects to, and its SYN finds the pinhole of the host's SYN. If its NAT dropped that SYN silently, nothing else is
needed. If its NAT answered by a RST, the host connects repeatedly, each time from the next port of the sequence. The
ports that follow are for that case, and the host regularly sends a fresh observation.

If both hosts have sequential ports, each queries its latest port, sends it as a signal, and then connects to the
other's next port. The two SYNs match unless another host gets a port in between on either side; in that case they try
again.

The peer connects only to ports at the IP address at which the edge saw the host, and to a limited number of them. Both
stay connected to the edge until they are done. If neither is predictable, the strategy is the same as `reuse`.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import SignalError, TamperedError
from punchlab.punch.nat.port_prediction import WINDOW, between, following
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.allocation import Allocation, AllocationProbe, measure
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy
from punchlab.punch.strategy.reuse import Reuse

AHEAD = 16
"""Number of following ports, for attempts after a RST."""

_MOST = 256  # maximum number of ports that a peer may supply
_ROUNDS = 8
_PAUSE_S = 1.0
_PATIENCE_S = 2.0


class Predict(Strategy):
    """See the module docstring."""

    def __init__(self) -> None:
        self._own = AllocationProbe()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        self._own = await measure(preparation.edge, preparation.stun)
        return self._own.allocation.encode()

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        own, peer = self._own.allocation, Allocation.parse(context.peer.contact.traits)
        with contextlib.suppress(SignalError, TamperedError):  # attempts that have started may still succeed
            if own.delta is not None and own.predictable and not peer.dependent:
                await _be_predicted(context, self._own, own.delta)
            elif peer.predictable and not own.dependent:
                await _predict(context)
            elif own.delta is not None and peer.delta is not None and own.predictable and peer.predictable:
                await _predict_each_other(context, self._own, own.delta, peer.delta)
            else:
                await Reuse().punch(context)


async def _be_predicted(context: PunchContext, probe: AllocationProbe, delta: int) -> None:
    before, after = probe.queries(context.rendezvous.local)
    with before, after:
        await context.start()
        before.start()
        _connect_to_srflx(context)
        after.start()
        _dial_others(context)
        context.begin_key()
        first, last = await asyncio.gather(before.external(_PATIENCE_S), after.external(_PATIENCE_S))
    if first is not None and last is not None:
        known = between(first.port, last.port, delta, WINDOW)
        if not known:  # the sequence has restarted at an unknown port
            known = (*following(first.port, delta, WINDOW // 2), *following(last.port, -delta, WINDOW // 2))
        ports = [*known, *following(last.port, delta, AHEAD)]
        context.report("ports_predicted", delta=delta, ports=list(known))
        await context.signal(_encode(ports))
    for _round in range(_ROUNDS):
        await asyncio.sleep(_PAUSE_S)
        latest = await _latest(context, probe)
        if latest is not None:
            await context.signal(_encode(following(latest, delta, AHEAD)))


async def _predict_each_other(context: PunchContext, probe: AllocationProbe, own_delta: int, peer_delta: int) -> None:
    ip = context.peer.contact.public.ip
    context.puncher.set_targets([])
    context.begin_key()
    await context.start()
    ports: dict[int, int] = {}
    for number in range(_ROUNDS):
        latest = await _latest(context, probe)
        await context.signal(_encode([number, latest or 0]))
        while number not in ports:
            match _decode(await context.next_signal()):
                case (peer_number, port):
                    ports[peer_number] = port
        theirs = following(ports[number], peer_delta, 1)
        if latest is not None and ports[number] and theirs:
            context.report("ports_predicted", delta=own_delta, ports=list(following(latest, own_delta, 1)))
            context.puncher.dial(Candidate(Endpoint(ip, theirs[0]), "predicted"), attempts=1)
        if number == 0:
            context.puncher.connect_all()
            _dial_others(context)
        await asyncio.sleep(_PAUSE_S)


def _connect_to_srflx(context: PunchContext) -> None:
    context.puncher.set_targets([each for each in context.targets if each.kind == "srflx"])
    context.puncher.connect_all()


def _dial_others(context: PunchContext) -> None:
    """Connect to the peer's other candidates; each uses a port of the sequence."""
    for each in context.targets:
        if each.kind != "srflx":
            context.puncher.dial(each)


async def _latest(context: PunchContext, probe: AllocationProbe) -> int | None:
    """Return the external port of a new mapping; None if the edge does not answer."""
    query, other = probe.queries(context.rendezvous.local)
    with query, other:
        query.start()
        seen = await query.external(_PATIENCE_S)
    return None if seen is None else seen.port


async def _predict(context: PunchContext) -> None:
    await context.start()
    context.connect_all()
    ip = context.peer.contact.public.ip
    dialled = {each.address for each in context.targets}
    while True:
        for port in _decode(await context.next_signal()):
            address = Endpoint(ip, port)
            if port and address not in dialled and len(dialled) < _MOST:
                dialled.add(address)
                context.puncher.dial(Candidate(address, "predicted"))


def _encode(ports: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(ports)}H", *ports)


def _decode(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])
