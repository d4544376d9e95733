"""Detects changes of a file between its offer and the end of reading it.

Each write updates the timestamps of a file, and no user can set back its ctime, the time of the last inode change.
Equal states before the first and after the last read therefore prove that nobody wrote in between, with two exceptions:

- The timestamps have a limited resolution (2 s on FAT), so a second write within it leaves no trace.
- A write through a shared memory mapping updates the timestamps only if the page is clean. A process that has dirtied
  the page before has the file open for writing.

In both cases the file must be read a second time after it was sent.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from typing import NamedTuple, Self

_TICK_NS = 2_000_000_000


class State(NamedTuple):
    """Data that identify a file and its content; times in ns since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int

    @classmethod
    def of(cls, fd: int) -> Self:
        """Return the present state. Raises `OSError`."""
        found = os.fstat(fd)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)

    def unchanged_until(self, later: State) -> bool:
        """Return whether the file was not written before `later`; adding or removing a link is not a write."""
        return self[:4] == later[:4] and (self.ctime_ns == later.ctime_ns or self.links != later.links)

    def is_recent(self) -> bool:
        """Return whether a further write could still have the same timestamp."""
        return time.time_ns() - self.ctime_ns < _TICK_NS


def is_open_for_writing(fd: int) -> bool:
    """Return whether a process has the file open for writing, or whether that is unknown.

    The kernel grants a read lease only if no process has (fcntl(2), F_SETLEASE). The lease is released at once. A
    process that opens the file meanwhile waits; the kernel notifies us by SIGURG, which is ignored, instead of SIGIO.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
