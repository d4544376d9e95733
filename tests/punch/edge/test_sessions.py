"""Pairing of clients at one endpoint and over a bus, without a network."""

from __future__ import annotations

import pytest

from punchlab.punch.edge.bus.local import LocalBus
from punchlab.punch.edge.session import MAX_SESSIONS, Directory
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import RefusedError
from punchlab.punch.frames import Answer, Ask, Contact, Gone, Here, Role, SessionId, Waiting
from tests.punch.sessions import SESSION, Client, Wire, WireBus, endpoint, ignore


@pytest.mark.parametrize("order", [("sender", "receiver"), ("receiver", "sender")])
def test_two_clients_at_one_endpoint_are_paired_once(order: tuple[Role, Role]) -> None:
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


def test_a_waiting_sender_publishes_nothing() -> None:
    wire = Wire()
    endpoint(wire).join(Client("sender", 1).registration)
    assert wire.bodies() == []


@pytest.mark.parametrize("sender_first", [True, False])
def test_clients_at_two_endpoints_are_paired_over_the_bus(sender_first: bool) -> None:
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
def test_a_role_is_taken_until_its_client_leaves(role: Role) -> None:
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


def test_a_second_receiver_at_another_endpoint_is_refused_until_the_first_leaves() -> None:
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


def test_of_two_receivers_announced_at_once_one_is_paired_and_the_other_rejected() -> None:
    wire = Wire()
    holder, directory = endpoint(wire), endpoint(wire)
    sender, mine = Client("sender", 1), Client("receiver", 2)
    directory.join(mine.registration)
    other = Contact(Endpoint("11.0.0.9", 9), (), None)
    # Another endpoint's receiver was announced at the same instant, and its answer arrives first.
    stranger = WireBus(wire)
    stranger.publish(SESSION, Waiting("ff" * 8, "cc" * 8))
    stranger.publish(SESSION, Answer("cc" * 8, sender.registration.client, other, sender.contact))
    assert mine.dismissals == [f"session {SESSION} already has a receiver"]
    assert not mine.peers
    assert holder


def test_each_registration_is_paired_once() -> None:
    wire = Wire()
    near, far = endpoint(wire), endpoint(wire)
    sender, receiver, guesser = Client("sender", 1), Client("receiver", 2), Client("receiver", 3)
    near.join(sender.registration)
    far.join(receiver.registration)
    far.leave(receiver.registration)
    far.join(guesser.registration)
    assert len(sender.peers) == 1
    assert not guesser.peers


def test_both_clients_may_register_again_after_leaving() -> None:
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


def test_a_receiver_that_left_is_not_paired() -> None:
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


def test_duplicate_and_reordered_messages_do_no_harm() -> None:
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


def test_of_two_senders_at_two_endpoints_one_is_paired_and_the_other_rejected() -> None:
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


def test_a_receiver_reserved_for_a_sender_that_leaves_is_offered_to_the_next() -> None:
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


def test_sessions_are_independent() -> None:
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
