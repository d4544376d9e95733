"""STUN messages: an encoded message reads back, a malformed one is refused, and the vectors of the RFC are decoded."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import FrameError
from punchlab.punch.probe.stun import Change, Message, MessageClass, decode

endpoints = st.builds(
    Endpoint, st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n))), st.integers(0, 65535)
)
ports = st.integers(0, 65535)
messages = st.builds(
    Message,
    st.sampled_from(MessageClass),
    st.binary(min_size=12, max_size=12),
    mapped=st.none() | endpoints,
    change=st.none() | st.builds(Change, address=st.booleans(), port=st.booleans()),
    response_port=st.none() | ports,
    origin=st.none() | endpoints,
    other=st.none() | endpoints,
    error=st.none() | st.tuples(st.integers(300, 699), st.text(max_size=40)),
    unknown=st.lists(ports, max_size=5).map(tuple),
    fingerprint=st.booleans(),
)


@given(messages)
def test_a_message_reads_back(message: Message) -> None:
    encoded = message.encode()
    assert len(encoded) % 4 == 0
    assert decode(encoded) == message


@given(st.binary(max_size=120))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(FrameError):
        decode(noise)


@given(messages, st.data())
def test_a_message_with_a_changed_byte_is_decoded_or_refused(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(message.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(encoded))
    except FrameError:
        return
    assert not read.fingerprint  # the fingerprint covers every byte


@given(messages, st.integers(1, 40))
def test_a_truncated_message_is_refused(message: Message, cut: int) -> None:
    with pytest.raises(FrameError):
        decode(message.encode()[:-cut])


def test_the_vector_of_rfc_5769_is_read() -> None:
    # Section 2.2, the IPv4 response; its MESSAGE-INTEGRITY is an unknown attribute here.
    vector = bytes.fromhex(
        "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
        "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
    )
    message = decode(vector)
    assert message.kind is MessageClass.SUCCESS
    assert message.mapped == ("192.0.2.1", 32853)
    assert message.fingerprint
    assert message.not_understood == (0x0008,)


def test_an_unknown_attribute_counts_only_below_0x8000() -> None:
    body = struct.pack("!HH", 0x7777, 3) + b"abc\0" + struct.pack("!HH", 0x8777, 0)
    header = struct.pack("!HHI", 1, len(body), 0x2112A442) + bytes(12)
    assert decode(header + body).not_understood == (0x7777,)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (struct.pack("!HHBBH4s", 0x0020, 8, 0, 2, 1, b"1234"), "IPv4"),
        (struct.pack("!HHBBH", 0x0001, 4, 0, 1, 1), "IPv4"),
        (struct.pack("!HHH", 0x0003, 2, 0) + bytes(2), "CHANGE-REQUEST"),
        (struct.pack("!HH", 0x0027, 0), "RESPONSE-PORT"),
        (struct.pack("!HHHBB", 0x0009, 4, 0, 2, 1), "ERROR-CODE"),
        (struct.pack("!HHHBB4s", 0x0009, 8, 0, 4, 1, b"\xff\xff\xff\xff"), "UTF-8"),
        (struct.pack("!HHB", 0x000A, 1, 0) + bytes(3), "UNKNOWN-ATTRIBUTES"),
        (struct.pack("!HH4s", 0x8028, 4, b"abcd"), "FINGERPRINT"),
        (struct.pack("!HH", 0x0020, 8), "truncated"),
    ],
)
def test_a_malformed_attribute_is_named(attribute: bytes, expected: str) -> None:
    header = struct.pack("!HHI", 1, len(attribute), 0x2112A442) + bytes(12)
    with pytest.raises(FrameError, match=expected):
        decode(header + attribute)
