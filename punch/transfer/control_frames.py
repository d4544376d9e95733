"""Frames that end a transfer, for both ends: ABORT with a reason, DECLINED, and FINAL."""

from __future__ import annotations

import asyncio
import contextlib

from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TamperedError, TunnelBrokenError
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.text import printable

FINISH_S = 5.0  # timeout of the other end's FINAL
INTERRUPTED_S = 1.0  # timeout of sending ABORT from an interrupted end


class AbortedError(Exception):
    """The other end sent ABORT; the text is its reason."""


async def receive_frame(channel: Channel) -> tuple[Kind, bytes]:
    """Return the next frame. Raises `ChannelError` and `AbortedError`."""
    kind, payload = await channel.receive()
    if kind is Kind.ABORT:
        text = payload.decode(errors="replace")[:300]
        raise AbortedError(printable(text))
    return kind, payload


async def receive_kind(channel: Channel, kind: Kind) -> bytes:
    """Return the payload of the next frame, which must be of `kind`. Raises `ChannelError` and `AbortedError`."""
    found, payload = await receive_frame(channel)
    if found is not kind:
        raise TamperedError(f"expected {kind.name}, got {found.name}")
    return payload


async def abort(channel: Channel, reason: str, patience_s: float = FINISH_S) -> None:
    """Send ABORT and read until the other end closes: closing with unread data would reset the connection."""
    await _end_with(channel, Kind.ABORT, reason.encode(errors="replace"), patience_s)


async def decline(channel: Channel) -> None:
    """Send DECLINED and read until the other end closes."""
    await _end_with(channel, Kind.DECLINED, b"", FINISH_S)


async def _end_with(channel: Channel, kind: Kind, payload: bytes, patience_s: float) -> None:
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(patience_s):
            await channel.send(kind, payload)
            while True:
                await channel.receive()


async def exchange_final(channel: Channel) -> bool:
    """Send FINAL; return whether the other end sent FINAL too, and so has received all frames before it."""
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(FINISH_S):
            await channel.send(Kind.FINAL)
            while (await channel.receive())[0] is not Kind.FINAL:
                pass
            return True
    return False


def failure(error: ChannelError) -> PunchFailedError:
    """Return the session's error for an error of the channel."""
    if isinstance(error, ConnectionLostError):
        return TunnelBrokenError(str(error))
    return PunchFailedError("client_error", str(error))
