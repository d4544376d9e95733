"""Mounts: mount(2), and the calls for detached mounts: open_tree(2), move_mount(2), mount_setattr(2) (Linux 5.12)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE, READ_ONLY = 2, 4, 8, 4096, 16384, 1 << 18, 1
"""Flags of `mount`."""

_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on all architectures but alpha
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MNT_DETACH = 2
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2). Raises OSError that names the target."""
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def unmount(target: str) -> None:
    """Detach the last mount at the target, with everything below. Raises OSError that names the target."""
    _checked(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def clone(place: str | int) -> int:
    """A descriptor of a detached copy of the tree at a path or a descriptor, with the mounts in it. Raises OSError."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | _AT_EMPTY_PATH
    descriptor = _libc.syscall(_OPEN_TREE, *_at(place), ctypes.c_uint(flags))
    return _checked(descriptor, f"open_tree {place}")


@contextlib.contextmanager
def cloned(place: str | int) -> Iterator[int]:
    """As `clone`; the descriptor is closed at the end of the block."""
    descriptor = clone(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach(tree: int, place: str | int) -> None:
    """Attach a detached tree at a path or a descriptor. Raises OSError that names it."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    _checked(_libc.syscall(_MOVE_MOUNT, tree, b"", *_at(place), flags), f"move_mount {place}")


def restrict(tree: int, *, read_only: bool) -> None:
    """Let a detached tree, with the mounts in it, give no privileges and devices, and be read-only if asked for."""
    attributes = _ATTR_NOSUID | _ATTR_NODEV | (_ATTR_RDONLY if read_only else 0)
    _set_attributes(tree, "", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes)


def protect(tree: int) -> None:
    """Make the mode and the owner of a detached device immutable; the device itself stays writable."""
    _set_attributes(tree, "", _AT_EMPTY_PATH, _ATTR_RDONLY)


def make_read_only(path: str) -> None:
    """Make the mount at the path read-only, but not those below it. Raises OSError that names the path."""
    _set_attributes(_AT_FDCWD, path, 0, _ATTR_RDONLY)


def change_root(path: str) -> None:
    """Make the mount at the path the root of this mount namespace, and detach the former root. Raises OSError."""
    os.chdir(path)
    # pivot_root(2): with both paths the same, the former root is on top of the new one.
    _checked(_libc.pivot_root(b".", b"."), f"pivot_root {path}")
    _checked(_libc.umount2(b".", _MNT_DETACH), "unmount of the former root")
    os.chdir("/")


def enter_read_only_copy() -> None:
    """Move this thread into a new mount namespace: a copy of its own, in which all mounts are read-only.

    The thread then has a working directory separate from that of other threads. Raises OSError.
    """
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    mount("none", "/", None, REC | PRIVATE)
    _set_attributes(_AT_FDCWD, "/", _AT_RECURSIVE, _ATTR_RDONLY)


def enter(namespace: int, directory: int) -> None:
    """Move this process into the mount namespace and the directory of those descriptors. Raises OSError."""
    _checked(_libc.setns(namespace, _CLONE_NEWNS), "setns")
    os.fchdir(directory)


def _set_attributes(folder: int, path: str, flags: int, attributes: int) -> None:
    arguments = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    done = _libc.syscall(_MOUNT_SETATTR, folder, os.fsencode(path), ctypes.c_uint(flags), arguments, size)
    _checked(done, f"mount_setattr {path}".rstrip())


def _at(place: str | int) -> tuple[int, bytes]:
    """Folder descriptor and path, for a call that takes an empty path."""
    return (place, b"") if isinstance(place, int) else (_AT_FDCWD, os.fsencode(place))


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result
