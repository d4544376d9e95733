"""Clients that register again after an endpoint or a connection failed, and leftovers of earlier rounds of a
session."""

from __future__ import annotations

import pytest

from punchlab.punch.edge.bus.local import LocalBus
from punchlab.punch.edge.session import Directory, Recent
from punchlab.punch.frames import Answer, Role
from tests.punch.sessions import OLD_S, SESSION, Client, Wire, again, endpoint, ignore


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_that_registers_again_replaces_its_registration(role: Role) -> None:
    directory = Directory("e", LocalBus(), ignore)
    dead = Client(role, 1)
    directory.join(dead.registration)
    alive, peer = again(dead), Client("receiver" if role == "sender" else "sender", 2)
    directory.join(alive.registration)
    assert dead.dismissals
    directory.leave(dead.registration)  # detected late
    directory.join(peer.registration)
    assert alive.met() == [(peer.contact, "local")]
    assert not dead.peers


def test_a_receiver_whose_endpoint_failed_is_paired_at_another_one() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    dying.join(receiver.registration)
    wire.cut(dying)
    far.join(sender.registration)
    assert not sender.peers  # the announcement is still stored, but its endpoint has failed
    alive = again(receiver)
    near.join(alive.registration)
    assert sender.met() == [(alive.contact, "bus")]
    assert alive.met() == [(sender.contact, "bus")]


def test_a_receiver_that_registers_again_gets_its_peer_again() -> None:
    wire = Wire()
    near, far, dying = endpoint(wire), endpoint(wire), endpoint(wire)
    receiver, sender = Client("receiver", 1), Client("sender", 2)
    far.join(sender.registration)
    dying.join(receiver.registration)
    wire.cut(dying)  # before the receiver has received its peer
    far.leave(sender.registration)
    alive = again(receiver)
    near.join(alive.registration)
    assert alive.met() == [(sender.contact, "bus")]


def test_a_sender_that_registers_again_gets_its_peer_again() -> None:
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


def test_a_dead_connection_is_replaced_by_the_same_client_at_another_endpoint() -> None:
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
    wire.cut(dying)  # it is never withdrawn
    sender, receiver = Client("sender", 4), Client("receiver", 5)
    near.join(sender.registration)
    far.join(receiver.registration)
    assert sender.met() == [(receiver.contact, "bus")]
    assert receiver.met() == [(sender.contact, "bus")]
    assert not sender.dismissals
    assert not receiver.dismissals


def test_a_late_answer_from_an_earlier_round_dismisses_no_client() -> None:
    wire = Wire()
    directory = endpoint(wire)
    sender = Client("sender", 1)
    directory.join(sender.registration)
    old = Client("sender", 2).contact
    wire.deliver(SESSION, Answer("aa" * 8, "bb" * 8, old, old), OLD_S)
    assert not sender.dismissals
    wire.deliver(SESSION, Answer("cc" * 8, "dd" * 8, old, old), 0.0)
    assert sender.dismissals == [f"session {SESSION} already has a sender"]


def test_the_state_of_a_session_is_bounded() -> None:
    recent: Recent[int] = Recent(3)
    for number in (1, 2, 3, 2, 4, 5):
        recent.add(number)
    assert list(recent) == [3, 4, 5]
    assert 1 not in recent
