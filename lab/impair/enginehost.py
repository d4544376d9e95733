"""This process's end of the engine. One engine serves all labs of the process, from first use until exit."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from punchlab.lab.errors import LabError
from punchlab.lab.impair import engine
from punchlab.lab.impair.engine import LINKS_PER_REQUEST, REQUEST_BYTES
from punchlab.lab.kernel import programs
from punchlab.lab.kernel.priority import LINKS, favor

_ENDED = "links: the process that holds packets has ended"


class EngineLab(NamedTuple):
    """The links of one lab, in the engine that holds their packets."""

    engine: int
    number: int


class _Forked:
    """An engine forked from this process, with the required part of the interface of `subprocess.Popen`."""

    def __init__(self, control: int) -> None:
        parent = os.getpid()
        self.returncode: int | None = None
        with warnings.catch_warnings():
            # Threads of libraries, such as those for linear algebra, handle forks themselves.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                _leave_parent(control)
                engine.main(control, parent)
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for the engine and return its exit status."""
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # another part of this program has waited for all children
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _leave_parent(control: int) -> None:
    """In a forked engine, start a new session, reset signal handlers, and close the parent's files except standard
    error.
    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(2):
        os.dup2(null, stream)
    os.closerange(3, control)
    os.closerange(control + 1, os.sysconf("SC_OPEN_MAX"))


def _started(control: int) -> subprocess.Popen[bytes]:
    """Start the engine as a program."""
    return subprocess.Popen(
        [*programs.python("punchlab.lab.impair.engine", isolated=True), str(control), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control],
        # Terminal signals do not reach it, and it gets its own share of a busy CPU.
        start_new_session=True,
    )


class EngineHost:
    """The engine process. Thread-safe. A forked child starts another engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Forked | subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._numbers = count()

    @property
    def pid(self) -> int | None:
        """The engine's process id, or None if it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the engine unless it runs. Returns before the engine is ready."""
        with self._lock:
            self._start()

    def open(self, links: Sequence[dict[str, Any]], queues: Sequence[socket.socket]) -> EngineLab:
        """Pass queue sockets and the impairments of their packets to the engine. `engine` documents the fields."""
        with self._lock:
            self._start()
            lab = EngineLab(self.pid or 0, next(self._numbers))
            for start in range(0, len(links), LINKS_PER_REQUEST):
                chunk = slice(start, start + LINKS_PER_REQUEST)
                descriptors = [queue.fileno() for queue in queues[chunk]]
                self._ask(lab, {"open": lab.number, "links": links[chunk]}, descriptors)
        return lab

    def counters(self, lab: EngineLab) -> list[list[Any]]:
        """Return the counters of the lab's links. Raises `LabError` if the engine has ended."""
        with self._lock:
            return list(self._ask(lab, {"counters": lab.number})["counters"])

    def close(self, lab: EngineLab) -> list[list[Any]]:
        """Close the lab's links and return their last counters. Raises `LabError` if the engine has ended."""
        with self._lock:
            return list(self._ask(lab, {"close": lab.number})["counters"])

    def stop(self) -> None:
        """End the engine. Queues that it still holds drop their packets."""
        with self._lock:
            self._stop()

    def detach(self) -> None:
        """In a forked child, detach from the parent's engine."""
        self._lock = threading.Lock()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.returncode = 0  # only the parent can wait for it
        self._control = self._process = None

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._control is not None:
            return
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A fork saves 40 ms of CPU, but with other threads the child could wait for their locks forever.
            if threading.active_count() == 1:
                self._process = _Forked(theirs.fileno())
            else:
                self._process = _started(theirs.fileno())
        favor(self._process.pid, LINKS)

    def _ask(self, lab: EngineLab, request: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        if self._control is None or lab.engine != self.pid:
            raise LabError(_ENDED)
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            answer = self._control.recv(REQUEST_BYTES)
        except OSError:
            answer = b""
        if not answer:
            self._stop()
            raise LabError(_ENDED)
        result: dict[str, Any] = json.loads(answer)
        return result

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.wait()
        self._control = self._process = None


HOST = EngineHost()
atexit.register(HOST.stop)
os.register_at_fork(after_in_child=HOST.detach)
