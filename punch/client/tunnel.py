"""From two clients of one session to one tried tunnel between them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from punchlab.punch.client import neighbors
from punchlab.punch.client.liveness import notice_a_dead_path
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TunnelBrokenError
from punchlab.punch.events import Reporter
from punchlab.punch.fields import Json
from punchlab.punch.frames import Contact, Peer, Register, Role, SessionId, Welcome
from punchlab.punch.net.reach import Reach
from punchlab.punch.net.sockets import mend_round_trip
from punchlab.punch.punching.admission import Admission
from punchlab.punch.punching.agreement import Agreement
from punchlab.punch.punching.candidates import beside, candidates, of_one_lan
from punchlab.punch.punching.named import Named
from punchlab.punch.punching.puncher import Connection, Puncher
from punchlab.punch.punching.quota import Quota
from punchlab.punch.reflexive import Seen
from punchlab.punch.rendezvous.reconnecting import ReconnectingRendezvous
from punchlab.punch.rendezvous.reflexive import Sighting
from punchlab.punch.rendezvous.signals import Signals
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.secure.guesses import Exposure
from punchlab.punch.secure.keys import NAME_S, Introduced, KeyExchange
from punchlab.punch.strategy.meeting import Meeting, Preparation, Strategy

NONCE_BYTES = 32
RELAYABLE = ("punch_timeout", "refused", "hopeless")
"""Outcomes of a punch that a relay can mend."""
ECHO_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TunnelOptions:
    """How to meet and how to punch. Instants are of `time.monotonic()`, spans in seconds.

    `other_edges` are for when `edge` cannot be reached, or is lost before the peer is known. With `relay` an edge may
    relay if nothing else helps, and if the peer allows it as well. `quota` is of the session: a client that meets
    again under the same code or key takes the same.
    """

    edge: EdgeUrl
    strategy: Strategy
    report: Reporter
    bind: Endpoint | None = None
    deadline_s: float = 10.0
    max_attempts: int | None = None
    start_at: float | None = None
    wait_s: float = 600.0
    resume_for_s: float = 120.0
    bar: bool = False
    other_edges: tuple[EdgeUrl, ...] = ()
    relay: bool = False
    quota: Quota = field(default_factory=Quota)


@contextlib.asynccontextmanager
async def open_tunnel(options: TunnelOptions, exchange: KeyExchange, role: Role) -> AsyncIterator[Channel]:
    """A tried tunnel to the peer. Raises `PunchFailedError` and `ArgumentError`."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(exchange.guesses.warning())  # of what fails in the tunnel, too
        stack.push_async_callback(options.strategy.close)
        edges = (options.edge, *options.other_edges)
        rendezvous = await ReconnectingRendezvous.connect_any(edges, options.bind, options.report)
        stack.push_async_callback(rendezvous.close)
        exposure = Exposure(exchange.guesses)
        agreement = Agreement(role, exposure)
        puncher = Puncher(rendezvous.local, options.max_attempts, agreement.examine, options.report)
        sighting = Sighting(rendezvous, options.bind, options.quota.ipv6)
        stack.push_async_callback(sighting.close)
        try:
            traits = await _learn(options, rendezvous)
            rendezvous.learn = functools.partial(_learn, options, rendezvous)
            seen = await sighting.seen()
            if seen is not None and sighting.local is not None:
                puncher.listen_beside(sighting.local)
                rendezvous.local6, rendezvous.servers6 = sighting.local, options.quota.ipv6
            welcome, peer = await _meet(options, exchange, role, rendezvous, traits, seen)
            known = time.monotonic()
            own, other = (exchange.message, rendezvous.traits), (peer.contact.pake, peer.contact.traits)
            introduced = Introduced.of(exchange.session, role, own, other)
            key = functools.partial(_key, exchange, introduced, peer.contact)
            begin = functools.partial(agreement.begin, introduced, key)
            signals = Signals(rendezvous, role, agreement.session_key, exposure)
            stack.push_async_callback(signals.close)
            meeting = _aim(options, role, rendezvous, welcome, peer, puncher, signals, begin, known)
            if neighbors.concerned(rendezvous.local, welcome.public, peer.contact):
                meeting = await _ask_neighbor(meeting, exchange)
            agreement.prefer(of_one_lan(meeting.targets, peer.contact, welcome.public))
            try:
                connection, channel, through = await _connect(options, meeting, agreement, introduced, stack)
            except PunchFailedError:
                if exchange.guesses.spent:
                    raise PunchFailedError("wrong_peer", str(exchange.guesses.error())) from None
                raise
            stack.callback(channel.close)
            if not through:
                options.quota.prove(connection.remote.ip)
            options.report("agreed", local=str(connection.local), remote=str(connection.remote), **through)
        finally:
            await puncher.close()
        await rendezvous.leave()
        if not through:
            notice_a_dead_path(connection.sock)
        round_trip_s = await _echo_nonces(channel)
        options.report("nonce_echoed", round_trip_s=round_trip_s)
        if not through:
            mend_round_trip(connection.sock, round_trip_s)
        yield channel


