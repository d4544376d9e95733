"""Which beginning of a resumed file the receiver accepts, and which offsets a sender may use."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest

from punchlab.punch.errors import ConnectionLostError, PunchFailedError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.file_transfer import receive_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.offer import FileInfo, write_offer
from punchlab.punch.transfer.progress import Progress
from tests.punch.recorder import Recorder
from tests.punch.transfer.transfers import PARTIAL_NAMES
from tests.punch.wires import channels, run

INFO = FileInfo("a", 8)


def bar(total: int | None) -> Progress:
    return Progress(total, Recorder(), bar=False)


def receive_in_part(inbox: FileSink, data: bytes) -> None:
    with contextlib.suppress(ConnectionLostError), inbox.create(INFO) as incoming:
        incoming.write(data)
        raise ConnectionLostError("the tunnel broke")


def test_what_another_process_has_received_meanwhile_is_not_taken_for_what_was_held(tmp_path: Path) -> None:
    """Receive files of the same name and size, but with different contents, into one directory."""
    with (
        FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as one,
        FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as other,
    ):
        receive_in_part(one, b"1111")
        assert one.held(INFO) == (4, hashlib.sha256(b"1111").digest())
        receive_in_part(other, b"22222")
        with pytest.raises(FileError, match="the received part of 'a' has changed"):
            one.create(INFO, 4)


def test_a_file_goes_on_only_where_its_digest_ends(tmp_path: Path) -> None:
    with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
        receive_in_part(inbox, b"1234")
        assert inbox.held(INFO) is not None
        with pytest.raises(FileError, match="cannot resume at byte 2"):
            inbox.create(INFO, 2)


@pytest.mark.parametrize("payload", [b"", b"\0" * 7, b"\xff" * 5000])
def test_a_resume_that_is_no_number_of_bytes_is_refused(tmp_path: Path, payload: bytes) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
            async with channels() as (sender, receiver):
                receiving = asyncio.create_task(receive_files(receiver, inbox, bar))
                await sender.send(Kind.OFFER, write_offer(INFO, last=True))
                await sender.send(Kind.RESUME, payload)
                await sender.send(Kind.DATA, b"1")
                with pytest.raises(PunchFailedError, match="invalid number of bytes"):
                    await receiving

    run(test)
