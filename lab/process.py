"""Processes in nodes that speak JSON events, one per line: started, watched together, ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from lab.errors import LabError
from lab.forked import ForkedProcess, Function
from lab.node import Node
from lab.priority import CLIENT, favor

Event = Mapping[str, Any]
_STDERR_TAIL = 2000


class EventProcess:
    """One command inside a node, or with `function` that Python function, `command` being its arguments.

    `events` grows while `wait_for` runs; lines that are no events are passed over.
    """

    def __init__(self, node: Node, command: Sequence[str], function: Function | None = None) -> None:
        self.node, self.command = node, command
        self.events: list[Event] = []
        self._stderr: IO[bytes] = tempfile.TemporaryFile(dir="/run")  # noqa: SIM115 - closed in `end`
        try:
            self.process = self._start(function)
            favor(self.process.pid, CLIENT)
        except BaseException:
            self._stderr.close()
            raise
        self._partial = b""
        self.open = True
        os.set_blocking(self.stdout.fileno(), False)

    def _start(self, function: Function | None) -> subprocess.Popen[bytes] | ForkedProcess:
        if function is not None:
            return self.node.fork(function, self.command, self._stderr)
        try:
            return self.node.popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
            )
        except OSError as error:
            raise LabError(f"{self.node.name}: {self.command[0]}: {error.strerror}") from error

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe that the events come from."""
        stream: IO[bytes] | None = self.process.stdout
        if stream is None:
            raise LabError(f"{self.node.name}: no standard output")
        return stream

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        status: int | None = self.process.poll()
        return status

    @property
    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL))
        return self._stderr.read().decode(errors="replace").strip()

    def first(self, name: str) -> Event | None:
        """The first event of that name, None if there was none."""
        return next((event for event in self.events if event.get("event") == name), None)

    def tell(self, line: str) -> None:
        """Write a line to its standard input and close that."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.close()

    def read(self) -> None:
        """Take in what has come; `open` turns false at the end of its output."""
        while True:
            chunk = self.stdout.read(1 << 16)
            if chunk is None:
                return
            if not chunk:
                self.open = False
                return
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                self.events.append(event)

    def end(self, grace_s: float = 2.0) -> None:
        """Ask it to stop, then kill it; idempotent."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.open:
            self.read()
        self._stderr.close()


def wait_for(processes: Sequence[EventProcess], condition: Callable[[], bool], timeout_s: float) -> bool:
    """Take in events until the condition holds: True; False when the time is over or every process has ended."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for process in processes:
            if process.open:
                selector.register(process.stdout, selectors.EVENT_READ, process)
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not selector.get_map():
                return False
            for key, _events in selector.select(left):
                process = key.data
                process.read()
                if not process.open:
                    selector.unregister(key.fileobj)
                    process.process.wait()
    return True
