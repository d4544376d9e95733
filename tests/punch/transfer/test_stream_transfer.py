"""Streams, and files to standard output, over a channel: where data wait, and what ends the transfer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from io import FileIO
from pathlib import Path

import pytest

from punchlab.punch.errors import PunchFailedError, TunnelBrokenError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind
from punchlab.punch.transfer.file_transfer import Received, receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.flow_control import write_count
from punchlab.punch.transfer.offer import StreamInfo
from punchlab.punch.transfer.stdin_source import StdinSource
from punchlab.punch.transfer.stdout_sink import WINDOW, StdoutSink, receive_to
from tests.punch.transfer.transfers import bar, offer, receiving
from tests.punch.wires import channels, run

ONCE = "; data from standard input cannot be sent again$"


def stream_offer(*, last: bool = True) -> bytes:
    return json.dumps({"name": "s", "kind": "stream", "last": last}).encode()


@contextlib.contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Yield a descriptor to read from and one to write to."""
    near, far = os.pipe()
    with FileIO(near, "r") as reading, FileIO(far, "w") as writing:
        yield reading, writing


@contextlib.asynccontextmanager
async def stream_under_way(inbox: FileSink) -> AsyncIterator[tuple[Channel, asyncio.Task[Received]]]:
    """A stream of which four bytes have been sent, and its receiver."""
    async with receiving(inbox, stream_offer()) as (sender, received):
        assert await sender.expect(Kind.ACCEPT) == b""
        await sender.send(Kind.DATA, b"1234")
        yield sender, received


def test_a_stream_that_breaks_off_leaves_nothing_and_does_not_wait(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with stream_under_way(inbox) as (sender, received):
                sender.close()
                with pytest.raises(PunchFailedError, match=ONCE) as caught:
                    await received
                assert not isinstance(caught.value, TunnelBrokenError)

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Kind.RESUME, Kind.STORED, Kind.CREDIT])
def test_a_stream_is_data_and_a_digest_and_nothing_else(tmp_path: Path, kind: Kind) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with stream_under_way(inbox) as (sender, received):
                await sender.send(kind, bytes(8))
                with pytest.raises(PunchFailedError, match=f"got {kind.name}"):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_stream_is_not_kept(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with stream_under_way(inbox) as (sender, received):
                await sender.send(Kind.DIGEST, hashlib.sha256(b"4321").digest())
                assert b"damaged" in await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError, match="damaged"):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_offered_alone(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with receiving(inbox, stream_offer(last=False), offer("a", 1)) as (_, received):
                with pytest.raises(PunchFailedError, match="a stream is not the only offer"):
                    await received

    run(test)


def test_a_sender_waits_as_long_as_nobody_reads_the_other_s_standard_output(tmp_path: Path) -> None:
    content = os.urandom(2 * WINDOW)
    (tmp_path / "a").write_bytes(content)

    async def test() -> None:
        with pipe() as (near, far), FileSource([tmp_path / "a"]) as source, StdoutSink(far.fileno()) as outlet:
            async with channels() as (sender, receiver):
                transfer = asyncio.gather(send_files(sender, source, bar), receive_to(receiver, outlet, bar))
                while outlet.size + MAX_PAYLOAD <= WINDOW:
                    await asyncio.sleep(0)
                assert outlet.written <= 1 << 16  # the capacity of the pipe
                reading = asyncio.create_task(asyncio.to_thread(near.read))
                sent, received = await transfer
                far.close()
                assert await reading == content
                assert sent == received.files

    run(test)


def test_a_closed_standard_output_stays_closed_whatever_tunnel_comes_next() -> None:
    async def test() -> None:
        with pipe() as (near, far), StdoutSink(far.fileno()) as outlet:
            near.close()
            outlet.check([StreamInfo("s")])
            outlet.put(b"12")
            for _ in range(2):
                with pytest.raises(FileError, match="standard output was closed"):
                    await outlet.wait_for(2)

    run(test)


def test_a_full_device_at_standard_output_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        with (
            Path("/dev/full").open("wb") as full,
            FileSource([tmp_path / "a"]) as source,
            StdoutSink(full.fileno()) as outlet,
        ):
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_to(receiver, outlet, bar))
                with pytest.raises(PunchFailedError, match="the receiver aborted: cannot write to standard output"):
                    await send_files(sender, source, bar)
                sender.close()
                with pytest.raises(PunchFailedError, match="cannot write to standard output: No space left on device"):
                    await received

    run(test)


