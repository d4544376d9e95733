"""A transfer survives the loss of its connection: rebooting NATs and killed processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT, EdgeNetwork
from punchlab.lab.client.processes import Event, EventProcess, wait_for
from punchlab.topologies import AB

MEGABYTE = 1_000_000
CODE = "k7x2mq-amber-falcon-tulip"
PATIENCE_S = 120.0
SLACK = 1.15  # headers, and data in flight when the path failed


@pytest.fixture(scope="session")
def resume_bytes(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--resume-megabytes")) * MEGABYTE


class Transfer:
    """`punch send` at `a` and `punch receive` at `b`, which can be killed and restarted."""

    def __init__(self, lab: Lab, file: Path, out: Path) -> None:
        self.lab, self.file, self.out = lab, file, out
        self.sender, self.receiver = self.send(), self.receive()

    def _start(self, node: str, *words: str) -> EventProcess:
        edge = f"ws://{self.lab.anycast}:{PORT}"
        command = [sys.executable, "-m", "punchlab.punch", *words, "--edge", edge, "--json"]
        return EventProcess(self.lab[node], command)

    def send(self) -> EventProcess:
        self.sender = self._start("a", "send", str(self.file), "--code", CODE)
        return self.sender

    def receive(self) -> EventProcess:
        self.receiver = self._start("b", "receive", CODE, "--yes", "--dir", str(self.out))
        return self.receiver

    def wait_until_arrived(self, count: int) -> None:
        """Wait until `count` bytes are in the receiver's directory."""

        def arrived() -> bool:
            return sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file()) >= count

        self._wait(arrived)

    def wait_for(self, process: EventProcess, name: str, count: int = 1) -> Event:
        self._wait(lambda: len(self.all(process, name)) >= count)
        return self.all(process, name)[count - 1]

    def _wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE_S / 0.05)):
            if wait_for([self.sender, self.receiver], condition, 0.05):
                return
            assert not self.all(self.sender, "failed"), self.sender.events
            assert not self.all(self.receiver, "failed"), self.receiver.events
        raise AssertionError((self.sender.events, self.receiver.events))

    @staticmethod
    def all(process: EventProcess, name: str) -> list[Event]:
        return [event for event in process.events if event["event"] == name]

    def finish(self) -> None:
        """Wait until both report success, and check that the file arrived unchanged."""
        for process in (self.sender, self.receiver):
            self.wait_for(process, "done")
            assert process.process.wait(10) == 0
        assert [path.name for path in self.out.iterdir()] == [self.file.name]
        assert _digest(self.out / self.file.name) == _digest(self.file)

    def sent_bytes(self) -> int:
        """Return the bytes that left `a`, including headers."""
        shown = self.lab["a"].run(["ip", "-json", "-statistics", "link", "show", "dev", "a-eth0"])
        (link,) = json.loads(shown.stdout)
        return int(link["stats64"]["tx"]["bytes"])

    def kill(self, process: EventProcess) -> None:
        process.process.send_signal(signal.SIGKILL)
        process.process.wait(10)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def transferring(tmp_path: Path, size: int, bw: float) -> Iterator[Transfer]:
    file, out = tmp_path / "file", tmp_path / "out"
    out.mkdir()
    with file.open("wb") as stream:
        for _ in range(size // MEGABYTE):
            stream.write(os.urandom(MEGABYTE))
    topology = AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone", bw=bw)
    with Lab(topology) as lab:
        edges = EdgeNetwork(list(lab.edges), PUNCH)
        try:
            edges.wait()
            transfer = Transfer(lab, file, out)
            try:
                yield transfer
            finally:
                transfer.sender.end()
                transfer.receiver.end()
        finally:
            edges.close()


def _four_tuples(transfer: Transfer) -> list[tuple[str, str]]:
    return [(event["local"], event["remote"]) for event in transfer.all(transfer.sender, "agreed")]


def _established(transfer: Transfer, local: str) -> list[str]:
    """Return the live connections of `a` from that address, as `ss` prints them."""
    shown = transfer.lab["a"].run(["ss", "-Htn", "state", "established", "src", local])
    return shown.stdout.splitlines()


def test_three_reboots_of_a_nat(tmp_path: Path, resume_bytes: int) -> None:
    with transferring(tmp_path, resume_bytes, bw=100) as transfer:
        both = (transfer.sender, transfer.receiver)
        wanted: list[int] = []
        for number in range(1, 4):
            # Reboot only when both have the tunnel: one on which only the sender has agreed fails for the sender alone.
            start = transfer.wait_for(transfer.receiver, "resumed", number - 1)["bytes"] if number > 1 else 0
            wanted.append(start + resume_bytes // 20)
            transfer.wait_until_arrived(wanted[-1])
            transfer.lab.nat("a").reboot()
            for process in both:
                transfer.wait_for(process, "broken", number)
            transfer.wait_for(transfer.sender, "agreed", number + 1)
            tuples = _four_tuples(transfer)
            assert len(set(tuples)) == number + 1, tuples
            assert _established(transfer, tuples[number - 1][0]) == []
        transfer.finish()
        starts = [[event["bytes"] for event in transfer.all(process, "resumed")] for process in both]
        assert starts[0] == starts[1]
        assert len(starts[0]) == 3
        assert all(start >= least for start, least in zip(starts[0], wanted, strict=True)), (starts, wanted)
        assert transfer.sent_bytes() < resume_bytes * SLACK


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_killed_client_resumes_after_a_restart(tmp_path: Path, victim: str) -> None:
    size = 60 * MEGABYTE
    with transferring(tmp_path, size, bw=100) as transfer:
        transfer.wait_until_arrived(size // 3)
        if victim == "sender":
            transfer.kill(transfer.sender)
            transfer.sender.end()
            transfer.send()
        else:
            transfer.kill(transfer.receiver)
            transfer.receiver.end()
            transfer.receive()
        transfer.finish()
        (resumed,) = transfer.all(transfer.receiver, "resumed")
        assert resumed["bytes"] >= size // 3
        assert transfer.sent_bytes() < size * SLACK
