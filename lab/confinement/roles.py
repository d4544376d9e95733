"""Namespaces of a confined client: mount, PID and IPC namespaces of its own, in the network namespace of its node.

It sees what `view` makes, and does what `privileges` leaves. The first process of its PID namespace is not the client
itself, for the kernel keeps signals from first processes that they have no handlers for: it reaps what the client
leaves behind, and when it is killed, the kernel kills everything in the namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lab import mounts
from lab.confinement import seccomp, view
from lab.confinement.seccomp import Kind

PRIVATE_BYTES = 256 << 20
"""What a client may have in its private folders, in total."""

MOST_PROCESSES = 1024
"""Processes and threads of a client at a time (Linux 6.14 or later)."""

_PID_MAX = "/proc/sys/kernel/pid_max"
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWIPC = 0x00020000, 0x20000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_libc = ctypes.CDLL(None, use_errno=True)


class Roles:
    """Forks clients of one server, whose views share what is the same for all of them."""

    def __init__(self) -> None:
        self._view: int | None = None
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def fork(self, become: Callable[[], None]) -> tuple[int, int]:
        """The process ids of the first process of a new PID namespace, and of a child in it that becomes a client.

        The child has to `enter`. Raises OSError.
        """
        if self._view is None:
            self._view = _make_view()
            seccomp.program(os.uname().machine, Kind.CLIENT)  # so that no client has to make it
        try:
            _checked(_libc.unshare(_CLONE_NEWPID), "unshare")
            first = os.fork()
            if first == 0:
                _be_first()
            try:
                pid = os.fork()
            except OSError:
                os.kill(first, signal.SIGKILL)
                os.waitpid(first, 0)
                raise
            if pid == 0:
                become()
            return first, pid
        finally:
            _checked(_libc.setns(self._own, _CLONE_NEWPID), "setns")

    def enter(self, asked: dict[str, Any], trees: Sequence[int]) -> None:
        """In the child: its own namespaces and view, with the trees as `lab.forkserver` describes. Raises OSError.

        Privileges are left as they are, for `privileges.reduce`.
        """
        assert self._view is not None
        _checked(_libc.setns(self._view, _CLONE_NEWNS), "setns")
        _checked(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC), "unshare")
        view.make_private(options=f",size={PRIVATE_BYTES}")
        flags = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC | mounts.READ_ONLY
        for kind, path in (("proc", "/proc"), ("sysfs", "/sys")):
            mounts.mount(kind, path, kind, flags)
        given = zip(asked["trees"], trees, strict=True)
        view.attach([view.Tree(path, folder, tree) for (path, folder), tree in given], asked["links"])
        mounts.make_read_only("/")
        for tree in trees:
            os.close(tree)

    def close(self) -> None:
        """In a child: leave what belongs to the server."""
        for descriptor in (self._view, self._own):
            if descriptor is not None:
                os.close(descriptor)


def _make_view() -> int:
    """A descriptor of a mount namespace whose root is the view that all clients of this server share."""
    made, making = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            error = 0
            try:
                _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
                mounts.mount("none", "/", None, mounts.REC | mounts.PRIVATE)
                view.build("/run", view.plan([]))
                mounts.change_root("/run")
            except OSError as problem:
                error = problem.errno or -1
            os.write(making, struct.pack("i", error))
            signal.pause()  # until it is killed
        finally:
            os._exit(1)
    os.close(making)
    try:
        said = os.read(made, 4)
        error = struct.unpack("i", said)[0] if said else -1
        if error:
            raise OSError(error, f"view of the clients: {os.strerror(error)}")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_first() -> NoReturn:
    """The first process of a PID namespace: it ends with the server, and reaps what is left to it."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        _libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))  # out of reach of ptrace(2) and /proc/1
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        _limit_processes()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
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


def _checked(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
