"""Channels over socket pairs, with an attacker in between where one is needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from punch.client.channel import HELLO_BYTES, PROOF_BYTES, Channel, Stream, handshake
from punch.frames import Role, SessionId

SESSION = SessionId("k7x2mq")
KEY = bytes(range(32))


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


def shake(
    stream: Stream, role: Role, *, key: bytes = KEY, session: SessionId = SESSION
) -> Coroutine[Any, Any, Channel]:
    known: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    known.set_result(key)
    return handshake(stream, session, role, known)


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    async with wire() as (one, other):
        yield await asyncio.gather(shake(one, "sender"), shake(other, "receiver"))


@contextlib.asynccontextmanager
async def tapped() -> AsyncIterator[tuple[Channel, Stream, Channel, Stream]]:
    """Two channels and the streams of whoever sits between them: sender, its wire, receiver, its wire."""
    async with wire() as (one, one_tap), wire() as (other, other_tap):
        shaking = asyncio.gather(shake(one, "sender"), shake(other, "receiver"))
        for count in (HELLO_BYTES, PROOF_BYTES):
            for source, target in ((one_tap, other_tap), (other_tap, one_tap)):
                await target.write(bytes(await source.read(count)))
        sender, receiver = await shaking
        yield sender, one_tap, receiver, other_tap
