"""A shell's jobs that run in a sandbox: they get keys, stop, go on, and do nothing to other jobs."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, punchlab

PATIENCE_S = 30.0
INTERRUPT, QUIT, STOP, END = "\x03", "\x1c", "\x1a", "\x04"
WORKS = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGCONT, lambda *_: print("goes on", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""
LISTENS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGQUIT})
print("ready", flush=True)
while True:
    print(signal.sigwait({signal.SIGINT, signal.SIGQUIT}).name, flush=True)
"""


class Terminal:
    """An interactive shell at a terminal, in which `p` is `punchlab`."""

    def __init__(self, folder: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            environment = os.environ | {"PS1": "outer> ", "TERM": "dumb", "HISTFILE": ""}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        self._said = ""
        self.expect("outer> ")
        self.send(f'p() {{ {shlex.join(punchlab())} "$@"; }}\n')
        self.expect("outer> ")

    def send(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def expect(self, text: str) -> str:
        """Return when the text was shown, after what was expected before; what was shown between the two."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._said:
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} was not shown, but {self._said!r}")
            self._said += os.read(self._terminal, 4096).decode()
        before, _text, self._said = self._said.partition(text)
        return before

    def run(self, command: str) -> None:
        """Enter a line; what the terminal echoes of it is passed over."""
        self.send(f"{command}\n")
        self.expect(f"{command}\r\n")

    def close(self) -> None:
        """End it."""
        os.close(self._terminal)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "works.py").write_text(WORKS)
    (tmp_path / "listens.py").write_text(LISTENS)
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_a_job_that_reads_the_terminal_stops_and_goes_on(terminal: Terminal) -> None:
    terminal.run("p sandbox sh -c 'echo ready; exec cat'")
    terminal.expect("ready")
    for word in ("one", "two"):
        terminal.run(word)
        terminal.expect(word)
        terminal.send(STOP)
        terminal.expect("Stopped")
        terminal.expect("outer> ")
        terminal.run("fg")
    terminal.run("three")
    terminal.expect("three")
    terminal.send(END)
    terminal.expect("outer> ")
    terminal.run("echo status $?")
    terminal.expect("status 0")


@pytest.mark.parametrize("words", ["sandbox", "sandbox --unconfined", "up ab --"])
def test_a_job_that_does_not_read_the_terminal_gets_its_keys(words: str, terminal: Terminal) -> None:
    terminal.run(f"p {words} {sys.executable} works.py")
    terminal.expect("ready")
    terminal.send(STOP)
    terminal.expect("Stopped")
    terminal.expect("outer> ")
    terminal.run("fg")
    terminal.expect("goes on")
    terminal.send(INTERRUPT)
    terminal.expect("outer> ")
    terminal.run("echo status $?")
    terminal.expect("status 130")


@pytest.mark.parametrize("words", ["sandbox", "up ab --"])
def test_a_key_is_one_signal(words: str, terminal: Terminal) -> None:
    terminal.run(f"p {words} {sys.executable} listens.py | (trap '' INT QUIT; cat)")
    terminal.expect("ready")
    for key, name in ((INTERRUPT, "SIGINT"), (QUIT, "SIGQUIT"), (INTERRUPT, "SIGINT"), (QUIT, "SIGQUIT")):
        terminal.send(key)
        assert "SIG" not in terminal.expect(name)


def test_others_in_a_pipeline_use_the_terminal(terminal: Terminal) -> None:
    asks = "read first; echo $first; read key </dev/tty; echo got $key"
    terminal.run(f"p sandbox sh -c 'echo ready; sleep 1000' | sh -c '{asks}'")
    terminal.expect("ready")
    terminal.run("a key")
    terminal.expect("got a key")
    terminal.send(INTERRUPT)
    terminal.expect("outer> ")


def test_a_job_in_the_background_stops_when_it_reads(terminal: Terminal) -> None:
    terminal.run("p sandbox sh -c 'read word; echo got $word' &")
    deadline = time.monotonic() + PATIENCE_S
    shown = ""
    while "Stopped" not in shown:
        assert time.monotonic() < deadline, shown
        terminal.expect("outer> ")
        terminal.run("jobs; echo end")
        shown = terminal.expect("end")
    terminal.expect("outer> ")
    terminal.run("fg")
    terminal.run("a word")
    terminal.expect("got a word")
    terminal.expect("outer> ")


def test_a_shell_in_a_sandbox_has_jobs_of_its_own(terminal: Terminal) -> None:
    terminal.run("p sandbox env PS1='inn''er> ' bash --norc --noprofile --noediting -i")
    terminal.expect("inner> ")
    terminal.run(f"{sys.executable} works.py")
    terminal.expect("ready")
    terminal.send(STOP)
    terminal.expect("Stopped")
    terminal.expect("inner> ")
    terminal.run("fg")
    terminal.expect("goes on")
    terminal.send(INTERRUPT)
    terminal.expect("inner> ")
    terminal.run("suspend -f")
    terminal.expect("Stopped")
    terminal.expect("outer> ")
    terminal.run("fg")
    terminal.expect("inner> ")
    terminal.run("exit 3")
    terminal.expect("outer> ")
    terminal.run("echo status $?")
    terminal.expect("status 3")


def test_the_shell_of_up_has_the_terminal(terminal: Terminal) -> None:
    terminal.run("p up ab")
    terminal.expect("punchlab$ ")
    terminal.run("on a sh -c 'echo ready; exec sleep 1000'")
    terminal.expect("ready")
    terminal.send(INTERRUPT)
    terminal.expect("punchlab$ ")
    terminal.run("exit 4")
    terminal.expect("outer> ")
    terminal.run("echo status $?")
    terminal.expect("status 4")


@pytest.mark.parametrize("words", [("sandbox",), ("up", "ab", "--")], ids=" ".join)
def test_a_command_does_nothing_to_the_process_group_of_its_caller(words: tuple[str, ...]) -> None:
    attack = "import os, signal; signal.signal(10, signal.SIG_IGN); os.setpriority(os.PRIO_PGRP, 0, 19); os.kill(0, 10)"
    command = punchlab(*words, sys.executable, "-c", attack)
    with subprocess.Popen(["sleep", "1000"], process_group=0) as bystander:
        try:
            done = subprocess.run(command, cwd=ROOT, process_group=bystander.pid, check=False, timeout=PATIENCE_S)
            assert done.returncode in (0, 128 + signal.SIGUSR1)
            assert bystander.poll() is None
            assert os.getpriority(os.PRIO_PROCESS, bystander.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        finally:
            bystander.kill()