async def _connect(
    options: TunnelOptions,
    meeting: Meeting,
    agreement: Agreement,
    introduced: Introduced,
    stack: contextlib.AsyncExitStack,
) -> tuple[Connection, Channel, Json]:
    """A connection that both agree on, and the relay that it goes through, if any. Raises `PunchFailedError`."""
    try:
        return *await _punch(options, meeting, agreement), {}
    except PunchFailedError as error:
        url, ticket = _relay(options, meeting, error)
        await meeting.puncher.close()  # nothing that comes too late may be agreed on any more
        options.report("relaying", relay=str(url), reason=error.reason)
        token = introduced.relay_token
        through = await _through_relay(url, ticket, token, meeting, agreement, stack, options.quota)
        return *through, {"relay": str(url)}


async def _learn(options: TunnelOptions, rendezvous: ReconnectingRendezvous) -> str | None:
    """The traits of the network as it is now; what was learned before is given up."""
    await options.strategy.close()
    prepare = options.strategy.prepare
    stun = options.quota.stun
    return await prepare(Preparation(rendezvous.url, rendezvous.local, options.report, rendezvous.outdate, stun))


def _rename(exchange: KeyExchange) -> tuple[SessionId, float | None]:
    """The name of the session now, and for how long."""
    serves_s = exchange.rename()
    return exchange.session, serves_s


def _key(exchange: KeyExchange, introduced: Introduced, peer: Contact) -> bytes:
    """The key that only clients have who have been told the same. Raises `WrongPeerError`."""
    return introduced.bound(exchange.finish(peer.pake))


async def _meet(
    options: TunnelOptions,
    exchange: KeyExchange,
    role: Role,
    rendezvous: ReconnectingRendezvous,
    traits: str | None,
    seen: Seen | None,
) -> tuple[Welcome, Peer]:
    """Register, and wait until the edge knows the peer."""
    local = rendezvous.local
    register = Register(exchange.session, role, (local,), exchange.message, traits)
    rendezvous.rename = functools.partial(_rename, exchange)
    if exchange.rename() is not None:
        rendezvous.hint = f" (the clocks of both sides must agree within {NAME_S / 60:g} minutes)"
    also = {}
    if seen is not None:
        register = replace(register, public6=seen.public, proof6=seen.proof)
        also["public6"] = str(seen.public)
    welcome = await rendezvous.register(register)
    public, session = str(welcome.public), exchange.session
    options.report("registered", local=str(local), public=public, edge=welcome.edge, session=session, **also)
    if role == "sender" and exchange.code is not None:
        options.report("code", code=str(exchange.code), session=session)
    peer = await rendezvous.peer(options.wait_s)
    return rendezvous.welcome, peer


def _aim(
    options: TunnelOptions,
    role: Role,
    rendezvous: ReconnectingRendezvous,
    welcome: Welcome,
    peer: Peer,
    puncher: Puncher,
    signals: Signals,
    begin_key: Callable[[], None],
    known: float,
) -> Meeting:
    """Everything between the knowledge of the peer and the strategy's turn: little."""
    own = [each for each in (rendezvous.local, rendezvous.local6) if each is not None]
    reaches = [Reach.of(each, rendezvous.edge_ip) for each in own]
    admission = Admission(options.quota, reaches, options.report)
    puncher.admit = admission.connects
    targets = admission.allowed(candidates(peer.contact, rendezvous.local, welcome.public))
    puncher.aim(targets)
    targets6 = admission.allowed(beside(peer.contact, rendezvous.local6))
    shown = [{"address": str(each.address), "kind": each.kind} for each in (*targets, *targets6)]
    options.report("peer_known", t=known, candidates=shown, via=peer.via)
    return Meeting(
        role=role,
        own=welcome,
        peer=peer,
        targets=targets,
        rendezvous=rendezvous,
        puncher=puncher,
        signals=signals,
        traits=rendezvous.traits,
        start_at=options.start_at,
        begin_key=begin_key,
        report=options.report,
        beside=targets6,
        admission=admission,
    )


async def _ask_neighbor(meeting: Meeting, exchange: KeyExchange) -> Meeting:
    """The same, with the address that the peer itself names, if it is one that nobody else may name."""
    local = meeting.rendezvous.local
    named = await neighbors.named_by_peer(local, exchange.session, meeting.signals, meeting.begin_key)
    if named is None or named in meeting.targets or named.address.family != local.family:
        return meeting
    meeting.admission.confirm(named.address)
    targets = [named, *meeting.targets]
    meeting.puncher.aim(targets)
    return replace(meeting, targets=targets)


