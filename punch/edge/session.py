"""Who waits for whom: the state of each session at one endpoint. No input or output of its own.

A sender is parked silently. A receiver that does not find its sender here is announced on the bus (`Waiting`). The
endpoint that has the sender, or gets it later, asks whether the receiver is still there (`Ask`); the endpoint that has
it says so and how it is reached (`Here`). Then the two are given to each other, and the receiver's endpoint learns
that by an `Answer`. A receiver that leaves after it was announced is called off (`Gone`). When both clients are here,
the bus carries nothing.

A receiver is promised to the sender that asks first; another one, by mistake or malice, is told by the `Answer` that
there is a sender already, or asks in vain until the first has gone.

Asking costs a round trip between the two endpoints, and makes what the bus remembers harmless: an announcement whose
endpoint has died, or that comes late from an earlier round of the session, is never taken for a receiver.

A client whose connection, or endpoint, is lost before it knows its peer registers again, here or elsewhere, by the same
random name (`client`). It takes the place of its old registration, also if nobody has noticed yet that the old
connection is dead, and if there is an `Answer` that it did not get, it gets that.

Once two clients have met they may signal to each other; what they say goes to exactly that peer, over the bus as
`Signal`.

Each client meets at most one peer, so each key-exchange message is handed out at most once: who wants to guess a code
gets one guess per client on the other side.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from punchlab.punch.edge.bus.interface import Bus
from punchlab.punch.errors import RefusedError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import (
    MAX_SIGNALS,
    Answer,
    Ask,
    Body,
    Contact,
    Gone,
    Here,
    Peer,
    Role,
    SessionId,
    Signal,
    Via,
    Waiting,
)

MAX_SESSIONS = 10_000
MAX_NAMES, MAX_ANSWERS = 64, 8
"""Names of clients at other endpoints, and answers, that a session remembers. An honest one needs a few."""

T = TypeVar("T", bound=Hashable)


@dataclass(eq=False)
class Registration:
    """One client at this endpoint, as long as its connection lasts.

    `deliver` is called once, with the peer; `dismiss` if it can never come; `hear`, after `deliver`, with each of the
    peer's signals. None of them may block. `client` is the same when the same client registers again. `pair` is, once
    two have met, the receiver's `client`.
    """

    session: SessionId
    role: Role
    contact: Contact
    deliver: Callable[[Peer], None]
    dismiss: Callable[[str], None]
    hear: Callable[[str], None] = lambda _data: None
    client: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    since: float = field(default_factory=time.monotonic)
    pair: str | None = None
    announced: bool = False
    signals: int = 0
    _early: list[str] = field(default_factory=list)
    _partner: Registration | None = None

    @property
    def met(self) -> bool:
        """Whether the client knows its peer."""
        return self.pair is not None

    def meet(self, peer: Contact, via: Via, pair: str, partner: Registration | None = None) -> None:
        """Tell the client about its peer, which is `partner` if it is here as well."""
        self.pair, self._partner = pair, partner
        self.deliver(Peer(peer, via))
        for data in self._early:
            self.hear(data)
        self._early.clear()

    def listen(self, data: str) -> None:
        """Something that the peer says; it may come before the peer does, for a bus keeps no order."""
        if self.met:
            self.hear(data)
        elif len(self._early) < MAX_SIGNALS:
            self._early.append(data)

    def signal(self, data: str) -> Signal | None:
        """Say something to the peer; over the bus, if this is returned. Raises `RefusedError`."""
        if self.pair is None:
            raise RefusedError("a signal before the peer is known")
        self.signals += 1
        if self.signals > MAX_SIGNALS:
            raise RefusedError(f"more than {MAX_SIGNALS} signals")
        if self._partner is None:
            return Signal(self.pair, self.role, data)
        self._partner.listen(data)
        return None

    def is_older_than(self, age_s: float) -> bool:
        """Whether the client registered before a message of that age was published."""
        return self.since <= time.monotonic() - age_s


class Recent(Generic[T]):
    """The last ones of what was added, each once, oldest first; `most` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[T, None] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._kept)

    def __contains__(self, each: object) -> bool:
        return each in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, each: T) -> None:
        """Add it, in the place of the oldest one if there are too many."""
        self._kept[each] = None
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]


