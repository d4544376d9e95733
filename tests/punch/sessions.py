"""Endpoints in one process with their clients and the bus between them, without a network."""

from __future__ import annotations

from dataclasses import dataclass, field

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.edge.session import Directory, Registration
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Body, Contact, Peer, Role, SessionId

SESSION = SessionId("k7x2mq")
OLD_S = 100.0  # the age of stored messages


class Wire:
    """A bus between endpoints of one process: it stores all messages and delivers each to all other endpoints at
    once."""

    def __init__(self) -> None:
        self.log: list[tuple[WireBus, SessionId, Body]] = []
        self.subscribers: list[tuple[WireBus, SessionId, Callback]] = []
        self.owners: dict[Directory, WireBus] = {}

    def bodies(self) -> list[Body]:
        return [body for _, _, body in self.log]

    def cut(self, directory: Directory) -> None:
        """Stop delivering messages to and from that endpoint."""
        self.subscribers = [entry for entry in self.subscribers if entry[0] is not self.owners[directory]]

    def deliver(self, session: SessionId, body: Body, age_s: float) -> None:
        for _, wanted, callback in list(self.subscribers):
            if wanted == session:
                callback(body, age_s)


@dataclass(eq=False)
class WireBus:
    wire: Wire

    def publish(self, session: SessionId, body: Body) -> None:
        self.wire.log.append((self, session, body))
        for owner, wanted, callback in list(self.wire.subscribers):
            if owner is not self and wanted == session:
                callback(body, 0.0)

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        for _, kept, body in list(self.wire.log):
            if kept == session:
                callback(body, OLD_S)
        entry = (self, session, callback)
        self.wire.subscribers.append(entry)
        return lambda: self.wire.subscribers.remove(entry)

    async def run(self) -> None:
        raise NotImplementedError


@dataclass
class Client:
    role: Role
    port: int
    session: SessionId = SESSION
    peers: list[Peer] = field(default_factory=list)
    dismissals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.contact = Contact(Endpoint("11.0.0.1", self.port), (), f"{self.port:064x}")
        self.registration = Registration(
            self.session, self.role, self.contact, self.peers.append, self.dismissals.append
        )

    def met(self) -> list[tuple[Contact, str]]:
        return [(peer.contact, peer.via) for peer in self.peers]


def ignore(_event: str, /, t: float | None = None, **_fields: object) -> None:
    del t


def endpoint(wire: Wire) -> Directory:
    bus = WireBus(wire)
    directory = Directory("e", bus, ignore)
    wire.owners[directory] = bus
    return directory


def again(client: Client) -> Client:
    """Register the same client once more."""
    fresh = Client(client.role, client.port)
    fresh.registration.client = client.registration.client
    return fresh
