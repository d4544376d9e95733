"""Opens a tunnel between the two clients of a session and verifies that it works."""

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
from punchlab.punch.client.liveness import detect_dead_path_soon
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TunnelBrokenError
from punchlab.punch.events import Reporter
from punchlab.punch.fields import Json
from punchlab.punch.frames import Contact, Peer, Register, Role, SessionId, Welcome
from punchlab.punch.net.reach import Reach
from punchlab.punch.net.sockets import correct_round_trip
from punchlab.punch.punching.admission import Admission
from punchlab.punch.punching.agreement import Agreement
from punchlab.punch.punching.candidates import candidates, ipv6_candidates, lan_addresses
from punchlab.punch.punching.puncher import Connection, Puncher
from punchlab.punch.punching.quota import Quota
from punchlab.punch.punching.supplied_servers import SuppliedServers
from punchlab.punch.reflexive import Seen
from punchlab.punch.rendezvous.reconnecting import ReconnectingRendezvous
from punchlab.punch.rendezvous.reflexive import ReflexiveAddressDiscovery
from punchlab.punch.rendezvous.signals import Signals
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.secure.guesses import Exposure
from punchlab.punch.secure.keys import NAME_S, ContactTranscript, KeyExchange
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy

NONCE_BYTES = 32
RELAYABLE = ("punch_timeout", "refused", "hopeless")
"""Outcomes of a punch after which a relay is tried."""
ECHO_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TunnelOptions:
    """How to reach the peer and how to punch. Instants are of `time.monotonic()`, durations in seconds.

    The client uses `other_edges` if it cannot reach `edge`, or loses it before the peer is known. `relay` allows a
    relay as last resort, if the peer allows it as well. `quota` belongs to the session: a client that connects again
    with the same code or key passes the same object.
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
    """Open a tunnel to the peer and verify it with an echo. Raises `PunchFailedError` and `ArgumentError`."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(exchange.guesses.warning())  # covers failures in the tunnel as well
        stack.push_async_callback(options.strategy.close)
        edges = (options.edge, *options.other_edges)
        rendezvous = await ReconnectingRendezvous.connect_any(edges, options.bind, options.report)
        stack.push_async_callback(rendezvous.close)
        exposure = Exposure(exchange.guesses)
        agreement = Agreement(role, exposure)
        puncher = Puncher(rendezvous.local, options.max_attempts, agreement.examine, options.report)
        discovery = ReflexiveAddressDiscovery(rendezvous, options.bind, options.quota.ipv6)
        stack.push_async_callback(discovery.close)
        try:
            traits = await _measure(options, rendezvous)
            rendezvous.measure = functools.partial(_measure, options, rendezvous)
            seen = await discovery.result()
            if seen is not None and discovery.local is not None:
                puncher.listen_ipv6(discovery.local)
                rendezvous.local6, rendezvous.servers6 = discovery.local, options.quota.ipv6
            welcome, peer = await _register(options, exchange, role, rendezvous, traits, seen)
            known = time.monotonic()
            own, other = (exchange.message, rendezvous.traits), (peer.contact.pake, peer.contact.traits)
            transcript = ContactTranscript.of(exchange.session, role, own, other)
            key = functools.partial(_key, exchange, transcript, peer.contact)
            begin = functools.partial(agreement.begin, transcript, key)
            signals = Signals(rendezvous, role, agreement.session_key, exposure)
            stack.push_async_callback(signals.close)
            context = _prepare_punch(options, role, rendezvous, welcome, peer, puncher, signals, begin, known)
            if neighbors.needs_exchange(rendezvous.local, welcome.public, peer.contact):
                context = await _add_neighbor(context, exchange)
            agreement.prefer(lan_addresses(context.targets, peer.contact, welcome.public))
            try:
                connection, channel, through = await _connect(options, context, agreement, transcript, stack)
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
            detect_dead_path_soon(connection.sock)
        round_trip_s = await _echo_nonces(channel)
        options.report("nonce_echoed", round_trip_s=round_trip_s)
        if not through:
            correct_round_trip(connection.sock, round_trip_s)
        yield channel