class Session:
    """One session, seen from one endpoint. What it remembers of others is bounded."""

    def __init__(self, identity: SessionId, edge: str, bus: Bus, report: Reporter) -> None:
        self._id = identity
        self._edge = edge
        self._bus = bus
        self._report = report
        self._here: dict[Role, Registration] = {}
        self._elsewhere: dict[str, str] = {}  # receivers at other endpoints: registration -> client
        self._asked: Recent[tuple[str, str]] = Recent(MAX_NAMES)  # (registration, asker)
        self._answers: Recent[Answer] = Recent(MAX_ANSWERS)
        self._gone: Recent[str] = Recent(MAX_NAMES)
        self._senders: list[Ask] = []  # those that asked for the receiver here; it is promised to the first
        self._unsubscribe = bus.subscribe(identity, self._on_message)

    def __bool__(self) -> bool:
        return bool(self._here)

    def join(self, registration: Registration) -> None:
        """Add a client. Raises `RefusedError`."""
        role = registration.role
        old = self._here.get(role)
        if old is not None:
            if old.client != registration.client:
                raise RefusedError(f"session {self._id} already has a {role}")
            self._replace(old)
            old.dismiss("the client has registered again")
        self._here[role] = registration
        public = str(registration.contact.public)
        self._report("client", session=self._id, role=role, public=public, edge=self._edge)
        if not self._resume(registration):
            self._match()
            if role == "receiver" and not registration.met:
                self._ask(registration)

    def leave(self, registration: Registration) -> None:
        """The client's connection is gone."""
        if self._here.get(registration.role) is registration:
            self._replace(registration)
            self._match()

    def signal(self, registration: Registration, data: str) -> None:
        """Pass on what a client says to its peer. Raises `RefusedError`."""
        over_bus = registration.signal(data)
        if over_bus is not None:
            self._bus.publish(self._id, over_bus)

    def close(self) -> None:
        """Stop listening to the bus."""
        self._unsubscribe()

    def _replace(self, registration: Registration) -> None:
        del self._here[registration.role]
        if registration.role == "receiver":
            self._senders.clear()
        if registration.announced or (not registration.met and registration.id in {asker for _, asker in self._asked}):
            self._bus.publish(self._id, Gone(registration.id))

    def _resume(self, registration: Registration) -> bool:
        """Whether this client has been given a peer already, which it may not have heard; then it is told again."""
        for answer in self._answers:
            if registration.role == "receiver" and answer.receiver == registration.client:
                self._meet_over_bus(registration, answer.sender_contact, answer.receiver)
                return True
            if registration.role == "sender" and answer.sender == registration.client:
                self._meet_over_bus(registration, answer.receiver_contact, answer.receiver)
                return True
        return False

    def _match(self) -> None:
        sender, receiver = self._here.get("sender"), self._here.get("receiver")
        if sender and receiver and not sender.met and not receiver.met:
            self._pair_here(sender, receiver)
        elif sender and not sender.met:
            self._ask(sender)
        elif receiver and not sender and not receiver.met and not receiver.announced:
            receiver.announced = True
            self._bus.publish(self._id, Waiting(receiver.id, receiver.client))

    def _pair_here(self, sender: Registration, receiver: Registration) -> None:
        if receiver.announced:
            receiver.announced = False
            self._bus.publish(self._id, Gone(receiver.id))
        sender.meet(receiver.contact, "local", receiver.client, receiver)
        receiver.meet(sender.contact, "local", receiver.client, sender)
        self._report("paired", session=self._id, via="local")

    def _meet_over_bus(self, registration: Registration, peer: Contact, receiver: str) -> None:
        registration.meet(peer, "bus", receiver)
        self._report("paired", session=self._id, via="bus")

    def _ask(self, asker: Registration) -> None:
        """Find out which receivers are there: a sender needs one, and a receiver must be the only one."""
        for registration, client in list(self._elsewhere.items()):
            if client != asker.client and (registration, asker.id) not in self._asked:
                self._asked.add((registration, asker.id))
                self._bus.publish(self._id, Ask(registration, asker.id, asker.client, asker.role))

    def _on_message(self, body: Body, age_s: float) -> None:
        match body:
            case Waiting(registration, client):
                if registration not in self._gone:
                    self._on_waiting(registration, client, age_s)
            case Ask():
                self._on_ask(body)
            case Here():
                self._on_here(body)
            case Answer():
                if body not in self._answers:
                    self._answers.add(body)
                    self._on_answer(age_s)
            case Gone(registration):
                self._gone.add(registration)
                self._elsewhere.pop(registration, None)
                promised = self._senders[:1]
                self._senders = [each for each in self._senders if each.asker != registration]
                if self._senders[:1] != promised:
                    self._keep_promise()
            case Signal():
                self._on_signal(body)

    def _on_waiting(self, registration: str, client: str, age_s: float) -> None:
        receiver = self._here.get("receiver")
        if receiver and receiver.client == client and not receiver.met and receiver.is_older_than(age_s):
            # It has registered elsewhere since; the connection here is dead, which nobody has noticed yet.
            self._replace(receiver)
        self._elsewhere[registration] = client
        if len(self._elsewhere) > MAX_NAMES:
            del self._elsewhere[next(iter(self._elsewhere))]
        self._match()

    def _on_ask(self, ask: Ask) -> None:
        receiver = self._here.get("receiver")
        if not receiver or receiver.id != ask.registration or receiver.met or ask.asker in self._gone:
            return
        if ask.role == "receiver":
            self._bus.publish(self._id, Here(receiver.id, ask.asker, receiver.client, receiver.contact))
            return
        # One that registers again keeps its place.
        place = next((n for n, each in enumerate(self._senders) if each.client == ask.client), len(self._senders))
        self._senders[place : place + 1] = [ask]
        if place == 0:
            self._keep_promise()

    def _keep_promise(self) -> None:
        """Let the first sender know that the receiver is here."""
        receiver = self._here.get("receiver")
        if receiver and not receiver.met and self._senders:
            asker = self._senders[0].asker
            self._bus.publish(self._id, Here(receiver.id, asker, receiver.client, receiver.contact))

    def _on_here(self, found: Here) -> None:
        sender, receiver = self._here.get("sender"), self._here.get("receiver")
        if sender and sender.id == found.asker and not sender.met:
            self._meet_over_bus(sender, found.contact, found.client)
            answer = Answer(found.client, sender.client, found.contact, sender.contact)
            self._answers.add(answer)
            self._bus.publish(self._id, answer)
        elif receiver and receiver.id == found.asker and not receiver.met:
            receiver.dismiss(f"session {self._id} already has a receiver")

    def _on_answer(self, age_s: float) -> None:
        for registration in list(self._here.values()):
            # What was answered before it came concerns an earlier round of the session, unless it is itself meant.
            if not registration.met and not self._resume(registration) and registration.is_older_than(age_s):
                registration.dismiss(f"session {self._id} already has a {registration.role}")

    def _on_signal(self, signal: Signal) -> None:
        target = self._here.get("receiver" if signal.origin == "sender" else "sender")
        if target and signal.receiver == (target.client if target.role == "receiver" else target.pair):
            target.listen(signal.data)


class Directory:
    """The sessions of the endpoint named `edge`."""

    def __init__(self, edge: str, bus: Bus, report: Reporter) -> None:
        self._edge = edge
        self._bus = bus
        self._report = report
        self._sessions: dict[SessionId, Session] = {}

    @property
    def count(self) -> int:
        """How many sessions have a client here."""
        return len(self._sessions)

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

    def signal(self, registration: Registration, data: str) -> None:
        """Pass on what a client that has joined says to its peer. Raises `RefusedError`."""
        session = self._sessions.get(registration.session)
        if session is not None:  # the client may have registered again elsewhere
            session.signal(registration, data)

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
