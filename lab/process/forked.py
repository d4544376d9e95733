"""Processes forked from a server that has imported the client: `start` is `subprocess.Popen` for Python functions.

Commands that are confined are started that way, too. There is one server per function, and one for commands, started at
first use; it ends with its starter. Processes of one campaign share it (`prepare`, `adopt`), each over a connection of
its own, which takes its clients along when it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from punchlab.lab.confinement import view
from punchlab.lab.confinement.shares import Plan
from punchlab.lab.errors import ClientError, InputError, LabError
from punchlab.lab.kernel import programs
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.process.forkserver import DESCRIPTORS, REQUEST_BYTES, STATUS

_END_S = 2.0
_KILL_S = 10.0


@dataclass(frozen=True, slots=True)
class Function:
    """A Python function that is a command: it reads sys.argv and returns an exit status, as entry points do.

    `name` is "module:function"; `preload` are modules to import beforehand that the function would import late.
    """

    name: str
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        module, colon, path = self.name.partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
            raise InputError("function of a client", self.name, "module:function")

    def as_command(self, arguments: Sequence[str]) -> list[str]:
        """The words that run it in an interpreter of its own."""
        module, _, name = self.name.partition(":")
        return [sys.executable, "-c", f"import sys; from {module} import {name}; sys.exit({name}())", *arguments]


class ForkedProcess:
    """A running function: the part of `subprocess.Popen` that the lab uses. Streams are unbuffered."""

    def __init__(
        self, pid: int, pidfd: int, first: int | None, status: int, stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, None
        self.returncode: int | None = None
        self._pidfd, self._status = pidfd, status
        self.confined = first is not None
        """Whether it has a PID namespace of its own, in which everything is that it has started."""
        self._first = first
        """The pidfd of the first process of that namespace."""

    def end_of(self) -> int:
        """A descriptor that can be read from when it has ended; the caller closes it."""
        return os.dup(self._status)

    def poll(self) -> int | None:
        """The exit status if it has ended; that of a signal is negative."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired`."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def end_namespace(self) -> None:
        """Kill it with everything that it has started, if it is confined, and wait until that has ended; idempotent.

        Raises `LabError` for a process that does not end.
        """
        if self._first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._first, select.POLLIN)
        if not poll.poll(_KILL_S * 1000):
            raise LabError(f"process {self.pid} does not end")
        os.close(self._first)
        self._first = None
        self._wait(_KILL_S)  # until the server has reaped it

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
            status = os.read(self._status, STATUS.size)
            # Without a word: the server was killed, and its children with it.
            self.returncode = os.waitstatus_to_exitcode(*STATUS.unpack(status)) if status else -signal.SIGKILL
            for descriptor in (self._status, self._pidfd):
                os.close(descriptor)
        return self.returncode


