"""Files over a channel, with honest ends and others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from punch.client.channel import Channel, Kind
from punch.client.files import FileDone, Inbox, Outgoing
from punch.client.progress import Progress
from punch.client.transfer import receive_files, send_files
from punch.errors import PunchFailedError
from tests.punch.recorder import Recorder
from tests.punch.wires import channels, run


def bar(total: int) -> Progress:
    return Progress(total, Recorder(), bar=False)


async def both(
    sender: Channel, outgoing: Outgoing, receiver: Channel, inbox: Inbox
) -> tuple[list[FileDone] | BaseException, list[FileDone] | BaseException]:
    sent, received = await asyncio.gather(
        send_files(sender, outgoing, bar), receive_files(receiver, inbox, bar), return_exceptions=True
    )
    return sent, received


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("sizes", [[0], [1], [65_520], [65_521], [300_000], [5, 0, 200_000, 1]])
def test_files_arrive_as_they_were(tmp_path: Path, sizes: list[int]) -> None:
    contents = {f"file{index}": os.urandom(size) for index, size in enumerate(sizes)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()

    async def test() -> None:
        with Outgoing([tmp_path / name for name in contents]) as outgoing, Inbox(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                sent, received = await both(sender, outgoing, receiver, inbox)
        expected = [(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()]
        assert sent == received == expected

    before = len(open_descriptors())
    run(test)
    assert len(open_descriptors()) == before
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents


def test_an_existing_file_stops_everything_before_a_byte_moves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"new")
    (out / "b").write_bytes(b"old")

    async def test() -> None:
        with (
            Outgoing([tmp_path / "a", tmp_path / "b"]) as outgoing,
            Inbox(out, force=False) as inbox,
        ):
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                with pytest.raises(PunchFailedError, match="the receiver stopped: 'b' exists already"):
                    await sending
                sender.close()
                with pytest.raises(PunchFailedError, match="client_error: 'b' exists already"):
                    await receiving

    run(test)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"b": b"old"}


def offer(name: object, size: object, last: object = True) -> bytes:
    return json.dumps({"name": name, "size": size, "last": last}).encode()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "..", "a/../../escaped", "a\x00", "a\n"])
def test_a_hostile_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)

    async def test() -> None:
        with Inbox(inside, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("good", 1, last=False))
                await sender.send(Kind.OFFER, offer(name, 1))
                assert (await sender.expect(Kind.ABORT)).decode().isprintable()
                sender.close()
                with pytest.raises(PunchFailedError):
                    await receiving

    run(test)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"[]", b"\xff", b"{}", b"[" * 60_000, offer(1, 1), offer("a", -1), offer("a", 1.5), offer("a", True)),
        *(offer("a", 1 << 63), offer("a", 1, last=None)),
    ],
)
def test_an_offer_that_cannot_be_read_is_refused(tmp_path: Path, payload: bytes) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                await sender.send(Kind.OFFER, payload)
                with pytest.raises(PunchFailedError, match="an offer cannot be read"):
                    await receive_files(receiver, inbox, bar)

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_is_refused_before_more_are_read(tmp_path: Path) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a" * 60_000, 1, last=False))
                assert b"is longer than 255 bytes" in await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError, match="is longer than"):
                    await receiving

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunks", [[b"12345"], [b"1234", b"5678", b"9"], []])
def test_a_file_of_another_size_or_content_is_not_kept(tmp_path: Path, chunks: list[bytes]) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ACCEPT)
                for chunk in chunks:
                    await sender.send(Kind.DATA, chunk)
                await sender.send(Kind.DIGEST, hashlib.sha256(b"12345678").digest())
                await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError):
                    await receiving

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Kind.CHOOSE, Kind.NONCE, Kind.OFFER, Kind.FINAL])
def test_a_frame_that_must_not_come_leaves_nothing(tmp_path: Path, kind: Kind) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DATA, b"1234")
                await sender.send(kind, b"")
                with pytest.raises(PunchFailedError, match=f"got {kind.name}"):
                    await receiving

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_ends_in_mid_file_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DATA, b"1234")
                sender.close()
                with pytest.raises(PunchFailedError, match="before it was finished"):
                    await receiving

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_that_goes_away_fails_the_sender(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                await receiver.expect(Kind.OFFER)
                await receiver.send(Kind.ACCEPT)
                await receiver.expect(Kind.DATA)
                receiver.close()
                with pytest.raises(PunchFailedError) as caught:
                    await sending
                assert caught.value.outcome == "client_error"

    run(test)


def test_a_receiver_that_stops_in_mid_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                await receiver.expect(Kind.OFFER)
                await receiver.send(Kind.ACCEPT)
                await receiver.expect(Kind.DATA)
                await receiver.send(Kind.ABORT, b"the disk is \x1b[31mfull")
                with pytest.raises(PunchFailedError, match=r"the receiver stopped: the disk is \?\[31mfull"):
                    await sending

    run(test)


def test_a_receiver_that_claims_too_early_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                await receiver.expect(Kind.OFFER)
                await receiver.send(Kind.ACCEPT)
                await receiver.expect(Kind.DATA)
                await receiver.send(Kind.STORED)
                with pytest.raises(PunchFailedError, match="has stored what was not sent"):
                    await sending

    run(test)


def test_a_file_that_shrinks_is_an_error_on_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "a").write_bytes(bytes(1000))

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing, Inbox(out, force=False) as inbox:
            os.truncate(tmp_path / "a", 10)
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                with pytest.raises(PunchFailedError, match="the sender stopped: 'a' became shorter"):
                    await receive_files(receiver, inbox, bar)
                receiver.close()
                with pytest.raises(PunchFailedError, match="'a' became shorter"):
                    await sending

    run(test)
    assert list(out.iterdir()) == []


def test_progress_is_reported_at_most_once_a_second() -> None:
    async def test() -> None:
        log = Recorder()
        with Progress(10**9, log, bar=False) as progress:
            for _ in range(10_000):
                progress.advance(1)
        assert len(log.all("progress")) <= 1

    run(test)
