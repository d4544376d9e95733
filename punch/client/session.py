"""One run of the client, from the first connection to the last byte."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from punch.client.agreement import Agreement
from punch.client.candidates import candidates
from punch.client.channel import Channel, Kind
from punch.client.files import FileDone, Inbox, Outgoing
from punch.client.keys import KeyExchange
from punch.client.progress import Progress
from punch.client.puncher import Connection, Puncher, sleep_until
from punch.client.rendezvous import Rendezvous, Strategy
from punch.client.sockets import die_with_the_path, mend_round_trip
from punch.client.transfer import receive_files, send_files
from punch.endpoint import EdgeUrl, Endpoint
from punch.errors import ChannelError, PunchFailedError
from punch.events import Reporter
from punch.frames import Peer, Register, Role

NONCE_BYTES = 32
ECHO_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Options:
    """How to meet and how to punch. Instants are of `time.monotonic()`, spans in seconds."""

    edge: EdgeUrl
    strategy: Strategy
    report: Reporter
    bind: Endpoint | None = None
    deadline_s: float = 10.0
    max_attempts: int | None = None
    start_at: float | None = None
    wait_s: float = 600.0
    bar: bool = False


async def send(options: Options, exchange: KeyExchange, outgoing: Outgoing) -> None:
    """Meet the receiver and send it the files. Raises `PunchFailedError` and `InputError`."""
    async with _tunnel(options, exchange, "sender") as channel:
        start = time.monotonic()
        done = await send_files(channel, outgoing, lambda total: Progress(total, options.report, bar=options.bar))
        _report_done(options.report, done, start)


async def receive(options: Options, exchange: KeyExchange, inbox: Inbox) -> None:
    """Meet the sender and store its files. Raises `PunchFailedError` and `InputError`."""
    async with _tunnel(options, exchange, "receiver") as channel:
        start = time.monotonic()
        done = await receive_files(channel, inbox, lambda total: Progress(total, options.report, bar=options.bar))
        _report_done(options.report, done, start)


def _report_done(report: Reporter, done: list[FileDone], start: float) -> None:
    report("done", files=[each._asdict() for each in done], seconds=round(time.monotonic() - start, 6))


@contextlib.asynccontextmanager
async def _tunnel(options: Options, exchange: KeyExchange, role: Role) -> AsyncIterator[Channel]:
    """A tried tunnel to the peer."""
    async with contextlib.AsyncExitStack() as stack:
        rendezvous = await Rendezvous.connect(options.edge, options.bind)
        stack.push_async_callback(rendezvous.close)
        agreement = Agreement(exchange.session, role)
        puncher = Puncher(rendezvous.local, options.max_attempts, agreement.examine, options.report)
        try:
            peer = await _meet(options, exchange, role, rendezvous)
            await _aim(options, rendezvous, peer, puncher)
            puncher.fire()
            agreement.begin(functools.partial(exchange.finish, peer.contact.pake))
            connection, channel = await _wait(options.deadline_s, agreement, puncher)
            stack.callback(channel.close)
            options.report("agreed", local=str(connection.local), remote=str(connection.remote))
        finally:
            await puncher.close()
        await rendezvous.leave()
        die_with_the_path(connection.sock)
        round_trip_s = await _echo_nonces(channel)
        options.report("nonce_echoed", round_trip_s=round_trip_s)
        mend_round_trip(connection.sock, round_trip_s)
        yield channel


async def _meet(options: Options, exchange: KeyExchange, role: Role, rendezvous: Rendezvous) -> Peer:
    """Register, and wait until the edge knows the peer."""
    session, local = exchange.session, rendezvous.local
    welcome = await rendezvous.register(Register(session, role, (local,), exchange.message))
    options.report("registered", local=str(local), public=str(welcome.public), edge=welcome.edge, session=session)
    if role == "sender" and exchange.code is not None:
        options.report("code", code=str(exchange.code), session=session)
    return await rendezvous.peer(options.wait_s)


async def _aim(options: Options, rendezvous: Rendezvous, peer: Peer, puncher: Puncher) -> None:
    """Everything between the knowledge of the peer and the first SYN: little, unless it must wait for its instant."""
    known = time.monotonic()
    targets = candidates(peer.contact, rendezvous.local)
    puncher.aim(targets)
    shown = [{"address": str(each.address), "kind": each.kind} for each in targets]
    options.report("peer_known", t=known, candidates=shown, via=peer.via)
    if await options.strategy.before_punch(rendezvous):
        options.report("rendezvous_closed")
    if options.start_at is not None:
        await sleep_until(options.start_at)


async def _wait(deadline_s: float, agreement: Agreement, puncher: Puncher) -> tuple[Connection, Channel]:
    """The one connection that both sides agree on. Raises `PunchFailedError`."""
    await asyncio.wait((agreement.chosen, puncher.broken), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
    if agreement.chosen.done():
        connection, channel = agreement.chosen.result()
        puncher.release(connection)
        return connection, channel
    if puncher.broken.done():
        raise PunchFailedError("client_error", f"cannot punch: {puncher.broken.exception()}")
    if agreement.wrong_peers:
        told = "; ".join(f"{remote}: {why}" for remote, why in agreement.wrong_peers.items())
        raise PunchFailedError("wrong_peer", told)
    outcome, told = puncher.failure()
    raise PunchFailedError(outcome, f"no connection within {deadline_s:g} s: {told}")


async def _echo_nonces(channel: Channel) -> float:
    """Send a fresh nonce through the tunnel and echo the peer's; the seconds until ours was back."""
    nonce = os.urandom(NONCE_BYTES)
    start = time.monotonic()
    try:
        async with asyncio.timeout(ECHO_TIMEOUT_S):
            await channel.send(Kind.NONCE, nonce)
            await channel.send(Kind.ECHO, await channel.expect(Kind.NONCE))
            echo = await channel.expect(Kind.ECHO)
    except TimeoutError:
        raise PunchFailedError("client_error", f"the tunnel echoed nothing within {ECHO_TIMEOUT_S:g} s") from None
    except ChannelError as error:
        raise PunchFailedError("client_error", f"the tunnel broke at once: {error}") from None
    if echo != nonce:
        raise PunchFailedError("client_error", "the tunnel echoed something else than the nonce")
    return round(time.monotonic() - start, 6)
