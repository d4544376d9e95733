"""Files over a channel whose other end violates the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from punchlab.punch.errors import PunchFailedError, TunnelBrokenError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.files.file_sink import FileSink
from tests.punch.transfer.transfers import accepted, offer, receiving, sending, under_way
from tests.punch.wires import run


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "..", "a/../../escaped", "a\x00", "a\n"])
def test_a_hostile_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)

    async def test() -> None:
        with FileSink(inside, force=True) as inbox:
            async with receiving(inbox, offer("good", 1, last=False), offer(name, 1)) as (sender, received):
                assert (await sender.expect(Kind.ABORT)).decode().isprintable()
                sender.close()
                with pytest.raises(PunchFailedError):
                    await received

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
        with FileSink(tmp_path, force=True) as inbox:
            async with receiving(inbox, payload) as (_, received):
                with pytest.raises(PunchFailedError, match="invalid offer"):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_is_refused_before_more_are_read(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=True) as inbox:
            async with receiving(inbox, offer("a" * 60_000, 1, last=False)) as (sender, received):
                assert b"is longer than 255 bytes" in await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError, match="is longer than"):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [range(400), [0] * 10_001])
def test_an_offer_of_more_directories_or_of_more_names_than_are_allowed_is_refused(
    tmp_path: Path, names: Sequence[int]
) -> None:
    below = "/".join(["d"] * 30)
    offers = [offer(f"{number}/{below}", 1, last=False) for number in names]

    async def test() -> None:
        with FileSink(tmp_path, force=True) as inbox:
            async with receiving(inbox, *offers) as (sender, received):
                assert b"more than 10000 files and directories" in await sender.expect(Kind.ABORT)
                sender.close()
                with pytest.raises(PunchFailedError, match="more than 10000"):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunks", [[b"12345"], [b"1234", b"5678", b"9"], []])
def test_a_file_of_another_size_or_content_is_not_kept(tmp_path: Path, chunks: list[bytes]) -> None:
    async def test() -> None:
        async with accepted(tmp_path, force=True) as (sender, received):
            for chunk in chunks:
                await sender.send(Kind.DATA, chunk)
            await sender.send(Kind.DIGEST, hashlib.sha256(b"12345678").digest())
            await sender.expect(Kind.ABORT)
            sender.close()
            with pytest.raises(PunchFailedError):
                await received

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Kind.ECHO, Kind.NONCE, Kind.OFFER, Kind.FINAL])
def test_a_frame_that_must_not_come_leaves_nothing(tmp_path: Path, kind: Kind) -> None:
    async def test() -> None:
        async with accepted(tmp_path, force=True) as (sender, received):
            await sender.send(Kind.DATA, b"1234")
            await sender.send(kind, b"")
            with pytest.raises(PunchFailedError, match=f"got {kind.name}"):
                await received

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_must_not_come_costs_only_the_file_that_was_under_way(tmp_path: Path) -> None:
    complete = hashlib.sha256(b"12345678").digest()
    offers = (offer("a", 8, last=False), offer("b", 8))

    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with receiving(inbox, *offers) as (sender, received):
                await sender.expect(Kind.ACCEPT)
                for kind, payload in (
                    (Kind.DATA, b"12345678"),
                    (Kind.DIGEST, complete),
                    (Kind.DATA, b"1234"),
                    (Kind.ECHO, b""),
                ):
                    await sender.send(kind, payload)
                with pytest.raises(PunchFailedError, match="got ECHO"):
                    await received
            async with receiving(inbox, *offers) as (sender, received):
                assert await sender.expect(Kind.HELD) == bytes(4) + (8).to_bytes(8, "big") + complete
                await sender.expect(Kind.ACCEPT)
                sender.close()
                with pytest.raises(TunnelBrokenError):
                    await received

    run(test)


@pytest.mark.parametrize("payload", [b"", bytes(44), (1).to_bytes(4, "big") + bytes(40)])
def test_a_receiver_that_holds_what_cannot_be_is_refused(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "a").write_bytes(b"content")

    async def test() -> None:
        async with sending(tmp_path / "a") as (receiver, sent):
            for _ in range(2):
                await receiver.send(Kind.HELD, payload)
            with pytest.raises(PunchFailedError, match=r"expected HELD|not offered"):
                await sent

    run(test)


@pytest.mark.parametrize("start", [1, 4, 8, 1 << 40])
def test_a_sender_cannot_go_on_from_what_is_not_held(tmp_path: Path, start: int) -> None:
    async def test() -> None:
        async with accepted(tmp_path) as (sender, received):
            await sender.send(Kind.RESUME, start.to_bytes(8, "big"))
            await sender.send(Kind.DATA, b"1")
            assert b"cannot resume at" in await sender.expect(Kind.ABORT)
            sender.close()
            with pytest.raises(PunchFailedError, match="cannot resume at"):
                await received

    run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_that_claims_too_early_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))

    async def test() -> None:
        async with under_way(tmp_path / "a") as (receiver, sent):
            await receiver.send(Kind.STORED)
            with pytest.raises(PunchFailedError, match="STORED before the end of the contents"):
                await sent

    run(test)