async def _connect(
    options: TunnelOptions,
    context: PunchContext,
    agreement: Agreement,
    transcript: ContactTranscript,
    stack: contextlib.AsyncExitStack,
) -> tuple[Connection, Channel, Json]:
    """Return the agreed connection, its channel, and the relay that it uses, if any. Raises `PunchFailedError`."""
    try:
        return *await _punch(options, context, agreement), {}
    except PunchFailedError as error:
        url, ticket = _relay(options, context, error)
        await context.puncher.close()  # so that no late connection is agreed on
        options.report("relaying", relay=str(url), reason=error.reason)
        token = transcript.relay_token
        through = await _through_relay(url, ticket, token, context, agreement, stack, options.quota)
        return *through, {"relay": str(url)}


async def _measure(options: TunnelOptions, rendezvous: ReconnectingRendezvous) -> str | None:
    """Discard earlier measurements and return the traits of the network as it is now."""
    await options.strategy.close()
    prepare = options.strategy.prepare
    stun = options.quota.stun
    return await prepare(Preparation(rendezvous.url, rendezvous.local, options.report, rendezvous.outdate, stun))


def _rename(exchange: KeyExchange) -> tuple[SessionId, float | None]:
    """Return the current name of the session and how many seconds it is valid (None: forever)."""
    serves_s = exchange.rename()
    return exchange.session, serves_s


def _key(exchange: KeyExchange, transcript: ContactTranscript, peer: Contact) -> bytes:
    """Return the key that only clients with the same view of each other have. Raises `WrongPeerError`."""
    return transcript.bound(exchange.finish(peer.pake))


async def _register(
    options: TunnelOptions,
    exchange: KeyExchange,
    role: Role,
    rendezvous: ReconnectingRendezvous,
    traits: str | None,
    seen: Seen | None,
) -> tuple[Welcome, Peer]:
    """Register, and wait until the edge sends the peer's contact."""
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


def _prepare_punch(
    options: TunnelOptions,
    role: Role,
    rendezvous: ReconnectingRendezvous,
    welcome: Welcome,
    peer: Peer,
    puncher: Puncher,
    signals: Signals,
    begin_key: Callable[[], None],
    known: float,
) -> PunchContext:
    """Prepare the punch; this runs between receiving the peer's contact and starting the strategy."""
    own = [each for each in (rendezvous.local, rendezvous.local6) if each is not None]
    reaches = [Reach.of(each, rendezvous.edge_ip) for each in own]
    admission = Admission(options.quota, reaches, options.report)
    puncher.admit = admission.connects
    targets = admission.allowed(candidates(peer.contact, rendezvous.local, welcome.public))
    puncher.set_targets(targets)
    targets6 = admission.allowed(ipv6_candidates(peer.contact, rendezvous.local6))
    shown = [{"address": str(each.address), "kind": each.kind} for each in (*targets, *targets6)]
    options.report("peer_known", t=known, candidates=shown, via=peer.via)
    return PunchContext(
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
        targets6=targets6,
        admission=admission,
    )


async def _add_neighbor(context: PunchContext, exchange: KeyExchange) -> PunchContext:
    """Add the host candidate that the peer itself sends, if only the peer may supply it."""
    local = context.rendezvous.local
    named = await neighbors.exchange_addresses(local, exchange.session, context.signals, context.begin_key)
    if named is None or named in context.targets or named.address.family != local.family:
        return context
    context.admission.confirm(named.address)
    targets = [named, *context.targets]
    context.puncher.set_targets(targets)
    return replace(context, targets=targets)