async def _punch(options: TunnelOptions, meeting: Meeting, agreement: Agreement) -> tuple[Connection, Channel]:
    """Let the strategy dial until both sides agree on one connection. Raises `PunchFailedError`."""
    deadline = time.monotonic() + options.deadline_s
    if options.start_at is not None:
        deadline = max(deadline, options.start_at + options.deadline_s)
    dialling = asyncio.create_task(options.strategy.punch(meeting))
    dialling6 = asyncio.create_task(meeting.dial_beside())
    ends: set[asyncio.Future[Any]] = {agreement.chosen, meeting.puncher.broken, agreement.exposure.over}
    given_up: PunchFailedError | None = None
    try:
        await asyncio.wait({*ends, dialling}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if dialling.done() and not any(each.done() for each in ends):
            dialling.result()
            await asyncio.wait(ends, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
    except PunchFailedError as error:
        given_up = error
    except OSError as error:  # no socket is to be had
        given_up = PunchFailedError("client_error", f"cannot punch: {error}")
    finally:
        for task in (dialling, dialling6):
            task.cancel()
        await asyncio.gather(dialling, dialling6, return_exceptions=True)
    await agreement.settled()
    return _outcome(options.deadline_s, agreement, meeting.puncher, given_up)


def _outcome(
    deadline_s: float, agreement: Agreement, puncher: Puncher, given_up: PunchFailedError | None
) -> tuple[Connection, Channel]:
    """The one connection that both sides agree on. Raises `PunchFailedError`."""
    if agreement.chosen.done():
        connection, channel = agreement.chosen.result()
        puncher.release(connection)
        return connection, channel
    _refuse_wrong_peers(agreement)
    if given_up is not None:
        raise given_up
    if puncher.broken.done():
        raise PunchFailedError("client_error", f"cannot punch: {puncher.broken.exception()}")
    outcome, told = puncher.failure()
    raise PunchFailedError(outcome, f"no connection within {deadline_s:g} s: {told}")


def _refuse_wrong_peers(agreement: Agreement) -> None:
    """Raises `PunchFailedError` if somebody was there who is not the peer."""
    if agreement.wrong_peers:
        told = "; ".join(f"{remote}: {why}" for remote, why in agreement.wrong_peers.items())
        raise PunchFailedError("wrong_peer", told)


def _relay(options: TunnelOptions, meeting: Meeting, error: PunchFailedError) -> tuple[EdgeUrl, str]:
    """The relay that both clients find for themselves, and its ticket: that of the sender's edge, or the receiver's.

    Raises `error` where there is none, or none is wanted or would help.
    """
    offers: list[Welcome | Contact] = [meeting.own, meeting.peer.contact]
    if meeting.role == "receiver":
        offers.reverse()
    found = next(((each.relay, each.ticket) for each in offers if each.relay and each.ticket), None)
    if not options.relay or error.outcome not in RELAYABLE:
        raise error
    if found is None:
        raise PunchFailedError(error.outcome, f"{error.reason}; and no edge here relays") from None
    return found


async def _through_relay(
    url: EdgeUrl,
    ticket: str,
    token: str,
    meeting: Meeting,
    agreement: Agreement,
    stack: contextlib.AsyncExitStack,
    quota: Quota,
) -> tuple[Connection, Channel]:
    """The tunnel by way of an edge. Raises `PunchFailedError`."""
    from punchlab.punch.client.relayed import relayed

    meeting.begin_key()
    named = Named(Reach.of(meeting.rendezvous.local, meeting.rendezvous.edge_ip), quota.relays)
    connection = await stack.enter_async_context(relayed(url, token, ticket, named))
    on_this = agreement.afresh()  # whatever has become of a punched connection, it is not the relayed one
    verdict = await on_this.examine(connection)
    if not on_this.chosen.done():
        _refuse_wrong_peers(on_this)
        lost = "was lost at once" if verdict == "lost" else "does not lead to the peer"
        raise PunchFailedError("client_error", f"the tunnel through the relay {lost}")
    return on_this.chosen.result()


async def _echo_nonces(channel: Channel) -> float:
    """Send a fresh nonce through the tunnel and echo the peer's; the seconds until ours was back.

    Raises `PunchFailedError`.
    """
    nonce = os.urandom(NONCE_BYTES)
    start = time.monotonic()
    try:
        async with asyncio.timeout(ECHO_TIMEOUT_S):
            await channel.send(Kind.NONCE, nonce)
            await channel.send(Kind.ECHO, await channel.expect(Kind.NONCE))
            echo = await channel.expect(Kind.ECHO)
    except TimeoutError:
        raise PunchFailedError("client_error", f"the tunnel echoed nothing within {ECHO_TIMEOUT_S:g} s") from None
    except ConnectionLostError as error:
        # It may even have died while it was agreed on, so that each end counts on another one.
        raise TunnelBrokenError(f"the tunnel broke at once: {error}") from None
    except ChannelError as error:
        raise PunchFailedError("client_error", f"the tunnel cannot be used: {error}") from None
    if echo != nonce:
        raise PunchFailedError("client_error", "the tunnel echoed something else than the nonce")
    return round(time.monotonic() - start, 6)
