"""Paths of the machine, resolved to descriptors: what is checked there is what is mounted.

A confined program may replace any name in a folder that it can change, at any moment, by a symbolic link. So no link in
such a folder is followed, and no path is resolved twice.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

HERE = "."
"""The working directory, which is opened as the process has it: its path may lead elsewhere by now."""

_MOST_LINKS = 40  # as many as the kernel follows
_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """A file, a folder or a symbolic link."""

    path: str
    """Without links."""
    descriptor: int
    """Of `O_PATH`; it belongs to the `Paths` that found it."""
    mode: int
    identity: tuple[int, int]
    """Device and inode."""
    links: tuple[tuple[str, str], ...] = ()
    """The symbolic links on the way: path and target."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


class Paths:
    """Resolves paths of this mount namespace. Each name is looked up once, and its descriptor is kept until the end."""

    def __init__(self) -> None:
        self._changeable: set[tuple[int, int]] = set()
        self._known: dict[str, Found | None] = {"/": _opened("/", "/")}

    def close(self) -> None:
        """Close all descriptors."""
        for found in self._known.values():
            if found is not None:
                os.close(found.descriptor)
        self._known.clear()

    def distrust(self, folder: Found) -> None:
        """From now on follow no link in the folder, or in a folder below it."""
        self._changeable.add(folder.identity)

    def here(self) -> Found | None:
        """The working directory; None if it was removed, or is outside of this root."""
        if HERE not in self._known:
            found = _opened(HERE, HERE)
            try:
                path = os.getcwd()
            except FileNotFoundError:
                path = ""
            if found is not None and not path.startswith("/"):
                os.close(found.descriptor)
                found = None
            self._known[HERE] = None if found is None else Found(path, found.descriptor, found.mode, found.identity)
        return self._known[HERE]

    def find(self, path: str) -> Found | None:
        """What is at an absolute path, or `HERE`.

        None if there is nothing, or if a link would have to be followed in a folder that is not trusted.
        """
        if path == HERE:
            return self.here()
        links: dict[str, str] = {}
        current, left = "/", _parts(path)
        distrusted = False
        while left:
            part = left.pop()
            if part == "..":
                current = os.path.dirname(current)
                continue
            folder = self._known[current]
            if folder is None:
                return None
            distrusted = distrusted or folder.identity in self._changeable
            step = f"{current}/{part}" if current != "/" else f"/{part}"
            if step not in self._known:
                self._known[step] = _opened(part, step, folder.descriptor)
            found = self._known[step]
            if found is None:
                return None
            if not stat.S_ISLNK(found.mode):
                current = step
                continue
            if distrusted or len(links) == _MOST_LINKS:
                return None
            target = os.readlink("", dir_fd=found.descriptor)
            links[step] = target
            if target.startswith("/"):
                current = "/"
            left += _parts(target)
        found = self._known[current]
        if found is None or not links:
            return found
        return Found(found.path, found.descriptor, found.mode, found.identity, tuple(links.items()))


@contextlib.contextmanager
def opened() -> Iterator[Paths]:
    """`Paths` that are closed at the end of the block."""
    paths = Paths()
    try:
        yield paths
    finally:
        paths.close()


def place(root: int, path: str, *, folder: bool) -> int:
    """A descriptor of that path below the folder `root`, which is made, with the folders on the way, if it is missing.

    The only links that are followed are those of the file system that `root` is on: others are in what was attached,
    and may have been made by anyone. The caller closes the descriptor. Raises OSError.
    """
    device = os.fstat(root).st_dev
    trail = [os.dup(root)]  # the folders from the root to the current one
    left, links = _parts(path), 0
    try:
        while left:
            part = left.pop()
            if part == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            made = _made(part, trail[-1], folder=folder or bool(left))
            status = os.fstat(made)
            if not stat.S_ISLNK(status.st_mode):
                trail.append(made)
                continue
            try:
                links += 1
                if status.st_dev != device or links > _MOST_LINKS:
                    raise NotADirectoryError(f"{path}: {part} is a symbolic link")
                target = os.readlink("", dir_fd=made)
            finally:
                os.close(made)
            while target.startswith("/") and len(trail) > 1:
                os.close(trail.pop())
            left += _parts(target)
        return trail.pop()
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _made(name: str, parent: int, *, folder: bool) -> int:
    """A descriptor of a name in a folder, and of a new folder or file if there was none."""
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            if folder:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent))
        return os.open(name, _FLAGS, dir_fd=parent)


def _opened(name: str, path: str, parent: int | None = None) -> Found | None:
    """What has that name in the folder; None if there is nothing, or it cannot be reached."""
    try:
        try:
            # Most are folders, and file systems that are mounted on demand are mounted only for such a lookup.
            descriptor = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=parent)
        except NotADirectoryError:
            descriptor = os.open(name, _FLAGS, dir_fd=parent)
        status = os.fstat(descriptor)
    except OSError:
        return None
    return Found(path, descriptor, status.st_mode, (status.st_dev, status.st_ino))


def _parts(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
