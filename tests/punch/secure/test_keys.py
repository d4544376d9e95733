from __future__ import annotations

import os
from pathlib import Path

import pytest

from punchlab.punch.cli import main
from punchlab.punch.errors import ArgumentError, WrongPeerError
from punchlab.punch.frames import SESSION_ID, SessionId
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.keys import (
    NAME_S,
    ContactTranscript,
    PakeExchange,
    PresharedKey,
    read_key_file,
    write_key_file,
)

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
    one, other = PresharedKey(key, _noon), PresharedKey(key, _noon)
    assert one.session == other.session
    assert SESSION_ID.fullmatch(one.session)
    assert one.finish(other.message) == other.finish(one.message)
    assert key not in (one.finish(other.message), one.session.encode())
    assert PresharedKey(os.urandom(32), _noon).session != one.session


def _noon() -> float:
    return 72 * NAME_S


def test_a_session_of_a_key_file_has_another_name_each_time() -> None:
    now, key = 5 * NAME_S + 1.5, os.urandom(32)
    exchange = PresharedKey(key, lambda: now)
    names = [exchange.session]
    for _ in range(10):
        now += NAME_S - 2
        serves_s = exchange.rename()
        assert (serves_s, exchange.session) == (0.5, names[-1])
        now += 2
        assert exchange.rename() == NAME_S - 1.5
        names.append(exchange.session)
    assert len(set(names)) == len(names)
    assert PresharedKey(key, lambda: 5 * NAME_S).session == names[0]


def test_no_two_sessions_of_a_key_file_have_the_same_key() -> None:
    one, later, other = (PresharedKey(bytes(32)) for _ in range(3))
    assert one.finish(other.message) != later.finish(other.message)


def test_different_contacts_give_another_key_tags_and_relay_token() -> None:
    session, other = SessionId("k7x2mq"), SessionId("k7x2mr")
    sender, receiver = ("11", "mine"), ("22", "yours")
    agreed = ContactTranscript.of(session, "sender", sender, receiver)
    assert ContactTranscript.of(session, "receiver", receiver, sender) == agreed
    others = [
        ContactTranscript.of(other, "sender", sender, receiver),
        ContactTranscript.of(session, "receiver", sender, receiver),
        ContactTranscript.of(session, "sender", ("12", "mine"), receiver),
        ContactTranscript.of(session, "sender", sender, ("22", "your")),
        ContactTranscript.of(session, "sender", sender, ("22", None)),
        ContactTranscript.of(session, "sender", ("11m", "ine"), receiver),
        ContactTranscript.of(session, "sender", ("11", "miney"), ("22", "ours")),
    ]
    derived = [(each.bound(bytes(32)), *each.tags.values(), each.relay_token) for each in (agreed, *others)]
    assert len({value for values in derived for value in values}) == 4 * len(derived)


def test_the_relay_token_and_the_tags_depend_on_no_secret() -> None:
    """Otherwise an edge that takes the peer's place could use them to test a guess."""
    made = [PakeExchange(CODE, "sender"), PakeExchange(Code.parse("k7x2mq-amber-falcon-zebra"), "sender")]
    introduced = [ContactTranscript.of(each.session, "sender", ("11", None), ("22", None)) for each in made]
    assert introduced[0] == introduced[1]


def test_a_peer_with_a_code_does_not_fit_a_key_file() -> None:
    with pytest.raises(WrongPeerError):
        PresharedKey(bytes(32)).finish("ab" * 33)


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_a_key_file_has_exactly_32_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(bytes(size))
    with pytest.raises(ArgumentError, match=r"^key-file: .*32"):
        read_key_file(path)
    path.write_bytes(bytes(range(32)))
    assert read_key_file(path) == bytes(range(32))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o644, 0o444, 0o777])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_key_file(path)
    path.chmod(mode)
    with pytest.raises(
        ArgumentError, match=rf"^key-file: .*only its owner can access \(chmod 600\), found mode {mode:04o}$"
    ):
        read_key_file(path)
    path.chmod(0o400)
    assert len(read_key_file(path)) == 32


def test_a_key_may_come_from_a_pipe() -> None:
    """As the shell creates it for <(...)."""
    reading, writing = os.pipe()
    try:
        os.write(writing, bytes(range(32)))
        os.close(writing)
        assert read_key_file(Path(f"/dev/fd/{reading}")) == bytes(range(32))
    finally:
        os.close(reading)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_key_file_is_made_for_its_owner_alone_whatever_the_mask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "key"
    before = os.umask(mask)
    try:
        assert main(["key", str(path)]) == 0
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    key = read_key_file(path)
    assert main(["key", str(path)]) == 2
    assert read_key_file(path) == key
    assert main(["key", str(tmp_path / "another")]) == 0
    assert read_key_file(tmp_path / "another") != key


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^key-file: .*No such file"):
        read_key_file(tmp_path / "none")
