"""The pairing of clients at one endpoint and over a bus, without any network."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from punch.edge.bus.interface import Callback, Unsubscribe
from punch.edge.bus.local import LocalBus
from punch.edge.session import MAX_SESSIONS, Directory, Registration
from punch.endpoint import Endpoint
from punch.errors import RefusedError
from punch.frames import Answer, Ask, Body, Contact, Gone, Here, Peer, Role, SessionId, Waiting

SESSION = SessionId("k7x2mq")
OLD_S = 100.0  # the age of what is kept


class Wire:
    """A bus between endpoints of one process: keeps all, delivers at once, to all but the publisher."""

    def __init__(self) -> None:
        self.log: list[tuple[WireBus, SessionId, Body]] = []
        self.subscribers: list[tuple[WireBus, SessionId, Callback]] = []
        self.owners: dict[Directory, WireBus] = {}

    def bodies(self) -> list[Body]:
        return [body for _, _, body in self.log]

    def cut(self, directory: Directory) -> None:
        """From now on, nothing reaches that endpoint, and nothing comes from it."""
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


@pytest.mark.parametrize("order", [("sender", "receiver"), ("receiver", "sender")])
def test_two_at_one_endpoint_meet_once(order: tuple[Role, Role]) -> None:
    directory = Directory("e", LocalBus(), ignore)
    first, second = Client(order[0], 1), Client(order[1], 2)
    directory.join(first.registration)
    assert not first.peers
    directory.join(second.registration)
    assert first.met() == [(second.contact, "local")]
    assert second.met() == [(first.contact, "local")]


def test_a_receiver_that_finds_its_sender_here_is_not_announced() -> None:
    wire = Wire()
    here = endpoint(wire)
    endpoint(wire)
    sender, receiver = Client("sender", 1), Client("receiver", 2)
    for client in (sender, receiver):
        here.join(client.registration)
    for client in (sender, receiver):
        here.leave(client.registration)
    assert sender.met()
    assert wire.bodies() == []


def test_a_lone_sender_is_parked_silently() -> None:
    wire = Wire()
    endpoint(wire).join(Client("sender", 1).registration)
    assert wire.bodies() == []


@pytest.mark.parametrize("sender_first", [True, False])
def test_two_at_two_endpoints_meet_over_the_bus(sender_first: bool) -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    sender, receiver = Client("sender", 1), Client("receiver", 2)
    joins = [(near, sender), (far, receiver)]
    for directory, client in joins if sender_first else reversed(joins):
        directory.join(client.registration)
    assert sender.met() == [(receiver.contact, "bus")]
    assert receiver.met() == [(sender.contact, "bus")]
    mine, theirs = receiver.registration, sender.registration
    assert wire.bodies() == [
        Waiting(mine.id, mine.client),
        Ask(mine.id, theirs.id, theirs.client, "sender"),
        Here(mine.id, theirs.id, mine.client, receiver.contact),
        Answer(mine.client, theirs.client, receiver.contact, sender.contact),
    ]


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_role_is_taken_as_long_as_its_client_is_there(role: Role) -> None:
    directory = Directory("e", LocalBus(), ignore)
    first, second = Client(role, 1), Client(role, 2)
    directory.join(first.registration)
    with pytest.raises(RefusedError, match=f"already has a {role}"):
        directory.join(second.registration)
    directory.leave(second.registration)
    with pytest.raises(RefusedError):
        directory.join(second.registration)
    directory.leave(first.registration)
    directory.join(second.registration)


def test_a_second_receiver_at_another_endpoint_is_refused_until_the_first_has_gone() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    first, second = Client("receiver", 1), Client("receiver", 2)
    near.join(first.registration)
    far.join(second.registration)
    assert second.dismissals == [f"session {SESSION} already has a receiver"]
    assert not first.dismissals
    far.leave(second.registration)
    near.leave(first.registration)
    third, sender = Client("receiver", 3), Client("sender", 4)
    far.join(third.registration)
    assert not third.dismissals
    near.join(sender.registration)
    assert sender.met() == [(third.contact, "bus")]


def test_of_two_receivers_announced_at_once_one_meets_and_the_other_is_told() -> None:
    wire = Wire()
    holder, directory = endpoint(wire), endpoint(wire)
    sender, mine = Client("sender", 1), Client("receiver", 2)
    directory.join(mine.registration)
    other = Contact(Endpoint("11.0.0.9", 9), (), None)
    # Another endpoint's receiver was announced at the same instant, and its answer comes first.
    stranger = WireBus(wire)
    stranger.publish(SESSION, Waiting("ff" * 8, "cc" * 8))
    stranger.publish(SESSION, Answer("cc" * 8, sender.registration.client, other, sender.contact))
    assert mine.dismissals == [f"session {SESSION} already has a receiver"]
    assert not mine.peers
    assert holder


def test_each_registration_is_handed_out_once() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    sender, receiver, guesser = Client("sender", 1), Client("receiver", 2), Client("receiver", 3)
    near.join(sender.registration)
    far.join(receiver.registration)
    far.leave(receiver.registration)
    far.join(guesser.registration)
    assert len(sender.peers) == 1
    assert not guesser.peers


def test_both_may_come_again_after_they_left() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    for port in (1, 3):
        sender, receiver = Client("sender", port), Client("receiver", port + 1)
        near.join(sender.registration)
        far.join(receiver.registration)
        assert sender.met() == [(receiver.contact, "bus")]
        assert receiver.met() == [(sender.contact, "bus")]
        near.leave(sender.registration)
        far.leave(receiver.registration)


def test_a_receiver_that_left_is_not_met() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    near.join(receiver.registration)
    near.leave(receiver.registration)
    far.join(sender.registration)
    assert not sender.peers
    assert wire.bodies()[-1] == Gone(receiver.registration.id)


def test_a_receiver_whose_sender_was_taken_is_announced_when_that_one_leaves() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    sender, receiver = Client("sender", 1), Client("receiver", 2)
    near.join(sender.registration)
    near.join(receiver.registration)
    near.leave(receiver.registration)
    again, new_sender = Client("receiver", 3), Client("sender", 4)
    near.join(again.registration)
    far.join(new_sender.registration)
    assert not again.peers
    near.leave(sender.registration)
    assert again.met() == [(new_sender.contact, "bus")]


def test_messages_that_come_twice_or_out_of_order_do_no_harm() -> None:
    wire = Wire()
    directory = endpoint(wire)
    sender = Client("sender", 1)
    directory.join(sender.registration)
    other, receiver = WireBus(wire), Contact(Endpoint("11.0.0.9", 9), (), None)
    other.publish(SESSION, Gone("ee" * 8))
    other.publish(SESSION, Waiting("ee" * 8, "aa" * 8))
    for _ in range(2):
        other.publish(SESSION, Waiting("dd" * 8, "bb" * 8))
    asked = [body for body in wire.bodies() if isinstance(body, Ask)]
    mine = sender.registration
    assert asked == [Ask("dd" * 8, mine.id, mine.client, "sender")]
    assert not sender.peers
    for _ in range(2):
        other.publish(SESSION, Here("dd" * 8, sender.registration.id, "bb" * 8, receiver))
    assert sender.met() == [(receiver, "bus")]
    assert [type(body) for body in wire.bodies()].count(Answer) == 1


def again(client: Client) -> Client:
    """The same client, registering once more."""
    fresh = Client(client.role, client.port)
    fresh.registration.client = client.registration.client
    return fresh


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_that_registers_again_takes_its_own_place(role: Role) -> None:
    directory = Directory("e", LocalBus(), ignore)
    dead = Client(role, 1)
    directory.join(dead.registration)
    alive, peer = again(dead), Client("receiver" if role == "sender" else "sender", 2)
    directory.join(alive.registration)
    assert dead.dismissals
    directory.leave(dead.registration)  # which is noticed late
    directory.join(peer.registration)
    assert alive.met() == [(peer.contact, "local")]
    assert not dead.peers


def test_a_receiver_whose_endpoint_died_is_met_where_it_registers_again() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    dying.join(receiver.registration)
    wire.cut(dying)
    far.join(sender.registration)
    assert not sender.peers  # the announcement is still there, its endpoint is not
    alive = again(receiver)
    near.join(alive.registration)
    assert sender.met() == [(alive.contact, "bus")]
    assert alive.met() == [(sender.contact, "bus")]


def test_a_receiver_is_told_again_what_it_may_have_missed() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    far.join(sender.registration)
    dying.join(receiver.registration)
    wire.cut(dying)  # before the receiver has read about its peer
    far.leave(sender.registration)
    alive = again(receiver)
    near.join(alive.registration)
    assert alive.met() == [(sender.contact, "bus")]


def test_a_sender_is_told_again_what_it_may_have_missed() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    far.join(receiver.registration)
    dying.join(sender.registration)
    wire.cut(dying)
    alive = again(sender)
    near.join(alive.registration)
    assert alive.met() == [(receiver.contact, "bus")]
    assert len(receiver.peers) == 1


def test_a_dead_connection_gives_way_to_the_same_client_at_another_endpoint() -> None:
    wire = Wire()
    near, far, third = endpoint(wire), endpoint(wire), endpoint(wire)
    dead = Client("receiver", 1)
    near.join(dead.registration)
    alive, sender = again(dead), Client("sender", 2)
    far.join(alive.registration)
    assert not alive.dismissals
    third.join(sender.registration)
    assert alive.met() == [(sender.contact, "bus")]
    assert not dead.peers


def test_an_earlier_round_of_the_session_neither_pairs_nor_dismisses() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    old_sender, old_receiver, left_behind = Client("sender", 1), Client("receiver", 2), Client("receiver", 3)
    near.join(old_sender.registration)
    dying.join(old_receiver.registration)
    near.leave(old_sender.registration)
    dying.leave(old_receiver.registration)
    dying.join(left_behind.registration)
    wire.cut(dying)  # nobody calls it off
    sender, receiver = Client("sender", 4), Client("receiver", 5)
    near.join(sender.registration)
    far.join(receiver.registration)
    assert sender.met() == [(receiver.contact, "bus")]
    assert receiver.met() == [(sender.contact, "bus")]
    assert not sender.dismissals
    assert not receiver.dismissals


def test_an_answer_that_comes_late_from_an_earlier_round_dismisses_nobody() -> None:
    wire = Wire()
    directory = endpoint(wire)
    sender = Client("sender", 1)
    directory.join(sender.registration)
    old = Client("sender", 2).contact
    wire.deliver(SESSION, Answer("aa" * 8, "bb" * 8, old, old), OLD_S)
    assert not sender.dismissals
    wire.deliver(SESSION, Answer("cc" * 8, "dd" * 8, old, old), 0.0)
    assert sender.dismissals == [f"session {SESSION} already has a sender"]


def test_of_two_senders_at_two_endpoints_one_meets_and_the_other_is_told() -> None:
    wire = Wire()
    near, far, third = endpoint(wire), endpoint(wire), endpoint(wire)
    first, second, receiver = Client("sender", 1), Client("sender", 2), Client("receiver", 3)
    near.join(first.registration)
    far.join(second.registration)
    third.join(receiver.registration)
    assert first.met() == [(receiver.contact, "bus")]
    assert receiver.met() == [(first.contact, "bus")]
    assert not second.peers
    assert second.dismissals == [f"session {SESSION} already has a sender"]


def test_a_receiver_promised_to_a_sender_that_leaves_is_there_for_the_next() -> None:
    wire = Wire()
    directory = endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    directory.join(receiver.registration)
    mine, other = receiver.registration, WireBus(wire)
    other.publish(SESSION, Ask(mine.id, "aa" * 8, "bb" * 8, "sender"))
    far = endpoint(wire)
    far.join(sender.registration)
    assert not sender.peers
    other.publish(SESSION, Gone("aa" * 8))
    assert sender.met() == [(receiver.contact, "bus")]


def test_sessions_do_not_touch_each_other() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    sender, receiver = Client("sender", 1), Client("receiver", 2, session=SessionId("other"))
    near.join(sender.registration)
    far.join(receiver.registration)
    near.join(Client("receiver", 3, session=SessionId("third")).registration)
    assert not sender.peers
    assert not receiver.peers


def test_the_number_of_sessions_is_bounded() -> None:
    directory = Directory("e", LocalBus(), ignore)
    clients = [Client("sender", 1, session=SessionId(f"s{index:05}")) for index in range(MAX_SESSIONS + 1)]
    for client in clients[:-1]:
        directory.join(client.registration)
    with pytest.raises(RefusedError, match="too many sessions"):
        directory.join(clients[-1].registration)
    directory.leave(clients[0].registration)
    directory.join(clients[-1].registration)
