"""The number of guesses of an attacker who takes a proof and disconnects, for each possible procedure."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from punchlab.punch.cli.client import pake
from punchlab.punch.client.tunnel import TunnelOptions
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import PunchFailedError, TunnelBrokenError, WrongPeerError
from punchlab.punch.fields import Json
from punchlab.punch.frames import Role
from punchlab.punch.secure.channel import PROOF_BYTES, Channel, Stream, exchange_hellos
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.guesses import MAX_GUESSES, TESTED, Exposure, Guesses
from punchlab.punch.secure.keys import KeyExchange, PakeExchange
from punchlab.punch.strategy.catalog import STRATEGIES
from punchlab.punch.strategy.context import PunchContext
from punchlab.punch.strategy.keep import Keep
from punchlab.punch.text import printable
from punchlab.punch.transfer import session
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.offer import FileDone
from scenarios.hostile.edge import GUESS, OTHER
from scenarios.hostile.guesser import Guesser, Learned, Step
from tests.punch.agreements import connections, pair
from tests.punch.processes import CODE
from tests.punch.recorder import PATIENCE_S, Command, Recorder
from tests.punch.wires import TAGS, run

RIGHT = Code.parse(CODE)
SIZE = 2_000_000
CUT_AFTER = 300_000
DEADLINE_S = 3.0
HOPELESS: Json = {"traits": "hopeless"}
"""What the edge reports about the attacker's NAT, so that failing punches take few seconds."""


def left_of(guesses: Guesses) -> int:
    count = 0
    while guesses.take():
        count += 1
    guesses.give_back(count)
    return count


def test_of_many_connections_at_once_two_get_a_proof() -> None:
    """Each attacker disconnects when it has received the data."""

    async def attack(stream: Stream) -> bool:
        await exchange_hellos(stream, "receiver", TAGS)
        try:
            await stream.read(PROOF_BYTES)
        finally:
            stream.close()
        return True

    async def test() -> None:
        with connections(9) as made:
            guesses = Guesses()
            sender, _ = pair(guesses=guesses)
            examining = [asyncio.create_task(sender.examine(one)) for one, _ in made]
            attacks = [asyncio.create_task(attack(Stream(end.sock))) for _, end in made]
            await sender.exposure.over
            await asyncio.gather(*examining)
            done, waiting = await asyncio.wait(attacks, timeout=0.1)
            assert len(done) == MAX_GUESSES
            for each in waiting:
                each.cancel()
            assert any("someone may be guessing" in why for why in sender.wrong_peers.values())
            assert guesses.spent

    run(test)


def test_what_is_drawn_for_the_peer_is_returned() -> None:
    async def test() -> None:
        guesses = Guesses()
        for _ in range(5 * MAX_GUESSES):
            with connections(1) as made:
                ((one, other),) = made
                sender, receiver = pair(guesses=guesses)
                await asyncio.gather(sender.examine(one), receiver.examine(other))
                assert sender.chosen.done()
        assert left_of(guesses) == MAX_GUESSES

    run(test)


def test_a_wrong_proof_is_one_guess_on_either_side() -> None:
    async def test() -> None:
        with connections(3) as made:
            budgets = Guesses(), Guesses()
            sender, receiver = pair(bytes(32), guesses=budgets[0], receiver_guesses=budgets[1])
            for one, other in made[:1]:
                await asyncio.gather(sender.examine(one), receiver.examine(other))
            assert [left_of(each) for each in budgets] == [1, 1]

    run(test)


def test_a_secret_that_cannot_be_guessed_has_no_budget() -> None:
    async def test() -> None:
        exposure = Exposure(Guesses(None))
        for _ in range(100):
            async with exposure.proving():
                pass
        assert not exposure.over.done()

    run(test)


class Lied(Keep):
    """Connects, and gives up soon if the peer's NAT makes the punch hopeless, like `auto`."""

    async def punch(self, context: PunchContext) -> None:
        await super().punch(context)
        if context.peer.contact.traits == "hopeless":
            await asyncio.sleep(0.5)
            raise PunchFailedError("hopeless", "so says the edge")


