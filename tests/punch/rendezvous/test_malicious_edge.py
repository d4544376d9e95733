"""An edge, or an attacker that knows the name of a session without its code, can only make two clients fail.

The edge in these tests is the attacker's. It follows the protocol, and changes the frames that it forwards.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from punchlab.punch.secure.keys import PakeExchange
from scenarios.hostile.edge import GUESS, TAMPERINGS, Json, Tamper, honestly, is_detected, malicious
from scenarios.hostile.thief import assert_nothing_was_learnt, overhear, thief_of
from tests.punch.processes import CODE, url_of
from tests.punch.recorder import PATIENCE_S, Command


@contextlib.contextmanager
def edge_that(tamper: Tamper, victims: tuple[str, ...] = ()) -> Iterator[str]:
    """Return the URL of such an edge."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with malicious(tamper, victims, listener):
        yield f"ws://127.0.0.1:{port}"


def meet(url: str, file: Path, out: Path) -> tuple[Command, Command]:
    """Wait until both clients have ended."""
    where = ["--edge", url, "--deadline", "5"]
    with (
        Command("send", file, *where, "--bind", "127.0.0.2:0", "--code", CODE) as sender,
        Command("receive", CODE, "--yes", *where, "--bind", "127.0.0.3:0", "--dir", out) as receiver,
    ):
        sender.finish()
        receiver.finish()
    return sender, receiver


def test_the_edge_of_these_tests_pairs_clients_if_it_does_not_tamper(file: Path, out: Path) -> None:
    with edge_that(honestly) as url:
        sender, receiver = meet(url, file, out)
    assert sender.process.returncode == receiver.process.returncode == 0
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("tamper", "victims"), TAMPERINGS)
def test_an_edge_that_changes_the_exchanged_messages_is_detected(
    file: Path, out: Path, tamper: Tamper, victims: tuple[str, ...]
) -> None:
    with edge_that(tamper, victims) as url:
        for role, command in zip(("sender", "receiver"), meet(url, file, out), strict=True):
            assert command.process.returncode == 1
            assert is_detected(role, victims, command.wait_for("failed")["outcome"])
            assert not command.all("agreed")
    assert list(out.iterdir()) == []


def test_who_knows_the_session_but_not_its_code_never_gets_a_byte_of_the_file(file: Path) -> None:
    """A receiver of the attacker connects to the sender as long as it runs, with an invalid proof."""
    with Command("edge", "--listen", "127.0.0.1:0") as edge:
        url = url_of(edge)
        with Command(
            *("send", file, "--edge", url, "--bind", "127.0.0.2:0", "--code", CODE, "--deadline", "2")
        ) as sender:
            sender.wait_for("code")
            thief = PakeExchange(GUESS, "receiver")
            with connect(url, proxy=None) as client:
                register: Json = {"session": thief.session, "role": "receiver", "private": [], "pake": thief.message}
                client.send(json.dumps({"type": "register", **register}))
                client.recv()
                peer = json.loads(client.recv())
                ip, _, port = peer["public"].partition(":")
            introduced = thief_of(thief.session, thief.message, peer)
            sender.wait_for("first_syn")
            heard: list[bytes] = []
            with contextlib.suppress(ConnectionRefusedError):
                while True:
                    with socket.create_connection((ip, int(port)), timeout=PATIENCE_S) as sock:
                        heard.append(overhear(sock, introduced))
            assert sender.finish() == 1
            assert sender.wait_for("failed")["outcome"] == "wrong_peer"
            assert not sender.all("agreed")
    assert_nothing_was_learnt(heard, file.read_bytes())
