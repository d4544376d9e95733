"""Processes in nodes that print JSON events, one per line: started, watched together, ended."""

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
"""How many of them are taken in from a pipe before others have their turn."""
_LOOK_S = 0.25
"""How often a condition is looked at while nothing is written."""


class _Pipe:
    """The end of a pipe that a command writes to; `take` gets what comes, and when (CLOCK_MONOTONIC)."""

    def __init__(self, stream: IO[bytes], take: Callable[[bytes, float], None]) -> None:
        self.stream, self._take = stream, take
        self.silent = False
        """Whether nothing more can come."""
        os.set_blocking(stream.fileno(), False)

    def read(self, most: int) -> int:
        """Take in a chunk of what is there, at most so many bytes; how many that was."""
        chunk = None if self.silent else self.stream.read(min(most, _CHUNK))
        if chunk is None:
            return 0
        self.silent = not chunk
        self._take(chunk, time.monotonic())
        return len(chunk)

    def held(self) -> int:
        """How many bytes are there."""
        (count,) = struct.unpack("i", fcntl.ioctl(self.stream, termios.FIONREAD, b"\0" * 4))
        return int(count)


class EventProcess:
    """One command inside a node, or with `function` that Python function, `command` being its arguments.

    It has ended when its main process has, also if another process holds its output open. `events` grows while
    `wait_for` runs; lines that are no events are passed over. With a `speaker` the events are checked by
    `lab.client.contract`, and the first that breaks it, or output without bounds, is in `contract_error`: nothing that
    comes later is taken in. Standard input is at its end, but with `reads_input` it is open for `tell`. With a plan of
    what it sees of the file system it is `confined` (`lab.confinement`). Raises `ClientError` if the command cannot be
    started.
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
        """When its end was seen, CLOCK_MONOTONIC seconds."""
        self._settled = False
        self.before = frozenset() if confined is not None else node.present()
        """What ran in the node before it."""
        self._output = Output(self.speaker, time.monotonic())
        # No file, which would take as much memory as the command writes until it is looked at.
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
                # A session of its own tells what it starts from what is started by hand.
                start_new_session=True,
            )
        except ClientError as error:
            who = str(self.speaker) if function is not None else f"{self.speaker}: {self.command[0]}"
            raise ClientError(f"{who}: {error}") from error
        except OSError as error:
            raise ClientError(f"{self.speaker}: {self.command[0]}: {error.strerror}") from error

    @property
    def events(self) -> list[Event]:
        """What it has said so far."""
        return self._output.events

    @property
    def contract_error(self) -> str | None:
        """How it broke the contract, None if it did not."""
        return self._output.error

    def fail(self, what: str) -> None:
        """It broke the contract in that way, unless it had before."""
        self._output.fail(what)

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
        """The end of what it wrote to standard error, as far as that was taken in."""
        return self._output.errors

    @property
    def last_words(self) -> str:
        """How it ended, and the last line of its standard error."""
        words = self.errors.splitlines()[-1:]
        status = self.returncode
        ended = "it runs" if status is None else f"it ended with exit status {status}"
        return ": ".join([ended, *words])

    def first(self, name: str) -> Event | None:
        """The first event of that name, None if there was none."""
        return self._output.first(name)

    def count(self, name: str) -> int:
        """How many events of that name there were."""
        return self._output.count(name)

    def tell(self, line: str) -> None:
        """Write a line to its standard input and close that."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(line.encode() + b"\n")
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def read(self) -> None:
        """Take in what has come; `open` turns false when it has ended and everything it said was taken in."""
        if not self.open:
            return
        ended = self.returncode is not None  # before reading: what it said by then is in the pipes
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
        """Register what tells of output and of its end, or unregister what does not any more."""
        wanted_of: dict[IO[bytes] | int, bool] = {each.stream: self.open and not each.silent for each in self._pipes}
        for source, wanted in (wanted_of | {self._ended: self.open}).items():
            registered = source in selector.get_map()
            if wanted and not registered:
                selector.register(source, selectors.EVENT_READ, self)
            elif registered and not wanted:
                selector.unregister(source)

    def kill(self) -> None:
        """Kill it with everything that it has started."""
        if not _end_namespace(self.process):
            leftovers.kill(self.members())

    def members(self) -> set[int]:
        """The process ids of the command and of everything that it has started, as far as it runs."""
        return _members([self])

    def end(self, grace_s: float = 2.0) -> None:
        """Ask it to stop, then kill it, with everything that it has started; idempotent."""
        end([self], grace_s)

    def let_go(self) -> None:
        """Let go of what it wrote and of its streams, once it has ended; idempotent."""
        if not self._settled:
            self._settled = True
            self.process.wait()
            if not self.stdout.closed:  # as it is after the lab has ended
                self.read()
            self.open = False
            self._stderr.close()
            os.close(self._ended)
            self.node.forget(self.process)


def end(processes: Sequence[EventProcess], grace_s: float = 2.0) -> None:
    """Ask all of them to stop, then kill them, with everything that they have started."""
    running = [process for process in processes if process.returncode is None]
    # Now, for a process that has joined another network namespace is found only as long as its parent runs.
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
        process.let_go()


def wait_for(processes: Sequence[EventProcess], condition: Callable[[], bool], timeout_s: float) -> bool:
    """Take in events until the condition holds: True; False when the time is over or every process has ended."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for process in processes:
            process.listen(selector)
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not selector.get_map():
                return False
            for process in {key.data for key, _events in selector.select(min(left, _LOOK_S))}:
                process.read()
                process.listen(selector)
    return True


def _members(processes: Sequence[EventProcess]) -> set[int]:
    """What the processes are and have started, by the network namespaces that it runs in.

    Without what ran in the node before, or was started there by hand, and without what that has started.
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
    """Kill everything in the PID namespace of a confined process; false for one that is not confined."""
    if not isinstance(process, ForkedProcess) or not process.confined:
        return False
    process.end_namespace()
    return True


def _end_of(process: Process) -> int:
    """A descriptor that can be read from when the process has ended."""
    return process.end_of() if isinstance(process, ForkedProcess) else os.pidfd_open(process.pid)