class Attacked:
    """A transfer in which one side, the victim, is attacked: its file, both logs, and what the attacker received."""

    def __init__(self, tmp_path: Path, victim: Role, guesser: Guesser, strategy: str, relay: bool) -> None:
        self._victim, self._guesser, self._strategy, self._relay = victim, guesser, strategy, relay
        self._file, self._out = tmp_path / "file", tmp_path / "out"
        self._out.mkdir()
        self._file.write_bytes(os.urandom(SIZE))
        self.logs: dict[Role, Recorder] = {"sender": Recorder(), "receiver": Recorder()}

    def run(self, role: Role) -> asyncio.Task[None]:
        kind = Lied if self._strategy == "lied" else STRATEGIES[self._strategy]
        bind = Endpoint("127.0.0.2" if role == "sender" else "127.0.0.3", 0)
        options = TunnelOptions(
            EdgeUrl.parse(self._guesser.url), kind(), self.logs[role], bind, deadline_s=DEADLINE_S, relay=self._relay
        )
        exchange = partial(PakeExchange, RIGHT, role, Guesses())
        return asyncio.create_task(self._send(options, exchange) if role == "sender" else self._get(options, exchange))

    async def _send(self, options: TunnelOptions, exchange: partial[PakeExchange]) -> None:
        with FileSource([self._file]) as source:
            await session.send(options, exchange, source)

    async def _get(self, options: TunnelOptions, exchange: partial[PakeExchange]) -> None:
        with FileSink(self._out, force=False) as inbox:
            await session.receive(options, exchange, inbox)

    def arrived(self) -> bool:
        (stored,) = self._out.iterdir()
        return stored.read_bytes() == self._file.read_bytes()


@contextlib.asynccontextmanager
async def attacked(
    tmp_path: Path,
    victim: Role,
    plan: Sequence[Step],
    *,
    guess: Code = GUESS,
    per_meeting: int = 1,
    strategy: str = "lied",
    relay: bool = False,
    told: Json | None = None,
) -> AsyncIterator[tuple[asyncio.Task[None], Attacked, Learned]]:
    """Run the victim, while its true peer runs as well."""
    guesser = Guesser(
        victim, guess, plan, per_meeting=per_meeting, cut_after=CUT_AFTER, told=HOPELESS if told is None else told
    )
    async with guesser.running():
        transfer = Attacked(tmp_path, victim, guesser, strategy, relay)
        both = [transfer.run(victim), transfer.run(OTHER[victim])]
        try:
            yield both[0], transfer, guesser.learned
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_right_guess_is_found_out_by_a_sender_s_proof_and_not_by_a_receiver(tmp_path: Path, victim: Role) -> None:
    """The attacker of these tests would detect a correct guess."""

    async def test() -> None:
        async with attacked(tmp_path, victim, ["guess"], guess=RIGHT) as (running, _, learned):
            with pytest.raises(PunchFailedError):
                await running
            assert learned.found is (victim == "sender")
            assert learned.proofs == (1 if victim == "sender" else 0)

    run(test)


@pytest.mark.parametrize("per_meeting", [1, 100])
@pytest.mark.parametrize(
    ("strategy", "relay", "told"),
    [
        ("lied", False, HOPELESS),
        ("sync", False, {}),
        ("lied", True, {**HOPELESS, "relay": True}),
    ],
)
def test_all_punches_of_a_sender_give_an_attacker_two_proofs(
    tmp_path: Path, per_meeting: int, strategy: str, relay: bool, told: Json
) -> None:
    """With any number of honest tunnels in between, and any report of the edge about NATs and relays."""
    plan: list[Step] = ["cut", "guess", "cut", "guess", "cut", "guess", "cut", "guess", "whole"]

    async def test() -> None:
        attack = attacked(tmp_path, "sender", plan, per_meeting=per_meeting, strategy=strategy, relay=relay, told=told)
        async with attack as (running, transfer, learned):
            with pytest.raises(PunchFailedError, match="someone may be guessing the code") as caught:
                await asyncio.wait_for(running, PATIENCE_S)
            assert caught.value.outcome == "wrong_peer"
            assert learned.proofs + len(learned.signals) == MAX_GUESSES
            assert not learned.found
            assert transfer.logs["sender"].all("agreed")

    run(test)


def test_all_punches_of_a_receiver_give_an_attacker_no_proof(tmp_path: Path) -> None:
    async def test() -> None:
        plan: list[Step] = ["cut", "guess", "cut", "guess", "guess", "whole"]
        async with attacked(tmp_path, "receiver", plan, per_meeting=100) as (running, transfer, learned):
            await asyncio.wait_for(running, PATIENCE_S)
            assert learned.meetings == len(plan)
            assert learned.proofs == 0
            assert transfer.arrived()

    run(test)


