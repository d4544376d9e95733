"""Start processes by forking from a server that has imported the client, with the interface of `subprocess.Popen`.

This is for Python functions and for confined commands. There is one server per function and one for commands. It starts
at first use and ends with its starter. Processes of one campaign share it (`prepare`, `adopt`), each over its own
connection; its clients end with that connection.
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
from punchlab.lab.kernel import mounts, programs
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.process.forkserver import DESCRIPTORS, REQUEST_BYTES, STATUS

_END_S = 2.0
_KILL_S = 10.0
_IMPORT_S = 60.0
"""How long a client may take to import its function."""


@dataclass(frozen=True, slots=True)
class Function:
    """A Python function that acts as a command: it reads sys.argv and returns an exit status, like an entry point.

    `name` is "module:function". `preload` are modules to import beforehand that the function would import late.
    """

    name: str
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        module, colon, path = self.name.partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
            raise InputError("function of a client", self.name, "module:function")

    def as_command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs it in another interpreter."""
        module, _, name = self.name.partition(":")
        # Not from the working directory, unless it is in the search path of this process.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {name}; sys.exit({name}())"
        return [sys.executable, "-P", "-c", code, *arguments]


class ForkedProcess:
    """A running function, with the part of `subprocess.Popen` that the lab uses. Streams are unbuffered."""

    def __init__(
        self, pid: int, pidfd: int, first: int | None, status: int, stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, None
        self.returncode: int | None = None
        self._pidfd, self._status = pidfd, status
        self.confined = first is not None
        """Whether it has a separate PID namespace, which contains all processes that it starts."""
        self._first = first
        """The pidfd of the first process of that namespace."""

    def end_of(self) -> int:
        """Return a descriptor that becomes readable when the process exits. The caller closes it."""
        return os.dup(self._status)

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status. Raises `subprocess.TimeoutExpired`."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal. Has no effect if the process has exited."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def end_namespace(self) -> None:
        """Kill a confined process and all processes that it started, and wait until they exit. Idempotent.

        Raises `LabError` if they do not exit.
        """
        if self._first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._first, select.POLLIN)
        if not poll.poll(_KILL_S * 1000):
            raise LabError(f"process {self.pid} does not exit")
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
            # An empty pipe means that the server was killed together with its children.
            self.returncode = os.waitstatus_to_exitcode(*STATUS.unpack(status)) if status else -signal.SIGKILL
            for descriptor in (self._status, self._pidfd):
                os.close(descriptor)
        return self.returncode


class _Servers:
    """The servers and connections of this process. Thread-safe. A forked child starts with none."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[Function | None, str] = {}
        self._adopted: set[Function | None] = set()
        self._connections: dict[Function | None, socket.socket] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def detach(self) -> None:
        """In a forked child, detach from the parent's servers and connections."""
        for connection in self._connections.values():
            connection.close()
        for process in self._processes:
            process.returncode = 0  # only the parent can wait for it
        self._begin()

    def start(self, function: Function | None) -> str:
        """Start the server of the function, or of commands for None, and return its address before it is ready."""
        with self._lock:
            if function not in self._addresses:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                    listener.bind("")  # an unused abstract name, valid in this network namespace
                    listener.listen(socket.SOMAXCONN)
                    process = _start_server(function, listener)
                    self._processes.append(process)
                    self._addresses[function] = listener.getsockname()
            return self._addresses[function]

    def adopt(self, addresses: Mapping[Function | None, str]) -> None:
        """Use the servers of another process for functions that have no server here."""
        with self._lock:
            for function, address in addresses.items():
                if function not in self._adopted:
                    self._adopted.add(function)
                    self._addresses[function] = address

    def ask(self, function: Function | None, request: bytes, descriptors: Sequence[int]) -> tuple[int, list[int]]:
        """Return the process id and the pidfds of a new process.

        Raises `LabError`, and `ClientError` if the function does not exist or the command cannot start.
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
                connection.settimeout(None if function is None else _IMPORT_S)
                socket.send_fds(connection, [request], descriptors)
                answer, received, _flags, _address = socket.recv_fds(
                    connection, REQUEST_BYTES, 2, socket.MSG_CMSG_CLOEXEC
                )
                if not answer:
                    raise ConnectionResetError(errno.ECONNRESET, "the server has exited")
            except BaseException as error:  # an unread answer may arrive later
                del self._connections[function]
                connection.close()
                if isinstance(error, TimeoutError):
                    raise ClientError(f"{_name(function)}: it is not imported within {_IMPORT_S:g} s") from error
                if isinstance(error, OSError):
                    self._addresses.pop(function)  # the next request starts a new server
                    raise LabError(f"{_name(function)}: fork server: {error.strerror}") from error
                raise
        result = json.loads(answer)
        if "unusable" in result:
            raise ClientError(result["unusable"])
        if "refused" in result:
            raise ClientError(result["refused"])
        if "error" in result:
            raise LabError(f"{_name(function)}: fork server: {result['error']}")
        return int(result["pid"]), received

    def stop(self) -> None:
        """End the servers that this process started, and their processes."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:  # it is still importing
                process.kill()
                process.wait()
        self.detach()


_SERVERS = _Servers()
atexit.register(_SERVERS.stop)
os.register_at_fork(after_in_child=_SERVERS.detach)
prepare, adopt = _SERVERS.start, _SERVERS.adopt


def start(
    function: Function | None,
    arguments: Sequence[str],
    namespace: Namespace,
    stderr: IO[bytes],
    confined: Plan | None = None,
) -> ForkedProcess:
    """Run the function in a process in the network namespace, with pipes as standard input and output.

    For None, `arguments` is a command. The process inherits the working directory and environment. A `confined` process
    has few privileges and sees only the planned files (`lab.confinement`). Raises `ClientError` if the function cannot
    be imported or the command cannot start, else `LabError`.
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
                f"client: {len(request)} bytes of arguments and environment; expected at most {REQUEST_BYTES}"
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


def _start_server(function: Function | None, listener: socket.socket) -> subprocess.Popen[bytes]:
    """Start a server, whose own program is on a read-only mount.

    A process can always reach its own program by /proc/self/exe, on the mount from which it was executed, and so could
    change the mode of the machine's Python. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        passed = [listener.fileno()]
        for path in ("/proc/self/ns/mnt", "."):  # where the server returns to
            passed.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, passed[-1])
        words = [json.dumps(sys.path), *map(str, passed)]
        words += [""] if function is None else [function.name, *function.preload]
        started: list[subprocess.Popen[bytes]] = []
        problems: list[BaseException] = []

        def start() -> None:
            try:
                mounts.enter_read_only_copy()
                process = subprocess.Popen(
                    [*programs.python("punchlab.lab.process.forkserver", isolated=function is None), *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=passed,
                    start_new_session=True,  # out of reach of the terminal's signals
                )
                started.append(process)
            except BaseException as problem:  # for the thread that waits
                problems.append(problem)

        thread = threading.Thread(target=start)  # the mount namespace of the other threads remains the same
        thread.start()
        thread.join()
        if problems:
            raise problems[0]
        return started[0]


def _name(function: Function | None) -> str:
    return "client" if function is None else f"client: {function.name}"


def _directory() -> str:
    """Return the working directory, or the root if it was removed, because then no relative path is valid."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"