class _Servers:
    """This process's servers and connections. Thread-safe; a forked child starts anew."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[Function | None, str] = {}
        self._adopted: set[Function | None] = set()
        self._connections: dict[Function | None, socket.socket] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def forget(self) -> None:
        """In a forked child: the servers and the connections belong to the parent."""
        for connection in self._connections.values():
            connection.close()
        for process in self._processes:
            process.returncode = 0  # not ours to wait for
        self._begin()

    def start(self, function: Function | None) -> str:
        """The address of the server of the function, or of commands without one; it gets ready meanwhile."""
        with self._lock:
            if function not in self._addresses:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                    listener.bind("")  # an abstract name that is free, in this network namespace only
                    listener.listen(socket.SOMAXCONN)
                    words = [json.dumps(sys.path), str(listener.fileno())]
                    words += [""] if function is None else [function.name, *function.preload]
                    process = subprocess.Popen(
                        [*programs.python("punchlab.lab.process.forkserver", isolated=function is None), *words],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[listener.fileno()],
                        start_new_session=True,  # out of reach of the terminal's signals
                    )
                    self._processes.append(process)
                    self._addresses[function] = listener.getsockname()
            return self._addresses[function]

    def adopt(self, addresses: Mapping[Function | None, str]) -> None:
        """Use servers that another process has started, those of functions that are new here."""
        with self._lock:
            for function, address in addresses.items():
                if function not in self._adopted:
                    self._adopted.add(function)
                    self._addresses[function] = address

    def ask(self, function: Function | None, request: bytes, descriptors: Sequence[int]) -> tuple[int, list[int]]:
        """Process id and pidfds of a new process.

        Raises `LabError`; `ClientError` for a function that is not there, or a command that cannot be started.
        """
        address = self.start(function)
        with self._lock:
            connection = self._connections.get(function)
            fresh = connection is None
            if connection is None:
                connection = self._connections[function] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                if fresh:
                    connection.connect(address)
                socket.send_fds(connection, [request], descriptors)
                answer, received, _flags, _address = socket.recv_fds(
                    connection, REQUEST_BYTES, 2, socket.MSG_CMSG_CLOEXEC
                )
                if not answer:
                    raise ConnectionResetError(errno.ECONNRESET, "it has ended")
            except BaseException as error:  # an answer may be on its way that nobody waits for any more
                del self._connections[function]
                connection.close()
                if isinstance(error, OSError):
                    self._addresses.pop(function)  # so that the next one gets a new server
                    raise LabError(f"{_name(function)}: its fork server: {error.strerror}") from error
                raise
        result = json.loads(answer)
        if "unusable" in result:
            raise ClientError(result["unusable"])
        if "refused" in result:
            raise ClientError(result["refused"])
        if "error" in result:
            raise LabError(f"{_name(function)}: its fork server: {result['error']}")
        return int(result["pid"]), received

    def stop(self) -> None:
        """End the servers that were started here, and what runs in them."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:  # it still imports something
                process.kill()
                process.wait()
        self.forget()


_SERVERS = _Servers()
atexit.register(_SERVERS.stop)
os.register_at_fork(after_in_child=_SERVERS.forget)
prepare, adopt = _SERVERS.start, _SERVERS.adopt


def start(
    function: Function | None,
    arguments: Sequence[str],
    namespace: Namespace,
    stderr: IO[bytes],
    confined: Plan | None = None,
) -> ForkedProcess:
    """Run the function in a process of its own in the network namespace, standard input and output being pipes.

    Without a function the arguments are the words of a command. Working directory and environment are this process's.
    A process that is `confined` sees what is planned and no other files, and has few privileges (`lab.confinement`).
    Raises `ClientError` for a function that cannot be imported or a command that cannot be started, `LabError`.
    """
    wanted: dict[str, object] = {
        "arguments": list(arguments),
        "directory": _directory(),
        "environment": dict(os.environ) if confined is None else view.environment(os.environ),
        "confined": None,
    }
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        trees: Sequence[view.Tree] = []
        if confined is not None:
            shown = theirs.enter_context(view.opened(confined))
            trees = shown.trees
            wanted["confined"] = {
                "trees": [(tree.path, tree.folder) for tree in trees],
                "links": list(shown.links),
            }
        request = json.dumps(wanted).encode()
        if len(request) > REQUEST_BYTES:
            raise LabError(
                f"client: {len(request)} bytes of arguments and environment; at most {REQUEST_BYTES} can be passed on"
            )
        pipes = [os.pipe() for _ in range(3)]
        (their_stdin, stdin), (stdout, their_stdout), (status, their_status) = pipes
        for descriptor in (their_stdin, their_stdout, their_status):
            theirs.callback(os.close, descriptor)
        for descriptor in (stdin, stdout, status):
            ours.callback(os.close, descriptor)
        handed = [namespace.fd, their_stdin, their_stdout, stderr.fileno(), their_status]
        assert len(handed) == DESCRIPTORS
        pid, pidfds = _SERVERS.ask(function, request, [*handed, *(tree.descriptor for tree in trees)])
        ours.pop_all()
    first = pidfds[1] if len(pidfds) > 1 else None
    return ForkedProcess(pid, pidfds[0], first, status, os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0))


def _name(function: Function | None) -> str:
    return "client" if function is None else f"client: {function.name}"


def _directory() -> str:
    """The working directory; the root where it was removed, for no relative path leads anywhere then either."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"
