"""An unfinished file belongs to its session: the sender of another one cannot find, measure, replace or delete it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest

from punchlab.punch.errors import ConnectionLostError, PunchFailedError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.secure.code import Code
from punchlab.punch.transfer.file_transfer import receive_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.files.partial_names import PartialNames
from punchlab.punch.transfer.offer import FileInfo
from tests.punch.transfer.transfers import PARTIAL_NAMES, bar, offer
from tests.punch.wires import channels, run

SAME_PUBLIC_PART = PartialNames.of_code(Code.parse("k7x2mq-amber-falcon-zebra"))
OTHERS = [
    SAME_PUBLIC_PART,
    PartialNames.of_code(Code.parse("zzzzzz-amber-falcon-tulip")),
    PartialNames.of_key(bytes(32)),
]
INFO = FileInfo("a", 8)


def leave_unfinished(directory: Path) -> Path:
    """Leave an unfinished file of the session of `PARTIAL_NAMES`; return its path."""
    with (
        FileSink(directory, force=False, partial_names=PARTIAL_NAMES) as inbox,
        contextlib.suppress(ConnectionLostError),
        inbox.create(INFO) as incoming,
    ):
        incoming.write(b"1234")
        raise ConnectionLostError("the tunnel broke")
    (path,) = (each for each in directory.rglob("*") if each.is_file())
    return path


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("force", [True, False])
def test_another_session_neither_finds_nor_touches_it(tmp_path: Path, other: PartialNames, force: bool) -> None:
    path = leave_unfinished(tmp_path)
    with FileSink(tmp_path, force=force, partial_names=other) as inbox:
        inbox.check([INFO])
        assert inbox.resumable([INFO]) == []
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


def test_another_sender_gets_no_held_and_its_failure_deletes_nothing(tmp_path: Path) -> None:
    path = leave_unfinished(tmp_path)

    async def attack(owner: PartialNames) -> Kind:
        with FileSink(tmp_path, force=False, partial_names=owner) as inbox:
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
        assert await attack(PARTIAL_NAMES) is Kind.HELD  # the same session may do both
        assert list(tmp_path.iterdir()) == []

    run(test)


def test_an_offer_larger_than_the_disk_does_not_reveal_what_is_held(tmp_path: Path) -> None:
    leave_unfinished(tmp_path)
    said = []
    for owner in (SAME_PUBLIC_PART, OTHERS[1]):
        with (
            FileSink(tmp_path, force=False, partial_names=owner) as inbox,
            pytest.raises(FileError, match="no space") as caught,
        ):
            inbox.check([FileInfo("a", 1 << 62)])
        said.append(str(caught.value).split(":")[0])
    assert said == [f"no space for {1 << 62} bytes"] * 2


def test_listing_the_directory_does_not_reveal_the_code(tmp_path: Path) -> None:
    path = leave_unfinished(tmp_path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert PARTIAL_NAMES.directory == SAME_PUBLIC_PART.directory  # it is derived from data that the edge also knows
    assert path.parent.name == PARTIAL_NAMES.directory
    assert path.name == PARTIAL_NAMES.name("a", 8) != SAME_PUBLIC_PART.name("a", 8)


def test_nothing_hidden_stays_of_what_was_stored_or_discarded(tmp_path: Path) -> None:
    leave_unfinished(tmp_path)
    with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
        inbox.discard([INFO])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_that_name_that_another_user_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / PARTIAL_NAMES.directory).symlink_to("elsewhere")
    with (
        FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox,
        pytest.raises(FileError, match="cannot be stored"),
    ):
        inbox.create(INFO)
    assert list((tmp_path / "elsewhere").iterdir()) == []
