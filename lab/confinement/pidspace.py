"""PID namespaces, made by a small process: a fork of it costs a third of a fork of a process with a client's imports.

The first process of each namespace is not a client, because the kernel keeps signals from a first process that has no
handlers for them. It reaps what the client leaves behind; when it is killed, the kernel kills everything in the
namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

MOST_PROCESSES = 1024
"""Processes and threads in a namespace at a time (Linux 6.14 or later)."""

_PID_MAX = "/proc/sys/kernel/pid_max"
_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_ERROR = struct.Struct("=i")
_libc = ctypes.CDLL(None, use_errno=True)


class PidSpace(NamedTuple):
    """A new PID namespace: two open descriptors."""

    first: int
    """A pidfd of its first process."""
    namespace: int


class PidSpaces:
    """Makes PID namespaces, which end with the process that asks for them."""

    def __init__(self) -> None:
        """Fork the process that makes them. Raises OSError."""
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._maker, maker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with maker:
            if os.fork() == 0:
                try:
                    _make_on_request(maker.fileno())
                finally:
                    os._exit(1)

    def make(self) -> PidSpace:
        """A new namespace. Raises OSError."""
        self._maker.send(b"\0")
        answer, descriptors, _flags, _address = socket.recv_fds(self._maker, _ERROR.size, 2, socket.MSG_CMSG_CLOEXEC)
        if len(descriptors) != 2:
            error = _ERROR.unpack(answer)[0] if answer else 0
            raise OSError(error, f"PID namespace: {os.strerror(error) if error else 'its parent process has exited'}")
        return PidSpace(*descriptors)

    @contextlib.contextmanager
    def children_in(self, space: PidSpace) -> Iterator[None]:
        """What this process forks meanwhile is in that namespace. Raises OSError."""
        _checked(_libc.setns(space.namespace, _CLONE_NEWPID))
        try:
            yield
        finally:
            _checked(_libc.setns(self._own, _CLONE_NEWPID))

    def close(self) -> None:
        """In a child: leave what belongs to the parent."""
        self._maker.close()
        os.close(self._own)


def _make_on_request(requests: int) -> None:
    """Make a namespace for each packet, and answer with its descriptors, or with the error number."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    _libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))  # the first processes inherit it: no ptrace(2), no /proc/1
    os.closerange(0, requests)
    os.closerange(requests + 1, os.sysconf("SC_OPEN_MAX"))
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, _reap)  # if it were ignored, nobody could count the CPU time of the first processes
    with socket.socket(fileno=requests) as answers:
        while answers.recv(1):
            descriptors: list[int] = []
            error = 0
            try:
                _make(own, descriptors)
            except OSError as problem:
                error = problem.errno or 0
            socket.send_fds(answers, [_ERROR.pack(error)], descriptors if not error else [])
            for descriptor in descriptors:
                os.close(descriptor)


def _make(own: int, descriptors: list[int]) -> None:
    _checked(_libc.unshare(_CLONE_NEWPID))
    try:
        first = os.fork()
        if first == 0:
            _be_first()
        descriptors.append(os.pidfd_open(first))
        descriptors.append(os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        _checked(_libc.setns(own, _CLONE_NEWPID))


def _reap(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):  # there is no child left
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _be_first() -> NoReturn:
    """Wait until it is killed; it ends with the maker, too."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what the client leaves behind
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        _limit_processes()
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _limit_processes() -> None:
    """Limit the process ids of this namespace; before Linux 6.14 the limit would be that of the machine."""
    version = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if version >= (6, 14):
        with contextlib.suppress(OSError):  # /proc/sys that cannot be written
            limit = os.open(_PID_MAX, os.O_WRONLY | os.O_CLOEXEC)
            os.write(limit, str(MOST_PROCESSES).encode())
            os.close(limit)


def _checked(result: int) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
