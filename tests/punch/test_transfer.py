"""Files over a channel, with honest ends and others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from punch.client.channel import Channel, Kind
from punch.client.inbox import Inbox
from punch.client.offer import FileDone
from punch.client.outgoing import Outgoing
from punch.client.progress import Progress
from punch.client.transfer import Received, receive_files, send_files
from punch.errors import ConnectionLostError, PunchFailedError, TunnelBrokenError
from tests.punch.recorder import Recorder
from tests.punch.wires import channels, run


def bar(total: int | None) -> Progress:
    return Progress(total, Recorder(), bar=False)


async def both(
    sender: Channel, outgoing: Outgoing, receiver: Channel, inbox: Inbox
) -> tuple[list[FileDone] | BaseException, list[FileDone] | BaseException]:
    sent, received = await asyncio.gather(
        send_files(sender, outgoing, bar), receive_files(receiver, inbox, bar), return_exceptions=True
    )
    if isinstance(received, Received):
        assert received.told
        return sent, received.files
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


def test_what_a_broken_connection_has_brought_stays_under_a_hidden_name(tmp_path: Path) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=True) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DATA, b"1234")
                sender.close()
                with pytest.raises(TunnelBrokenError, match="before it was finished"):
                    await receiving

    run(test)
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".punch-")
    assert partial.read_bytes() == b"1234"


async def break_off(sender: Channel, receiver: Channel, outgoing: Outgoing, inbox: Inbox, frames: int) -> None:
    """Have the connection end under both after so many frames of the sender."""
    passed = 0
    honest = sender.send

    async def send(kind: Kind, payload: bytes = b"") -> None:
        nonlocal passed
        if passed == frames:
            sender._stream.sock.shutdown(socket.SHUT_RDWR)
            raise ConnectionLostError("broken by the test")
        passed += 1
        await honest(kind, payload)

    sender.send = send  # type: ignore[method-assign]
    for result in await both(sender, outgoing, receiver, inbox):
        assert isinstance(result, TunnelBrokenError)


@pytest.mark.parametrize("frames", [3, 5, 7, 9])  # two offers, a small file, five frames of the big one
def test_a_transfer_goes_on_where_the_connection_broke(tmp_path: Path, frames: int) -> None:
    contents = {"small": os.urandom(1000), "big": os.urandom(5 * 65_520)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    counted = Recorder()

    async def test() -> None:
        with Outgoing([tmp_path / name for name in contents]) as outgoing:
            with Inbox(out, force=False) as inbox:
                async with channels() as (sender, receiver):
                    await break_off(sender, receiver, outgoing, inbox, frames)
            assert not any(path.name in contents for path in out.iterdir())
            with Inbox(out, force=False) as inbox:  # another process, for all that the file system knows
                async with channels() as (sender, receiver):
                    sent, received = await asyncio.gather(
                        send_files(sender, outgoing, lambda total: Progress(total, counted, bar=False)),
                        receive_files(receiver, inbox, bar),
                    )
            assert (sent, True) == received

    run(test)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents
    resumed = {event["name"]: event["bytes"] for event in counted.all("resumed")}
    assert resumed.get("small", 0) == (1000 if frames >= 3 else 0)
    assert resumed.get("big", 0) == 65_520 * max(0, frames - 4)


def test_a_directory_goes_on_where_the_connection_broke(tmp_path: Path) -> None:
    contents = {"d/a": os.urandom(1000), "d/b/c": os.urandom(5 * 65_520), "d/z": b"z"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d" / "empty").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    counted = Recorder()

    async def test() -> None:
        with Outgoing([tmp_path / "d"]) as outgoing:
            with Inbox(out, force=False) as inbox:
                async with channels() as (sender, receiver):
                    await break_off(sender, receiver, outgoing, inbox, 4 + 2 + 3)
            assert not any(path.is_dir() for path in out.iterdir())
            with Inbox(out, force=False) as inbox:
                async with channels() as (sender, receiver):
                    await asyncio.gather(
                        send_files(sender, outgoing, lambda total: Progress(total, counted, bar=False)),
                        receive_files(receiver, inbox, bar),
                    )

    run(test)
    assert {event["name"]: event["bytes"] for event in counted.all("resumed")} == {"d/a": 1000, "d/b/c": 3 * 65_520}
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == contents
    assert (out / "d" / "empty").is_dir()
    assert [path.name for path in out.iterdir()] == ["d"]


def test_a_frame_that_must_not_come_costs_only_the_file_that_was_under_way(tmp_path: Path) -> None:
    complete = hashlib.sha256(b"12345678").digest()

    async def test() -> None:
        with Inbox(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8, last=False))
                await sender.send(Kind.OFFER, offer("b", 8))
                await sender.expect(Kind.ACCEPT)
                for kind, payload in (
                    (Kind.DATA, b"12345678"),
                    (Kind.DIGEST, complete),
                    (Kind.DATA, b"1234"),
                    (Kind.ECHO, b""),
                ):
                    await sender.send(kind, payload)
                with pytest.raises(PunchFailedError, match="got ECHO"):
                    await receiving
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8, last=False))
                await sender.send(Kind.OFFER, offer("b", 8))
                assert await sender.expect(Kind.HELD) == bytes(4) + (8).to_bytes(8, "big") + complete
                await sender.expect(Kind.ACCEPT)
                sender.close()
                with pytest.raises(TunnelBrokenError):
                    await receiving

    run(test)


def test_another_file_of_that_name_and_size_starts_anew(tmp_path: Path) -> None:
    content = os.urandom(3 * 65_520)
    (tmp_path / "a").write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    counted = Recorder()

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing, Inbox(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                await break_off(sender, receiver, outgoing, inbox, 3)
        changed = bytes([content[0] ^ 1]) + content[1:]
        (tmp_path / "a").write_bytes(changed)
        with Outgoing([tmp_path / "a"]) as outgoing, Inbox(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                await asyncio.gather(
                    send_files(sender, outgoing, lambda total: Progress(total, counted, bar=False)),
                    receive_files(receiver, inbox, bar),
                )
        assert [path.read_bytes() for path in out.iterdir()] == [changed]

    run(test)
    assert counted.all("resumed") == []


def test_a_sender_that_missed_the_last_word_is_told_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    out = tmp_path / "out"
    out.mkdir()

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing, Inbox(out, force=False) as inbox:
            for _ in range(2):
                async with channels() as (sender, receiver):
                    sent, received = await both(sender, outgoing, receiver, inbox)
                    assert sent == received == [("a", 7, hashlib.sha256(b"content").hexdigest())]

    run(test)
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_receiver_that_hears_no_goodbye_knows_that_the_sender_may_come_again(tmp_path: Path) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 0))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DIGEST, hashlib.sha256().digest())
                await sender.expect(Kind.STORED)
                sender.close()
                assert not (await receiving).told

    run(test)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_sender_that_never_hears_the_last_word_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                await receiver.expect(Kind.OFFER)
                await receiver.send(Kind.ACCEPT)
                await receiver.expect(Kind.DATA)
                await receiver.expect(Kind.DIGEST)
                receiver.close()
                with pytest.raises(TunnelBrokenError, match="the receiver never said that it has stored everything"):
                    await sending

    run(test)


@pytest.mark.parametrize("payload", [b"", bytes(44), (1).to_bytes(4, "big") + bytes(40)])
def test_a_receiver_that_holds_what_cannot_be_is_refused(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                await receiver.expect(Kind.OFFER)
                for _ in range(2):
                    await receiver.send(Kind.HELD, payload)
                with pytest.raises(PunchFailedError, match=r"expected HELD|not offered"):
                    await sending

    run(test)


@pytest.mark.parametrize("start", [1, 4, 8, 1 << 40])
def test_a_sender_cannot_go_on_from_what_is_not_held(tmp_path: Path, start: int) -> None:
    async def test() -> None:
        with Inbox(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.RESUME, start.to_bytes(8, "big"))
                await sender.send(Kind.DATA, b"1")
                assert b"cannot go on" in await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError, match="cannot go on"):
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


def test_a_file_that_has_changed_is_an_error_on_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "a").write_bytes(bytes(1000))

    async def test() -> None:
        with Outgoing([tmp_path / "a"]) as outgoing, Inbox(out, force=False) as inbox:
            os.truncate(tmp_path / "a", 10)
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, outgoing, bar))
                with pytest.raises(PunchFailedError, match="the sender stopped: 'a' has changed since"):
                    await receive_files(receiver, inbox, bar)
                receiver.close()
                with pytest.raises(PunchFailedError, match="'a' has changed since"):
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
