"""Channels over socket pairs, with an attacker in between if needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any

from punchlab.punch.errors import WrongPeerError
from punchlab.punch.frames import Role, SessionId
from punchlab.punch.secure.channel import HELLO_BYTES, PROOF_BYTES, Channel, Stream, exchange_hellos
from punchlab.punch.secure.keys import ContactTranscript

SESSION = SessionId("k7x2mq")
KEY = bytes(range(32))
INTRODUCED = ContactTranscript.of(SESSION, "sender", ("11" * 33, None), ("22" * 33, None))
TAGS = INTRODUCED.tags


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def wire() -> AsyncIterator[tuple[Stream, Stream]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield Stream(one), Stream(other)


async def shake(
    stream: Stream, role: Role, *, key: bytes = KEY, session: SessionId = SESSION, tags: Mapping[Role, bytes] = TAGS
) -> Channel:
    """Run the handshake of a client on the only connection."""
    proofs = (await exchange_hellos(stream, role, tags)).agree(session, key)
    if role == "sender":
        await proofs.prove()
        return await proofs.verify()
    try:
        channel = await proofs.verify()
    except WrongPeerError:
        await proofs.refuse()
        raise
    await proofs.prove()
    return channel


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    async with wire() as (one, other):
        yield await asyncio.gather(shake(one, "sender"), shake(other, "receiver"))


def passages(one: Stream, other: Stream) -> Iterator[tuple[Stream, Stream, int]]:
    """Yield source, destination and size of each handshake message; the sender of the session is at `one`."""
    for count in (HELLO_BYTES, PROOF_BYTES):
        yield one, other, count
        yield other, one, count


@contextlib.asynccontextmanager
async def tapped() -> AsyncIterator[tuple[Channel, Stream, Channel, Stream]]:
    """Yield two channels and the streams of an attacker in between: sender, its wire, receiver, its wire."""
    async with wire() as (one, one_tap), wire() as (other, other_tap):
        shaking = asyncio.gather(shake(one, "sender"), shake(other, "receiver"))
        for source, target, count in passages(one_tap, other_tap):
            await target.write(bytes(await source.read(count)))
        sender, receiver = await shaking
        yield sender, one_tap, receiver, other_tap
