"""This process's end of the engine. One engine serves all labs of the process, from first use until exit."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from punchlab.lab.errors import LabError
from punchlab.lab.impair.engine import LINKS_PER_REQUEST, REQUEST_BYTES
from punchlab.lab.kernel import programs
from punchlab.lab.kernel.priority import LINKS, favor

_ENDED = "links: the process that holds packets has ended"


class EngineLab(NamedTuple):
    """The links of one lab, in the engine that holds their packets."""

    engine: int
    number: int


class EngineHost:
    """The engine process. Thread-safe. A forked child starts another engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
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
            arguments = [str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [*programs.python("punchlab.lab.impair.engine", isolated=True), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Terminal signals do not reach it, and it gets its own share of a busy CPU.
                start_new_session=True,
            )
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
