from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch import frames
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError
from punchlab.punch.frames import (
    Answer,
    Ask,
    Body,
    Contact,
    Gone,
    Hello,
    Here,
    Message,
    Peer,
    Register,
    Role,
    SessionId,
    Signal,
    Waiting,
    Welcome,
)
from punchlab.punch.reflexive import Seen, parse_seen, seen_frame

ports = st.integers(1, 65535)
ipv6 = st.ip_addresses(v=6).filter(lambda ip: isinstance(ip, IPv6Address) and ip.ipv4_mapped is None)
ipv6_endpoints = st.builds(Endpoint, ipv6.map(str), ports).filter(lambda each: each.is_unicast)
endpoints = st.builds(Endpoint, st.ip_addresses(v=4).map(str), ports).filter(lambda each: each.is_unicast)
endpoints |= ipv6_endpoints
reachable = ipv6_endpoints.filter(lambda each: not each.is_link_local)
public6s = st.none() | reachable
sessions = st.from_regex(frames.SESSION_ID, fullmatch=True).map(SessionId)
privates = st.lists(endpoints, max_size=frames.MAX_PRIVATE).map(tuple)
pakes = st.none() | st.binary(min_size=16, max_size=64).map(bytes.hex)
tokens = st.binary(min_size=8, max_size=32).map(bytes.hex)
printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
traits = st.none() | st.text(printable, min_size=1, max_size=frames.MAX_TRAITS)
relays = st.none() | st.builds(EdgeUrl, st.just("a" * 63 + "." + "b" * 49), ports, st.booleans())
signals = st.text(printable, min_size=1, max_size=frames.MAX_SIGNAL)
contacts = st.builds(Contact, endpoints, privates, pakes, traits, relays, public6s)
roles: st.SearchStrategy[Role] = st.sampled_from(["sender", "receiver"])
bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(Waiting, tokens, tokens),
    st.builds(Ask, tokens, tokens, tokens, roles),
    st.builds(Here, tokens, tokens, tokens, contacts),
    st.builds(Answer, tokens, tokens, contacts, contacts),
    st.builds(Gone, tokens),
    st.builds(Signal, tokens, roles, signals),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
PARSERS = (
    parse_seen,
    frames.parse_register,
    frames.parse_welcome,
    frames.parse_peer,
    frames.parse_hello,
    frames.parse_message,
    frames.parse_signal,
)


@given(st.builds(Register, sessions, roles, privates, pakes, traits, tokens), public6s, tokens)
def test_register_reads_back(register: Register, public6: Endpoint | None, proof: str) -> None:
    register = replace(register, public6=public6, proof6=None if public6 is None else proof)
    text = frames.register_frame(register)
    assert frames.parse_register(text) == register
    assert len(text.encode()) <= frames.MAX_FRAME


@given(signals)
def test_signal_reads_back(data: str) -> None:
    text = frames.signal_frame(data)
    assert frames.parse_signal(text) == data
    assert len(text.encode()) <= frames.MAX_FRAME


@given(endpoints)
def test_welcome_reads_back(public: Endpoint) -> None:
    assert frames.parse_welcome(frames.welcome_frame(Welcome("e1", public))) == Welcome("e1", public)


@given(st.builds(Peer, contacts, st.sampled_from(["local", "bus"])))
def test_peer_reads_back(peer: Peer) -> None:
    assert frames.parse_peer(frames.peer_frame(peer)) == peer


@given(reachable, tokens)
def test_seen_reads_back(public: Endpoint, proof: str) -> None:
    assert parse_seen(seen_frame(Seen(public, proof))) == Seen(public, proof)


@given(tokens)
def test_hello_reads_back(instance: str) -> None:
    assert frames.parse_hello(frames.hello_frame(Hello("e1", instance))) == Hello("e1", instance)


@given(st.builds(Message, tokens, sessions, st.integers(0, 10**6).map(float), bodies))
def test_the_largest_message_fits_a_frame_and_reads_back(message: Message) -> None:
    text = frames.message_frame(message)
    assert frames.parse_message(text) == message
    assert len(text.encode()) <= frames.MAX_FRAME


def test_the_very_largest_message_fits_a_frame() -> None:
    address = Endpoint("2001:1111:1111:1111:1111:1111:1111:1111", 65535)
    relay = EdgeUrl("a" * 63 + "." + "b" * 52, 65535, True)
    assert len(str(relay)) == frames.MAX_URL
    contact = Contact(address, (address,) * frames.MAX_PRIVATE, "ab" * 64, '"' * frames.MAX_TRAITS, relay, address)
    message = Message("a" * 64, SessionId("a" * 32), 999_999_999.999, Answer("a" * 64, "b" * 64, contact, contact))
    text = frames.message_frame(message)
    assert frames.parse_message(text) == message
    assert len(text.encode()) <= frames.MAX_FRAME


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_garbage_is_refused_whoever_reads_it(frame: str | bytes) -> None:
    for parse in PARSERS:
        with pytest.raises(FrameError):
            parse(frame)


GOOD: dict[str, Any] = {
    "type": "register",
    "session": "k7x2mq",
    "role": "sender",
    "private": ["192.168.1.2:41000"],
    "pake": "ab" * 33,
}


def test_the_good_frame_of_the_following_tests_is_good() -> None:
    assert frames.parse_register(json.dumps(GOOD)).role == "sender"


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_field_may_be_anything(name: str, value: Any) -> None:
    with contextlib.suppress(FrameError):
        frames.parse_register(json.dumps({**GOOD, name: value}))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_what_is_wrong_fits_the_reason_of_a_close_frame(name: str) -> None:
    with pytest.raises(FrameError) as caught:
        frames.parse_register(json.dumps({**GOOD, name: "é" * 500}))
    assert len(str(caught.value).encode()) <= 123


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_every_field_is_required(missing: str) -> None:
    with pytest.raises(FrameError, match=missing):
        frames.parse_register(json.dumps({name: value for name, value in GOOD.items() if name != missing}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session", "K7X2MQ"),
        ("session", "../../x"),
        ("session", "a" * 33),
        ("role", "referee"),
        ("private", "192.168.1.2:41000"),
        ("private", ["192.168.1.2:41000"] * 9),
        ("private", [41000]),
        ("private", ["224.0.0.1:41000"]),
        ("private", ["0.0.0.0:41000"]),
        ("pake", "xyz"),
        ("pake", "ab" * 65),
        ("pake", 5),
        ("client", "me"),
        ("client", None),
        ("type", "peer"),
        ("type", ["register"]),
    ],
)
def test_ill_typed_fields_are_refused(name: str, value: object) -> None:
    with pytest.raises(FrameError, match=name):
        frames.parse_register(json.dumps({**GOOD, name: value}))


@pytest.mark.parametrize("age", [-1, "0", None, True, "NaN", 1e400])
def test_an_age_is_a_number_of_seconds(age: object) -> None:
    frame = {"id": "00" * 8, "session": "abcd", "age_s": age, "body": {"type": "gone", "registration": "00" * 8}}
    with pytest.raises(FrameError, match="age_s"):
        frames.parse_message(json.dumps({"type": "message", **frame}))
