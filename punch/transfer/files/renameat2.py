"""renameat2(2): rename to a name that must not exist, and exchange two names, each atomically.

On file systems that do not support it (NFS, some FUSE ones) the functions use several steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable

_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

_renameat2: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def rename_new(source: str, target: str, *, source_fd: int, target_fd: int) -> None:
    """Rename a file or a directory. Raises `OSError`; `FileExistsError` if `target` exists."""
    if _step(source, target, source_fd, target_fd, _NOREPLACE):
        return
    # Create an empty file or directory, which the rename then replaces.
    if stat.S_ISDIR(os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_mode):
        os.mkdir(target, dir_fd=target_fd)
        take_back = os.rmdir
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=target_fd))
        take_back = os.unlink
    try:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            take_back(target, dir_fd=target_fd)
        raise


def exchange(source: str, target: str, *, source_fd: int, target_fd: int) -> bool:
    """Exchange two names; return False if `target` was replaced, and its old content is lost. Raises `OSError`."""
    if _step(source, target, source_fd, target_fd, _EXCHANGE):
        return True
    os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    return False


def _step(source: str, target: str, source_fd: int, target_fd: int, flag: int) -> bool:
    """Call renameat2; return False if it is not supported. Raises `OSError`."""
    if _renameat2 is None:
        return False
    if _renameat2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), target)
