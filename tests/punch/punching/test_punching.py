"""Connecting, accepting and agreeing, on the loopback network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, WrongPeerError
from punchlab.punch.frames import Contact
from punchlab.punch.net.sockets import PORTS, choose_local
from punchlab.punch.punching import agreement
from punchlab.punch.punching.agreement import Agreement
from punchlab.punch.punching.candidates import Candidate, candidates, lan_addresses
from punchlab.punch.punching.puncher import Connection, Puncher, Verdict, sleep_until
from punchlab.punch.secure.channel import PROOF_BYTES, Stream, exchange_hellos
from punchlab.punch.secure.guesses import MAX_GUESSES, Exposure, Guesses
from tests.punch.agreements import connections, hear_proof, pair
from tests.punch.recorder import Recorder
from tests.punch.wires import INTRODUCED, KEY, SESSION, TAGS, run

EDGE = Endpoint("127.0.0.1", 9)
OWN_PUBLIC = Endpoint("11.0.0.3", 41000)


def free(ip: str) -> Endpoint:
    return choose_local(Endpoint(ip, 0), EDGE)


async def keep(_connection: Connection) -> Verdict:
    return "kept"


@contextlib.contextmanager
def silent_listener(ip: str) -> Iterator[Endpoint]:
    """Yield a listener that answers no SYN any more, because its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((ip, 0), backlog=0))
        address = Endpoint(*listener.getsockname())
        stack.enter_context(socket.create_connection(address))
        yield address


@contextlib.asynccontextmanager
async def punching(puncher: Puncher, *targets: Endpoint, connect_all: bool = True) -> AsyncIterator[Puncher]:
    try:
        puncher.set_targets([Candidate(target, "srflx") for target in targets])
        if connect_all:
            puncher.connect_all()
        yield puncher
    finally:
        await puncher.close()


def test_the_public_candidate_comes_first_and_none_twice() -> None:
    own = Endpoint("192.168.1.2", 41000)
    public, other = Endpoint("11.0.0.2", 5), Endpoint("192.168.1.9", 41000)
    peer = Contact(public, (other, other, public), None)
    assert candidates(peer, own, OWN_PUBLIC) == [(public, "srflx"), (other, "host")]


def test_only_hosts_behind_one_address_may_be_on_one_lan() -> None:
    own, private = Endpoint("192.168.1.2", 41000), Endpoint("192.168.1.9", 41000)
    for public, expected in ((OWN_PUBLIC, [private]), (Endpoint("11.0.0.2", 5), [])):
        peer = Contact(Endpoint(public.ip, 5), (private,), None)
        assert lan_addresses(candidates(peer, own, OWN_PUBLIC), peer, OWN_PUBLIC) == expected


def test_one_s_own_endpoint_is_not_dialled_and_of_the_others_two() -> None:
    own = Endpoint("192.168.1.2", 41000)
    others = [Endpoint("192.168.1.3", port) for port in (41001, 41002, 41003)]
    peer = Contact(Endpoint("11.0.0.2", 5), (own, *others), None)
    assert candidates(peer, own, OWN_PUBLIC)[1:] == [(each, "host") for each in others[:1]]
    peer = Contact(Endpoint("11.0.0.2", 5), tuple(others), None)
    assert candidates(peer, own, OWN_PUBLIC)[1:] == [(each, "host") for each in others[:2]]


def test_the_local_address_is_the_one_that_leads_to_the_edge() -> None:
    local = choose_local(None, EDGE)
    assert local.ip == "127.0.0.1"
    assert local.port in PORTS


def test_a_port_of_another_punch_is_not_shared() -> None:
    async def test() -> None:
        local = free("127.0.0.2")
        async with punching(Puncher(local, None, keep, Recorder())):
            with pytest.raises(ArgumentError, match=r"^bind: .*in use"):
                choose_local(local, EDGE)

    run(test)


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(ArgumentError, match=r"^bind: '192.0.2.1:0' cannot be used"):
        choose_local(Endpoint("192.0.2.1", 0), EDGE)


def test_refused_connects_are_repeated_from_the_same_port_with_a_random_pause() -> None:
    async def test() -> None:
        log, local = Recorder(), free("127.0.0.2")
        began = time.monotonic()
        async with punching(Puncher(local, 4, keep, log), free("127.0.0.3")) as puncher:
            await log.wait_for("attempt", count=4)
            took = time.monotonic() - began
            assert puncher.failure()[0] == "refused"
        assert [(event["number"], event["result"]) for event in log.all("attempt")] == [
            (number, "ECONNREFUSED") for number in (1, 2, 3, 4)
        ]
        assert took >= 3 * 0.05
        assert log.all("first_syn", local=str(local))

    run(test)


def test_the_listener_outlives_the_last_attempt() -> None:
    async def test() -> None:
        log, local, peer = Recorder(), free("127.0.0.2"), free("127.0.0.3")
        async with punching(Puncher(local, 1, keep, log), peer):
            await log.wait_for("attempt", result="ECONNREFUSED")
            with socket.create_connection(local, source_address=peer):
                assert await log.wait_for("connected", by="accept", remote=str(peer), local=str(local))

    run(test)


