"""An unfinished file belongs to its session: a sender of another one cannot find, measure, replace or delete it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest

from punchlab.punch.errors import ConnectionLostError, PunchFailedError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.secure.code import Code
from punchlab.punch.transfer.file_sink import FileSink
from punchlab.punch.transfer.names import FileError
from punchlab.punch.transfer.offer import FileInfo
from punchlab.punch.transfer.owner import Owner
from punchlab.punch.transfer.transfer import receive_files
from tests.punch.transfers import OWNER, bar, offer
from tests.punch.wires import channels, run

SAME_PUBLIC_PART = Owner.of_code(Code.parse("k7x2mq-amber-falcon-zebra"))
OTHERS = [SAME_PUBLIC_PART, Owner.of_code(Code.parse("zzzzzz-amber-falcon-tulip")), Owner.of_key(bytes(32))]
INFO = FileInfo("a", 8)


def leave_unfinished(directory: Path) -> Path:
    """What a broken tunnel of the session of `OWNER` leaves; its path."""
    with (
        FileSink(directory, force=False, owner=OWNER) as inbox,
        contextlib.suppress(ConnectionLostError),
        inbox.create(INFO) as incoming,
    ):
        incoming.write(b"1234")
        raise ConnectionLostError("the tunnel broke")
    (path,) = (each for each in directory.rglob("*") if each.is_file())
    return path


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("force", [True, False])
def test_another_session_neither_finds_nor_touches_it(tmp_path: Path, other: Owner, force: bool) -> None:
    path = leave_unfinished(tmp_path)
    with FileSink(tmp_path, force=force, owner=other) as inbox:
        inbox.check([INFO])
        assert inbox.begun([INFO]) == []
        assert inbox.held(INFO) is None
        with inbox.create(INFO) as incoming:
            incoming.write(b"theirs!!")
            incoming.verify(hashlib.sha256(b"theirs!!").digest())
        inbox.discard([INFO])
        with inbox.create(INFO) as incoming:
            incoming.write(b"theirs!!")
            incoming.verify(hashlib.sha256(b"theirs!!").digest())
        inbox.store([INFO], [incoming])
    assert path.read_bytes() == b"1234"
    assert (tmp_path / "a").read_bytes() == b"theirs!!"


def test_another_sender_is_told_of_nothing_that_is_held_and_its_failure_deletes_nothing(tmp_path: Path) -> None:
    path = leave_unfinished(tmp_path)

    async def attack(owner: Owner) -> Kind:
        with FileSink(tmp_path, force=False, owner=owner) as inbox:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, offer("a", 8))
                first = (await sender.receive())[0]
                await sender.send(Kind.ABORT, b"never mind")
                with pytest.raises(PunchFailedError, match="never mind"):
                    await received
                return first

    async def test() -> None:
        assert await attack(SAME_PUBLIC_PART) is Kind.ACCEPT
        assert path.read_bytes() == b"1234"
        assert await attack(OWNER) is Kind.HELD  # the same session may do both
        assert list(tmp_path.iterdir()) == []

    run(test)


def test_more_than_the_disk_has_tells_nobody_what_is_held(tmp_path: Path) -> None:
    leave_unfinished(tmp_path)
    said = []
    for owner in (SAME_PUBLIC_PART, OTHERS[1]):
        with (
            FileSink(tmp_path, force=False, owner=owner) as inbox,
            pytest.raises(FileError, match="no space") as caught,
        ):
            inbox.check([FileInfo("a", 1 << 62)])
        said.append(str(caught.value).split(":")[0])
    assert said == [f"no space for {1 << 62} bytes"] * 2


def test_who_may_list_the_directory_learns_nothing_of_the_code(tmp_path: Path) -> None:
    path = leave_unfinished(tmp_path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert OWNER.directory == SAME_PUBLIC_PART.directory  # it follows from the part that the edge knows as well
    assert path.parent.name == OWNER.directory
    assert path.name == OWNER.name("a", 8) != SAME_PUBLIC_PART.name("a", 8)


def test_nothing_hidden_stays_of_what_was_stored_or_discarded(tmp_path: Path) -> None:
    leave_unfinished(tmp_path)
    with FileSink(tmp_path, force=False, owner=OWNER) as inbox:
        inbox.discard([INFO])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_that_name_that_another_user_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / OWNER.directory).symlink_to("elsewhere")
    with FileSink(tmp_path, force=False, owner=OWNER) as inbox, pytest.raises(FileError, match="cannot be stored"):
        inbox.create(INFO)
    assert list((tmp_path / "elsewhere").iterdir()) == []
