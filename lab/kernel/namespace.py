"""Network namespaces as file descriptors: nothing to name, nothing to clean up.

A namespace lives as long as a descriptor of it is open or a process is in it. Making one costs 0.3 ms in this process;
`ip netns add` forks and costs tens of times as much.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
MANY = 256
SELECT_DESCRIPTORS = 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace, held by its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace for the length of the block; sockets and children made there stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(self.fd)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(before)

    def close(self) -> None:
        """Let go of the namespace; the kernel frees it with its links and rules once no process is in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def create(count: int) -> Sequence[Namespace]:
    """`count` new network namespaces. The calling thread stays where it is.

    Descriptors of many namespaces have high numbers: the low ones are for what uses select(2), which knows no others.
    """
    lowest = SELECT_DESCRIPTORS if count >= MANY else 3
    made: list[Namespace] = []
    failure: list[OSError] = []

    def work() -> None:
        # In a thread of its own: unshare moves only the calling thread, which ends afterwards.
        try:
            for _ in range(count):
                if _libc.unshare(_CLONE_NEWNET) != 0:
                    raise _last_error("unshare")
                made.append(Namespace(_opened(lowest)))
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="namespaces")
    thread.start()
    thread.join()
    if failure:
        for namespace in made:
            namespace.close()
        raise failure[0]
    return made


def _opened(lowest: int) -> int:
    """A descriptor of this thread's namespace, not below that number."""
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if descriptor >= lowest:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    finally:
        os.close(descriptor)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise _last_error("setns")


def _last_error(call: str) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"{call}: {os.strerror(error)}")
