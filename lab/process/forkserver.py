"""The process that clients are forked from: it has imported those that are Python functions, and waits.

A Python client that starts as a command spends a quarter of a second on imports; forked, it is at work after a few
milliseconds. It is a real process all the same, with arguments, streams, environment and network namespace of its own.
The server that has no function starts commands.

The server is single-threaded and speaks JSON over a SOCK_SEQPACKET socket, descriptors with it (SCM_RIGHTS):

    {"arguments": […], "directory": …, "environment": {…}, "confined": null}
        with: network namespace, stdin, stdout, stderr, status pipe
        -> {"pid": N} with a pidfd; {"error": "…"}; {"refused": "…"} for a command that cannot be started;
           or {"unusable": "…"} for a function that cannot be imported

A confined client also has mount, PID and IPC namespaces of its own, in which it is not the first process:

    "confined": {"trees": [[path, is a folder], …], "links": [[path, target], …]}
        with, in addition: the detached trees -> {"pid": N} with the pidfds of the client and of the first process

When the client ends, its wait status (int, native) is written to the status pipe. When the first process is killed, so
is everything in its namespace. What was started over a connection is killed when the connection ends; the server ends
with its standard input.
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
"""With the trees of a confined client; the kernel passes on 253 at a time."""

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
    """Serves at `listener` until standard input ends.

    `target` is the function, what is wrong with it, or None: then the arguments are the words of a command.
    """

    def __init__(self, listener: socket.socket, target: Function | str | None, name: str, spaces: PidSpaces) -> None:
        self._listener, self._target, self._name = listener, target, name
        self._selector = selectors.EpollSelector()
        self._statuses: dict[int, int] = {}  # pidfd of a client -> status pipe
        self._roles = roles.Roles(spaces)

    def run(self) -> None:
        """Serve. In a forked child this does not return."""
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
        """Fork a client, and answer. Raises OSError if that cannot be."""
        space, *streams, status = descriptors[:DESCRIPTORS]
        trees = descriptors[DESCRIPTORS:]
        settled, settling = os.pipe()
        own = [self._selector.fileno(), *(key.fd for key in self._selector.get_map().values() if key.fd != 0)]
        with os.fdopen(settled, "rb") as outcome:
            with os.fdopen(settling, "wb", 0) as report:

                def become() -> None:
                    """In the child: leave everything of the server behind, and be the client."""
                    try:
                        for descriptor in (*own, *self._statuses.values(), status, settled):
                            os.close(descriptor)
                        forkchild.become(target, self._name, request, space, streams, trees, self._roles, report)
                    finally:
                        os._exit(1)  # whatever it is, the server's loop must not go on in here

                first, pid = (None, _fork(become)) if request["confined"] is None else self._roles.fork(become)
            said = outcome.read(_ERROR_BYTES)
        client = os.pidfd_open(pid)
        connection.clients[client] = pid
        self._selector.register(client, selectors.EVENT_READ, lambda: self._reap(connection, client))
        if first is not None:
            connection.spaces.add(first)
            self._selector.register(first, selectors.EVENT_READ, lambda: self._forget(connection, first))
        if said:
            if first is not None:
                _kill(first)
            self._answer(connection, json.loads(said))
            return
        self._statuses[client] = status
        self._answer(connection, {"pid": pid}, client, *(() if first is None else (first,)))

    def _answer(self, connection: _Connection, answer: dict[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(ConnectionError):  # who asked has ended; that is read next
            socket.send_fds(connection.socket, [json.dumps(answer).encode()], descriptors)

    def _forget(self, connection: _Connection, first: int) -> None:
        """A first process has ended, which is not this process's child."""
        connection.spaces.remove(first)
        self._selector.unregister(first)
        os.close(first)

    def _reap(self, connection: _Connection, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        _pid, wait_status = os.waitpid(connection.clients.pop(pidfd), 0)
        os.close(pidfd)
        status = self._statuses.pop(pidfd, None)
        if status is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                os.write(status, STATUS.pack(wait_status))
            os.close(status)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _fork(become: Callable[[], None]) -> int:
    """The process id of a child that becomes something else."""
    pid = os.fork()
    if pid == 0:
        become()
    return pid


def resolve(name: str, preload: Sequence[str]) -> Function | str:
    """The function "module:function" with its module and those of `preload` imported, or what is wrong."""
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
    """Be the server: the starter's `sys.path` in JSON, the descriptor to listen on, the function, the modules.

    Without a function, its name is empty.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # what is imported stays, and a collection of all of it takes 20 ms of CPU
    spaces = PidSpaces()  # before this process grows
    target: Function | str | None = None
    if name:
        sys.path[:] = json.loads(search_path)
        target = resolve(name, preload)
    gc.freeze()  # what is shared stays shared: the collector would write to every object
    gc.enable()
    Server(socket.socket(fileno=int(listener)), target, name.partition(":")[0], spaces).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the interpreter would take down all modules first
