"""An edge under attack: it keeps running, its memory is bounded, and honest clients are still paired.

Each test attacks a real `punch edge` in its own process. The attackers use thousands of loopback addresses, so that the
limits per address do not stop them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import (
    ANSWERED_PINGS,
    WELCOMED,
    drain,
    flood,
    memory_kib,
    registration,
    upgrade,
    ws_frame,
)
from scenarios.hostile.frames import volleys
from tests.punch.hostile import attackers
from tests.punch.processes import CODE
from tests.punch.recorder import PATIENCE_S, Command

FRAMES = int(os.environ.get("PUNCH_EDGE_FRAMES", "2500"))
"""The minimum number of attacks on an edge; the complete test uses 10,000."""
PER_ASSAULT = 40
IDLE = 2_000
BASE_KIB = 64 * 1024
"""The memory of an edge without clients."""
PER_CONNECTION_KIB = 40
"""Additional memory per connection."""


@pytest.fixture
def edge() -> Iterator[Command]:
    # Attackers may join the mesh, so that their frames reach it as well.
    with Command("edge", "--listen", "127.0.0.1:0", "--name", "e1", "--mesh-from", "127.0.0.0/8") as command:
        command.wait_for("listening")
        yield command
        assert command.finish(terminate=True) == 0
        assert command.errors == []


def address(edge: Command) -> Endpoint:
    return Endpoint.parse(edge.wait_for("listening")["address"])


class Honest(threading.Thread):
    """Two honest clients that send a file one after the other; `finish` asserts that it was received."""

    def __init__(self, edge: Endpoint, directory: Path) -> None:
        super().__init__()
        self._url = f"ws://{edge}"
        self._file, self._out = directory / "report.pdf", directory / "out"
        self._file.write_bytes(os.urandom(100_000))
        self._out.mkdir()
        self.statuses: list[int] = []
        self.start()

    def run(self) -> None:
        with Command("send", self._file, "--edge", self._url, "--bind", "127.0.0.2:0", "--code", CODE) as sender:
            sender.wait_for("code")
            where = ["--edge", self._url, "--bind", "127.0.0.3:0"]
            with Command("receive", CODE, "--yes", *where, "--dir", self._out) as receiver:
                self.statuses = [sender.finish(), receiver.finish()]

    def finish(self) -> None:
        self.join()
        assert self.statuses == [0, 0]
        assert (self._out / "report.pdf").read_bytes() == self._file.read_bytes()


def assert_no_client_is_left(edge: Endpoint) -> None:
    """Assert that all connections have been released, except the one of this request."""
    deadline = time.monotonic() + PATIENCE_S
    while b"punch_edge_connections 1.0\n" not in (metrics := attackers(edge).ask(b"GET /metrics HTTP/1.1\r\n\r\n")):
        assert time.monotonic() < deadline, metrics


def test_hostile_frames_do_not_affect_other_clients(edge: Command, tmp_path: Path) -> None:
    at = address(edge)
    them = attackers(at)
    them.answer(upgrade() + ws_frame(b"nonsense"))
    before = memory_kib(edge.process.pid)
    ahead = volleys(FRAMES, PER_ASSAULT)
    honest, rounds = Honest(at, tmp_path), 0
    while honest.is_alive() or rounds < len(ahead):  # honest clients were paired during the attack
        them.assault(ahead[rounds % len(ahead)])
        assert edge.process.poll() is None
        rounds += 1
    honest.finish()
    assert_no_client_is_left(at)
    assert memory_kib(edge.process.pid) - before < 16 * 1024
    assert memory_kib(edge.process.pid, "VmHWM") < BASE_KIB + PER_ASSAULT * PER_CONNECTION_KIB


def test_idle_connections_leave_room_for_others_and_are_closed(edge: Command, tmp_path: Path) -> None:
    """A third sends nothing, a third half a request, and a third opens a WebSocket and does not register."""
    at = address(edge)
    before = memory_kib(edge.process.pid)
    with attackers(at).idle(IDLE) as idle:
        assert memory_kib(edge.process.pid) - before < IDLE * PER_CONNECTION_KIB
        Honest(at, tmp_path).finish()
        for sock in idle:
            drain(sock)
    after = tmp_path / "after"
    after.mkdir()
    Honest(at, after).finish()
    assert_no_client_is_left(at)
    assert memory_kib(edge.process.pid, "VmHWM") < BASE_KIB + IDLE * PER_CONNECTION_KIB


def test_idle_connections_of_one_address_do_not_keep_others_out(edge: Command, tmp_path: Path) -> None:
    at = address(edge)
    with attackers(at).one_address(limit=50) as connect_idle:
        for _ in range(50):
            connect_idle()
        Honest(at, tmp_path).finish()


def test_slow_readers_are_disconnected(edge: Command, tmp_path: Path) -> None:
    """Each registers and then sends pings whose answers it never reads, until the edge disconnects it."""
    at = address(edge)
    before = memory_kib(edge.process.pid)
    sessions = [f"slow{number}" for number in range(50)]
    with attackers(at).slow_readers(sessions) as slow:
        honest = Honest(at, tmp_path)
        flood(slow, ANSWERED_PINGS)
        honest.finish()
        for session in sessions:
            gone = edge.wait_for("client_gone", session=session)
            assert gone["reason"] in ("sent too many bytes", "does not read the data sent to it")
    assert_no_client_is_left(at)
    assert memory_kib(edge.process.pid) - before < 50 * PER_CONNECTION_KIB + 8 * 1024


def test_guessing_session_ids_reveals_nothing(edge: Command, file: Path, out: Path) -> None:
    """A wrong guess gets the same welcome as any client, and nothing else."""
    at = address(edge)
    with Command("send", file, "--edge", f"ws://{at}", "--bind", "127.0.0.2:0", "--code", CODE) as sender:
        sender.wait_for("code")
        assert attackers(at).guess_sessions(2000) == {WELCOMED}
        with Command(
            "receive", CODE, "--yes", "--edge", f"ws://{at}", "--bind", "127.0.0.3:0", "--dir", out
        ) as receiver:
            assert sender.finish() == receiver.finish() == 0
    assert (out / "report.pdf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01 hello",
        upgrade(),
        upgrade("/mesh"),
        upgrade() + ws_frame(b"nonsense"),
        upgrade() + ws_frame(registration("sender").encode()),
        upgrade() + ws_frame(b"x" * 125, 9) * 50,
    ],
)
def test_an_edge_does_not_amplify(edge: Command, sent: bytes) -> None:
    """Apart from one short answer per request, it does not send more bytes than it receives."""
    assert len(attackers(address(edge)).answer(sent)) <= 400 + len(sent)
