"""The toy's two hosts: what a plan says, step by step."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.lab.trial.verdicts.plan import Plan
from tests.lab.trial.verdicts.toy import datagrams, punch
from tests.lab.trial.verdicts.toy.punch import PunchError

_THIRD_PORT = 9000
_NAME = "sent.bin"
_MINE, _PEERS, _EDGES = "203.0.113.1:1", "203.0.113.2:2", "11.0.0.1:7000"
"""Endpoints that were never used, and one of the edge."""


@dataclass
class Host:
    """One host of a trial. `log` gets ROLE.json: what this host can prove of the file."""

    role: str
    plan: Plan
    edge: tuple[str, int]
    code: str
    deadline_s: float
    log: Path
    file: Path
    """What to send, or the folder for what comes."""
    held: list[socket.socket] = field(default_factory=list)

    # What it says.

    def say(self, event: str, **more: object) -> None:
        """Announce it, in the plan's way of telling the truth."""
        if self.plan.word in ("honest", "tuple", "edge", "peer", "sorry"):
            self.announce(event, **more)

    def announce(self, event: str, **more: object) -> None:
        """Print an event."""
        print(json.dumps({"event": event, "t": time.monotonic(), **more}), flush=True)

    def _success(self) -> list[tuple[str, dict[str, object]]]:
        return [
            ("peer_known", {"peer": _PEERS}),
            ("first_syn", {}),
            ("connected", {"local": _MINE, "remote": _PEERS}),
            ("agreed", {"local": _MINE, "remote": _PEERS}),
            ("done", {}),
        ]

    def agreed(self, connection: socket.socket | None, met: punch.Met | None) -> None:
        """Announce a connection, which with some plans is another one, or none."""
        if self.plan.word == "tuple":
            ends = _MINE, _PEERS
        elif self.plan.word == "edge" and met is not None:
            ends = _end(met.local), _EDGES
        elif self.plan.word == "peer" and met is not None:
            ends = _end(met.local), _end(met.peer)
        elif connection is not None:
            ends = _end(connection.getsockname()), _end(connection.getpeername())
        else:
            return
        self.say("agreed", local=ends[0], remote=ends[1])

    # What it does.

    def run(self) -> int:
        """The exit status."""
        self.log.mkdir(parents=True, exist_ok=True)
        if self.role == "send":
            self._prove(self.file.read_bytes())
        if self.plan.word == "boast":
            for event, more in self._success():
                self.announce(event, **more)
        self.stage("start")
        try:
            self._transfer()
        except PunchError as error:
            self.say("failed", outcome=error.outcome, reason=str(error))
            return 1
        except OSError as error:
            self.say("failed", outcome="client_error", reason=str(error))
            return 1
        self.stage("stored")
        self.say("done")
        if self.plan.word == "backwards":
            for event, more in reversed(self._success()):
                self.announce(event, **more)
        if self.plan.word == "sorry":
            self.announce("failed", outcome=self.plan.outcome, reason="not so")
        self._children()
        self.stage("done")
        return 0

    def stage(self, name: str) -> None:
        """Die here, if the plan says so."""
        if not self.plan.dies({"send": "sender", "receive": "receiver"}[self.role], name):
            return
        death = self.plan.death
        if death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if death == "failed":
            self.announce("failed", outcome=self.plan.outcome, reason="as planned")
            os._exit(1)
        if death == "exit":
            os._exit(3)
        if death == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()

    def _transfer(self) -> None:
        if self.plan.path in ("udp", "udp_relay", "udplite", "raw"):
            return self._by_datagrams()
        met = punch.meet(self.edge, self.code, self.role, 0, self._port(0))
        self.held.append(met.edge)
        self.say("peer_known", peer=_end(met.peer))
        self.stage("known")
        path = self.plan.path
        if path == "disk":
            if self.role == "receive":
                self._store((self.file.parent / _NAME).read_bytes())
            return self._farewell(met)
        if path == "third":
            third = punch.meet((self.plan.third, _THIRD_PORT), self.code, self.role, 0, 0).edge
            self.held.append(third)
            return self._one(third, met)
        if path == "relay":
            self.agreed(None, met)
            return self._one(met.edge, met)
        if path in ("direct", "mptcp"):
            return self._direct(met)
        connection = self._punched(met, 0)
        if path == "half":
            return self._halves(connection, met)
        if path == "garbage":
            self._pass(connection, self._noise(), lambda: None)
        return self._one(met.edge, met)

    def _port(self, index: int) -> int:
        """A port of this role: below those that the kernel gives out, above those that some NATs change."""
        return 20000 + 2000 * (self.role == "send") + int(self.code[:3], 16) % 900 + 1000 * index // 4

    def _punched(self, met: punch.Met, index: int) -> socket.socket:
        if self.plan.early and index == 0:
            met.edge.close()
        peer = {"public": met.peer, "private": met.private, "ipv6": met.ipv6}.get(
            self.plan.place, (self.plan.third, met.peer[1])
        )
        connection = punch.punch(
            self.role,
            self._port(index),
            peer,
            self.deadline_s,
            self.say,
            dials=self.plan.dials in ("both", {"send": "sender", "receive": "receiver"}[self.role]),
            protocol=262 if self.plan.path == "mptcp" else 0,
            fast=self.plan.fast and self.role == "send",
        )
        self.held.append(connection)
        self.say("connected", local=_end(connection.getsockname()), remote=_end(connection.getpeername()))
        self.agreed(connection, met)
        self.stage("connected")
        return connection

    def _direct(self, met: punch.Met) -> None:
        """Over one connection or several, each with its own introduction and its own part of the file."""
        connections = [self._punched(met, 0)]
        for index in range(1, self.plan.streams):
            again = punch.meet(self.edge, self.code, self.role, index, self._port(index))
            self.held.append(again.edge)
            connections.append(self._punched(again, index))
        content = self._offered()
        share = -(-len(content) // len(connections))
        parts = [b""] * len(connections)

        def work(index: int) -> None:
            halfway = partial(self.stage, "middle") if index == 0 else lambda: None
            parts[index] = self._pass(connections[index], content[share * index : share * (index + 1)], halfway)

        threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(1, len(connections))]
        for thread in threads:
            thread.start()
        work(0)
        for thread in threads:
            thread.join()
        if self.role == "receive":
            self._store(b"".join(parts))
        for connection in connections:
            self._part(connection)

    def _one(self, channel: socket.socket, met: punch.Met) -> None:
        got = self._pass(channel, self._offered(), partial(self.stage, "middle"))
        if self.role == "receive":
            self._store(got)
        for held in [each for each in self.held if each is not met.edge]:
            self._part(held)
        self._part(met.edge)

    def _halves(self, connection: socket.socket, met: punch.Met) -> None:
        content = self._offered()
        middle = len(content) // 2
        got = self._pass(connection, content[:middle], partial(self.stage, "middle"))
        got += self._pass(met.edge, content[middle:], lambda: None)
        if self.role == "receive":
            self._store(got)
        self._part(connection)
        self._part(met.edge)

    def _by_datagrams(self) -> None:
        met = datagrams.introduced(self.edge, self.code, self.role, self.deadline_s)
        self.say("peer_known", peer=_end(met[1]))
        self.stage("known")
        path = datagrams.line(self.plan.path, self.edge, met, met[1][0])
        if self.plan.path != "udp_relay":
            self.say("first_syn")
        datagrams.greet(path, self.deadline_s)
        self.say("connected")
        if self.plan.word in ("tuple", "edge", "peer"):
            self.say("agreed", local=_MINE, remote=_EDGES if self.plan.word == "edge" else _end(met[1]))
        self.stage("connected")
        if self.role == "send":
            datagrams.give(path, self._offered(), 3 + self.deadline_s, partial(self.stage, "middle"))
        else:
            self._store(datagrams.take(path, 3 + self.deadline_s, partial(self.stage, "middle")))

    def _farewell(self, met: punch.Met) -> None:
        self._pass(met.edge, b"!", lambda: None)
        self._part(met.edge)

    def _pass(self, channel: socket.socket, content: bytes, halfway: Callable[[], None]) -> bytes:
        if self.role == "send":
            punch.give(channel, content, halfway)
            return b""
        return punch.take(channel, halfway)

    def _part(self, connection: socket.socket) -> None:
        if self.plan.child != "holder":
            punch.part(connection, self.plan.close, self.role)

    def _offered(self) -> bytes:
        return self.file.read_bytes() if self.role == "send" else b""

    def _noise(self) -> bytes:
        return os.urandom(self.file.stat().st_size + 100) if self.role == "send" else b""

    def _store(self, content: bytes) -> None:
        (self.file / _NAME).write_bytes(content)
        self._prove(content)

    def _prove(self, content: bytes) -> None:
        (self.log / f"{self.role}.json").write_text(json.dumps(hashlib.sha256(content).hexdigest()))

    def _children(self) -> None:
        """Leave behind what the plan leaves behind: each ends only when it is killed."""
        if self.plan.child not in ("stdout", "daemon", "holder"):
            return
        if os.fork():
            return
        os.setsid()
        if self.plan.child != "stdout":
            for descriptor in (0, 1, 2):
                os.close(descriptor)
        while True:
            signal.pause()


def main(role: str, words: dict[str, str]) -> int:
    """Be that host; with a worker, have a grandchild be it."""
    address, _, port = words["edge"].removeprefix("ws://").rpartition(":")
    plan = Plan.parse(words["plan"])
    host = Host(
        role,
        plan,
        (address, int(port)),
        words["code"],
        float(words["deadline"]),
        Path(words["log"]) / words["code"],
        Path(words["file"]),
    )
    if plan.child != "worker":
        return host.run()
    reading, writing = os.pipe()
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.close(reading)
        status = host.run()
        sys.stdout.flush()
        os.write(writing, bytes([status]))
        os._exit(status)
    os.close(writing)
    written = os.read(reading, 1)
    return written[0] if written else 4


def _end(endpoint: tuple[str, int] | tuple[str, int, int, int]) -> str:
    ip, port = endpoint[:2]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