def test_a_dial_without_an_answer_is_a_timeout_and_reported_when_it_ends() -> None:
    async def test() -> None:
        log = Recorder()
        with silent_listener("127.0.0.3") as silent:
            async with punching(Puncher(free("127.0.0.2"), None, keep, log), silent) as puncher:
                await log.wait_for("first_syn")
                outcome, reason = puncher.failure()
                assert outcome == "punch_timeout"
                assert f"{silent} (srflx): 1 connect without an answer" in reason
                assert not log.all("attempt")
        assert [event["result"] for event in log.all("attempt")] == ["ETIMEDOUT"]

    run(test)


def test_the_outcome_depends_on_the_reflexive_candidate_alone() -> None:
    async def test() -> None:
        log = Recorder()
        puncher = Puncher(free("127.0.0.2"), 1, keep, log)
        with silent_listener("127.0.0.3") as silent:
            try:
                puncher.set_targets([Candidate(free("127.0.0.4"), "srflx"), Candidate(silent, "host")])
                puncher.connect_all()
                await log.wait_for("attempt", kind="srflx")
                assert puncher.failure()[0] == "refused"
            finally:
                await puncher.close()

    run(test)


def test_a_lost_connection_is_dialled_again_and_a_stranger_is_not() -> None:
    async def test() -> None:
        verdicts: list[Verdict] = ["lost", "lost", "stranger"]

        async def examine(_connection: Connection) -> Verdict:
            return verdicts.pop(0)

        log = Recorder()
        with socket.create_server(("127.0.0.3", 0)) as listener:
            async with punching(
                Puncher(free("127.0.0.2"), None, examine, log), Endpoint(*listener.getsockname())
            ) as puncher:
                await log.wait_for("connected", count=3)
                await log.wait_for("attempt", count=3)
                assert puncher.failure()[0] == "punch_timeout"
        assert not verdicts

    run(test)


def test_crossing_dials_between_two_punchers_give_both_a_connection() -> None:
    async def test() -> None:
        log, other_log = Recorder(), Recorder()
        here, there = free("127.0.0.2"), free("127.0.0.3")
        async with (
            punching(Puncher(here, None, keep, log), there, connect_all=False) as one,
            punching(Puncher(there, None, keep, other_log), here, connect_all=False) as other,
        ):
            one.connect_all()
            other.connect_all()
            assert (await log.wait_for("connected"))["remote"] == str(there)
            assert (await other_log.wait_for("connected"))["remote"] == str(here)

    run(test)


def test_a_connection_made_before_firing_is_taken() -> None:
    async def test() -> None:
        log, local = Recorder(), free("127.0.0.2")
        async with punching(Puncher(local, None, keep, log), connect_all=False) as puncher:
            with socket.create_connection(local):
                puncher.connect_all()
                await log.wait_for("connected", by="accept")

    run(test)


def test_only_a_released_connection_survives_the_puncher() -> None:
    async def test() -> None:
        log, local = Recorder(), free("127.0.0.2")
        seen: list[Connection] = []

        async def examine(connection: Connection) -> Verdict:
            seen.append(connection)
            return "kept"

        async with punching(Puncher(local, None, examine, log)) as puncher:
            with socket.create_connection(local), socket.create_connection(local):
                await log.wait_for("connected", count=2)
                puncher.release(seen[0])
                await puncher.close()
                assert [connection.sock.fileno() == -1 for connection in seen] == [False, True]
                seen[0].sock.close()

    run(test)


def test_waiting_for_an_instant_is_not_early() -> None:
    async def test() -> None:
        instant = time.monotonic() + 0.02
        await sleep_until(instant)
        assert time.monotonic() >= instant
        await sleep_until(instant - 1)

    run(test)


def test_of_several_connections_both_agree_on_the_same() -> None:
    async def test() -> None:
        with connections(3) as made:
            sender, receiver = pair()
            tasks = [asyncio.create_task(sender.examine(one)) for one, _ in made]
            tasks += [asyncio.create_task(receiver.examine(other)) for _, other in reversed(made)]
            chosen, confirmed = (await sender.chosen)[0], (await receiver.chosen)[0]
            assert (chosen, confirmed) in made
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(test)


def test_if_the_chosen_connection_dies_unanswered_the_next_is_chosen() -> None:
    async def test() -> None:
        with connections(2) as made:
            (first, its_end), (second, other_end) = made
            guesses = Guesses()
            sender, receiver = pair(guesses=guesses)
            examining = asyncio.create_task(sender.examine(first))
            await hear_proof(Stream(its_end.sock))
            its_end.sock.close()
            assert await examining == "lost"
            both = asyncio.gather(sender.examine(second), receiver.examine(other_end))
            assert tuple(await both) == ("kept", "kept")
            assert (await sender.chosen)[0] is second
            assert [guesses.take() for _ in range(MAX_GUESSES + 1)] == [True] * MAX_GUESSES + [False]

    run(test)


