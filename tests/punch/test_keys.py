from __future__ import annotations

import os
from pathlib import Path

import pytest

from punch.client.keys import Introduced, PakeExchange, PresharedKey, read_key_file
from punch.code import Code
from punch.errors import InputError, WrongPeerError
from punch.frames import SESSION_ID, SessionId

CODE = Code.parse("k7x2mq-amber-falcon-tulip")


def test_the_same_code_gives_the_same_key() -> None:
    sender, receiver = PakeExchange(CODE, "sender"), PakeExchange(CODE, "receiver")
    key = sender.finish(receiver.message)
    assert key == receiver.finish(sender.message)
    assert len(key) == 32


def test_two_runs_with_the_same_code_give_different_keys() -> None:
    keys = set()
    for _ in range(2):
        sender, receiver = PakeExchange(CODE, "sender"), PakeExchange(CODE, "receiver")
        keys.add(sender.finish(receiver.message))
    assert len(keys) == 2


@pytest.mark.parametrize("text", ["k7x2mq-amber-falcon-zebra", "other-amber-falcon-tulip"])
def test_another_code_gives_another_key(text: str) -> None:
    sender, receiver = PakeExchange(CODE, "sender"), PakeExchange(Code.parse(text), "receiver")
    assert sender.finish(receiver.message) != receiver.finish(sender.message)


def test_the_message_does_not_show_the_code() -> None:
    message = PakeExchange(CODE, "sender").message
    assert message is not None
    assert not any(word in bytes.fromhex(message).lower() for word in (b"amber", b"falcon", b"tulip"))


@pytest.mark.parametrize("message", [None, "00" * 16, "42" + "00" * 32, "42" + "ff" * 32, "58" + "11" * 32, "42" * 64])
def test_a_message_that_makes_no_sense_is_a_wrong_peer(message: str | None) -> None:
    with pytest.raises(WrongPeerError):
        PakeExchange(CODE, "sender").finish(message)


def test_one_s_own_message_back_is_a_wrong_peer() -> None:
    sender = PakeExchange(CODE, "sender")
    with pytest.raises(WrongPeerError):
        sender.finish(sender.message)


def test_a_key_file_gives_both_sides_the_same_session_and_key() -> None:
    key = os.urandom(32)
    one, other = PresharedKey(key), PresharedKey(key)
    assert one.session == other.session
    assert SESSION_ID.fullmatch(one.session)
    assert one.finish(other.message) == other.finish(one.message)
    assert key not in (one.finish(other.message), one.session.encode())
    assert PresharedKey(os.urandom(32)).session != one.session


def test_no_two_sessions_of_a_key_file_have_the_same_key() -> None:
    one, later, other = (PresharedKey(bytes(32)) for _ in range(3))
    assert one.finish(other.message) != later.finish(other.message)


def test_who_was_told_something_else_has_another_key_other_tags_and_another_relay_token() -> None:
    session, other = SessionId("k7x2mq"), SessionId("k7x2mr")
    sender, receiver = ("11", "mine"), ("22", "yours")
    agreed = Introduced.of(session, "sender", sender, receiver)
    assert Introduced.of(session, "receiver", receiver, sender) == agreed
    others = [
        Introduced.of(other, "sender", sender, receiver),
        Introduced.of(session, "receiver", sender, receiver),
        Introduced.of(session, "sender", ("12", "mine"), receiver),
        Introduced.of(session, "sender", sender, ("22", "your")),
        Introduced.of(session, "sender", sender, ("22", None)),
        Introduced.of(session, "sender", ("11m", "ine"), receiver),
        Introduced.of(session, "sender", ("11", "miney"), ("22", "ours")),
    ]
    derived = [(each.bound(bytes(32)), *each.tags.values(), each.relay_token) for each in (agreed, *others)]
    assert len({value for values in derived for value in values}) == 4 * len(derived)


def test_the_relay_token_and_the_tags_depend_on_no_secret() -> None:
    """An edge that takes the peer's place could test a guess by them otherwise."""
    made = [PakeExchange(CODE, "sender"), PakeExchange(Code.parse("k7x2mq-amber-falcon-zebra"), "sender")]
    introduced = [Introduced.of(each.session, "sender", ("11", None), ("22", None)) for each in made]
    assert introduced[0] == introduced[1]


def test_a_peer_with_a_code_does_not_fit_a_key_file() -> None:
    with pytest.raises(WrongPeerError):
        PresharedKey(bytes(32)).finish("ab" * 33)


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_a_key_file_has_exactly_32_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(size))
    with pytest.raises(InputError, match=r"^key-file: .*32"):
        read_key_file(path)
    path.write_bytes(bytes(range(32)))
    assert read_key_file(path) == bytes(range(32))


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^key-file: .*No such file"):
        read_key_file(tmp_path / "none")
