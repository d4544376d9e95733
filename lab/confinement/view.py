"""The file system that a confined program sees: programs and libraries of the machine, and what it is given, read-only.

It is made of an allowlist, so that what a machine has in places that nobody thought of is not in it: sockets, other
disks, the homes of users. A share is seen under the path that it has on the machine, with the links on the way to it.
Everything that can be written is private, a tmpfs of its own: /run, /tmp, /dev/shm, and HOME, which is /run/home.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from punchlab.lab.confinement import paths, shares
from punchlab.lab.confinement.paths import Paths
from punchlab.lab.confinement.shares import Plan, Resolved
from punchlab.lab.kernel import mounts

HOME = "/run/home"

_DEVICES = ("null", "zero", "full", "random", "urandom")
_COMMAND_DEVICES = ("tty", "net/tun")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    **{f"/dev/{name}": f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))},
    "/var/run": "/run",
    "/var/lock": "/run/lock",
    "/var/tmp": "/tmp",  # noqa: S108 - made private here
}
_OF_THE_USER = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Tree:
    """A detached tree of mounts for that path, and whether it is a folder."""

    path: str
    folder: bool
    descriptor: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A plan that can be attached once, in any mount namespace: trees, parents first, and links to them."""

    trees: Sequence[Tree]
    links: Sequence[tuple[str, str]]


@contextlib.contextmanager
def opened(plan: Plan) -> Iterator[Opened]:
    """What a plan shows in this mount namespace; the trees are closed at the end of the block. Raises OSError."""
    with _opened(lambda known: shares.resolve(plan, known)) as found:
        yield found


@contextlib.contextmanager
def _opened(resolve: Callable[[Paths], Resolved]) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:
        trees = []
        with paths.opened() as known:
            resolved = resolve(known)
            for found, writable in resolved.shares:
                descriptor = stack.enter_context(mounts.cloned(found.descriptor))
                mounts.restrict(descriptor, read_only=not writable)
                trees.append(Tree(found.path, found.is_folder, descriptor))
        yield Opened(trees, resolved.links)


def attach(trees: Iterable[Tree], links: Iterable[tuple[str, str]], root: str = "/") -> None:
    """Attach trees, parents first, below a root that can be written, and make the links to them. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, target in links:
            folder, name = os.path.split(path)
            with _place(top, folder) as parent, contextlib.suppress(FileExistsError):  # a tree contains it
                os.symlink(target, name, dir_fd=parent)
        for tree in trees:
            with _place(top, tree.path, folder=tree.folder) as point:
                mounts.attach(tree.descriptor, point)
    finally:
        os.close(top)


def make_folder(root: str, path: str) -> None:
    """Make a folder of a view that can be written, with those on the way, where it is missing. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(paths.place(top, path, folder=True))
    finally:
        os.close(top)


@contextlib.contextmanager
def _place(root: int, path: str, *, folder: bool = True) -> Iterator[int]:
    descriptor = paths.place(root, path, folder=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def build(root: str, plan: Plan, *, command: bool = False) -> None:
    """Make the file system over the folder `root` of this mount namespace. Raises OSError.

    It has the system's folders, what is planned, this namespace's /proc and /sys, and devices that hold nothing. What
    is private is missing (see `make_private`) but for a `command`, which also gets a terminal and TUN devices.
    """
    with contextlib.ExitStack() as stack:
        # Before anything is mounted: a mount may hide what belongs into the view.
        system = stack.enter_context(_opened(shares.resolve_system))
        planned = stack.enter_context(opened(plan))
        trees = [*system.trees, *planned.trees]
        devices = {f"/dev/{name}": f"/dev/{name}" for name in (*_DEVICES, *(_COMMAND_DEVICES if command else ()))}
        terminal = _terminal() if command else None
        if terminal is not None:
            devices["/dev/console"] = terminal  # where C libraries look for the name of a terminal, too
        for path, device in devices.items():
            if os.path.exists(device):
                tree = stack.enter_context(mounts.cloned(device))
                mounts.protect(tree)  # root could change its mode, which is the machine's
                trees.append(Tree(path, False, tree))
        trees += [Tree(path, True, stack.enter_context(mounts.cloned(path))) for path in ("/proc", "/sys")]
        mounts.mount("tmpfs", root, "tmpfs", mounts.NOSUID, "mode=755,size=4m")
        for folder in ("/tmp", "/run", "/dev/shm", "/var", "/proc", "/sys"):  # noqa: S108 - mount points
            os.makedirs(root + folder)
        if command:
            make_private(root)
            _make_terminals(root)
        attach(sorted(trees, key=lambda tree: tree.path), [*system.links, *planned.links], root)
        # Last, for a link to /tmp leads to that of the machine before this is the root.
        for path, target in _LINKS.items():
            with contextlib.suppress(FileExistsError):
                os.symlink(target, root + path)


def make_private(root: str = "", options: str = "") -> None:
    """Mount one tmpfs, with those further options, where programs write. Raises OSError."""
    mounts.mount("tmpfs", f"{root}/run", "tmpfs", mounts.NOSUID | mounts.NODEV, f"mode=755{options}")
    for name, mode in (("tmp", 0o1777), ("shm", 0o1777), ("home", 0o700), ("lock", 0o755)):
        os.mkdir(f"{root}/run/{name}")
        os.chmod(f"{root}/run/{name}", mode)
    for name, target in (("tmp", "/tmp"), ("shm", "/dev/shm")):  # noqa: S108 - made private here
        mounts.mount(f"{root}/run/{name}", root + target, None, mounts.BIND)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that sees it: its HOME, and nothing that names folders of the user's."""
    return {name: value for name, value in given.items() if name not in _OF_THE_USER} | {"HOME": HOME}


def _terminal() -> str | None:
    """The terminal that this process's standard streams belong to."""
    for descriptor in range(3):
        with contextlib.suppress(OSError):  # it is none
            return os.ttyname(descriptor)
    return None


def _make_terminals(root: str) -> None:
    """Pseudoterminals of its own (devpts)."""
    os.mkdir(f"{root}/dev/pts")
    mounts.mount("devpts", f"{root}/dev/pts", "devpts", mounts.NOSUID | mounts.NOEXEC, "newinstance,ptmxmode=0666")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
