"""Signals of clients through the edges, and what an edge can do with them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from punchlab.punch.errors import SignalError, TamperedError, WrongPeerError
from punchlab.punch.frames import MAX_SIGNAL
from punchlab.punch.rendezvous.connection import Rendezvous
from punchlab.punch.rendezvous.signals import MAX_BYTES, Signals
from punchlab.punch.secure.guesses import Exposure, Guesses
from tests.punch.wires import run

KEY = bytes(range(32))


class Wire:
    """An edge, as one client sees it, that stores received signals for the test to deliver."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.coming: asyncio.Queue[str | None] = asyncio.Queue()

    async def send_signal(self, data: str) -> None:
        self.sent.append(data)

    async def next_signal(self) -> str:
        data = await self.coming.get()
        if data is None:
            raise SignalError("the connection to the edge was lost")
        return data

    def hand_over(self, *signals: str) -> None:
        for each in signals:
            self.coming.put_nowait(each)

    def take(self) -> str:
        """Return the single signal."""
        (data,) = self.sent
        self.sent.clear()
        return data


class End:
    """One client, and the rest of its budget."""

    def __init__(self, signals: Signals, wire: Wire, guesses: Guesses, exposure: Exposure) -> None:
        self.signals, self.wire, self.guesses, self.exposure = signals, wire, guesses, exposure

    def left(self) -> int:
        count = 0
        while self.guesses.take():
            count += 1
        self.guesses.give_back(count)
        return count


async def _key() -> bytes:
    return KEY


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[End, End]]:
    """A sender and a receiver that have received each other's contacts."""
    ends = []
    for role in ("sender", "receiver"):
        wire, guesses = Wire(), Guesses()
        exposure = Exposure(guesses)
        signals = Signals(cast("Rendezvous", wire), "sender" if role == "sender" else "receiver", _key, exposure)
        ends.append(End(signals, wire, guesses, exposure))
    sender, receiver = ends
    yield sender, receiver
    for end in ends:
        await end.signals.close()


def test_both_ways_arrive_and_the_largest_fits() -> None:
    async def test() -> None:
        async with pair() as (sender, receiver):
            for one, other in ((sender, receiver), (receiver, sender)):
                for data in (b"", b"open", bytes(MAX_BYTES)):
                    await one.signals.send(data)
                    signal = one.wire.sent[-1]
                    assert len(signal) <= MAX_SIGNAL
                    assert b"open" not in base64.b64decode(signal)
                    other.wire.hand_over(signal)
                    assert await other.signals.receive() == data
            with pytest.raises(ValueError, match="expected at most"):
                await sender.signals.send(bytes(MAX_BYTES + 1))

    run(test)


def test_each_comes_once_in_whatever_order() -> None:
    async def test() -> None:
        async with pair() as (sender, receiver):
            for data in (b"one", b"two", b"three"):
                await sender.signals.send(data)
            first, second, third = sender.wire.sent
            receiver.wire.hand_over(second, second, first, second, first, third)
            assert [await receiver.signals.receive() for _ in range(3)] == [b"two", b"one", b"three"]

    run(test)


@pytest.mark.parametrize("how", ["changed", "renumbered", "returned", "garbage", "empty"])
def test_what_the_peer_never_said_is_not_taken(how: str) -> None:
    async def test() -> None:
        async with pair() as (sender, receiver):
            await sender.signals.send(b"open")
            signal = sender.wire.take()
            raw = base64.b64decode(signal)
            forged = {
                "changed": base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode(),
                "renumbered": base64.b64encode((7).to_bytes(4, "big") + raw[4:]).decode(),
                "returned": signal,
                "garbage": "not base64!",
                "empty": "",
            }
            victim = sender if how == "returned" else receiver
            victim.wire.hand_over(forged[how])
            with pytest.raises(TamperedError):
                await victim.signals.receive()
            assert victim.left() == 1  # a guess was tested, whichever side sent its proof first
            assert victim.wire.sent == []

    run(test)


def test_a_lost_edge_is_lost_for_good() -> None:
    async def test() -> None:
        async with pair() as (sender, _):
            sender.wire.coming.put_nowait(None)
            for _ in range(2):
                with pytest.raises(SignalError, match="lost"):
                    await sender.signals.receive()

    run(test)


def test_the_first_signal_is_drawn_from_the_budget_and_returned_when_the_peer_answers() -> None:
    async def test() -> None:
        async with pair() as (sender, receiver):
            for data in (b"one", b"two"):
                await sender.signals.send(data)
            assert (sender.left(), receiver.left()) == (1, 2)
            receiver.wire.hand_over(*sender.wire.sent)
            assert await receiver.signals.receive() == b"one"
            sender.wire.hand_over(receiver.wire.take())  # that side has sent nothing yet
            heard = asyncio.create_task(sender.signals.receive())
            while not sender.exposure.confirmed:
                await asyncio.sleep(0)
            assert (sender.left(), receiver.left()) == (2, 2)
            assert not heard.done()  # it is not for a strategy
            await receiver.signals.send(b"three")
            sender.wire.hand_over(receiver.wire.take())
            assert await heard == b"three"

    run(test)


def test_with_no_guess_left_nothing_is_said() -> None:
    async def test() -> None:
        async with pair() as (sender, _):
            assert sender.guesses.take()
            assert sender.guesses.take()
            with pytest.raises(SignalError, match="someone may be guessing the code"):
                await sender.signals.send(b"open")
            assert sender.wire.sent == []

    run(test)


def test_without_a_key_nothing_can_be_said() -> None:
    async def no_key() -> bytes:
        raise WrongPeerError("makes no sense")

    async def test() -> None:
        signals = Signals(cast("Rendezvous", Wire()), "sender", no_key, Exposure(Guesses()))
        with pytest.raises(SignalError, match="makes no sense"):
            await signals.send(b"open")
        await signals.close()

    run(test)
