"""Namespaces of a confined client: mount, PID and IPC namespaces of its own, in the network namespace of its node.

It sees what `view` makes, and does what `privileges` leaves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any

from punchlab.lab.confinement import seccomp, view
from punchlab.lab.confinement.pidspace import PidSpaces
from punchlab.lab.confinement.seccomp import Kind
from punchlab.lab.confinement.shares import Plan
from punchlab.lab.kernel import mounts

PRIVATE_BYTES = 256 << 20
"""What a client may have in its private folders, in total."""

_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_libc = ctypes.CDLL(None, use_errno=True)


class Roles:
    """Forks clients of one server, whose views share what is the same for all of them."""

    def __init__(self, spaces: PidSpaces) -> None:
        self._view: int | None = None
        self._spaces = spaces

    def fork(self, become: Callable[[], None]) -> tuple[int, int]:
        """Fork a child that becomes a client, in a new PID namespace.

        Returns a pidfd of the first process of the namespace, and the child's process id. The child has to `enter`.
        Raises OSError.
        """
        if self._view is None:
            self._view = _make_view()
            seccomp.program(os.uname().machine, Kind.CLIENT)  # so that no client has to make it
        space = self._spaces.make()
        try:
            with self._spaces.children_in(space):
                pid = os.fork()
                if pid == 0:
                    for descriptor in space:
                        os.close(descriptor)
                    become()
        except OSError:
            signal.pidfd_send_signal(space.first, signal.SIGKILL)
            os.close(space.first)
            raise
        finally:
            os.close(space.namespace)
        return space.first, pid

    def enter(self, asked: dict[str, Any], trees: Sequence[int]) -> None:
        """In the child: its own namespaces and view, with the trees as `lab.process.forkserver` describes. Raises
        OSError.

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
        self._spaces.close()
        if self._view is not None:
            os.close(self._view)


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
                view.build("/run", Plan())
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


def _checked(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
