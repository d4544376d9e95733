"""The handshake and the frames."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.punch.errors import ChannelError, ConnectionLostError, StrangerError, TamperedError, WrongPeerError
from punchlab.punch.frames import Role, SessionId
from punchlab.punch.secure.channel import (
    HEADER_BYTES,
    HELLO_BYTES,
    MAGIC,
    MAX_CIPHERTEXT,
    MAX_PAYLOAD,
    PROOF_BYTES,
    TAG_BYTES,
    Kind,
)
from punchlab.punch.secure.keys import ContactTranscript
from tests.punch.wires import KEY, SESSION, TAGS, channels, passages, run, shake, tapped, wire

FRAME = HEADER_BYTES + TAG_BYTES
SENDER, RECEIVER = MAGIC + b"S" + TAGS["sender"], MAGIC + b"R" + TAGS["receiver"]


def test_what_is_sent_arrives_in_order_both_ways() -> None:
    async def test() -> None:
        async with channels() as (sender, receiver):
            for payload in (b"", b"x", os.urandom(1000)):
                await sender.send(Kind.DATA, payload)
                await receiver.send(Kind.ECHO, payload)
            for size in (0, 1, 1000):
                kind, data = await receiver.receive()
                assert kind is Kind.DATA
                assert len(data) == size
                assert data == await sender.expect(Kind.ECHO)

    run(test)


def test_frames_of_the_largest_size_flow() -> None:
    async def test() -> None:
        async with channels() as (sender, receiver):
            payloads = [os.urandom(size) for size in (MAX_PAYLOAD, 1, MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD)]

            async def send() -> None:
                for payload in payloads:
                    await sender.send(Kind.DATA, payload)

            sending = asyncio.create_task(send())
            assert [await receiver.expect(Kind.DATA) for _ in payloads] == payloads
            await sending

    run(test)


@pytest.mark.parametrize("change", [{"key": bytes(32)}, {"session": SessionId("other")}])
def test_another_secret_or_session_is_a_wrong_peer_on_both_sides(change: dict[str, Any]) -> None:
    async def test() -> None:
        async with wire() as (one, other):
            results = await asyncio.gather(
                shake(one, "sender"), shake(other, "receiver", **change), return_exceptions=True
            )
            assert [type(result) for result in results] == [WrongPeerError, WrongPeerError]

    run(test)


def test_two_of_the_same_role_are_strangers() -> None:
    async def test() -> None:
        async with wire() as (one, other):
            results = await asyncio.gather(shake(one, "sender"), shake(other, "sender"), return_exceptions=True)
            assert [type(result) for result in results] == [StrangerError, StrangerError]

    run(test)


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_one_s_own_bytes_sent_back_do_not_authenticate(role: Role) -> None:
    async def test() -> None:
        async with wire() as (one, mirror):
            shaking = asyncio.create_task(shake(one, role))
            hello = bytes(await mirror.read(HELLO_BYTES))
            await mirror.write(hello)
            with pytest.raises(StrangerError):
                await shaking

    run(test)


def test_a_proof_reflected_under_the_other_role_does_not_authenticate() -> None:
    async def test() -> None:
        async with wire() as (one, mirror):
            shaking = asyncio.create_task(shake(one, "sender"))
            hello = bytes(await mirror.read(HELLO_BYTES))
            await mirror.write(RECEIVER + hello[-32:])
            await mirror.write(bytes(await mirror.read(PROOF_BYTES)))
            with pytest.raises(WrongPeerError):
                await shaking

    run(test)


def test_a_recorded_handshake_does_not_authenticate_again() -> None:
    async def test() -> None:
        async with wire() as (one, one_tap), wire() as (other, other_tap):
            shaking = asyncio.gather(shake(one, "sender"), shake(other, "receiver"))
            recorded = b""
            for source, target, count in passages(one_tap, other_tap):
                piece = bytes(await source.read(count))
                recorded += piece if source is one_tap else b""
                await target.write(piece)
            await shaking
        async with wire() as (fresh, attacker):
            again = asyncio.create_task(shake(fresh, "receiver"))
            await attacker.write(recorded)
            with pytest.raises(WrongPeerError):
                await again

    run(test)


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" + b" " * HELLO_BYTES,
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" + b" " * HELLO_BYTES,
        MAGIC + b"X" + TAGS["receiver"] + bytes(32),
        b"punch/1\n" + RECEIVER[len(MAGIC) :] + bytes(32),
        RECEIVER + bytes(32),
    ],
)
def test_who_speaks_something_else_is_a_stranger(hello: bytes) -> None:
    async def test() -> None:
        async with wire() as (one, other):
            await other.write(hello)
            with pytest.raises(StrangerError):
                await shake(one, "sender")

    run(test)


@pytest.mark.parametrize("length", [0, 1, HELLO_BYTES - 1, HELLO_BYTES, HELLO_BYTES + PROOF_BYTES - 1])
def test_a_connection_that_ends_in_the_handshake_is_lost(length: int) -> None:
    async def test() -> None:
        async with wire() as (one, other):
            await other.write((RECEIVER + b"\x09" + bytes(31) + bytes(32))[:length])
            other.close()
            with pytest.raises(ConnectionLostError):
                await shake(one, "sender")

    run(test)


def test_nothing_but_89_bytes_is_said_or_read_before_the_other_end_has_proved_itself() -> None:
    async def test() -> None:
        async with wire() as (one, other):
            shaking = asyncio.create_task(shake(one, "sender"))
            await other.write(RECEIVER + b"\x09" + bytes(31))
            await other.read(HELLO_BYTES + PROOF_BYTES)
            await other.write(bytes(PROOF_BYTES))
            with pytest.raises(WrongPeerError):
                await shaking
            one.close()
            with pytest.raises(ConnectionLostError):
                await other.read(1)

    run(test)


def test_a_receiver_proves_nothing_before_the_sender_has() -> None:
    async def test() -> None:
        async with wire() as (one, other):
            shaking = asyncio.create_task(shake(one, "receiver"))
            await other.write(SENDER + b"\x09" + bytes(31))
            await other.read(HELLO_BYTES)
            await other.write(bytes(PROOF_BYTES))
            with pytest.raises(WrongPeerError):
                await shaking
            assert bytes(await other.read(PROOF_BYTES)) == bytes(PROOF_BYTES)
            one.close()
            with pytest.raises(ConnectionLostError):
                await other.read(1)

    run(test)


@pytest.mark.parametrize("change", ["session", "own message", "peer's message", "own traits", "peer's traits"])
def test_different_contacts_are_detected_by_both_before_the_secret_is_used(change: str) -> None:
    told = [SESSION, "11" * 33, None, "22" * 33, None]
    places = ["session", "own message", "own traits", "peer's message", "peer's traits"]
    told[places.index(change)] = SessionId("other")
    session, *rest = told
    other_tags = ContactTranscript.of(SessionId(session or ""), "sender", (rest[0], rest[1]), (rest[2], rest[3])).tags

    async def test() -> None:
        async with wire() as (one, other):
            ends = (shake(one, "sender"), shake(other, "receiver", tags=other_tags))
            found = await asyncio.gather(*ends, return_exceptions=True)
            assert [type(each) for each in found] == [WrongPeerError, WrongPeerError]
            one.close()
            with pytest.raises(ConnectionLostError):
                await other.read(1)

    run(test)


@settings(max_examples=60)
@given(position=st.integers(0, FRAME + 9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position: int, bit: int) -> None:
    async def test() -> None:
        async with tapped() as (sender, sender_tap, receiver, receiver_tap):
            await sender.send(Kind.DATA, b"ten bytes.")
            frame = bytearray(await sender_tap.read(FRAME + 10))
            frame[position] ^= 1 << bit
            await receiver_tap.write(bytes(frame))
            receiver_tap.close()
            with pytest.raises((TamperedError, ConnectionLostError)):
                await receiver.receive()

    run(test)


@pytest.mark.parametrize("order", [[0, 0], [1], [1, 0], [0, 2]])
def test_frames_repeated_dropped_or_reordered_are_noticed(order: list[int]) -> None:
    async def test() -> None:
        async with tapped() as (sender, sender_tap, receiver, receiver_tap):
            frames = []
            for payload in (b"a", b"b", b"c"):
                await sender.send(Kind.DATA, payload)
                frames.append(bytes(await sender_tap.read(FRAME + 1)))
            for index in order:
                await receiver_tap.write(frames[index])
            for index in [index for position, index in enumerate(order) if index == position]:
                assert await receiver.expect(Kind.DATA) == b"abc"[index : index + 1]
            with pytest.raises(TamperedError):
                await receiver.receive()

    run(test)


def test_a_frame_sent_back_to_its_sender_is_noticed() -> None:
    async def test() -> None:
        async with tapped() as (sender, sender_tap, _, _):
            await sender.send(Kind.NONCE, bytes(32))
            await sender_tap.write(bytes(await sender_tap.read(FRAME + 32)))
            with pytest.raises(TamperedError):
                await sender.receive()

    run(test)


@pytest.mark.parametrize("length", [0, TAG_BYTES - 1, MAX_CIPHERTEXT + 1, 0xFFFFFF])
def test_a_length_that_cannot_be_is_refused_before_it_is_read(length: int) -> None:
    async def test() -> None:
        async with tapped() as (_, _, receiver, receiver_tap):
            await receiver_tap.write(bytes([Kind.DATA]) + length.to_bytes(3, "big"))
            with pytest.raises(TamperedError):
                await receiver.receive()

    run(test)


@pytest.mark.parametrize("length", [0, 3, HEADER_BYTES, FRAME])
def test_an_end_without_final_is_a_truncation(length: int) -> None:
    async def test() -> None:
        async with tapped() as (sender, sender_tap, receiver, receiver_tap):
            await sender.send(Kind.DATA, b"x")
            await receiver_tap.write(bytes(await sender_tap.read(FRAME + 1))[:length])
            receiver_tap.close()
            with pytest.raises(ConnectionLostError):
                await receiver.receive()

    run(test)


def test_nothing_comes_after_final() -> None:
    async def test() -> None:
        async with channels() as (sender, receiver):
            await sender.send(Kind.FINAL)
            await sender.send(Kind.DATA, b"more")
            await receiver.expect(Kind.FINAL)
            with pytest.raises(ConnectionLostError):
                await receiver.receive()

    run(test)


def test_a_frame_that_must_not_come_now_is_refused() -> None:
    async def test() -> None:
        async with channels() as (sender, receiver):
            await sender.send(Kind.DATA, b"x")
            with pytest.raises(ChannelError, match="expected NONCE, got DATA"):
                await receiver.expect(Kind.NONCE)

    run(test)


def test_what_crosses_the_wire_shows_neither_content_nor_key() -> None:
    async def test() -> None:
        async with tapped() as (sender, sender_tap, _, _):
            secret = b"the content of the file"
            await sender.send(Kind.DATA, secret)
            seen = bytes(await sender_tap.read(FRAME + len(secret)))
            assert secret not in seen
            assert KEY not in seen

    run(test)


@pytest.mark.parametrize("direction", ["sending", "receiving"])
def test_a_socket_that_never_has_to_be_waited_for_can_be_interrupted(direction: str) -> None:
    frames = 100

    async def test() -> None:
        async def send() -> None:
            for _ in range(frames):
                await sender.send(Kind.DATA, b"x")

        async def receive() -> None:
            for _ in range(frames):
                await receiver.expect(Kind.DATA)

        async with channels() as (sender, receiver):
            if direction == "receiving":
                await send()
            busy = asyncio.create_task(send() if direction == "sending" else receive())
            await asyncio.sleep(0)
            assert not busy.done()
            busy.cancel()
            with pytest.raises(asyncio.CancelledError):
                await busy

    run(test)
