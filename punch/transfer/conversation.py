"""What both ends of a transfer say beside its contents: why one cannot go on, and goodbye."""

from __future__ import annotations

import asyncio
import contextlib

from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TamperedError, TunnelBrokenError
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.text import printable

FAREWELL_S = 5.0  # how long to wait for the other end's FINAL once all is said
INTERRUPTED_S = 1.0  # how long an interrupted end tries to say so


class AbortedError(Exception):
    """The other end said ABORT."""


async def hear(channel: Channel) -> tuple[Kind, bytes]:
    """The next frame. Raises `ChannelError` and `AbortedError`."""
    kind, payload = await channel.receive()
    if kind is Kind.ABORT:
        text = payload.decode(errors="replace")[:300]
        raise AbortedError(printable(text))
    return kind, payload


async def hear_only(channel: Channel, kind: Kind) -> bytes:
    """The payload of the next frame, which must be of `kind`. Raises `ChannelError` and `AbortedError`."""
    found, payload = await hear(channel)
    if found is not kind:
        raise TamperedError(f"expected {kind.name}, got {found.name}")
    return payload


async def abort(channel: Channel, reason: str, patience_s: float = FAREWELL_S) -> None:
    """Say why, then listen until the other end has heard it: closing with bytes unread would reset the connection."""
    await _end_with(channel, Kind.ABORT, reason.encode(errors="replace"), patience_s)


async def decline(channel: Channel) -> None:
    """Say that the user does not accept what was offered, in the same way."""
    await _end_with(channel, Kind.DECLINED, b"", FAREWELL_S)


async def _end_with(channel: Channel, kind: Kind, payload: bytes, patience_s: float) -> None:
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(patience_s):
            await channel.send(kind, payload)
            while True:
                await channel.receive()


async def farewell(channel: Channel) -> bool:
    """Everything is done. Whether the other end said FINAL: then it has heard all before."""
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await channel.send(Kind.FINAL)
            while (await channel.receive())[0] is not Kind.FINAL:
                pass
            return True
    return False


def failure(error: ChannelError) -> PunchFailedError:
    """What a lost connection, or one that says nonsense, means to the session."""
    if isinstance(error, ConnectionLostError):
        return TunnelBrokenError(str(error))
    return PunchFailedError("client_error", str(error))