def test_standard_streams_that_do_not_block_are_waited_for() -> None:
    content = os.urandom(500_000)

    async def test() -> None:
        with pipe() as (input_, feeding), pipe() as (reading, output), StdoutSink(output.fileno()) as outlet:
            os.set_blocking(input_.fileno(), False)
            os.set_blocking(output.fileno(), False)
            async with channels() as (sender, receiver):
                transfer = asyncio.gather(
                    send_files(sender, StdinSource("s", input_.fileno()), bar), receive_to(receiver, outlet, bar)
                )
                for start in range(0, len(content), 50_000):
                    feed = asyncio.to_thread(feeding.write, content[start : start + 50_000])
                    arrived, _ = await asyncio.gather(asyncio.to_thread(_read_exactly, reading, 50_000), feed)
                    assert arrived == content[start : start + 50_000]
                feeding.close()
                await transfer

    run(test)


def _read_exactly(source: FileIO, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += source.read(count - len(data))
    return data


def test_a_sender_that_sends_more_than_there_is_room_for_is_refused() -> None:
    async def test() -> None:
        with pipe() as (_, far), StdoutSink(far.fileno()) as outlet:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_to(receiver, outlet, bar))
                await sender.send(Kind.OFFER, stream_offer())
                assert await sender.expect(Kind.ACCEPT) == write_count(WINDOW)
                with pytest.raises(PunchFailedError, match="exceeds the window"):
                    await asyncio.gather(received, _flood(sender))

    run(test)


async def _flood(sender: Channel) -> None:
    while True:
        await sender.send(Kind.DATA, bytes(MAX_PAYLOAD))


def test_standard_output_goes_on_exactly_after_what_was_written(tmp_path: Path) -> None:
    content = os.urandom(50_000)
    (tmp_path / "a").write_bytes(content)

    async def test() -> None:
        with pipe() as (near, far), StdoutSink(far.fileno()) as outlet:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_to(receiver, outlet, bar))
                await sender.send(Kind.OFFER, offer("a", 50_000))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DATA, content[:20_000])
                sender._stream.sock.shutdown(socket.SHUT_RDWR)
                with pytest.raises(TunnelBrokenError):
                    await received
                assert outlet.size == 20_000
            with FileSource([tmp_path / "a"]) as source:
                async with channels() as (sender, receiver):
                    await asyncio.gather(send_files(sender, source, bar), receive_to(receiver, outlet, bar))
            far.close()
            assert near.read() == content

    run(test)


def test_what_was_written_to_standard_output_is_not_taken_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"another content")

    async def test() -> None:
        with pipe() as (near, far), StdoutSink(far.fileno()) as outlet:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_to(receiver, outlet, bar))
                await sender.send(Kind.OFFER, offer("a", 15))
                await sender.expect(Kind.ACCEPT)
                await sender.send(Kind.DATA, b"some content")
                assert await asyncio.to_thread(near.read, 12) == b"some content"
                sender._stream.sock.shutdown(socket.SHUT_RDWR)
                with pytest.raises(TunnelBrokenError):
                    await received
                assert outlet.size == 12
            with FileSource([tmp_path / "a"]) as source:
                async with channels() as (sender, receiver):
                    received = asyncio.create_task(receive_to(receiver, outlet, bar))
                    with pytest.raises(PunchFailedError, match=r"the receiver aborted: .* cannot be undone"):
                        await send_files(sender, source, bar)
                    sender.close()
                    with pytest.raises(PunchFailedError, match="cannot be undone"):
                        await received
            far.close()
            assert near.read() == b""

    run(test)


@pytest.mark.parametrize("payload", [b"1", bytes(9)])
def test_a_window_or_credit_that_cannot_be_read_is_refused(payload: bytes) -> None:
    async def test() -> None:
        for window in (payload, write_count(WINDOW)):
            with pipe() as (near, _):
                async with channels() as (sender, receiver):
                    sending = asyncio.create_task(send_files(sender, StdinSource("s", near.fileno()), bar))
                    await receiver.expect(Kind.OFFER)
                    await receiver.send(Kind.ACCEPT, window)
                    await receiver.send(Kind.CREDIT, payload)
                    with pytest.raises(PunchFailedError, match="invalid number of bytes"):
                        await sending

    run(test)


def test_a_stream_that_cannot_be_read_is_an_error_on_both_sides(tmp_path: Path) -> None:
    async def test() -> None:
        directory = os.open(tmp_path, os.O_RDONLY)
        try:
            with FileSink(tmp_path, force=False) as inbox:
                async with channels() as (sender, receiver):
                    sending = asyncio.create_task(send_files(sender, StdinSource("s", directory), bar))
                    with pytest.raises(PunchFailedError, match="the sender aborted: standard input cannot be read"):
                        await receive_files(receiver, inbox, bar)
                    receiver.close()
                    with pytest.raises(PunchFailedError, match="standard input cannot be read: Is a directory"):
                        await sending
        finally:
            os.close(directory)

    run(test)
    assert list(tmp_path.iterdir()) == []
