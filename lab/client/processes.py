"""Processes in nodes that print JSON events, one per line: start, watch and end them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import IO

from punchlab.lab.client.contract import Event, Speaker
from punchlab.lab.client.output import Output
from punchlab.lab.confinement.shares import Plan
from punchlab.lab.errors import ClientError, LabError
from punchlab.lab.kernel import leftovers
from punchlab.lab.kernel.priority import CLIENT, favor
from punchlab.lab.process.forked import ForkedProcess, Function
from punchlab.lab.process.node import Node, Process

__all__ = ["Event", "EventProcess", "end", "wait_for"]

_CHUNK = 1 << 16
_CHUNKS = 16
"""The number of chunks read from one pipe before other pipes are read."""
_CHECK_S = 0.25
"""How often a condition is checked while nothing is written."""


class _Pipe:
    """The read end of a command's pipe. `take` receives chunks with their time of receipt (CLOCK_MONOTONIC)."""

    def __init__(self, stream: IO[bytes], take: Callable[[bytes, float], None]) -> None:
        self.stream, self._take = stream, take
        self.silent = False
        """Whether the pipe is closed."""
        os.set_blocking(stream.fileno(), False)

    def read(self, most: int) -> int:
        """Read at most `most` bytes and return how many were read."""
        chunk = None if self.silent else self.stream.read(min(most, _CHUNK))
        if chunk is None:
            return 0
        self.silent = not chunk
        self._take(chunk, time.monotonic())
        return len(chunk)

    def held(self) -> int:
        """Return how many bytes are available."""
        (count,) = struct.unpack("i", fcntl.ioctl(self.stream, termios.FIONREAD, b"\0" * 4))
        return int(count)


