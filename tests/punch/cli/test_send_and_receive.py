"""`punch send` and `punch receive` as a user runs them: as processes, on the loopback network."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from punchlab.punch.secure.keys import write_key_file
from tests.punch.processes import CODE, receive, running_edge, send
from tests.punch.recorder import PATIENCE_S, Command, Event

OTHER_SECRET = "k7x2mq-amber-falcon-zebra"


def in_order(events: list[Event], *names: str) -> None:
    instants = [next(event["t"] for event in events if event["event"] == name) for name in names]
    assert all(earlier <= later for earlier, later in itertools.pairwise(instants)), dict(
        zip(names, instants, strict=True)
    )


@pytest.mark.parametrize("strategy", ["reuse", "keep"])
def test_a_file_is_transferred_and_every_event_reported(file: Path, out: Path, strategy: str) -> None:
    with running_edge() as (edge, url):
        with send(url, file, "--strategy", strategy) as sender:
            code = sender.wait_for("code")["code"]
            with receive(url, code, "--dir", out, "--strategy", strategy) as receiver:
                assert receiver.finish() == 0
                assert sender.finish() == 0
        session = code.partition("-")[0]
        edge.wait_for("client_gone", role="sender")
        edge.wait_for("client_gone", role="receiver")
        assert edge.wait_for("paired", session=session, via="local")
        assert not any(word in str(edge.events) for word in code.split("-")[1:])
    assert (out / "report.pdf").read_bytes() == file.read_bytes()
    assert [path.name for path in out.iterdir()] == ["report.pdf"]

    done = {"name": "report.pdf", "size": 200_000, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    for command, other in ((sender, receiver), (receiver, sender)):
        assert command.errors == []
        registered, other_registered = command.wait_for("registered"), other.wait_for("registered")
        assert registered["public"] == registered["local"]
        assert (registered["edge"], registered["session"]) == ("e1", session)
        assert command.wait_for("peer_known")["candidates"] == [
            {"address": other_registered["public"], "kind": "srflx"}
        ]
        agreed = command.wait_for("agreed")
        assert (agreed["local"], agreed["remote"]) == (registered["local"], other_registered["local"])
        assert command.wait_for("connected", remote=agreed["remote"])["local"] == agreed["local"]
        assert command.wait_for("first_syn")["local"] == registered["local"]
        assert 0 < command.wait_for("nonce_echoed")["round_trip_s"] < PATIENCE_S
        assert command.wait_for("done")["files"] == [done]
        assert command.all("attempt")
        assert all(event["number"] >= 1 and event["kind"] == "srflx" for event in command.all("attempt"))
        in_order(command.events, "registered", "peer_known", "first_syn", "connected", "agreed", "nonce_echoed", "done")
        assert bool(command.all("rendezvous_closed")) is (strategy == "reuse")
        if strategy == "reuse":
            in_order(command.events, "peer_known", "rendezvous_closed", "first_syn")


@pytest.mark.parametrize("sender_first", [True, False])
def test_clients_at_two_edges_connect_over_the_mesh(file: Path, out: Path, sender_first: bool) -> None:
    with (
        running_edge("e1", "--mesh-from", "127.0.0.1") as (near, near_url),
        running_edge("e2", "--join", near_url) as (far, far_url),
    ):
        far.wait_for("joined", peer="e1")
        near.wait_for("joined", peer="e2")
        with contextlib.ExitStack() as stack:
            if sender_first:
                sender = stack.enter_context(send(near_url, file, "--code", CODE))
                sender.wait_for("code")
            receiver = stack.enter_context(receive(far_url, CODE, "--dir", out))
            if not sender_first:
                receiver.wait_for("registered")
                sender = stack.enter_context(send(near_url, file, "--code", CODE))
            assert sender.finish() == 0
            assert receiver.finish() == 0
        assert sender.wait_for("peer_known")["via"] == receiver.wait_for("peer_known")["via"] == "bus"
        assert (sender.wait_for("registered")["edge"], receiver.wait_for("registered")["edge"]) == ("e1", "e2")
        far.wait_for("bus_sent", type="waiting", peer="e1", session="k7x2mq")
        near.wait_for("bus_sent", type="answer", peer="e2", session="k7x2mq")
        assert near.wait_for("paired")["via"] == far.wait_for("paired")["via"] == "bus"
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_a_receiver_that_does_not_know_the_words_gets_nothing(edge: str, file: Path, out: Path) -> None:
    with (
        send(edge, file, "--code", CODE, "--deadline", "1") as sender,
        receive(edge, OTHER_SECRET, "--dir", out, "--deadline", "1") as receiver,
    ):
        for command in (sender, receiver):
            assert command.finish() == 1
            assert command.wait_for("failed")["outcome"] == "wrong_peer"
            assert not command.all("agreed")
            assert not command.all("done")
    assert list(out.iterdir()) == []


def test_a_key_file_does_without_a_code(edge: str, tmp_path: Path, file: Path, out: Path) -> None:
    key = tmp_path / "key"
    write_key_file(key)
    with send(edge, file, "--key-file", key) as sender:
        sender.wait_for("registered")
        with receive(edge, "--key-file", key, "--dir", out) as receiver:
            assert receiver.finish() == 0
            assert sender.finish() == 0
    assert receiver.all("registered")[-1]["session"] == sender.all("registered")[-1]["session"]
    assert not sender.all("code")
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_the_code_can_come_on_standard_input(edge: str, file: Path, out: Path) -> None:
    with send(edge, file, "--code", CODE) as sender, receive(edge, "-", "--dir", out, stdin=f"{CODE}\n") as receiver:
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_the_sender_s_code_can_come_on_standard_input(edge: str, file: Path, out: Path) -> None:
    with (
        Command("send", file, "--code", "-", "--edge", edge, "--bind", "127.0.0.2:0", stdin=f"{CODE}\n") as sender,
        receive(edge, CODE, "--dir", out) as receiver,
    ):
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert sender.wait_for("code")["code"] == CODE


def test_the_code_can_come_from_the_environment_of_the_receiver_alone(
    edge: str, file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNCH_CODE", CODE)
    with send(edge, file) as sender:
        code = sender.wait_for("code")["code"]
        assert code != CODE
        monkeypatch.setenv("PUNCH_CODE", code)
        with receive(edge, "--dir", out) as receiver:
            assert receiver.finish() == 0
            assert sender.finish() == 0
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


def test_several_files_cross_at_once(edge: str, tmp_path: Path, out: Path) -> None:
    contents = {"a": b"", "b": os.urandom(70_000), "ç d": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with (
        send(edge, *(tmp_path / name for name in contents), "--code", CODE) as sender,
        receive(edge, CODE, "--dir", out) as receiver,
    ):
        assert receiver.finish() == 0
        assert sender.finish() == 0
    assert [each["name"] for each in receiver.wait_for("done")["files"]] == list(contents)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents


@pytest.mark.parametrize("force", [False, True])
def test_an_existing_file_is_overwritten_only_with_force(edge: str, file: Path, out: Path, force: bool) -> None:
    (out / "report.pdf").write_bytes(b"old")
    options = ["--force"] if force else []
    with send(edge, file, "--code", CODE) as sender, receive(edge, CODE, "--dir", out, *options) as receiver:
        assert receiver.finish() == (0 if force else 1)
        assert sender.finish() == (0 if force else 1)
    if force:
        assert (out / "report.pdf").read_bytes() == file.read_bytes()
    else:
        assert (out / "report.pdf").read_bytes() == b"old"
        assert all(command.wait_for("failed")["outcome"] == "client_error" for command in (sender, receiver))
        assert "'report.pdf' already exists (--force" in receiver.wait_for("failed")["reason"]
        assert (
            sender.wait_for("failed")["reason"] == "the receiver aborted: the receiver cannot store the offered files"
        )
    assert [path.name for path in out.iterdir()] == ["report.pdf"]


def test_both_dial_at_the_instant_they_were_given(edge: str, file: Path, out: Path) -> None:
    instant = time.monotonic() + 5  # long enough to connect on a busy machine
    options = ["--start-at", repr(instant)]
    with (
        send(edge, file, "--code", CODE, *options) as sender,
        receive(edge, CODE, "--dir", out, *options) as receiver,
    ):
        assert sender.finish() == 0
        assert receiver.finish() == 0
    for command in (sender, receiver):
        assert command.wait_for("peer_known")["t"] < instant
        assert instant <= command.wait_for("first_syn")["t"] < instant + 1


def test_a_full_disk_is_reported_on_both_sides_and_leaves_nothing(edge: str, file: Path, out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with send(edge, file, "--code", CODE) as sender:
        sender.wait_for("code")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            receiver = receive(edge, CODE, "--dir", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with receiver:
            assert receiver.finish() == 1
            assert sender.finish() == 1
    assert "'report.pdf' cannot be stored: File too large" in receiver.wait_for("failed")["reason"]
    assert sender.wait_for("failed")["reason"] == "the receiver aborted: the receiver cannot store the offered files"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_receiver_that_is_terminated_leaves_nothing(
    edge: str, tmp_path: Path, out: Path, number: signal.Signals
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it is not sent completely
    fits = os.statvfs(out).f_bavail * os.statvfs(out).f_frsize
    os.truncate(big, min(1 << 40, fits // 2))
    with send(edge, big, "--code", CODE) as sender, receive(edge, CODE, "--dir", out) as receiver:
        receiver.wait_for("progress")
        receiver.process.send_signal(number)
        assert receiver.finish() == 128 + number
        assert sender.finish() == 1
    assert list(out.iterdir()) == []
    assert receiver.errors == ["punch: terminated"]
