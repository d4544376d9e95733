"""The server process from which clients are forked. It has imported functions of punchlab and waits for requests.

A Python client that starts as a command needs a quarter of a second for imports; a forked one is ready after a few
milliseconds. It is a separate process with its own arguments, streams, environment and network namespace. The confined
client imports any other function itself, because the server has all privileges of the lab. A server without a function
starts commands.

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

import punchlab
from punchlab.lab.confinement import roles
from punchlab.lab.confinement.pidspace import PidSpaces
from punchlab.lab.kernel import mounts
from punchlab.lab.process import forkchild
from punchlab.lab.process.forkchild import OUTCOME_END, Function, Late

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

    `target` is the function (`Late` if each client imports it), its import error, or None for commands.
    """

    def __init__(
        self,
        listener: socket.socket,
        target: Function | Late | str | None,
        name: str,
        spaces: PidSpaces,
        kept: Sequence[int] = (),
    ) -> None:
        """`kept` are descriptors that the clients do not inherit."""
        self._kept = set(kept)
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
        self,
        connection: _Connection,
        target: Function | Late | None,
        request: dict[str, Any],
        descriptors: Sequence[int],
    ) -> None:
        """Fork a client, and answer the request or wait for the import. Raises OSError."""
        space, *streams, status = descriptors[:DESCRIPTORS]
        trees = descriptors[DESCRIPTORS:]
        report_read, report_write = os.pipe()
        imported, importing = os.pipe()
        own = [self._selector.fileno(), *(key.fd for key in self._selector.get_map().values() if key.fd != 0)]
        with os.fdopen(report_read, "rb") as outcome:
            with os.fdopen(report_write, "wb", 0) as report, os.fdopen(importing, "wb", 0) as importer:

                def become() -> None:
                    """In the child: close the server's descriptors and become the client."""
                    try:
                        for descriptor in (*own, *self._kept, *self._statuses.values(), status, report_read, imported):
                            os.close(descriptor)
                        forkchild.become(
                            target, self._name, request, space, streams, trees, self._roles, report, importer
                        )
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
            os.close(imported)
            if first is not None:
                _kill(first)
            self._answer(connection, json.loads(failure))
            return
        self._statuses[client] = status
        pidfds = [client, *(() if first is None else (first,))]
        if isinstance(target, Late):
            self._await_import(connection, pid, list(map(os.dup, pidfds)), imported)
            return
        os.close(imported)
        self._answer(connection, {"pid": pid}, *pidfds)

    def _await_import(self, connection: _Connection, pid: int, pidfds: Sequence[int], imported: int) -> None:
        """Answer when the client has imported its function, and serve others meanwhile. The pidfds are closed then."""
        outcome = bytearray()

        def receive() -> None:
            part = os.read(imported, _ERROR_BYTES)
            outcome.extend(part)
            if part and OUTCOME_END not in part and len(outcome) < _ERROR_BYTES:
                return
            self._selector.unregister(imported)
            os.close(imported)
            # All of it is a text of the client, which the lab reports as such.
            reason = bytes(outcome[:_ERROR_BYTES]).partition(OUTCOME_END)[0].decode(errors="replace")
            if reason:
                _kill(pidfds[-1])
                self._answer(connection, {"unusable": reason})
            else:
                self._answer(connection, {"pid": pid}, *pidfds)
            self._kept.difference_update(pidfds)
            for pidfd in pidfds:
                os.close(pidfd)

        self._kept.update(pidfds)
        self._selector.register(imported, selectors.EVENT_READ, receive)

    def _answer(self, connection: _Connection, answer: dict[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(OSError):  # the requester has exited; the next read detects it
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


def _is_own(module: str) -> bool:
    """Return whether it is a module of punchlab, which the server trusts."""
    return module.partition(".")[0] == punchlab.__name__


def _prepared(name: str, preload: Sequence[str], search_path: Sequence[str]) -> Function | Late | str:
    """Return the function to fork clients from, or its import error.

    The server imports functions of punchlab with their modules, and modules of Python and of packages that these have
    imported. The confined child imports all other functions, because their modules can be hostile.
    """
    if not _is_own(name.partition(":")[0]):
        return Late(name, preload, search_path)
    sys.path[:] = search_path
    found = forkchild.resolve(name, [each for each in preload if _is_own(each)])
    known = [each for each in preload if each.partition(".")[0] in (sys.modules.keys() | sys.stdlib_module_names)]
    if len(known) < len(preload):
        return Late(name, preload, search_path)
    return found if isinstance(found, str) else forkchild.resolve(name, known)


def main(search_path: str, listener: str, namespace: str, directory: str, name: str, *preload: str) -> None:
    """Run the server: the starter's `sys.path` in JSON, three descriptors, the function, the modules.

    The descriptors are the socket to listen on, and the mount namespace and the working directory of the starter; this
    process starts in a read-only copy of that mount namespace. Without a function, its name is empty.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Mounts keep their paths while their namespace exists, so /proc/self/exe names the interpreter.
    read_only = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(int(namespace), int(directory))
    for descriptor in (namespace, directory):
        os.close(int(descriptor))
    gc.disable()  # imported objects stay, and a collection takes 20 ms of CPU
    spaces = PidSpaces()  # before this process grows
    target = _prepared(name, preload, json.loads(search_path)) if name else None
    gc.freeze()  # keep shared pages shared: the collector would write to every object
    gc.enable()
    Server(socket.socket(fileno=int(listener)), target, name.partition(":")[0], spaces, [read_only]).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # without freeing all modules
