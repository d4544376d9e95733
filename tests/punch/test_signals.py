"""What clients say to each other by way of the edges, and what an edge can do about it."""

from __future__ import annotations

import asyncio
import base64
from typing import cast

import pytest

from punch.client.rendezvous import Rendezvous
from punch.client.signals import MAX_BYTES, Signals
from punch.errors import SignalError, TamperedError, WrongPeerError
from punch.frames import MAX_SIGNAL

KEY = bytes(range(32))


class Wire:
    """An edge that keeps what it gets for the test to hand over."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def send_signal(self, data: str) -> None:
        self.kept.append(data)

    async def next_signal(self) -> str:
        return self.kept.pop(0)


async def _key() -> bytes:
    return KEY


def pair(wire: Wire) -> tuple[Signals, Signals]:
    edge = cast("Rendezvous", wire)
    return Signals(edge, "sender", _key), Signals(edge, "receiver", _key)


def test_both_ways_arrive_and_the_largest_fits() -> None:
    async def test() -> None:
        wire = Wire()
        sender, receiver = pair(wire)
        for one, other in ((sender, receiver), (receiver, sender)):
            for data in (b"", b"open", bytes(MAX_BYTES)):
                await one.send(data)
                assert len(wire.kept[0]) <= MAX_SIGNAL
                assert b"open" not in base64.b64decode(wire.kept[0])
                assert await other.receive() == data
        with pytest.raises(ValueError, match="more than"):
            await sender.send(bytes(MAX_BYTES + 1))

    asyncio.run(test())


def test_each_comes_once_in_whatever_order() -> None:
    async def test() -> None:
        wire = Wire()
        sender, receiver = pair(wire)
        for data in (b"one", b"two"):
            await sender.send(data)
        first, second = wire.kept
        wire.kept = [second, second, first, second, first]
        assert [await receiver.receive(), await receiver.receive()] == [b"two", b"one"]
        await sender.send(b"three")
        assert await receiver.receive() == b"three"

    asyncio.run(test())


@pytest.mark.parametrize("how", ["changed", "renumbered", "returned", "garbage", "empty"])
def test_what_the_peer_never_said_is_not_taken(how: str) -> None:
    async def test() -> None:
        wire = Wire()
        sender, receiver = pair(wire)
        await sender.send(b"open")
        raw = base64.b64decode(wire.kept[0])
        forged = {
            "changed": base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode(),
            "renumbered": base64.b64encode((7).to_bytes(4, "big") + raw[4:]).decode(),
            "returned": wire.kept[0],
            "garbage": "not base64!",
            "empty": "",
        }
        wire.kept = [forged[how]]
        with pytest.raises(TamperedError):
            await (sender if how == "returned" else receiver).receive()

    asyncio.run(test())


def test_without_a_key_nothing_can_be_said() -> None:
    async def no_key() -> bytes:
        raise WrongPeerError("makes no sense")

    async def test() -> None:
        with pytest.raises(SignalError, match="makes no sense"):
            await Signals(cast("Rendezvous", Wire()), "sender", no_key).send(b"open")

    asyncio.run(test())
