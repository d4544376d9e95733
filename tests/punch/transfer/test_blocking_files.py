"""A slow or blocked file system delays neither the event loop nor an interruption."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.file_transfer import receive_files, send_files
from punchlab.punch.transfer.files import file_reader, final_names, renameat2
from punchlab.punch.transfer.files.file_sink import FileSink, Incoming
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.read_ahead import WINDOW as AHEAD
from punchlab.punch.transfer.read_ahead import ReadAhead
from punchlab.punch.transfer.worker import StoppedError, Worker, checkpoint
from tests.punch.recorder import PATIENCE_S
from tests.punch.transfer.transfers import PARTIAL_NAMES, bar, both, offer
from tests.punch.wires import channels, run


class BlockedCall:
    """A call that blocks until released, like that of a file system that does not respond."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def blocking(*arguments: Any, **named: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(PATIENCE_S)
            return call(*arguments, **named)

        return blocking

    async def wait(self) -> None:
        """Wait until the call blocks; the event loop continues, otherwise this would not return."""
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def opened_at_the_end(blocked: BlockedCall) -> Any:
    try:
        yield
    finally:
        blocked.opened.set()


def tree(directory: Path, count: int) -> Path:
    root = directory / "d"
    for number in range(count):
        (root / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (root / f"{number % 7}" / f"{number}").write_bytes(b"x")
    return root


@pytest.mark.parametrize("blocks", ["open", "write", "rename", "read"])
def test_the_event_loop_goes_on_while_a_call_blocks(
    tmp_path: Path, out: Path, blocks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = BlockedCall()
    match blocks:
        case "open":
            monkeypatch.setattr(FileSink, "create", blocked.before(FileSink.create))
        case "write":
            monkeypatch.setattr(Incoming, "write", blocked.before(Incoming.write))
        case "rename":
            monkeypatch.setattr(final_names, "rename_new", blocked.before(renameat2.rename_new))
        case _:
            monkeypatch.setattr(file_reader, "_common_start", blocked.before(file_reader._common_start))

    async def test() -> None:
        with FileSource([tree(tmp_path, 3)]) as source, FileSink(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                transfer = asyncio.create_task(both(sender, source, receiver, inbox))
                await blocked.wait()
                assert not transfer.done()
                blocked.opened.set()
                sent, received = await transfer
                assert sent == received

    run(test)
    assert sum(path.is_file() for path in (out / "d").rglob("*")) == 3


def test_an_interrupted_store_is_undone_after_the_sender_is_notified(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing, undoing = BlockedCall(), BlockedCall()
    placed = 0
    place = renameat2.rename_new

    def place_some(*arguments: Any, **named: Any) -> None:
        nonlocal placed
        placed += 1
        if placed == 50:
            placing.before(place)(*arguments, **named)
        else:
            place(*arguments, **named)

    monkeypatch.setattr(final_names, "rename_new", place_some)
    monkeypatch.setattr(final_names.FinalNames, "_back", undoing.before(final_names.FinalNames._back))

    async def test() -> None:
        with (
            FileSource([tree(tmp_path, 100)]) as source,
            FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox,
        ):
            async with channels() as (sender, receiver), opened_at_the_end(placing), opened_at_the_end(undoing):
                sending = asyncio.create_task(send_files(sender, source, bar))
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await placing.wait()
                receiving.cancel()
                placing.opened.set()
                with pytest.raises(Exception, match="the receiver aborted: interrupted"):
                    await sending
                sender.close()
                await undoing.wait()
                undoing.opened.set()
                with pytest.raises(asyncio.CancelledError):
                    await receiving
        assert list(out.iterdir()) == []

    run(test)
    assert placed == 50


def test_a_store_that_ended_before_it_could_be_interrupted_is_done(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = BlockedCall()
    monkeypatch.setattr(final_names.FinalNames, "__exit__", blocked.before(final_names.FinalNames.__exit__))

    async def test() -> None:
        with FileSource([tree(tmp_path, 3)]) as source, FileSink(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                sending = asyncio.create_task(send_files(sender, source, bar))
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await blocked.wait()
                receiving.cancel()
                blocked.opened.set()
                assert await sending == (await receiving).files

    run(test)
    assert sum(path.is_file() for path in (out / "d").rglob("*")) == 3


def test_hashing_of_held_data_can_be_interrupted(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
            hidden = tmp_path / PARTIAL_NAMES.directory
            hidden.mkdir(mode=0o700)
            size = min(1 << 40, os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize // 2)
            with (hidden / PARTIAL_NAMES.name("a", size)).open("wb") as file:
                file.truncate(size)  # sparse: hashing is stopped before its end
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", size))
                while "hash_prefix" not in functions():
                    await asyncio.sleep(0.001)
                receiving.cancel()
                assert await sender.expect(Kind.ABORT) == b"interrupted"
                sender.close()
                with pytest.raises(asyncio.CancelledError):
                    await receiving

    run(test)
    assert list(tmp_path.iterdir()) == []


def functions() -> set[str]:
    """Return the functions that the threads are executing."""
    frames = (frame for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top))
    return {frame.f_code.co_name for frame in frames}


def test_calls_run_in_order_and_none_after_one_that_failed() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("no space")

    async def test() -> None:
        with Worker() as worker:
            for number in range(1000):
                await worker.put(lambda number=number: done.append(number))  # type: ignore[misc]
            assert await worker.run(lambda: len(done)) == 1000
            await worker.put(fail)
            with pytest.raises(ValueError, match="no space"):
                await worker.failure()
            with pytest.raises(ValueError, match="no space"):
                await worker.run(lambda: done.append(-1))
            with pytest.raises(ValueError, match="no space"):
                await worker.put(lambda: done.append(-1))
            assert await worker.run(lambda: "cleaned", always=True) == "cleaned"
            await worker.stop()
            await worker.run(lambda: done.append(1000))

    run(test)
    assert done == list(range(1001))


def test_what_waits_for_the_thread_is_bounded() -> None:
    blocked = BlockedCall()

    async def test() -> None:
        with Worker(window=10_000) as worker:
            await worker.put(blocked.before(lambda: None), 1)
            for _ in range(8):
                await worker.put(lambda: None, 1000)
            waiting = asyncio.create_task(worker.put(lambda: None, 1000))
            await asyncio.sleep(0)
            await blocked.wait()
            assert not waiting.done()
            blocked.opened.set()
            await waiting

    run(test)


def test_a_call_is_stopped_at_a_checkpoint_and_what_waits_is_dropped() -> None:
    rounds: list[int] = []
    dropped: list[int] = []

    def endless() -> None:
        while True:
            checkpoint()
            rounds.append(1)

    async def test() -> None:
        with Worker() as worker:
            running = asyncio.create_task(worker.run(endless))
            while not rounds:
                await asyncio.sleep(0.001)
            await worker.put(lambda: dropped.append(1))
            await worker.stop()
            await asyncio.gather(running, return_exceptions=True)
            assert await worker.run(lambda: "usable") == "usable"

    run(test)
    assert dropped == []


def test_a_reader_is_ahead_by_a_bounded_number_of_bytes_and_ends_with_its_block() -> None:
    made: list[int] = []
    ended: list[type[BaseException]] = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                checkpoint()
                made.append(1)
                yield bytes(100_000)
        except (StoppedError, GeneratorExit) as error:
            ended.append(type(error))
            raise

    async def test() -> None:
        async with ReadAhead(endless, len) as pieces:
            for _ in range(20):
                assert len(await anext(pieces)) == 100_000
            before = time.monotonic()
            while len(made) < 20 + AHEAD // 100_000 and time.monotonic() < before + PATIENCE_S:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            assert len(made) <= 20 + AHEAD // 100_000 + 3

    run(test)
    assert len(ended) == 1


def test_a_reader_yields_everything_before_it_raises() -> None:
    def failing() -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        raise ValueError("cannot be read")

    async def test() -> None:
        async with ReadAhead(failing, len) as pieces:
            assert [await anext(pieces), await anext(pieces)] == [b"1", b"2"]
            with pytest.raises(ValueError, match="cannot be read"):
                await anext(pieces)

    run(test)
