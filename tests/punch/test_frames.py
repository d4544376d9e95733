from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.codec import Frame, decode, encode
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError
from punchlab.punch.fields import MAX_URL
from punchlab.punch.frames import (
    MAX_FRAME,
    MAX_PRIVATE,
    MAX_SIGNAL,
    MAX_TRAITS,
    SESSION_ID,
    Answer,
    Ask,
    Body,
    Contact,
    Gone,
    Hello,
    Here,
    Message,
    Peer,
    PeerSignal,
    Register,
    Role,
    SessionId,
    Signal,
    Waiting,
    Welcome,
)
from punchlab.punch.probe.frames import MAX_PATIENCE_S, Dial, Dialled, Refused, Vantage
from punchlab.punch.reflexive import Seen
from punchlab.punch.relay import Join, Joined

ports = st.integers(1, 65535)
ipv6 = st.ip_addresses(v=6).filter(lambda ip: isinstance(ip, IPv6Address) and ip.ipv4_mapped is None)
ipv6_endpoints = st.builds(Endpoint, ipv6.map(str), ports).filter(lambda each: each.is_unicast)
endpoints = st.builds(Endpoint, st.ip_addresses(v=4).map(str), ports).filter(lambda each: each.is_unicast)
endpoints |= ipv6_endpoints
reachable = ipv6_endpoints.filter(lambda each: not each.is_link_local)
public6s = st.none() | reachable
sessions = st.from_regex(SESSION_ID, fullmatch=True).map(SessionId)
privates = st.lists(endpoints, max_size=MAX_PRIVATE).map(tuple)
pakes = st.none() | st.binary(min_size=16, max_size=64).map(bytes.hex)
tokens = st.binary(min_size=8, max_size=32).map(bytes.hex)
printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
traits = st.none() | st.text(printable, min_size=1, max_size=MAX_TRAITS)
relays = st.none() | st.builds(EdgeUrl, st.just("a" * 63 + "." + "b" * 49), ports, st.booleans())
signals = st.text(printable, min_size=1, max_size=MAX_SIGNAL)
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
texts = st.text(printable, min_size=1, max_size=128)
ids, seconds = st.integers(0, 2**31), st.integers(0, 10**6).map(float)
ipv4s = st.builds(Endpoint, st.ip_addresses(v=4).map(str), ports).filter(lambda each: each.is_unicast)
icmps = st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255))
messages = st.builds(Message, tokens, sessions, seconds, bodies)


def registers(register: Register, public6: Endpoint | None, proof: str) -> Register:
    return replace(register, public6=public6, proof6=None if public6 is None else proof)


frames: dict[type[Frame], st.SearchStrategy[Any]] = {
    Register: st.builds(
        registers, st.builds(Register, sessions, roles, privates, pakes, traits, tokens), public6s, tokens
    ),
    Welcome: st.builds(Welcome, texts, endpoints, relays, st.none() | tokens),
    Peer: st.builds(Peer, contacts, st.sampled_from(["local", "bus"])),
    PeerSignal: st.builds(PeerSignal, signals),
    Hello: st.builds(Hello, texts, tokens),
    Message: messages,
    Seen: st.builds(Seen, reachable, tokens),
    Join: st.builds(Join, st.binary(min_size=32, max_size=32).map(bytes.hex), tokens),
    Joined: st.just(Joined()),
    Vantage: st.builds(Vantage, texts, ipv4s, st.tuples(ipv4s, ipv4s) | st.tuples(ipv4s, ipv4s, ipv4s, ipv4s)),
    Dial: st.builds(Dial, ids, st.sampled_from(["tcp", "udp"]), texts, ports, st.floats(0, MAX_PATIENCE_S)),
    Dialled: st.builds(Dialled, ids, ipv4s, texts, icmps, seconds),
    Refused: st.builds(Refused, ids, texts),
}


@pytest.mark.parametrize("kind", frames)
@given(st.data())
def test_a_frame_of_any_size_fits_and_reads_back(kind: type[Frame], data: st.DataObject) -> None:
    frame = data.draw(frames[kind])
    text = encode(frame)
    assert decode(text, kind) == frame
    assert len(text.encode()) <= MAX_FRAME


def test_the_very_largest_message_fits_a_frame() -> None:
    address = Endpoint("2001:1111:1111:1111:1111:1111:1111:1111", 65535)
    relay = EdgeUrl("a" * 63 + "." + "b" * 52, 65535, True)
    assert len(str(relay)) == MAX_URL
    contact = Contact(address, (address,) * MAX_PRIVATE, "ab" * 64, '"' * MAX_TRAITS, relay, address)
    message = Message("a" * 64, SessionId("a" * 32), 999_999_999.999, Answer("a" * 64, "b" * 64, contact, contact))
    text = encode(message)
    assert decode(text, Message) == message
    assert len(text.encode()) <= MAX_FRAME


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_garbage_is_rejected_by_every_frame_class(frame: str | bytes) -> None:
    for kind in frames:
        with pytest.raises(FrameError):
            decode(frame, kind)


@pytest.mark.parametrize("depth", [900, 990, 1000, 2000])
def test_deep_nesting_is_rejected(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for frame in (nested, json.dumps({**GOOD, "role": "?"}).replace('"?"', nested)):
        with pytest.raises(FrameError):
            decode(frame, Register)


def test_frames_of_one_direction_differ_by_their_type() -> None:
    refused = Refused(1, "no")
    outcome: Dialled | Refused = decode(encode(refused), Dialled, Refused)
    assert outcome == refused
    with pytest.raises(FrameError, match="unexpected type 'refused'; expected vantage or dial"):
        decode(encode(refused), Vantage, Dial)


GOOD: dict[str, Any] = {
    "type": "register",
    "session": "k7x2mq",
    "role": "sender",
    "private": ["192.168.1.2:41000"],
    "pake": "ab" * 33,
}


def test_the_good_frame_of_the_following_tests_is_good() -> None:
    assert decode(json.dumps(GOOD), Register).role == "sender"


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_of_a_field_is_decoded_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(FrameError):
        decode(json.dumps({**GOOD, name: value}), Register)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_an_error_fits_into_the_reason_of_a_close_frame(name: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode(json.dumps({**GOOD, name: "é" * 500}), Register)
    assert len(str(caught.value).encode()) <= 123


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_every_field_is_required(missing: str) -> None:
    with pytest.raises(FrameError, match=missing):
        decode(json.dumps({name: value for name, value in GOOD.items() if name != missing}), Register)


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
        ("public6", "2001:db8::1"),
        ("public6", "[fe80::1]:5"),
        ("type", "peer"),
        ("type", ["register"]),
    ],
)
def test_ill_typed_fields_are_refused(name: str, value: object) -> None:
    with pytest.raises(FrameError, match=name):
        decode(json.dumps({**GOOD, name: value}), Register)


@pytest.mark.parametrize("age", [-1, "0", None, True, "NaN", 1e400])
def test_an_age_is_a_number_of_seconds(age: object) -> None:
    frame = {"id": "00" * 8, "session": "abcd", "age_s": age, "body": {"type": "gone", "registration": "00" * 8}}
    with pytest.raises(FrameError, match="age_s"):
        decode(json.dumps({"type": "message", **frame}), Message)
