"""The state of each session at one endpoint: which client gets which peer. This module does no input or output itself.

A sender waits silently. A receiver that does not find its sender here is announced on the bus (`Waiting`). The endpoint
that has the sender, now or later, asks whether the receiver is still connected (`Ask`), and the receiver's endpoint
answers with the receiver's contact (`Here`). The sender's endpoint then pairs the two, and informs the receiver's
endpoint by an `Answer`. If a receiver that was announced leaves, its endpoint publishes `Gone`. If both clients are at
this endpoint, nothing is published.

A receiver is reserved for the first sender that asks. Another sender, by mistake or malice, is rejected on the
`Answer`, or gets no reply until the first one has left.

`Ask` costs one round trip between the two endpoints. In exchange, stored announcements are harmless: an announcement
whose endpoint has died, or that arrives late from an earlier round of the session, is never used as a receiver.

A client that loses its connection or its endpoint before it gets its peer registers again, here or elsewhere, with the
same random name (`client`). It replaces its old registration, even if the loss of the old connection was not detected
yet. If there is an `Answer` that the client did not receive, the client gets it now.

Paired clients may send signals to each other. A signal reaches exactly the peer, over the bus as `Signal`.

Each client gets at most one peer, so each key-exchange message is passed on at most once: an attacker who guesses codes
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
"""Limits per session: names of clients at other endpoints, and answers. A legitimate session needs a few."""

T = TypeVar("T", bound=Hashable)


@dataclass(eq=False)
class Registration:
    """One client at this endpoint, while its connection lasts.

    `deliver` is called once, with the peer; `dismiss` if the client cannot get one; `on_signal`, after `deliver`, for
    each signal of the peer. They must not block. `client` is the same when the client registers again. `pair_id` is the
    receiver's `client` once the client is paired, else None.
    """

    session: SessionId
    role: Role
    contact: Contact
    deliver: Callable[[Peer], None]
    dismiss: Callable[[str], None]
    on_signal: Callable[[str], None] = lambda _data: None
    client: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    since: float = field(default_factory=time.monotonic)
    pair_id: str | None = None
    announced: bool = False
    signals: int = 0
    _early: list[str] = field(default_factory=list)
    _partner: Registration | None = None

    @property
    def is_paired(self) -> bool:
        """Whether the client has its peer."""
        return self.pair_id is not None

    def pair_with(self, peer: Contact, via: Via, pair_id: str, partner: Registration | None = None) -> None:
        """Send the client its peer, which is `partner` if the peer is at this endpoint as well."""
        self.pair_id, self._partner = pair_id, partner
        self.deliver(Peer(peer, via))
        for data in self._early:
            self.on_signal(data)
        self._early.clear()

    def receive_signal(self, data: str) -> None:
        """Pass on a signal of the peer, or keep it until the client is paired: a bus does not preserve order."""
        if self.is_paired:
            self.on_signal(data)
        elif len(self._early) < MAX_SIGNALS:
            self._early.append(data)

    def signal(self, data: str) -> Signal | None:
        """Send a signal to the peer. Return it if it must be sent over the bus. Raises `RefusedError`."""
        if self.pair_id is None:
            raise RefusedError("a signal before the peer is known")
        self.signals += 1
        if self.signals > MAX_SIGNALS:
            raise RefusedError(f"more than {MAX_SIGNALS} signals")
        if self._partner is None:
            return Signal(self.pair_id, self.role, data)
        self._partner.receive_signal(data)
        return None

    def is_older_than(self, age_s: float) -> bool:
        """Return whether the client registered before a message of that age was published."""
        return self.since <= time.monotonic() - age_s


class Recent(Generic[T]):
    """The most recently added items, each once, oldest first; at most `most`."""

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
        """Add an item, and remove the oldest one if there are too many."""
        self._kept[each] = None
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]


class Session:
    """One session as seen by one endpoint. Its state is bounded."""

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
        self._senders: list[Ask] = []  # senders that asked for the receiver here, which is reserved for the first
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
            if role == "receiver" and not registration.is_paired:
                self._ask(registration)

    def leave(self, registration: Registration) -> None:
        """Remove a client whose connection has closed."""
        if self._here.get(registration.role) is registration:
            self._replace(registration)
            self._match()

    def signal(self, registration: Registration, data: str) -> None:
        """Send a client's signal to its peer. Raises `RefusedError`."""
        over_bus = registration.signal(data)
        if over_bus is not None:
            self._bus.publish(self._id, over_bus)

    def close(self) -> None:
        """Unsubscribe from the bus."""
        self._unsubscribe()

    def _replace(self, registration: Registration) -> None:
        del self._here[registration.role]
        if registration.role == "receiver":
            self._senders.clear()
        if registration.announced or (
            not registration.is_paired and registration.id in {asker for _, asker in self._asked}
        ):
            self._bus.publish(self._id, Gone(registration.id))

    def _resume(self, registration: Registration) -> bool:
        """Send a client its peer again if it is already paired, and return whether it is."""
        for answer in self._answers:
            if registration.role == "receiver" and answer.receiver == registration.client:
                self._pair_over_bus(registration, answer.sender_contact, answer.receiver)
                return True
            if registration.role == "sender" and answer.sender == registration.client:
                self._pair_over_bus(registration, answer.receiver_contact, answer.receiver)
                return True
        return False

    def _match(self) -> None:
        sender, receiver = self._here.get("sender"), self._here.get("receiver")
        if sender and receiver and not sender.is_paired and not receiver.is_paired:
            self._pair_here(sender, receiver)
        elif sender and not sender.is_paired:
            self._ask(sender)
        elif receiver and not sender and not receiver.is_paired and not receiver.announced:
            receiver.announced = True
            self._bus.publish(self._id, Waiting(receiver.id, receiver.client))

    def _pair_here(self, sender: Registration, receiver: Registration) -> None:
        if receiver.announced:
            receiver.announced = False
            self._bus.publish(self._id, Gone(receiver.id))
        sender.pair_with(receiver.contact, "local", receiver.client, receiver)
        receiver.pair_with(sender.contact, "local", receiver.client, sender)
        self._report("paired", session=self._id, via="local")

    def _pair_over_bus(self, registration: Registration, peer: Contact, receiver: str) -> None:
        registration.pair_with(peer, "bus", receiver)
        self._report("paired", session=self._id, via="bus")

    def _ask(self, asker: Registration) -> None:
        """Ask which announced receivers are still connected: a sender needs one, and there may be only one."""
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
                reserved_for = self._senders[:1]
                self._senders = [each for each in self._senders if each.asker != registration]
                if self._senders[:1] != reserved_for:
                    self._offer_receiver()
            case Signal():
                self._on_signal(body)

    def _on_waiting(self, registration: str, client: str, age_s: float) -> None:
        receiver = self._here.get("receiver")
        if receiver and receiver.client == client and not receiver.is_paired and receiver.is_older_than(age_s):
            # The client has since registered elsewhere; its connection here is dead, which was not detected yet.
            self._replace(receiver)
        self._elsewhere[registration] = client
        if len(self._elsewhere) > MAX_NAMES:
            del self._elsewhere[next(iter(self._elsewhere))]
        self._match()

    def _on_ask(self, ask: Ask) -> None:
        receiver = self._here.get("receiver")
        if not receiver or receiver.id != ask.registration or receiver.is_paired or ask.asker in self._gone:
            return
        if ask.role == "receiver":
            self._bus.publish(self._id, Here(receiver.id, ask.asker, receiver.client, receiver.contact))
            return
        # A sender that registers again keeps its place.
        place = next((n for n, each in enumerate(self._senders) if each.client == ask.client), len(self._senders))
        self._senders[place : place + 1] = [ask]
        if place == 0:
            self._offer_receiver()

    def _offer_receiver(self) -> None:
        """Send the receiver's contact to the first sender in the queue."""
        receiver = self._here.get("receiver")
        if receiver and not receiver.is_paired and self._senders:
            asker = self._senders[0].asker
            self._bus.publish(self._id, Here(receiver.id, asker, receiver.client, receiver.contact))

    def _on_here(self, found: Here) -> None:
        sender, receiver = self._here.get("sender"), self._here.get("receiver")
        if sender and sender.id == found.asker and not sender.is_paired:
            self._pair_over_bus(sender, found.contact, found.client)
            answer = Answer(found.client, sender.client, found.contact, sender.contact)
            self._answers.add(answer)
            self._bus.publish(self._id, answer)
        elif receiver and receiver.id == found.asker and not receiver.is_paired:
            receiver.dismiss(f"session {self._id} already has a receiver")

    def _on_answer(self, age_s: float) -> None:
        for registration in list(self._here.values()):
            # An answer from before the registration concerns an earlier round, unless it names this client.
            if not registration.is_paired and not self._resume(registration) and registration.is_older_than(age_s):
                registration.dismiss(f"session {self._id} already has a {registration.role}")

    def _on_signal(self, signal: Signal) -> None:
        target = self._here.get("receiver" if signal.origin == "sender" else "sender")
        if target and signal.receiver == (target.client if target.role == "receiver" else target.pair_id):
            target.receive_signal(signal.data)


class Directory:
    """The sessions at the endpoint named `edge`."""

    def __init__(self, edge: str, bus: Bus, report: Reporter) -> None:
        self._edge = edge
        self._bus = bus
        self._report = report
        self._sessions: dict[SessionId, Session] = {}

    @property
    def count(self) -> int:
        """The number of sessions with a client here."""
        return len(self._sessions)

    def join(self, registration: Registration) -> None:
        """Add a client to its session, and create the session for its first client. Raises `RefusedError`."""
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
        """Send a client's signal to its peer. Raises `RefusedError`."""
        session = self._sessions.get(registration.session)
        if session is not None:  # the client may have registered again elsewhere
            session.signal(registration, data)

    def leave(self, registration: Registration) -> None:
        """Remove a client whose connection has closed."""
        session = self._sessions.get(registration.session)
        if session is not None:
            session.leave(registration)
            self._drop_if_empty(registration.session)

    def _drop_if_empty(self, identity: SessionId) -> None:
        session = self._sessions[identity]
        if not session:
            session.close()
            del self._sessions[identity]