def test_all_punches_of_a_receiver_give_an_attacker_two_signals(tmp_path: Path) -> None:
    """With `sync` the receiver sends first."""

    async def test() -> None:
        plan: list[Step] = ["cut", "guess"]
        async with attacked(tmp_path, "receiver", plan, strategy="sync") as (running, _, learned):
            with pytest.raises(PunchFailedError, match="someone may be guessing the code"):
                await asyncio.wait_for(running, PATIENCE_S)
            assert learned.proofs + len(learned.signals) == MAX_GUESSES

    run(test)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_one_proof_that_was_lost_breaks_no_transfer(tmp_path: Path, victim: Role) -> None:
    async def test() -> None:
        plan: list[Step] = ["cut", "guess", "cut", "cut", "whole"]
        async with attacked(tmp_path, victim, plan) as (running, transfer, learned):
            await asyncio.wait_for(running, PATIENCE_S)
            assert learned.proofs == (1 if victim == "sender" else 0)
            assert learned.meetings == len(plan)
            assert transfer.arrived()

    run(test)


def test_a_client_ends_and_reports_guesses_of_its_code(file: Path) -> None:
    async def test() -> None:
        guesser = Guesser("sender", GUESS, ["guess"], per_meeting=100, cut_after=0, told={})
        async with guesser.running():
            words = ("send", file, "--edge", guesser.url, "--bind", "127.0.0.2:0", "--code", CODE)
            with Command(*words) as sender:
                assert await asyncio.to_thread(sender.finish) == 1
        failed = sender.wait_for("failed")
        assert failed["outcome"] == "wrong_peer"
        assert "someone may be guessing the code" in failed["reason"]
        assert "new code" in failed["reason"]
        assert guesser.learned.proofs == MAX_GUESSES

    run(test)


def test_a_failure_with_an_unconfirmed_proof_adds_a_warning(tmp_path: Path) -> None:
    async def test() -> None:
        async with attacked(tmp_path, "sender", ["guess"]) as (running, _, learned):
            with pytest.raises(PunchFailedError, match=f"so says the edge; {TESTED}$") as caught:
                await running
            assert (caught.value.outcome, learned.proofs) == ("hopeless", 1)

    run(test)


def test_a_failure_of_a_later_punch_adds_the_warning_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with attacked(tmp_path, "sender", ["cut", "guess"]) as (_, transfer, _learned):
            failed = await transfer.logs["sender"].wait_for("not_resumed")
            assert (failed["outcome"], TESTED in failed["reason"]) == ("hopeless", True)

    run(test)


@pytest.mark.parametrize(
    ("limit", "drawn", "confirmed", "warned"),
    [
        (MAX_GUESSES, 1, False, True),
        (MAX_GUESSES, 1, True, False),
        (MAX_GUESSES, 0, False, False),
        (None, 1, False, False),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_only_what_was_drawn_from_a_budget_and_not_confirmed_is_warned_of(
    limit: int | None, drawn: int, confirmed: bool, warned: bool, broken: bool
) -> None:
    error = TunnelBrokenError("it broke") if broken else PunchFailedError("refused", "x" * 5000)
    outcome = error.outcome

    async def test() -> None:
        guesses = Guesses(limit)
        exposure = Exposure(guesses)
        for _ in range(drawn):
            async with exposure.proving():
                pass
        if confirmed:
            exposure.confirm()
        with pytest.raises(type(error)) as caught, guesses.warning(), guesses.warning():
            raise error
        assert caught.value is error
        assert (error.outcome, error.reason.count(TESTED), str(error).count(TESTED)) == (outcome, warned, warned)
        assert printable(error.reason) == error.reason

    run(test)


def test_a_session_that_is_not_resumed_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    new_exchange, tunnels = pake(RIGHT, "receiver"), iter([True, False])

    @contextlib.asynccontextmanager
    async def open_tunnel(_options: TunnelOptions, exchange: KeyExchange, _role: Role) -> AsyncIterator[None]:
        if not next(tunnels, False):
            exchange.guesses.take()
            raise PunchFailedError("punch_timeout", "nobody")
        yield

    async def work(_channel: Channel) -> list[FileDone]:
        raise TunnelBrokenError("it broke")

    async def test() -> None:
        monkeypatch.setattr(session, "open_tunnel", open_tunnel)
        options = TunnelOptions(EdgeUrl("127.0.0.1", 1), Keep(), Recorder(), resume_for_s=0.1)
        with pytest.raises(PunchFailedError, match=f"no new tunnel within 0.1 s; {TESTED}$"):
            await session._run(options, new_exchange, "receiver", work)

    run(test)


def test_all_punches_of_a_command_share_one_budget() -> None:
    new_exchange = pake(RIGHT, "sender")
    assert new_exchange().guesses is new_exchange().guesses
    assert pake(RIGHT, "sender")().guesses is not new_exchange().guesses


def test_nothing_is_proved_when_nothing_is_left() -> None:
    async def test() -> None:
        guesses = Guesses()
        while guesses.take():
            pass
        with pytest.raises(WrongPeerError, match="2 authentications ended without the peer's valid proof"):
            async with Exposure(guesses).proving():
                pass

    run(test)
