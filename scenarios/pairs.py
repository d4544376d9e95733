"""A sender and a receiver that a scenario starts itself, so that it can disturb them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT, EdgeNetwork
from punchlab.lab.client.processes import Event, EventProcess, wait_for
from punchlab.lab.trial.trial import edge_network

PATIENCE_S = 40.0
CODE = "k7x2mq-amber-falcon-tulip"


class Pair:
    """Clients in a running lab. They transfer random content; `connect` checks that it arrived."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self._folder = folder
        self.content = secrets.token_bytes(2000)
        self._file = folder / "sent.bin"
        self._file.write_bytes(self.content)
        self._clients: list[EventProcess] = []
        self.edges: EdgeNetwork = edge_network(lab, PUNCH)
        self.edges.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.end()

    def send(self, host: str, *options: str, edges: Sequence[str] = ()) -> EventProcess:
        """Start a sender and wait until it is registered. `edges` are names; by default it uses the anycast address."""
        return self.printed(self.start_sender(host, *options, edges=edges), "registered")

    def start_sender(self, host: str, *options: str, edges: Sequence[str] = ()) -> EventProcess:
        """Start a sender without waiting."""
        return self._start(host, ["send", str(self._file), "--code", CODE, *self._common(edges), *options])

    def receive(self, host: str, *options: str, edges: Sequence[str] = ()) -> EventProcess:
        """Start a receiver and wait until it is registered."""
        inbox = self._folder / f"inbox{len(self._clients)}"
        inbox.mkdir()
        words = ["receive", CODE, "--yes", "--dir", str(inbox), *self._common(edges), *options]
        return self.printed(self._start(host, words), "registered")

    def printed(self, client: EventProcess, event: str, count: int = 1, within_s: float = PATIENCE_S) -> EventProcess:
        """Wait until a client or an edge has printed `count` events of that name."""
        self._wait(lambda: len(events(client, event)) >= count or not client.open, within_s)
        found = len(events(client, event)) >= count
        assert found, f"{client.node.name} did not print {event}: {client.events} {client.errors}"
        return client

    def edge_printed(self, name: str, event: str, count: int = 1) -> None:
        """Wait until an edge has printed `count` events of that name."""
        self.printed(self.edges.process(name), event, count)

    def idle(self, seconds: float) -> None:
        """Wait for `seconds` while reading all output."""
        self._wait(lambda: False, seconds)

    def ended(self, client: EventProcess) -> Event:
        """Wait for the exit of a client that fails, and return its event."""
        self._wait(lambda: not client.open)
        assert client.returncode == 1, client.events
        (failed,) = events(client, "failed")
        return failed

    def failure(self, client: EventProcess) -> str:
        """Wait for the exit of a client that finds no peer, and return its reason."""
        failed = self.ended(client)
        assert failed["outcome"] == "no_rendezvous"
        return str(failed["reason"])

    def connect(self, sender: EventProcess, receiver: EventProcess) -> None:
        """Wait until both have exited successfully and the file has arrived."""
        both = [sender, receiver]
        self._wait(lambda: not any(client.open for client in both))
        for client in both:
            assert client.returncode == 0, f"{client.node.name}: {client.events} {client.errors}"
        (arrived,) = self.inbox(receiver)
        assert arrived.name == self._file.name
        assert arrived.read_bytes() == self.content

    def inbox(self, receiver: EventProcess) -> list[Path]:
        """Return the files that a receiver has stored."""
        return list((self._folder / f"inbox{self._clients.index(receiver)}").iterdir())

    def _wait(self, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        """Wait for the condition. This also reads the output of the edges, because an edge blocks when its pipe is
        full.
        """
        wait_for([*self._clients, *self.edges.processes], condition, within_s)

    def _start(self, host: str, words: Sequence[str]) -> EventProcess:
        client = EventProcess(self.lab[host], words, PUNCH.function)
        self._clients.append(client)
        return client

    def _common(self, edges: Sequence[str]) -> list[str]:
        addresses = [self.lab[edge].address for edge in edges] or [self.lab.anycast]
        return ["--edge", ",".join(f"ws://{address}:{PORT}" for address in addresses), "--json"]


def events(process: EventProcess, name: str) -> list[Event]:
    """Return the events of that name so far."""
    return [event for event in process.events if event["event"] == name]


def where(client: EventProcess) -> list[str]:
    """Return the edges at which a client has registered, in order."""
    return [str(event["edge"]) for event in events(client, "registered")]
