"""Open files below a directory without following links, one path component at a time.

Another user who may write to a directory can replace a component by a link at any moment. O_NOFOLLOW at each step makes
sure that the opened file is below the directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str, directory_fd: int) -> int:
    """Return a descriptor of the directory, which must not be a link. Raises `OSError`."""
    return os.open(name, _STEP, dir_fd=directory_fd)


@contextlib.contextmanager
def opened_below(directory_fd: int, parts: Sequence[str]) -> Iterator[int]:
    """Yield a descriptor of the directory at that path. Raises `OSError`."""
    fd = os.dup(directory_fd)
    try:
        for part in parts:
            below = open_directory(part, fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
