"""Descriptors that a confined program inherits from its caller: it can use them and not the files behind them.

By /proc/self/fd/N and by calls such as fchmod(2) a descriptor gives access to its file: a program can change the mode
of a file that it was given to read, and open it again for writing. So files are opened again on read-only mounts:

- regular files that are open for reading only, unless they have no name any more,
- named pipes, terminals, and devices without contents such as /dev/null.

Other pipes, sockets and anonymous files have no name in the file system, and remain. So do regular files that are open
for writing: they belong to the program. Folders and paths (`O_PATH`), through which a program would reach all other
files, and other devices are closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from punchlab.lab.errors import LabError
from punchlab.lab.kernel import mounts

_WITHOUT_CONTENTS = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))
"""null, zero, full, random, urandom."""
_NEW_TERMINAL = os.makedev(5, 2)
"""ptmx, of which each open(2) makes another terminal."""
_TERMINAL_MAJORS = range(136, 144)
_TIOCGDEV = 0x80045432
_KEPT_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_NOATIME | os.O_SYNC


class Originals:
    """What the caller's descriptors were, for the process that waits for the program."""

    def __init__(self) -> None:
        self._namespace: int | None = None
        """The mount namespace of the new descriptors: files keep their paths while it exists."""
        self._files: list[tuple[int, int, int]] = []
        """The original, the new one, and their position."""

    def descriptors(self) -> list[int]:
        """All that this object needs."""
        own = [] if self._namespace is None else [self._namespace]
        return own + [each for original, new, _position in self._files for each in (original, new)]

    def close(self) -> None:
        """In the program: leave what belongs to the process that waits."""
        for descriptor in self.descriptors():
            os.close(descriptor)

    def update(self) -> None:
        """Set the positions of the caller's files to where the program has read to, unless others have moved them."""
        for original, new, position in self._files:
            with contextlib.suppress(OSError):  # a file of the kernel without positions
                if os.lseek(original, 0, os.SEEK_CUR) == position:
                    os.lseek(original, os.lseek(new, 0, os.SEEK_CUR), os.SEEK_SET)

    def protect(self) -> None:
        """Replace the descriptors of this process, which may mount. Raises OSError, and `LabError` for a stream.

        The program must `close` this object, and the process that waits must `update` when the program has ended.
        """
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        own = (namespace, directory)
        mounts.enter_read_only_copy()
        try:
            self._namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers
                if number in (*own, *self.descriptors()):
                    continue
                try:
                    name = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - text
                except FileNotFoundError:  # the descriptor of the list itself
                    continue
                self._replace(number, name)
        finally:
            mounts.enter(*own)
            for descriptor in own:
                os.close(descriptor)

    def _replace(self, number: int, name: str) -> None:
        status = os.fstat(number)
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        if stat.S_ISDIR(status.st_mode) or flags & os.O_PATH or _is_hung_up(number, status):
            _close(number)
        elif not _is_harmless(number, name, status, flags):
            try:
                new = _opened_again(number, name, status, flags)
            except OSError as error:
                if number > 2:
                    os.close(number)
                    return
                raise LabError(
                    f"standard stream {number}: {name} cannot be used ({error.strerror}); expected a pipe, a terminal, "
                    "a file with this name, or /dev/null"
                ) from error
            if stat.S_ISREG(status.st_mode):
                self._remember(os.dup(number), os.dup(new))
            os.dup2(new, number, os.get_inheritable(number))
            os.close(new)

    def _remember(self, original: int, new: int) -> None:
        position = 0
        with contextlib.suppress(OSError):  # a file of the kernel without positions
            position = os.lseek(new, os.lseek(original, 0, os.SEEK_CUR), os.SEEK_SET)
        self._files.append((original, new, position))


def _close(number: int) -> None:
    """Close a descriptor; a standard stream becomes /dev/null."""
    os.close(number)
    if number < 3:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, number)
        if null != number:
            os.close(null)


def _is_hung_up(number: int, status: os.stat_result) -> bool:
    """Whether it is a pseudoterminal that is gone."""
    is_one = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _TERMINAL_MAJORS
    return is_one and not os.isatty(number)


def _is_harmless(number: int, name: str, status: os.stat_result, flags: int) -> bool:
    """Whether a program with this descriptor can change only what its caller gave it to change."""
    mode = status.st_mode
    if not name.startswith("/") or stat.S_ISSOCK(mode):
        return True
    if stat.S_ISREG(mode) and (status.st_nlink == 0 or flags & os.O_ACCMODE != os.O_RDONLY):
        return True
    if stat.S_ISREG(mode) and os.fstatvfs(number).f_flag & os.ST_RDONLY:
        return True
    # The file of another user, over which this user namespace has no power.
    writable = stat.S_ISREG(mode) and os.access(f"/proc/self/fd/{number}", os.W_OK)
    return not stat.S_ISBLK(mode) and not writable and not _is_mapped(status.st_uid)


def _is_mapped(user: int) -> bool:
    lines = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first <= user < first + count for first, _outer, count in lines)


def _opened_again(number: int, name: str, status: os.stat_result, flags: int) -> int:
    """A new descriptor of the file in this mount namespace. Raises OSError."""
    same = flags & _KEPT_FLAGS | os.O_CLOEXEC | os.O_NOCTTY
    terminal = os.isatty(number) and status.st_rdev != _NEW_TERMINAL
    pipe = stat.S_ISFIFO(status.st_mode)
    if not (stat.S_ISREG(status.st_mode) or pipe or terminal or status.st_rdev in _WITHOUT_CONTENTS):
        raise PermissionError(0, "a device")
    try:
        with _found(name, status) as path:
            # Else open(2) of a named pipe would wait for its other end.
            new = os.open(path, same | (os.O_NONBLOCK if pipe else 0))
    except OSError:
        if not terminal:
            raise
        # A terminal from outside of a container.
        new = os.open("/dev/tty", same)
        if _device(new) != _device(number):
            os.close(new)
            raise
    fcntl.fcntl(new, fcntl.F_SETFL, flags)
    return new


@contextlib.contextmanager
def _found(name: str, status: os.stat_result) -> Iterator[str]:
    """A path of the file with that name and status. Raises OSError if another file has the name."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        same = (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)
        if not same and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == status.st_rdev in _WITHOUT_CONTENTS):
            raise FileNotFoundError(0, "another file has this name")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _device(terminal: int) -> int:
    """The device number of a terminal, also of /dev/tty. Raises OSError."""
    number: int = struct.unpack("I", fcntl.ioctl(terminal, _TIOCGDEV, bytes(4)))[0]
    return number
