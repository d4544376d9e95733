"""Whether a file on its way out is still what it was when it was offered.

Each write sets the times of a file, and nobody can set its ctime, the time of the last change of the inode, back. So
equal states before the first byte was read and after the last one prove that nobody wrote in between, but for two gaps:

- The clock of the times has ticks (2 s on FAT): a second write in the same tick leaves no trace.
- A store through a shared mapping sets the times only if its page is clean. The process that has made the page dirty
  before has the file open for writing.

Where one of them is open, the file must be read a second time, after it was sent.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from typing import NamedTuple, Self

_TICK_NS = 2_000_000_000


class State(NamedTuple):
    """What tells a file from any other, and from itself with another content; times in ns since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int

    @classmethod
    def of(cls, fd: int) -> Self:
        """The state now. Raises `OSError`."""
        found = os.fstat(fd)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)

    def became(self, later: State) -> bool:
        """Whether nobody wrote to the file up to `later`; it may have got or lost a name, which sets its ctime."""
        return self[:4] == later[:4] and (self.ctime_ns == later.ctime_ns or self.links != later.links)

    def is_recent(self) -> bool:
        """Whether a write in the tick of the last change could follow."""
        return time.time_ns() - self.ctime_ns < _TICK_NS


def is_open_for_writing(fd: int) -> bool:
    """Whether some process has the file of that read-only descriptor open for writing, or this cannot be found out.

    The kernel grants a read lease only if none has (fcntl(2), F_SETLEASE). It is given back at once; a process that
    opens the file meanwhile waits, and the signal about it is one that is ignored, not SIGIO, which would end us.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