class EventProcess:
    """A command in a node, or the Python function `function` with the arguments `command`.

    It has exited when its main process has, even if another process holds its output open. `events` grows while
    `wait_for` runs; lines without events are ignored. With a `speaker`, `lab.client.contract` checks the events. The
    first violation, or output over a limit, sets `contract_error`, and further output is discarded. Standard input is
    empty, or open for `write_line` with `reads_input`. A plan of the visible files makes it `confined`
    (`lab.confinement`). Raises `ClientError` if the command cannot start.
    """

    def __init__(
        self,
        node: Node,
        command: Sequence[str],
        function: Function | None = None,
        *,
        speaker: Speaker | None = None,
        reads_input: bool = False,
        confined: Plan | None = None,
    ) -> None:
        self.node, self.command = node, command
        self.speaker = speaker or Speaker(None, None, node.name)
        self.open = True
        self.ended_s: float | None = None
        """When its exit was detected, in CLOCK_MONOTONIC seconds."""
        self._settled = False
        self.before = frozenset() if confined is not None else node.present()
        """The processes that ran in the node before it."""
        self._output = Output(self.speaker, time.monotonic())
        # A pipe instead of a file, whose size would be unlimited until it is read.
        errors, theirs = os.pipe()
        self._stderr = os.fdopen(errors, "rb", 0)
        try:
            with os.fdopen(theirs, "wb", 0) as stderr:
                self.process = self._start(function, reads_input, stderr, confined)
            favor(self.process.pid, CLIENT)
        except BaseException:
            self._stderr.close()
            raise
        self._ended = _end_of(self.process)
        self._pipes = _Pipe(self.stdout, self._output.take), _Pipe(self._stderr, self._output.take_errors)

    def _start(self, function: Function | None, reads_input: bool, stderr: IO[bytes], confined: Plan | None) -> Process:
        try:
            if function is not None or confined is not None:
                process: Process = self.node.fork(function, self.command, stderr, confined)
                if not reads_input and process.stdin is not None:
                    process.stdin.close()
                return process
            return self.node.popen(
                self.command,
                stdin=subprocess.PIPE if reads_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                # Its own session distinguishes its descendants from processes started by hand.
                start_new_session=True,
            )
        except ClientError as error:
            who = str(self.speaker) if function is not None else f"{self.speaker}: {self.command[0]}"
            raise ClientError(f"{who}: {error}") from error
        except OSError as error:
            raise ClientError(f"{self.speaker}: {self.command[0]}: {error.strerror}") from error

    @property
    def events(self) -> list[Event]:
        """The events so far."""
        return self._output.events

    @property
    def contract_error(self) -> str | None:
        """The contract violation, or None."""
        return self._output.error

    def fail(self, what: str) -> None:
        """Record the first contract violation."""
        self._output.fail(what)

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe with the events."""
        stream: IO[bytes] | None = self.process.stdout
        if stream is None:
            raise LabError(f"{self.node.name}: no standard output")
        return stream

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs."""
        status: int | None = self.process.poll()
        return status

    @property
    def errors(self) -> str:
        """The end of standard error, as far as it was read."""
        return self._output.errors

    @property
    def exit_reason(self) -> str:
        """How it exited, and the last line of its standard error."""
        words = self.errors.splitlines()[-1:]
        status = self.returncode
        ended = "it runs" if status is None else f"it exited with status {status}"
        return ": ".join([ended, *words])

    def first(self, name: str) -> Event | None:
        """Return the first event of that name, or None."""
        return self._output.first(name)

    def count(self, name: str) -> int:
        """Return the number of events of that name."""
        return self._output.count(name)

    def write_line(self, line: str) -> None:
        """Write a line to standard input and close it."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(line.encode() + b"\n")
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def read(self) -> None:
        """Read available output. `open` becomes False after the exit, when all output has been read."""
        if not self.open:
            return
        ended = self.returncode is not None  # check before reading: output written by then is in the pipes
        for pipe in self._pipes:
            left = pipe.held() if ended else _CHUNK * _CHUNKS
            while left > 0 and not self._output.excessive and (count := pipe.read(left)):
                left -= count
        if self._output.excessive:
            self.process.kill()
            self.open = False
        elif ended:
            self.open = False
            self.ended_s = time.monotonic()
            self._output.finish(self.ended_s)

    def listen(self, selector: selectors.BaseSelector) -> None:
        """Register the descriptors for output and exit, and unregister closed ones."""
        wanted_of: dict[IO[bytes] | int, bool] = {each.stream: self.open and not each.silent for each in self._pipes}
        for source, wanted in (wanted_of | {self._ended: self.open}).items():
            registered = source in selector.get_map()
            if wanted and not registered:
                selector.register(source, selectors.EVENT_READ, self)
            elif registered and not wanted:
                selector.unregister(source)

    def kill(self) -> None:
        """Kill the command and all processes that it started."""
        if not _end_namespace(self.process):
            leftovers.kill(self.members())

    def members(self) -> set[int]:
        """Return the ids of the command and its running descendants."""
        return _members([self])

    def end(self, grace_s: float = 2.0) -> None:
        """Terminate the command, then kill it and all processes that it started. Idempotent."""
        end([self], grace_s)

    def close(self) -> None:
        """After its exit, close the streams. Idempotent."""
        if not self._settled:
            self._settled = True
            self.process.wait()
            if not self.stdout.closed:  # the lab may have closed it
                self.read()
            self.open = False
            self._stderr.close()
            os.close(self._ended)
            self.node.release(self.process)


def end(processes: Sequence[EventProcess], grace_s: float = 2.0) -> None:
    """Terminate the processes, then kill them and all processes that they started."""
    running = [process for process in processes if process.returncode is None]
    # Now, because a process that has joined another namespace is found only while its parent runs.
    started = leftovers.started_by(process.process.pid for process in running if not _is_confined(process.process))
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.process.send_signal(signal.SIGTERM)
            process.process.send_signal(signal.SIGCONT)
    wait_for(running, lambda: all(process.returncode is not None for process in running), grace_s)
    scattered = [process for process in processes if not _end_namespace(process.process)]
    leftovers.kill(process.process.pid for process in scattered if process.returncode is None)
    leftovers.kill(pid for pid, known in started.items() if leftovers.is_still(pid, known))
    unfinished = [process for process in scattered if process.node.namespace.fd >= 0]
    while left := _members(unfinished):
        leftovers.kill(left)
    for process in processes:
        process.close()


def wait_for(processes: Sequence[EventProcess], condition: Callable[[], bool], timeout_s: float) -> bool:
    """Read events until the condition holds and return True. Return False after the timeout or when all have exited."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for process in processes:
            process.listen(selector)
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not selector.get_map():
                return False
            for process in {key.data for key, _events in selector.select(min(left, _CHECK_S))}:
                process.read()
                process.listen(selector)
    return True


def _members(processes: Sequence[EventProcess]) -> set[int]:
    """Return the processes and their descendants, by the network namespaces in which they run.

    Processes that ran in the node before, or were started by hand, and their descendants are excluded.
    """
    nodes = {process.node.inode: process.node for process in processes}
    own = {process.process.pid for process in processes}
    by_hand = os.getsid(0)
    members = set()
    for pid, inode in leftovers.inside(nodes).items() if nodes else ():
        before = frozenset.intersection(*(each.before for each in processes if each.node is nodes[inode]))
        others = before | nodes[inode].pids - own
        status = leftovers.status(pid)
        if pid in own or (status is not None and status.session != by_hand and not leftovers.descends(pid, others)):
            members.add(pid)
    return members


def _is_confined(process: Process) -> bool:
    return isinstance(process, ForkedProcess) and process.confined


def _end_namespace(process: Process) -> bool:
    """Kill all processes in the PID namespace of a confined process. Return False for a process that is not
    confined.
    """
    if not isinstance(process, ForkedProcess) or not process.confined:
        return False
    process.end_namespace()
    return True


def _end_of(process: Process) -> int:
    """Return a descriptor that becomes readable when the process exits."""
    return process.end_of() if isinstance(process, ForkedProcess) else os.pidfd_open(process.pid)
