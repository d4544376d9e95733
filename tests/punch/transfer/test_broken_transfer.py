"""The remaining data of a broken transfer, and how the next connection resumes it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from punchlab.punch.errors import ConnectionLostError, PunchFailedError, TunnelBrokenError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.consent import Consent
from punchlab.punch.transfer.file_transfer import Received, receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.offer import FileDone
from punchlab.punch.transfer.progress import Progress
from tests.punch.recorder import Recorder
from tests.punch.transfer.transfers import PARTIAL_NAMES, accepted, bar, both, under_way
from tests.punch.wires import channels, run


def test_what_a_broken_connection_has_brought_stays_under_a_hidden_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with accepted(tmp_path, force=True) as (sender, received):
            await sender.send(Kind.DATA, b"1234")
            sender.close()
            with pytest.raises(TunnelBrokenError, match="before it was finished"):
                await received

    run(test)
    (hidden,) = tmp_path.iterdir()
    assert hidden.name.startswith(".punch-")
    assert hidden.stat().st_mode & 0o777 == 0o700
    (partial,) = hidden.iterdir()
    assert partial.read_bytes() == b"1234"


async def break_off(source: FileSource, inbox: FileSink, frames: int, consent: Consent | None = None) -> None:
    """Run a transfer whose connection breaks for both ends after so many frames of the sender."""
    async with channels() as (sender, receiver):
        passed = 0
        honest = sender.send

        async def send(kind: Kind, payload: bytes | memoryview = b"") -> None:
            nonlocal passed
            if passed == frames:
                sender._stream.sock.shutdown(socket.SHUT_RDWR)
                raise ConnectionLostError("broken by the test")
            passed += 1
            await honest(kind, payload)

        sender.send = send  # type: ignore[method-assign]
        for result in await both(sender, source, receiver, inbox, consent):
            assert isinstance(result, TunnelBrokenError)


async def go_on(source: FileSource, inbox: FileSink, log: Recorder) -> tuple[list[FileDone], Received]:
    """Run a transfer to its end, with the sender's frames in the log."""
    async with channels() as (sender, receiver):
        return await asyncio.gather(
            send_files(sender, source, lambda total: Progress(total, log, bar=False)),
            receive_files(receiver, inbox, bar),
        )


@pytest.mark.parametrize("frames", [3, 5, 7, 9])  # two offers, a small file, five frames of the big one
def test_a_transfer_goes_on_where_the_connection_broke(tmp_path: Path, out: Path, frames: int) -> None:
    contents = {"small": os.urandom(1000), "big": os.urandom(5 * 65_520)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    counted = Recorder()

    async def test() -> None:
        with FileSource([tmp_path / name for name in contents]) as source:
            with FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
                await break_off(source, inbox, frames)
            assert not any(path.name in contents for path in out.iterdir())
            with FileSink(
                out, force=False, partial_names=PARTIAL_NAMES
            ) as inbox:  # another process, as far as the file system is concerned
                sent, received = await go_on(source, inbox, counted)
            assert (sent, True) == received

    run(test)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents
    resumed = {event["name"]: event["bytes"] for event in counted.all("resumed")}
    assert resumed.get("small", 0) == (1000 if frames >= 3 else 0)
    assert resumed.get("big", 0) == 65_520 * max(0, frames - 4)


def test_a_directory_goes_on_where_the_connection_broke(tmp_path: Path, out: Path) -> None:
    contents = {"d/a": os.urandom(1000), "d/b/c": os.urandom(5 * 65_520), "d/z": b"z"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d" / "empty").mkdir()
    counted = Recorder()

    async def test() -> None:
        with FileSource([tmp_path / "d"]) as source:
            with FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
                await break_off(source, inbox, 4 + 2 + 3)
            assert all(path.name.startswith(".punch-") for path in out.iterdir())
            with FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
                await go_on(source, inbox, counted)

    run(test)
    assert {event["name"]: event["bytes"] for event in counted.all("resumed")} == {"d/a": 1000, "d/b/c": 3 * 65_520}
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == contents
    assert (out / "d" / "empty").is_dir()
    assert [path.name for path in out.iterdir()] == ["d"]


def test_another_file_of_that_name_and_size_starts_anew(tmp_path: Path, out: Path) -> None:
    content = os.urandom(3 * 65_520)
    (tmp_path / "a").write_bytes(content)
    counted = Recorder()

    async def test() -> None:
        with FileSource([tmp_path / "a"]) as source, FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
            await break_off(source, inbox, 3)
        changed = bytes([content[0] ^ 1]) + content[1:]
        (tmp_path / "a").write_bytes(changed)
        with FileSource([tmp_path / "a"]) as source, FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
            await go_on(source, inbox, counted)
        assert [path.read_bytes() for path in out.iterdir()] == [changed]

    run(test)
    assert counted.all("resumed") == []


def test_a_sender_that_missed_stored_gets_it_again(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        with FileSource([tmp_path / "a"]) as source, FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
            for _ in range(2):
                async with channels() as (sender, receiver):
                    sent, received = await both(sender, source, receiver, inbox)
                    assert sent == received == [("a", 7, hashlib.sha256(b"content").hexdigest())]

    run(test)
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_receiver_without_final_expects_the_sender_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with accepted(tmp_path, 0) as (sender, received):
            await sender.send(Kind.DIGEST, hashlib.sha256().digest())
            await sender.expect(Kind.STORED)
            sender.close()
            assert not (await received).confirmed

    run(test)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_sender_without_stored_reports_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        async with under_way(tmp_path / "a") as (receiver, sent):
            await receiver.expect(Kind.DIGEST)
            receiver.close()
            with pytest.raises(TunnelBrokenError, match="the receiver did not confirm that it stored everything"):
                await sent

    run(test)


def test_a_receiver_that_goes_away_fails_the_sender(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        async with under_way(tmp_path / "a") as (receiver, sent):
            receiver.close()
            with pytest.raises(PunchFailedError) as caught:
                await sent
            assert caught.value.outcome == "client_error"

    run(test)
