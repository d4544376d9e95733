"""`predict`: a host behind a NAT that allocates ports in sequence tells its peer which port its SYN got.

For one host whose mapping depends on the destination but whose ports follow one another, and a peer whose endpoint is
the registered one. The theory, the sources and the probability of success are in `punch.nat.port_prediction`; the delta
is learned before the registration (`punch.strategy.allocation`). Then the host that is predicted

1. looks at its latest port by a SYN to the edge's STUN server, dials the peer, and looks again, in three system calls
   one after the other: whatever others do, the port of its dial lies between those of its looks;
2. dials the peer's other addresses only now, for each of them takes a port of the sequence as well;
3. signals the ports in between to the peer, and some that follow.

The peer dials as in `reuse`, and when the signal comes every port of it, from the one address that the other dials: its
SYN finds the door that the first one opened. Where that was dropped nothing else is needed. Where it was answered by a
RST the host dials again and again, each time from the next port of the sequence: those that follow are for that, and a
fresh look is signalled now and then.

Where both hosts are predicted, each looks at its latest port and signals it, and then dials the other's next one: two
SYNs that fit each other, if nobody else takes a port meanwhile on either side. If so, they try again.

The peer dials only ports at the IP address at which the edge saw the host, and a bounded number of them. Both stay at
the edge until they are done. Where neither is predictable this is `reuse`.
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
from punchlab.punch.strategy.allocation import Allocation, Sight, measure
from punchlab.punch.strategy.meeting import Meeting, Preparation, Strategy
from punchlab.punch.strategy.reuse import Reuse

AHEAD = 16
"""Ports that follow, for dials after a RST."""

_MOST = 256  # ports that a peer may have us dial
_ROUNDS = 8
_PAUSE_S = 1.0
_PATIENCE_S = 2.0


class Predict(Strategy):
    """See the top of this module."""

    def __init__(self) -> None:
        self._own = Sight()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        self._own = await measure(preparation.edge, preparation.stun)
        return self._own.allocation.encode()

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        own, peer = self._own.allocation, Allocation.parse(meeting.peer.contact.traits)
        with contextlib.suppress(SignalError, TamperedError):  # what is dialled already may still succeed
            if own.delta is not None and own.predictable and not peer.dependent:
                await _be_predicted(meeting, self._own, own.delta)
            elif peer.predictable and not own.dependent:
                await _predict(meeting)
            elif own.delta is not None and peer.delta is not None and own.predictable and peer.predictable:
                await _predict_each_other(meeting, self._own, own.delta, peer.delta)
            else:
                await Reuse().punch(meeting)


async def _be_predicted(meeting: Meeting, sight: Sight, delta: int) -> None:
    before, after = sight.looks(meeting.rendezvous.local)
    with before, after:
        await meeting.start()
        before.start()
        _fire_at_public(meeting)
        after.start()
        _dial_private(meeting)
        meeting.begin_key()
        first, last = await asyncio.gather(before.external(_PATIENCE_S), after.external(_PATIENCE_S))
    if first is not None and last is not None:
        known = between(first.port, last.port, delta, WINDOW)
        if not known:  # the sequence has started anew, at a port that is not known
            known = (*following(first.port, delta, WINDOW // 2), *following(last.port, -delta, WINDOW // 2))
        ports = [*known, *following(last.port, delta, AHEAD)]
        meeting.report("ports_foretold", delta=delta, ports=list(known))
        await meeting.signal(_encode(ports))
    for _round in range(_ROUNDS):
        await asyncio.sleep(_PAUSE_S)
        latest = await _latest(meeting, sight)
        if latest is not None:
            await meeting.signal(_encode(following(latest, delta, AHEAD)))


async def _predict_each_other(meeting: Meeting, sight: Sight, own_delta: int, peer_delta: int) -> None:
    ip = meeting.peer.contact.public.ip
    meeting.puncher.aim([])
    meeting.begin_key()
    await meeting.start()
    told: dict[int, int] = {}
    for number in range(_ROUNDS):
        latest = await _latest(meeting, sight)
        await meeting.signal(_encode([number, latest or 0]))
        while number not in told:
            match _decode(await meeting.next_signal()):
                case (peer_number, port):
                    told[peer_number] = port
        theirs = following(told[number], peer_delta, 1)
        if latest is not None and told[number] and theirs:
            meeting.report("ports_foretold", delta=own_delta, ports=list(following(latest, own_delta, 1)))
            meeting.puncher.dial(Candidate(Endpoint(ip, theirs[0]), "predicted"), attempts=1)
        if number == 0:
            meeting.puncher.fire()
            _dial_private(meeting)
        await asyncio.sleep(_PAUSE_S)


def _fire_at_public(meeting: Meeting) -> None:
    meeting.puncher.aim([each for each in meeting.targets if each.kind == "public"])
    meeting.puncher.fire()


def _dial_private(meeting: Meeting) -> None:
    """Dial the peer's other addresses: each takes a port of the sequence."""
    for each in meeting.targets:
        if each.kind != "public":
            meeting.puncher.dial(each)


async def _latest(meeting: Meeting, sight: Sight) -> int | None:
    """The external port of a mapping that is made now; None if the edge does not tell."""
    look, other = sight.looks(meeting.rendezvous.local)
    with look, other:
        look.start()
        seen = await look.external(_PATIENCE_S)
    return None if seen is None else seen.port


async def _predict(meeting: Meeting) -> None:
    await meeting.start()
    meeting.fire()
    ip = meeting.peer.contact.public.ip
    dialled = {each.address for each in meeting.targets}
    while True:
        for port in _decode(await meeting.next_signal()):
            address = Endpoint(ip, port)
            if port and address not in dialled and len(dialled) < _MOST:
                dialled.add(address)
                meeting.puncher.dial(Candidate(address, "predicted"))


def _encode(ports: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(ports)}H", *ports)


def _decode(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2])