def test_an_answer_that_takes_long_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "ANSWER_S", 0.01)

    async def test() -> None:
        with connections(2) as made:
            (first, its_end), (second, other_end) = made
            sender, receiver = pair()
            examining = asyncio.create_task(sender.examine(first))
            late = await hear_proof(Stream(its_end.sock))
            both = asyncio.gather(sender.examine(second), receiver.examine(other_end))
            assert tuple(await both) == ("kept", "kept")
            assert (await sender.chosen)[0] is second
            await late.prove()
            assert await examining == "kept"
            assert (await sender.chosen)[0] is second

    run(test)


def test_a_receiver_answers_once() -> None:
    async def test() -> None:
        with connections(2) as made:
            _, receiver = pair()
            examining = [asyncio.create_task(receiver.examine(other)) for _, other in made]
            for end, _ in made:
                introduction = await exchange_hellos(Stream(end.sock), "sender", TAGS)
                await introduction.agree(SESSION, KEY).prove()
            assert await asyncio.gather(*examining) == ["kept", "kept"]
            chosen = (await receiver.chosen)[0]
            for end, other in made:
                if other is chosen:
                    assert len(end.sock.recv(1000)) == PROOF_BYTES
                else:
                    with pytest.raises(BlockingIOError):
                        end.sock.recv(1)

    run(test)


@pytest.mark.parametrize("first_is_better", [False, True])
def test_a_better_connection_is_given_a_moment(first_is_better: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PREFERENCE_S", 1000)

    async def test() -> None:
        with connections(2) as made:
            better, other = made if first_is_better else made[::-1]
            sender, receiver = pair()
            sender.prefer([better[0].remote])
            both = [asyncio.gather(sender.examine(one), receiver.examine(end)) for one, end in made]
            assert (await sender.chosen)[0] is better[0]
            assert (await receiver.chosen)[0] is better[1]
            other[0].sock.shutdown(socket.SHUT_RDWR)
            await asyncio.gather(*both)

    run(test)


@pytest.mark.parametrize("there", ["nobody", "stranger", "gone"])
def test_what_is_better_but_does_not_come_is_given_the_same_moment_whatever_is_there(there: str) -> None:
    """The edge that supplied it can observe when the client leaves."""

    async def test() -> None:
        with connections(2) as made:
            (one, end), (hope, its_end) = made
            sender, receiver = pair()
            sender.prefer([hope.remote])
            examining = [sender.examine(one), receiver.examine(end)]
            if there == "stranger":
                its_end.sock.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and so on")
                examining.append(sender.examine(hope))
            elif there == "gone":
                its_end.sock.close()
                examining.append(sender.examine(hope))
            begun = time.monotonic()
            await asyncio.gather(*examining)
            assert (await sender.chosen)[0] is one
            assert time.monotonic() - begun >= agreement.PREFERENCE_S

    run(test)


@pytest.mark.parametrize("answers", [True, False])
def test_a_choice_that_is_under_way_is_settled_by_the_receiver(answers: bool) -> None:
    async def test() -> None:
        with connections(1) as made:
            ((one, end),) = made
            sender, _ = pair()
            examining = asyncio.create_task(sender.examine(one))
            proofs = await hear_proof(Stream(end.sock))
            settled = asyncio.create_task(sender.settled())
            await asyncio.sleep(0)
            assert not settled.done()
            if answers:
                await proofs.prove()
            else:
                end.sock.close()
            await settled
            assert sender.chosen.done() is answers
            assert await examining == ("kept" if answers else "lost")
            await sender.settled()  # at once

    run(test)


def test_a_wrong_secret_is_remembered_and_chosen_by_nobody() -> None:
    async def test() -> None:
        with connections(1) as made:
            ((one, other),) = made
            sender, receiver = pair(KEY, bytes(32))
            verdicts = await asyncio.gather(sender.examine(one), receiver.examine(other))
            assert tuple(verdicts) == ("stranger", "stranger")
            assert list(sender.wrong_peers) == [str(one.remote)]
            assert list(receiver.wrong_peers) == [str(other.remote)]
            assert not sender.chosen.done()

    run(test)


def test_a_stranger_is_not_taken_for_a_wrong_peer() -> None:
    async def test() -> None:
        with connections(1) as made:
            ((one, other),) = made
            sender, _ = pair()
            other.sock.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            assert await sender.examine(one) == "stranger"
            assert not sender.wrong_peers

    run(test)


def test_a_key_exchange_that_fails_makes_everybody_a_wrong_peer() -> None:
    def fail() -> bytes:
        raise WrongPeerError("makes no sense")

    async def test() -> None:
        with connections(1) as made:
            ((one, other),) = made
            broken = Agreement("sender", Exposure(Guesses()))
            broken.begin(INTRODUCED, fail)
            examining = asyncio.create_task(broken.examine(one))
            await exchange_hellos(Stream(other.sock), "receiver", TAGS)
            assert await examining == "stranger"
            assert list(broken.wrong_peers.values()) == ["makes no sense"]

    run(test)
