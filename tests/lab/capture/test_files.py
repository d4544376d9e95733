"""Foreign captures: any bytes are a recording or one clear error, and any frames are an exchange."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether

from punchlab.lab.capture import Frame, Recording, pcapng
from punchlab.lab.errors import InputError
from punchlab.lab.exchange import Exchange
from punchlab.lab.exchange.timeline import render
from punchlab.lab.exchange.wire import decode
from tests.examples import EXAMPLES
from tests.lab.exchange.story import OUT_A, OUT_B, PAIR, A, B, Story

SECTION_BYTES = 28


def handshakes() -> list[Frame]:
    story = Story()
    story.tcp(0, "S", 100)
    story.tcp(5, "S", 900, forth=False)
    story.handshake(60, 2000)
    story.tcp(130, "FA", 2001, 7001)
    story.tcp(150, "R", 7001, forth=False)
    unreachable = Ether() / IP() / ICMP(type=3, code=1) / IP(src=OUT_A[:-6], dst=OUT_B[:-6]) / TCP(seq=100)
    story.add(170, ("nat_b-eth0>", "nat_a-eth0<", "nat_a-eth1>", "a-eth0<"), [(OUT_B, OUT_A)] * 2, unreachable)
    return story.frames


FRAMES = handshakes()
NODES = ("a", "b", "nat_a", "nat_b", "edge1")
OVER_IPV6 = [
    bytes(Ether() / IPv6(src="2a11::1", dst="2a11::2") / TCP(flags="S", options=[("Timestamp", (5, 0))])),
    bytes(Ether() / IPv6() / ICMPv6DestUnreach(code=4) / IPv6() / TCP(flags="S", seq=7)),
]


def captured() -> bytes:
    interfaces = tuple(dict.fromkeys(frame.interface for frame in FRAMES))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "whole.pcapng")
        pcapng.write(path, Recording(tuple(FRAMES), interfaces))
        return path.read_bytes()


WHOLE = captured()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes replaced, added, removed or truncated."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 32)))
        data[at : at + length] = draw(st.binary(max_size=8) | st.sampled_from((b"\xff" * 4, bytes(4), b"\x7f" * 2)))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def read(path: Path, data: bytes) -> Recording | None:
    """Return the recording in a file with these bytes, None if it is rejected."""
    path.write_bytes(data)
    try:
        return pcapng.read(path)
    except InputError:
        return None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures") / "from-outside.pcapng"


@settings(max_examples=EXAMPLES)
@given(data=damaged(WHOLE) | st.binary(max_size=200) | st.binary(max_size=200).map(WHOLE[:SECTION_BYTES].__add__))
def test_any_bytes_are_a_recording_or_one_clear_error(path: Path, data: bytes) -> None:
    recording = read(path, data)
    if recording is not None:
        exchange = Exchange(recording.frames, PAIR)
        exchange.summary()
        render(exchange)
        for frame in recording.frames:
            assert len(frame.packet) <= len(frame.data) + 60


@st.composite
def wrong_frames(draw: st.DrawFn) -> list[Frame]:
    frames = []
    for number, frame in enumerate(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=12))):
        data = draw(st.just(frame.data) | damaged(frame.data) | st.sampled_from(OVER_IPV6).flatmap(damaged))
        node = draw(st.sampled_from(NODES))
        frames.append(replace(frame, time_ns=number, node=node, interface=f"{node}-eth0", data=data))
    return frames


@settings(max_examples=EXAMPLES)
@given(frames=wrong_frames(), agreed=st.sampled_from((None, (A, OUT_B), (B, OUT_A))))
def test_any_frames_make_an_exchange(frames: list[Frame], agreed: tuple[str, str] | None) -> None:
    exchange = Exchange(frames, PAIR, agreed)
    assert len(exchange.segments) <= sum(decode(frame.data) is not None for frame in frames)
    exchange.summary()
    assert render(exchange).count("\n") >= len(exchange.segments)


def test_a_truncated_file_is_rejected_wherever_it_ends(path: Path) -> None:
    boundaries, at = {0}, 0
    while at < len(WHOLE):
        at += struct.unpack_from("<I", WHOLE, at + 4)[0]
        boundaries.add(at)
    for length in range(1, len(WHOLE)):
        assert (read(path, WHOLE[:length]) is not None) == (length in boundaries), length


def test_a_block_of_four_gigabytes_allocates_no_memory(path: Path) -> None:
    for length in (0xFFFFFFFC, 1 << 31, 1 << 25):
        block = struct.pack("<II", 6, length)
        with little_memory():
            assert read(path, WHOLE[:SECTION_BYTES] + block + bytes(1000)) is None
    with pytest.raises(InputError, match=r"^capture: .*expected a pcapng file .* \(a block has 33554432 bytes\)$"):
        pcapng.read(path)


def swapped(recording: Recording) -> bytes:
    """Return the file as a machine with the other byte order writes it, in microseconds."""

    def block(kind: int, body: bytes) -> bytes:
        length = 12 + len(body)
        return struct.pack(">II", kind, length) + body + struct.pack(">I", length)

    data = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
    for name in recording.interfaces:
        option = name.encode()
        data += block(1, struct.pack(">HHIHH", 1, 0, 0, 2, len(option)) + option + bytes(-len(option) % 4 + 4))
    for frame in recording.frames:
        number, ticks, kept = recording.interfaces.index(frame.interface), frame.time_ns // 1000, len(frame.data)
        head = struct.pack(">IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, kept, frame.length)
        flags = struct.pack(">HHII", 2, 4, 2 if frame.outgoing else 1, 0)
        data += block(6, head + frame.data + bytes(-kept % 4) + flags)
    return data


def test_a_file_of_the_other_byte_order_is_read(path: Path) -> None:
    interfaces = tuple(dict.fromkeys(frame.interface for frame in FRAMES))
    recording = Recording(tuple(replace(frame, time_ns=frame.time_ns // 1000 * 1000) for frame in FRAMES), interfaces)
    assert read(path, swapped(recording)) == recording
