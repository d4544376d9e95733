"""Files that change during a transfer: either the offered content arrives, or both sides report the change."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from punchlab.punch.errors import ArgumentError, PunchFailedError
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.transfer.file_transfer import receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.offer import FileDone
from tests.punch.processes import CODE, receive, send
from tests.punch.transfer.test_broken_transfer import break_off
from tests.punch.transfer.transfers import bar
from tests.punch.wires import channels, run

FRAME = 65_520
SIZE = 40 * FRAME  # more than is read ahead
OLD, NEW = b"A", b"B"

Result = list[FileDone] | BaseException


async def transfer(sender: Channel, source: FileSource, receiver: Channel, inbox: FileSink) -> tuple[Result, Result]:
    """Run a transfer whose ends close their connections when done, like two processes."""

    async def sent() -> list[FileDone]:
        try:
            return await send_files(sender, source, bar)
        finally:
            sender.close()

    async def received() -> list[FileDone]:
        try:
            return (await receive_files(receiver, inbox, bar)).files
        finally:
            receiver.close()

    return await asyncio.gather(sent(), received(), return_exceptions=True)


def exchange(paths: list[Path], out: Path, change: Callable[[], object], after: int = 3) -> tuple[Result, Result]:
    """Send `paths` to `out`; `change` is called after so many frames of the sender."""
    results: list[tuple[Result, Result]] = []

    async def test() -> None:
        with FileSource(paths) as source, FileSink(out, force=False) as inbox:
            async with channels() as (sender, receiver):
                honest, sent = sender.send, 0

                async def send_and_change(kind: Kind, payload: bytes | memoryview = b"") -> None:
                    nonlocal sent
                    await honest(kind, payload)
                    sent += 1
                    if sent == after:
                        change()

                sender.send = send_and_change  # type: ignore[method-assign]
                results.append(await transfer(sender, source, receiver, inbox))

    run(test)
    return results[0]


def assert_changed(results: tuple[Result, Result], out: Path, when: str = "during the transfer") -> None:
    for result in results:
        assert isinstance(result, PunchFailedError)
        assert f"has changed {when}" in result.reason
    assert list(out.iterdir()) == []


def overwrite(path: Path, *, at: int = 0, count: int = SIZE) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(NEW * count)


def overwrite_and_set_the_time_back(path: Path) -> None:
    found = path.stat()
    overwrite(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def overwrite_the_end_and_set_the_time_back(path: Path) -> None:
    found = path.stat()
    overwrite(path, at=SIZE - 1, count=1)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(NEW)


def truncate_and_write_again(path: Path) -> None:
    path.write_bytes(NEW * SIZE)


def map_and_store(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as view:
        view[0] = NEW[0]


CHANGES = [
    overwrite,
    overwrite_and_set_the_time_back,
    overwrite_the_end_and_set_the_time_back,
    append,
    truncate_and_write_again,
    map_and_store,
    lambda path: overwrite(path, at=SIZE - 1, count=1),
    lambda path: os.truncate(path, SIZE // 2),
    lambda path: os.truncate(path, 0),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_sent_fails_on_both_sides(
    tmp_path: Path, out: Path, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD * SIZE)
    assert_changed(exchange([path], out, lambda: change(path)), out)


@pytest.mark.parametrize("after", [2, 4, 7])  # after its first frame, in the middle, after its last one
@pytest.mark.parametrize("name", ["d", "d/sub"])
def test_a_file_in_a_directory_that_changes_while_it_is_sent_fails_on_both_sides(
    tmp_path: Path, out: Path, name: str, after: int
) -> None:
    path = tmp_path / name / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD * SIZE)
    assert_changed(exchange([tmp_path / "d"], out, lambda: overwrite(path), after), out)


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[mmap.mmap]:
    """A shared mapping of a file with dirty pages: writes to it update no timestamp."""
    path = tmp_path / "mapped"
    path.write_bytes(OLD * SIZE)
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), SIZE)
    view[:] = OLD * SIZE
    yield view
    view.close()


def test_stores_through_a_mapping_that_was_there_before_are_seen(
    tmp_path: Path, out: Path, mapping: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() + 10**12
    monkeypatch.setattr(time, "time_ns", lambda: later)  # the file has not changed within the last seconds

    def store() -> None:
        mapping[:] = NEW * SIZE

    assert_changed(exchange([tmp_path / "mapped"], out, store), out)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(NEW * SIZE)
    other.rename(path)


HARMLESS = [
    replace,
    Path.unlink,
    lambda path: path.with_name("second").hardlink_to(path),
    lambda path: path.open("r+b").close(),
    lambda path: path.read_bytes(),
]


@pytest.mark.parametrize("happen", HARMLESS)
def test_what_leaves_the_content_alone_does_no_harm(
    tmp_path: Path, out: Path, happen: Callable[[Path], object]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD * SIZE)
    sent, received = exchange([path], out, lambda: happen(path))
    assert sent == received
    assert (out / "a").read_bytes() == OLD * SIZE


def test_a_link_on_the_command_line_that_leads_elsewhere_later_does_no_harm(tmp_path: Path, out: Path) -> None:
    (tmp_path / "old").write_bytes(OLD * SIZE)
    (tmp_path / "new").write_bytes(NEW * SIZE)
    link = tmp_path / "a"
    link.symlink_to("old")

    def retarget() -> None:
        link.unlink()
        link.symlink_to("new")

    sent, received = exchange([link], out, retarget)
    assert sent == received
    assert (out / "a").read_bytes() == OLD * SIZE


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_the_offer_and_its_turn_fails_on_both_sides(
    tmp_path: Path, out: Path, change: Callable[[Path], object]
) -> None:
    for name in ("d/a", "d/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(OLD * SIZE)
    results = exchange([tmp_path / "d"], out, lambda: change(tmp_path / "d/b"), after=4)
    assert_changed(results, out, "since it was offered")


def test_what_appears_in_a_directory_later_is_not_sent_and_what_vanishes_fails(tmp_path: Path, out: Path) -> None:
    for name in ("d/a", "d/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(OLD * SIZE)
    for result in exchange([tmp_path / "d"], out, (tmp_path / "d/b").unlink):
        assert isinstance(result, PunchFailedError)
        assert "'d/b' cannot be read: No such file or directory" in result.reason
    assert list(out.iterdir()) == []
    sent, received = exchange([tmp_path / "d"], out, lambda: (tmp_path / "d/new").write_bytes(NEW))
    assert sent == received
    assert [path.name for path in (out / "d").iterdir()] == ["a"]


def test_a_file_that_changes_between_two_tunnels_fails_on_both_sides(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD * SIZE)
    results: list[tuple[Result, Result]] = []

    async def test() -> None:
        with FileSource([path]) as source, FileSink(out, force=False) as inbox:
            await break_off(source, inbox, 4)
            overwrite_the_end_and_set_the_time_back(path)
            async with channels() as (sender, receiver):
                results.append(await transfer(sender, source, receiver, inbox))

    run(test)
    assert_changed(results[0], out, "since it was offered")


def test_a_file_that_is_overwritten_ends_both_commands(edge: str, tmp_path: Path, out: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(os.statvfs(out).f_bavail * os.statvfs(out).f_frsize // 2)  # sparse: it is not sent completely
    with send(edge, big, "--code", CODE) as sender, receive(edge, CODE, "--dir", out) as receiver:
        receiver.wait_for("progress")
        overwrite(big, count=1)
        assert sender.finish() == receiver.finish() == 1
    assert sender.wait_for("failed")["reason"] == "'big' has changed during the transfer"
    assert receiver.wait_for("failed")["reason"] == "the sender aborted: 'big' has changed during the transfer"
    assert list(out.iterdir()) == []


MADE_WHILE_READ = ["/proc/cpuinfo", "/proc/self/status", "/proc/sys/kernel/ostype", "/sys/class/net/lo/address"]


@pytest.mark.parametrize("name", MADE_WHILE_READ)
def test_a_file_without_a_size_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="a file of known size") as caught:
        FileSource([Path(name)])
    assert str(caught.value).startswith(f"FILE: {name!r} cannot be used")


@pytest.mark.parametrize("name", ["/proc/self/net/stat", "/sys/class/net/lo/statistics"])
def test_a_directory_with_such_files_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"FILE: '{name}/[a-z_]+' cannot be used; expected a file of known size"):
        FileSource([Path(name)])


def test_a_file_of_the_kernel_that_has_its_size_is_sent(out: Path) -> None:
    notes = Path("/sys/kernel/notes")
    sent, received = exchange([notes], out, lambda: None)
    assert sent == received
    assert (out / "notes").read_bytes() == notes.read_bytes()


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/tty"])
def test_a_device_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"FILE: '{name}' cannot be used"):
        FileSource([Path(name)])


def test_a_sparse_file_arrives_with_its_size(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(3 * FRAME)
        file.write(OLD)
        file.truncate(5 * FRAME)
    sent, received = exchange([path], out, lambda: None)
    assert sent == received
    assert (out / "sparse").read_bytes() == path.read_bytes()
