"""Who waits for whom: the state of each session at one endpoint. No input or output of its own.

A sender is parked silently. A receiver that does not find its sender here is announced on the bus (`Waiting`). The
endpoint that has the sender, or gets it later, pairs the two and publishes an `Answer`; the receiver's endpoint takes
the first one. A receiver that leaves after it was announced is called off (`Gone`). When both clients are here, the
bus carries nothing.

Each registration meets at most one peer, so each key-exchange message is handed out at most once: who wants to guess
a code gets one guess per registration of the other side.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from punch.edge.bus import Bus
from punch.errors import RefusedError
from punch.events import Reporter
from punch.frames import Answer, Body, Contact, Gone, Peer, Role, SessionId, Via, Waiting

MAX_SESSIONS = 10_000


@dataclass(eq=False)
class Registration:
    """One client at this endpoint, as long as its connection lasts.

    `deliver` is called once, with the peer; `dismiss` if it can never come. Neither may block.
    """

    session: SessionId
    role: Role
    contact: Contact
    deliver: Callable[[Peer], None]
    dismiss: Callable[[str], None]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    met: bool = False
    announced: bool = False

    def meet(self, peer: Contact, via: Via) -> None:
        """Tell the client about its peer."""
        self.met = True
        self.deliver(Peer(peer, via))


class Session:
    """One session, seen from one endpoint."""

    def __init__(self, identity: SessionId, edge: str, bus: Bus, report: Reporter) -> None:
        self._id = identity
        self._edge = edge
        self._bus = bus
        self._report = report
        self._here: dict[Role, Registration] = {}
        self._elsewhere: dict[str, Contact] = {}  # receivers at other endpoints, by registration
        self._answered: set[str] = set()
        self._gone: set[str] = set()
        self._unsubscribe = bus.subscribe(identity, self._on_message)

    def __bool__(self) -> bool:
        return bool(self._here)

    def join(self, registration: Registration) -> None:
        """Add a client. Raises `RefusedError`."""
        role = registration.role
        if role in self._here or (role == "receiver" and self._elsewhere):
            raise RefusedError(f"session {self._id} already has a {role}")
        self._here[role] = registration
        public = str(registration.contact.public)
        self._report("client", session=self._id, role=role, public=public, edge=self._edge)
        self._match()

    def leave(self, registration: Registration) -> None:
        """The client's connection is gone."""
        if self._here.get(registration.role) is not registration:
            return
        del self._here[registration.role]
        if registration.announced:
            self._bus.publish(self._id, Gone(registration.id))
        self._match()

    def close(self) -> None:
        """Stop listening to the bus."""
        self._unsubscribe()

    def _match(self) -> None:
        sender, receiver = self._here.get("sender"), self._here.get("receiver")
        if sender and receiver and not sender.met and not receiver.met:
            self._pair_here(sender, receiver)
        elif sender and not sender.met:
            self._pair_over_bus(sender)
        elif receiver and not sender and not receiver.met and not receiver.announced:
            receiver.announced = True
            self._bus.publish(self._id, Waiting(receiver.id, receiver.contact))

    def _pair_here(self, sender: Registration, receiver: Registration) -> None:
        if receiver.announced:
            receiver.announced = False
            self._bus.publish(self._id, Gone(receiver.id))
        sender.meet(receiver.contact, "local")
        receiver.meet(sender.contact, "local")
        self._report("paired", session=self._id, via="local")

    def _pair_over_bus(self, sender: Registration) -> None:
        for identity, contact in self._elsewhere.items():
            if identity not in self._answered:
                self._answered.add(identity)
                sender.meet(contact, "bus")
                self._bus.publish(self._id, Answer(identity, sender.contact))
                self._report("paired", session=self._id, via="bus")
                return

    def _on_message(self, body: Body) -> None:
        match body:
            case Waiting(registration, contact):
                if registration not in self._gone:
                    self._elsewhere[registration] = contact
                    self._match()
            case Answer(registration, contact):
                if registration not in self._answered:
                    self._answered.add(registration)
                    self._on_answer(registration, contact)
            case Gone(registration):
                self._gone.add(registration)
                self._elsewhere.pop(registration, None)

    def _on_answer(self, registration: str, contact: Contact) -> None:
        receiver, sender = self._here.get("receiver"), self._here.get("sender")
        if receiver and not receiver.met:
            if receiver.id == registration:
                receiver.meet(contact, "bus")
                self._report("paired", session=self._id, via="bus")
            else:
                receiver.dismiss(f"session {self._id} already has a receiver")
        if sender and not sender.met:
            sender.dismiss(f"session {self._id} already has a sender")


class Directory:
    """The sessions of the endpoint named `edge`."""

    def __init__(self, edge: str, bus: Bus, report: Reporter) -> None:
        self._edge = edge
        self._bus = bus
        self._report = report
        self._sessions: dict[SessionId, Session] = {}

    def join(self, registration: Registration) -> None:
        """Add a client to its session, which begins with its first client here. Raises `RefusedError`."""
        session = self._sessions.get(registration.session)
        if session is None:
            if len(self._sessions) >= MAX_SESSIONS:
                raise RefusedError("this edge has too many sessions")
            session = Session(registration.session, self._edge, self._bus, self._report)
            self._sessions[registration.session] = session
        try:
            session.join(registration)
        finally:
            self._drop_if_empty(registration.session)

    def leave(self, registration: Registration) -> None:
        """The client's connection is gone."""
        session = self._sessions.get(registration.session)
        if session is not None:
            session.leave(registration)
            self._drop_if_empty(registration.session)

    def _drop_if_empty(self, identity: SessionId) -> None:
        session = self._sessions[identity]
        if not session:
            session.close()
            del self._sessions[identity]
