"""The server process from which clients are forked. It has imported the client's function and waits for requests.

A Python client that starts as a command needs a quarter of a second for imports; a forked one is ready after a few
milliseconds. It is a separate process with its own arguments, streams, environment and network namespace. A server
without a function starts commands.

The server is single-threaded and receives JSON over a SOCK_SEQPACKET socket, with descriptors (SCM_RIGHTS):

    {"arguments": […], "directory": …, "environment": {…}, "confined": null}
        with: network namespace, stdin, stdout, stderr, status pipe
        -> {"pid": N} with a pidfd; {"error": "…"}; {"refused": "…"} for a command that cannot be started;
           or {"unusable": "…"} for a function that cannot be imported

A confined client also has its own mount, PID and IPC namespaces, in which it is not the first process:

    "confined": {"trees": [[path, is a folder], …], "links": [[path, target], …]}
        with, in addition: the detached trees -> {"pid": N} with the pidfds of the client and of the first process

When the client exits, its wait status (int, native byte order) is written to the status pipe. When the first process is
killed, all processes of its namespace end. Clients end with the connection over which they were started; the server
ends when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from punchlab.lab.confinement import roles
from punchlab.lab.confinement.pidspace import PidSpaces
from punchlab.lab.process import forkchild
from punchlab.lab.process.forkchild import Function

REQUEST_BYTES, DESCRIPTORS = 1 << 17, 5
MOST_DESCRIPTORS = 200
"""Includes the trees of a confined client. The kernel passes at most 253 at a time."""

STATUS = struct.Struct("=i")
_ERROR_BYTES = 4096


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    clients: dict[int, int] = field(default_factory=dict)
    """pidfd -> process id."""
    spaces: set[int] = field(default_factory=set)
    """pidfds of the first processes of the clients' PID namespaces."""


class Server:
    """Serves requests at `listener` until standard input is closed.

    `target` is the function, its import error, or None for commands.
    """

    def __init__(self, listener: socket.socket, target: Function | str | None, name: str, spaces: PidSpaces) -> None:
        self._listener, self._target, self._name = listener, target, name
        self._selector = selectors.EpollSelector()
        self._statuses: dict[int, int] = {}  # pidfd of a client -> status pipe
        self._roles = roles.Roles(spaces)

    def run(self) -> None:
        """Serve requests. In a forked child this does not return."""
        self._selector.register(0, selectors.EVENT_READ, None)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _events in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self) -> None:
        accepted, _address = self._listener.accept()
        connection = _Connection(accepted)
        self._selector.register(accepted, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: _Connection) -> None:
        try:
            request, descriptors, _flags, _address = socket.recv_fds(
                connection.socket, REQUEST_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            request, descriptors = b"", []
        if not request:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            for process in (*connection.clients, *connection.spaces):
                _kill(process)
            return
        if isinstance(self._target, str):
            for descriptor in descriptors:
                os.close(descriptor)
            self._answer(connection, {"unusable": self._target})
            return
        try:
            self._start(connection, self._target, json.loads(request), descriptors)
        except OSError as error:
            self._answer(connection, {"error": error.strerror})
        finally:
            for descriptor in {*descriptors} - {*self._statuses.values()}:
                os.close(descriptor)

    def _start(
        self, connection: _Connection, target: Function | None, request: dict[str, Any], descriptors: Sequence[int]
    ) -> None:
        """Fork a client and answer the request. Raises OSError."""
        space, *streams, status = descriptors[:DESCRIPTORS]
        trees = descriptors[DESCRIPTORS:]
        report_read, report_write = os.pipe()
        own = [self._selector.fileno(), *(key.fd for key in self._selector.get_map().values() if key.fd != 0)]
        with os.fdopen(report_read, "rb") as outcome:
            with os.fdopen(report_write, "wb", 0) as report:

                def become() -> None:
                    """In the child: close the server's descriptors and become the client."""
                    try:
                        for descriptor in (*own, *self._statuses.values(), status, report_read):
                            os.close(descriptor)
                        forkchild.become(target, self._name, request, space, streams, trees, self._roles, report)
                    finally:
                        os._exit(1)  # never continue in the server's loop

                first, pid = (None, _fork(become)) if request["confined"] is None else self._roles.fork(become)
            failure = outcome.read(_ERROR_BYTES)
        client = os.pidfd_open(pid)
        connection.clients[client] = pid
        self._selector.register(client, selectors.EVENT_READ, lambda: self._reap(connection, client))
        if first is not None:
            connection.spaces.add(first)
            self._selector.register(first, selectors.EVENT_READ, lambda: self._close_first(connection, first))
        if failure:
            if first is not None:
                _kill(first)
            self._answer(connection, json.loads(failure))
            return
        self._statuses[client] = status
        self._answer(connection, {"pid": pid}, client, *(() if first is None else (first,)))

    def _answer(self, connection: _Connection, answer: dict[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(ConnectionError):  # the requester has exited; the next read detects it
            socket.send_fds(connection.socket, [json.dumps(answer).encode()], descriptors)

    def _close_first(self, connection: _Connection, first: int) -> None:
        """Close the pidfd of a first process that has exited. It is not a child of this process."""
        connection.spaces.remove(first)
        self._selector.unregister(first)
        os.close(first)

    def _reap(self, connection: _Connection, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        _pid, wait_status = os.waitpid(connection.clients.pop(pidfd), 0)
        os.close(pidfd)
        status = self._statuses.pop(pidfd, None)
        if status is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody reads the status
                os.write(status, STATUS.pack(wait_status))
            os.close(status)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has exited
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _fork(become: Callable[[], None]) -> int:
    """Fork a child that calls `become`, and return its process id."""
    pid = os.fork()
    if pid == 0:
        become()
    return pid


def resolve(name: str, preload: Sequence[str]) -> Function | str:
    """Return the function "module:function" after importing its module and those of `preload`, or the error."""
    module, _colon, path = name.partition(":")
    try:
        for each in (module, *preload):
            importlib.import_module(each)
        found: Any = sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    function: Function = found
    return function


def main(search_path: str, listener: str, name: str, *preload: str) -> None:
    """Run the server: the starter's `sys.path` as JSON, the descriptor to listen on, the function, the modules.

    The function name is empty for commands.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # imported objects stay, and a collection takes 20 ms of CPU
    spaces = PidSpaces()  # before this process grows
    target: Function | str | None = None
    if name:
        sys.path[:] = json.loads(search_path)
        target = resolve(name, preload)
    gc.freeze()  # keep shared pages shared: the collector would write to every object
    gc.enable()
    Server(socket.socket(fileno=int(listener)), target, name.partition(":")[0], spaces).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # without freeing all modules
