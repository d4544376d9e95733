"""The receiver's user is asked before any file data is received."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from punchlab.punch.errors import PunchFailedError, TunnelBrokenError
from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer import consent as consent_module
from punchlab.punch.transfer.consent import Consent
from punchlab.punch.transfer.file_transfer import receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from tests.punch.recorder import Recorder
from tests.punch.transfer.test_broken_transfer import break_off
from tests.punch.transfer.transfers import PARTIAL_NAMES, bar, offer
from tests.punch.wires import channels, run


class Answers:
    """Return a question with these answers in turn; without one it waits."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.cancelled = 0

    async def __call__(self, summary: dict[str, Any]) -> bool:
        self.asked.append(summary)
        try:
            return self.answers.pop(0) if self.answers else await asyncio.Future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_what_is_declined_is_not_received_and_both_sides_say_so(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"content")
    answers, log, asked = Answers(False), Recorder(), []

    async def test() -> None:
        with FileSource([tmp_path / "a", tmp_path / "b"]) as source, FileSink(out, force=False) as inbox:
            async with channels() as (sender, receiver):

                async def receive() -> None:
                    try:
                        await receive_files(receiver, inbox, bar, Consent(log, answers))
                    finally:
                        receiver.close()

                received = asyncio.create_task(receive())
                with pytest.raises(PunchFailedError) as caught:
                    await send_files(sender, source, bar, asked=lambda: asked.append(True))
                assert caught.value.outcome == "declined"
                sender.close()
                with pytest.raises(PunchFailedError) as caught:
                    await received
                assert caught.value.outcome == "declined"

    run(test)
    assert asked == [True]
    assert [each["name"] for each in answers.asked[0]["entries"]] == ["a", "b"]
    assert log.all("offered", asked=True, files=2, bytes=14)
    assert list(out.iterdir()) == []


def test_the_same_offer_is_asked_about_once_and_another_again(tmp_path: Path, out: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(200_000))
    answers = Answers(True, False)
    consent = Consent(Recorder(), answers)

    async def test() -> None:
        with FileSink(out, force=False, partial_names=PARTIAL_NAMES) as inbox:
            with FileSource([tmp_path / "a"]) as source:
                await break_off(source, inbox, 3, consent)
                await break_off(source, inbox, 3, consent)
            assert len(answers.asked) == 1
            with FileSource([tmp_path / "a", tmp_path / "b"]) as source:
                async with channels() as (sender, receiver):
                    received = asyncio.create_task(receive_files(receiver, inbox, bar, consent))
                    with pytest.raises(PunchFailedError, match="declined"):
                        await send_files(sender, source, bar)
                    sender.close()
                    with pytest.raises(PunchFailedError, match="declined"):
                        await received
            assert len(answers.asked) == 2

    run(test)


@pytest.mark.parametrize("end", ["abort", "close", "data"])
def test_a_sender_that_goes_away_ends_the_question(tmp_path: Path, end: str) -> None:
    answers = Answers()

    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_files(receiver, inbox, bar, Consent(Recorder(), answers)))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ASKING)
                match end:
                    case "abort":
                        await sender.send(Kind.ABORT, b"interrupted")
                        says = "the sender aborted: interrupted"
                    case "close":
                        sender.close()
                        says = "connection closed"
                    case _:
                        await sender.send(Kind.DATA, b"1")
                        says = "expected nothing before ACCEPT, got DATA"
                with pytest.raises(PunchFailedError, match=says) as caught:
                    await received
                assert isinstance(caught.value, TunnelBrokenError) == (end == "close")

    run(test)
    assert answers.cancelled == 1
    assert list(tmp_path.iterdir()) == []


def test_during_the_question_the_sender_gets_only_repeated_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent_module, "ASK_AGAIN_S", 0.01)
    answer: asyncio.Future[bool]

    async def test() -> None:
        nonlocal answer
        answer = asyncio.get_running_loop().create_future()

        async def question(_summary: dict[str, Any]) -> bool:
            return await answer

        with FileSink(tmp_path, force=False, partial_names=PARTIAL_NAMES) as inbox:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_files(receiver, inbox, bar, Consent(Recorder(), question)))
                await sender.send(Kind.OFFER, offer("a", 8))
                for _ in range(5):
                    await sender.expect(Kind.ASKING)
                answer.set_result(True)
                while (kind := (await sender.receive())[0]) is Kind.ASKING:
                    pass
                assert kind is Kind.ACCEPT
                sender.close()
                with pytest.raises(TunnelBrokenError):
                    await received

    run(test)


def test_an_interruption_at_the_question_is_sent_to_the_sender(tmp_path: Path) -> None:
    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_files(receiver, inbox, bar, Consent(Recorder(), Answers())))
                await sender.send(Kind.OFFER, offer("a", 8))
                await sender.expect(Kind.ASKING)
                received.cancel()
                assert await sender.expect(Kind.ABORT) == b"interrupted"
                sender.close()
                with pytest.raises(asyncio.CancelledError):
                    await received

    run(test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize(
    ("name", "size", "seen"),
    [("taken", 8, "'taken' already exists"), ("a", 1 << 62, "no space for"), ("taken/a", 8, "'taken' already exists")],
)
def test_a_sender_gets_no_information_about_the_receivers_files(
    tmp_path: Path, name: str, size: int, seen: str, asks: bool
) -> None:
    (tmp_path / "taken").write_bytes(b"")
    consent = Consent(Recorder(), Answers() if asks else None)

    async def test() -> None:
        with FileSink(tmp_path, force=False) as inbox:
            async with channels() as (sender, receiver):
                received = asyncio.create_task(receive_files(receiver, inbox, bar, consent))
                await sender.send(Kind.OFFER, offer(name, size))
                assert await sender.expect(Kind.ABORT) == b"the receiver cannot store the offered files"
                sender.close()
                with pytest.raises(PunchFailedError, match=seen):
                    await received

    run(test)
