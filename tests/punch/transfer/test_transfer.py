"""Files over a channel whose ends both follow the protocol."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from pathlib import Path

import pytest

from punchlab.punch.errors import PunchFailedError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.file_transfer import receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.progress import Progress
from tests.punch.recorder import Recorder
from tests.punch.transfer.transfers import bar, both, under_way
from tests.punch.wires import channels, run


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("sizes", [[0], [1], [65_520], [65_521], [300_000], [5, 0, 200_000, 1]])
def test_files_arrive_as_they_were(tmp_path: Path, out: Path, sizes: list[int]) -> None:
    contents = {f"file{index}": os.urandom(size) for index, size in enumerate(sizes)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    async def test() -> None:
        with FileSource([tmp_path / name for name in contents]) as source, FileSink(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                sent, received = await both(sender, source, receiver, inbox)
        expected = [(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()]
        assert sent == received == expected

    gc.collect()  # of other tests
    before = len(open_descriptors())
    run(test)
    assert len(open_descriptors()) == before
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents


def test_an_existing_file_stops_everything_before_a_byte_moves(tmp_path: Path, out: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"new")
    (out / "b").write_bytes(b"old")

    async def test() -> None:
        with (
            FileSource([tmp_path / "a", tmp_path / "b"]) as source,
            FileSink(out, force=False) as inbox,
        ):
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, source, bar))
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                with pytest.raises(
                    PunchFailedError, match=r"the receiver aborted: the receiver cannot store the offered files$"
                ):
                    await sending
                sender.close()
                with pytest.raises(PunchFailedError, match="client_error: 'b' already exists"):
                    await receiving

    run(test)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"b": b"old"}


def test_a_receiver_that_stops_within_a_file_sends_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        async with under_way(tmp_path / "a") as (receiver, sent):
            await receiver.send(Kind.ABORT, b"the disk is \x1b[31mfull")
            with pytest.raises(PunchFailedError, match=r"the receiver aborted: the disk is \\x1b\[31mfull"):
                await sent

    run(test)


def test_a_file_that_has_changed_is_an_error_on_both_sides(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))

    async def test() -> None:
        with FileSource([tmp_path / "a"]) as source, FileSink(out, force=False) as inbox:
            os.truncate(tmp_path / "a", 10)
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, source, bar))
                with pytest.raises(PunchFailedError, match="the sender aborted: 'a' has changed since"):
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
