"""`punch receive` asks at its terminal with any standard streams; without a terminal it needs --yes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.punch.processes import CODE, send
from tests.punch.recorder import PATIENCE_S, Command

QUESTION = "[y/N] "


class AtTerminal:
    """A command controlled by a pseudo-terminal, with its standard streams there or in pipes."""

    def __init__(self, *words: str | Path, stdin: str | None = None) -> None:
        self._master, slave = pty.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        pipe = subprocess.PIPE
        streams = (slave, slave, slave) if stdin is None else (pipe, subprocess.DEVNULL, subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "punchlab.punch", *map(str, words)],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            start_new_session=True,
            preexec_fn=take_terminal,
            pass_fds=[slave],
        )
        os.close(slave)
        if self.process.stdin is not None and stdin is not None:
            self.process.stdin.write(stdin.encode())
            self.process.stdin.close()
        self.shown = ""

    def wait_for(self, text: str, count: int = 1) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.shown.count(text) < count:
            assert self._read(until - time.monotonic()), self.shown

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, timeout_s))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # no process has the terminal open any more
            return False
        self.shown += data.decode()
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def finish(self) -> int:
        until = time.monotonic() + PATIENCE_S
        while self._read(until - time.monotonic()):
            pass
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def receiving(edge: str, out: Path, *words: str | Path, stdin: str | None = None) -> Iterator[AtTerminal]:
    receiver = AtTerminal(
        *("receive", CODE if stdin is None else "-", "--dir", out, "--edge", edge, "--bind", "127.0.0.3:0"),
        *words,
        stdin=stdin,
    )
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    (directory / ".ssh").mkdir(parents=True)
    (directory / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA")
    (directory / "report.pdf").write_bytes(bytes(200_000))
    return directory


def offered(edge: str, home: Path) -> Command:
    return send(edge, home / "report.pdf", home / ".ssh", "--code", CODE)


@pytest.mark.parametrize("answer", ["y\n", "YES\n", "perhaps\ny\n"])
def test_yes_stores_what_was_shown(edge: str, home: Path, out: Path, answer: str) -> None:
    with offered(edge, home) as sender, receiving(edge, out) as receiver:
        receiver.wait_for(QUESTION)
        sender.wait_for("asked")
        lines = receiver.shown.splitlines()
        assert "Offered: 2 files, 1 directory, 200.0 kB, 1 sensitive, 1 hidden" in lines
        assert lines[lines.index(next(line for line in lines if line.startswith("! "))) + 1].endswith("report.pdf")
        assert any(line.startswith("! ") and line.endswith(".ssh/authorized_keys") for line in lines)
        assert lines[-1] == f"Store this in {out}? {QUESTION}"
        assert list(out.iterdir()) == []
        for number, line in enumerate(answer.splitlines(keepends=True), start=1):
            receiver.wait_for(QUESTION, number)
            receiver.type(line)
        assert receiver.finish() == sender.finish() == 0
    assert sorted(path.name for path in out.iterdir()) == [".ssh", "report.pdf"]


def no(receiver: AtTerminal) -> None:
    receiver.type("n\n")


def nothing(receiver: AtTerminal) -> None:
    receiver.type("\n")


def end(receiver: AtTerminal) -> None:
    receiver.type("\x04")


def interrupt(receiver: AtTerminal) -> None:
    receiver.type("\x03")


def terminate(receiver: AtTerminal) -> None:
    receiver.process.send_signal(signal.SIGTERM)


ENDS = [
    (no, 1, "declined", "the receiver declined the offer, and has stored nothing"),
    (nothing, 1, "declined", "the receiver declined the offer, and has stored nothing"),
    (end, 1, "declined", "the receiver declined the offer, and has stored nothing"),
    (interrupt, 130, "client_error", "the receiver aborted: interrupted"),
    (terminate, 143, "client_error", "the receiver aborted: interrupted"),
]


@pytest.mark.parametrize(("act", "status", "outcome", "reason"), ENDS)
def test_any_other_answer_stores_nothing_and_the_sender_gets_the_reason(
    edge: str, home: Path, out: Path, act: Callable[[AtTerminal], None], status: int, outcome: str, reason: str
) -> None:
    with offered(edge, home) as sender, receiving(edge, out) as receiver:
        receiver.wait_for(QUESTION)
        act(receiver)
        assert receiver.finish() == status
        assert sender.finish() == 1
    failed = sender.wait_for("failed")
    assert (failed["outcome"], failed["reason"]) == (outcome, reason)
    assert list(out.iterdir()) == []
    if outcome == "declined":
        assert "punch: declined: the offer was declined, and nothing was stored" in receiver.shown


def test_a_sender_that_gives_up_ends_the_question(edge: str, home: Path, out: Path) -> None:
    with offered(edge, home) as sender, receiving(edge, out) as receiver:
        receiver.wait_for(QUESTION)
        sender.process.send_signal(signal.SIGINT)
        assert receiver.finish() == 1
        assert sender.finish() == 130
    assert receiver.shown.endswith(f"{QUESTION}\r\npunch: client_error: the sender aborted: interrupted\r\n")


def test_the_question_is_at_the_terminal_where_the_streams_are_elsewhere(edge: str, home: Path, out: Path) -> None:
    with offered(edge, home) as sender, receiving(edge, out, "--json", stdin=f"{CODE}\ny\n") as receiver:
        receiver.wait_for(QUESTION)
        assert "! sensitive, hidden" in receiver.shown
        receiver.type("y\n")
        assert receiver.process.wait(PATIENCE_S) == sender.finish() == 0
    assert (out / "report.pdf").exists()


def test_what_was_typed_before_the_question_is_no_answer(edge: str, home: Path, out: Path) -> None:
    with receiving(edge, out) as receiver:
        receiver.wait_for("waiting for the peer")
        receiver.type("y\n")
        receiver.wait_for("y\r\n")  # the terminal shows it
        with offered(edge, home) as sender:
            receiver.wait_for(QUESTION)
            receiver.type("n\n")
            assert receiver.finish() == sender.finish() == 1
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["--json"], ["--force"]])
def test_without_a_terminal_yes_is_required_before_anything_is_done(out: Path, words: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "punchlab.punch", "receive", CODE, "--dir", out, "--edge", "ws://127.0.0.1:9", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == ("punch: yes: missing; expected --yes, because there is no terminal to ask at\n")


def test_with_yes_people_see_what_is_stored(edge: str, home: Path, out: Path) -> None:
    words = ["receive", CODE, "--yes", "--dir", str(out), "--edge", edge, "--bind", "127.0.0.3:0"]
    with offered(edge, home) as sender:
        ended = subprocess.run(
            [sys.executable, "-m", "punchlab.punch", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert sender.finish() == ended.returncode == 0
    assert not sender.all("asked")
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("! ")]
    assert line.endswith(".ssh/authorized_keys")
