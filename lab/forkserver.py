"""The process that Python clients are forked from: it has imported them, and waits.

A client that starts as a command spends a quarter of a second on imports; forked, it is at work after two or three
milliseconds. It is a real process all the same, with arguments, streams, environment and network namespace of its own.

The server is single-threaded and speaks JSON over a SOCK_SEQPACKET socket, descriptors beside it (SCM_RIGHTS):

    {"arguments": […], "directory": …, "environment": {…}}  with: network namespace, stdin, stdout, stderr, status pipe
        -> {"pid": N} with a pidfd, or {"error": "…"}, or {"unusable": "…"} for a function that cannot be imported

When the process ends, its wait status (int, native) is written to the status pipe. What was started over a connection
is killed when the connection ends; the server ends with its standard input.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

REQUEST_BYTES, DESCRIPTORS = 1 << 17, 5
STATUS = struct.Struct("=i")
_CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x40000000, 1
_libc = ctypes.CDLL(None, use_errno=True)

Function = Callable[[], object]


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    children: dict[int, int] = field(default_factory=dict)
    """pidfd -> process id of what runs."""


class Server:
    """Serves at `listener` until standard input ends. `target` is the function, or what is wrong with it."""

    def __init__(self, listener: socket.socket, target: Function | str, name: str) -> None:
        self._listener, self._target, self._name = listener, target, name
        self._selector = selectors.DefaultSelector()
        self._statuses: dict[int, int] = {}  # pidfd -> status pipe

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
                connection.socket, REQUEST_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            request, descriptors = b"", []
        if not request:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            for child in connection.children.values():
                os.kill(child, signal.SIGKILL)
            return
        *streams, status = descriptors
        if isinstance(self._target, str):
            for descriptor in descriptors:
                os.close(descriptor)
            self._answer(connection, {"unusable": self._target})
            return
        pid = self._fork(self._target, json.loads(request), streams, status)
        for descriptor in streams:
            os.close(descriptor)
        if isinstance(pid, str):
            os.close(status)
            self._answer(connection, {"error": pid})
            return
        pidfd = os.pidfd_open(pid)
        self._statuses[pidfd] = status
        connection.children[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._reap(connection, pidfd))
        self._answer(connection, {"pid": pid}, pidfd)

    def _fork(self, target: Function, request: dict[str, Any], streams: Sequence[int], status: int) -> int | str:
        """The process id of a new client, or why there is none."""
        try:
            pid = os.fork()
        except OSError as error:
            return f"fork: {error.strerror}"
        if pid == 0:
            os.close(status)
            self._become(target, request, streams)
        return pid

    def _answer(self, connection: _Connection, answer: dict[str, Any], *descriptors: int) -> None:
        with contextlib.suppress(ConnectionError):  # who asked has ended; that is read next
            socket.send_fds(connection.socket, [json.dumps(answer).encode()], descriptors)

    def _reap(self, connection: _Connection, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        _pid, wait_status = os.waitpid(connection.children.pop(pidfd), 0)
        status = self._statuses.pop(pidfd)
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know
            os.write(status, STATUS.pack(wait_status))
        for descriptor in (status, pidfd):
            os.close(descriptor)

    def _become(self, target: Function, request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
        """In the child: leave everything of the server behind, and be the client."""
        status = 1
        try:
            for key in list(self._selector.get_map().values()):
                if key.fd != 0:
                    os.close(key.fd)
            self._selector.close()
            for pipe in self._statuses.values():
                os.close(pipe)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _settle(request, streams)
            sys.argv = [self._name, *request["arguments"]]
            status = _call(target)
        except BaseException:  # whatever it is, the server's loop must not go on in here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(_wind_up(status))


def _settle(request: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Namespace, streams, directory and environment as asked for."""
    space, *streams = descriptors
    if _libc.setns(space, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for descriptor in descriptors:
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - descriptors, open until the process ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as above
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - as above
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _call(target: Function) -> int:
    """Its exit status, as the interpreter would have it."""
    try:
        result = target()
    except SystemExit as ended:
        result = ended.code
    except KeyboardInterrupt:
        result = 130
    if result is None or isinstance(result, int):
        return int(result or 0) & 0xFF
    print(result, file=sys.stderr)
    return 1


def _wind_up(status: int) -> int:
    """What the interpreter does at its end and a client may count on: threads, exit functions, buffers."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        return status or 1
    return status


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
    """Be the server: the starter's `sys.path` in JSON, the descriptor to listen on, the function, the modules."""
    sys.path[:] = json.loads(search_path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target = resolve(name, preload)
    gc.collect()
    gc.freeze()  # what is shared stays shared: the collector would write to every object
    Server(socket.socket(fileno=int(listener)), target, name.partition(":")[0]).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
