"""The process that clients are forked from: it has imported those that are functions of punchlab, and waits.

A Python client that starts as a command spends a quarter of a second on imports; forked, it is at work after a few
milliseconds. It is a real process all the same, with arguments, streams, environment and network namespace of its own.
Functions of others are imported in the client, when it is confined: their modules can contain anything, and what runs
in the server has all privileges of the lab. The server that has no function starts commands.

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

    `target` is the function (`Late` if each client imports it), what is wrong with it, or None: then the arguments are
    the words of a command.
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
        self,
        connection: _Connection,
        target: Function | Late | None,
        request: dict[str, Any],
        descriptors: Sequence[int],
    ) -> None:
        """Fork a client, and answer, or wait for its import. Raises OSError if that cannot be."""
        space, *streams, status = descriptors[:DESCRIPTORS]
        trees = descriptors[DESCRIPTORS:]
        settled, settling = os.pipe()
        imported, importing = os.pipe()
        own = [self._selector.fileno(), *(key.fd for key in self._selector.get_map().values() if key.fd != 0)]
        with os.fdopen(settled, "rb") as outcome:
            with os.fdopen(settling, "wb", 0) as report, os.fdopen(importing, "wb", 0) as importer:

                def become() -> None:
                    """In the child: leave everything of the server behind, and be the client."""
                    try:
                        for descriptor in (*own, *self._kept, *self._statuses.values(), status, settled, imported):
                            os.close(descriptor)
                        forkchild.become(
                            target, self._name, request, space, streams, trees, self._roles, report, importer
                        )
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
            os.close(imported)
            if first is not None:
                _kill(first)
            self._answer(connection, json.loads(said))
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
        with contextlib.suppress(OSError):  # who asked has ended; that is read next
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


def _is_own(module: str) -> bool:
    """Whether it is a module of punchlab, and so trusted with the privileges of the server."""
    return module.partition(".")[0] == punchlab.__name__


def _prepared(name: str, preload: Sequence[str], search_path: Sequence[str]) -> Function | Late | str:
    """The function to fork clients of, or what is wrong with it.

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
    """Be the server: the starter's `sys.path` in JSON, three descriptors, the function, the modules.

    The descriptors are the socket to listen on, and the mount namespace and the working directory of the starter; this
    process starts in a read-only copy of that mount namespace. Without a function, its name is empty.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Mounts keep their paths while their namespace exists, so /proc/self/exe names the interpreter.
    read_only = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(int(namespace), int(directory))
    for descriptor in (namespace, directory):
        os.close(int(descriptor))
    gc.disable()  # what is imported stays, and a collection of all of it takes 20 ms of CPU
    spaces = PidSpaces()  # before this process grows
    target = _prepared(name, preload, json.loads(search_path)) if name else None
    gc.freeze()  # what is shared stays shared: the collector would write to every object
    gc.enable()
    Server(socket.socket(fileno=int(listener)), target, name.partition(":")[0], spaces, [read_only]).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the interpreter would take down all modules first