async def _punch(options: TunnelOptions, context: PunchContext, agreement: Agreement) -> tuple[Connection, Channel]:
    """Run the strategy until both sides agree on one connection. Raises `PunchFailedError`."""
    deadline = time.monotonic() + options.deadline_s
    if options.start_at is not None:
        deadline = max(deadline, options.start_at + options.deadline_s)
    dialling = asyncio.create_task(options.strategy.punch(context))
    dialling6 = asyncio.create_task(context.dial_ipv6())
    ends: set[asyncio.Future[Any]] = {agreement.chosen, context.puncher.broken, agreement.exposure.over}
    given_up: PunchFailedError | None = None
    try:
        await asyncio.wait({*ends, dialling}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if dialling.done() and not any(each.done() for each in ends):
            dialling.result()
            await asyncio.wait(ends, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
    except PunchFailedError as error:
        given_up = error
    except OSError as error:  # no socket is available
        given_up = PunchFailedError("client_error", f"cannot punch: {error}")
    finally:
        for task in (dialling, dialling6):
            task.cancel()
        await asyncio.gather(dialling, dialling6, return_exceptions=True)
    await agreement.settled()
    return _outcome(options.deadline_s, agreement, context.puncher, given_up)


def _outcome(
    deadline_s: float, agreement: Agreement, puncher: Puncher, given_up: PunchFailedError | None
) -> tuple[Connection, Channel]:
    """Return the connection that both sides agree on. Raises `PunchFailedError`."""
    if agreement.chosen.done():
        connection, channel = agreement.chosen.result()
        puncher.release(connection)
        return connection, channel
    _refuse_wrong_peers(agreement)
    if given_up is not None:
        raise given_up
    if puncher.broken.done():
        raise PunchFailedError("client_error", f"cannot punch: {puncher.broken.exception()}")
    outcome, text = puncher.failure()
    raise PunchFailedError(outcome, f"no connection within {deadline_s:g} s: {text}")


def _refuse_wrong_peers(agreement: Agreement) -> None:
    """Raise `PunchFailedError` if a client other than the peer was connected."""
    if agreement.wrong_peers:
        text = "; ".join(f"{remote}: {why}" for remote, why in agreement.wrong_peers.items())
        raise PunchFailedError("wrong_peer", text)


def _relay(options: TunnelOptions, context: PunchContext, error: PunchFailedError) -> tuple[EdgeUrl, str]:
    """Return the relay that both clients choose independently, and its ticket: the sender's edge, or the receiver's.

    Raises `error` if there is no relay, if the options do not allow it, or if it would not help.
    """
    offers: list[Welcome | Contact] = [context.own, context.peer.contact]
    if context.role == "receiver":
        offers.reverse()
    found = next(((each.relay, each.ticket) for each in offers if each.relay and each.ticket), None)
    if not options.relay or error.outcome not in RELAYABLE:
        raise error
    if found is None:
        raise PunchFailedError(error.outcome, f"{error.reason}; and no edge of this session relays") from None
    return found


async def _through_relay(
    url: EdgeUrl,
    ticket: str,
    token: str,
    context: PunchContext,
    agreement: Agreement,
    stack: contextlib.AsyncExitStack,
    quota: Quota,
) -> tuple[Connection, Channel]:
    """Open the tunnel through a relay. Raises `PunchFailedError`."""
    from punchlab.punch.client.relayed import relayed

    context.begin_key()
    named = SuppliedServers(Reach.of(context.rendezvous.local, context.rendezvous.edge_ip), quota.relays)
    connection = await stack.enter_async_context(relayed(url, token, ticket, named))
    on_this = agreement.restarted()  # no punched connection may be chosen any more
    verdict = await on_this.examine(connection)
    if not on_this.chosen.done():
        _refuse_wrong_peers(on_this)
        lost = "was lost at once" if verdict == "lost" else "does not lead to the peer"
        raise PunchFailedError("client_error", f"the tunnel through the relay {lost}")
    return on_this.chosen.result()


async def _echo_nonces(channel: Channel) -> float:
    """Send a fresh nonce through the tunnel and echo the peer's nonce; return the round-trip time in seconds.

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
        raise PunchFailedError("client_error", f"no echo through the tunnel within {ECHO_TIMEOUT_S:g} s") from None
    except ConnectionLostError as error:
        # The connection may also have died during the agreement, so that each end has chosen another one.
        raise TunnelBrokenError(f"the tunnel failed immediately: {error}") from None
    except ChannelError as error:
        raise PunchFailedError("client_error", f"the tunnel does not work: {error}") from None
    if echo != nonce:
        raise PunchFailedError("client_error", "the tunnel returned other data than the nonce")
    return round(time.monotonic() - start, 6)
