"""Ways down from a directory that no link leads astray: one part of a name at a time, from its parent's descriptor.

Whoever else may write to a directory can put a link where a name was a moment ago. The kernel is told at each step not
to follow one, so that what is opened lies below the directory that the way began at.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str, directory_fd: int) -> int:
    """A descriptor of the directory of that name, which may not be a link. Raises `OSError`."""
    return os.open(name, _STEP, dir_fd=directory_fd)


@contextlib.contextmanager
def descended(directory_fd: int, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of what is that far below. Raises `OSError`."""
    fd = os.dup(directory_fd)
    try:
        for part in parts:
            below = open_directory(part, fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
