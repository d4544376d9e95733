"""The file system that a confined program sees: programs and libraries of the machine, and what it is given, read-only.

It is made of an allowlist, so that what a machine has in places that nobody thought of is not in it: sockets, other
disks, the homes of users. A share is seen under the path that it has on the machine, with the links on the way to it.
Everything that can be written is private, a tmpfs of its own: /run, /tmp, /dev/shm, and HOME, which is /run/home.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from punchlab.lab.kernel import mounts, programs

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/snap"),
    # Without the sockets of their daemons.
    *("/nix/store", "/nix/var/nix/profiles", "/gnu/store"),
)
"""Where distributions keep programs, libraries and their settings."""

HOME = "/run/home"

_PRIVATE = ("/tmp", "/run", "/dev", "/proc", "/sys", "/var")  # noqa: S108 - made private here
_HOMES = "/home"
_VERSIONS = (".pyenv", ".rbenv", ".nodenv", ".asdf")
"""Folders of a home with programs in many versions, which those in `shims` start."""
_OF_THE_KERNEL = ("/dev", "/proc", "/sys")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_COMMAND_DEVICES = ("tty", "net/tun")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    **{f"/dev/{name}": f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))},
    "/var/run": "/run",
    "/var/lock": "/run/lock",
    "/var/tmp": "/tmp",  # noqa: S108 - as above
}
_OF_THE_USER = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TMPDIR")
_PROGRAM_FOLDERS = ("bin", "sbin", "shims")
_MOST_LINKS = 40  # as many as the kernel follows


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """A file or folder of the machine; with `writable` the program may change it."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is attached where: `shares` by their real paths, parents first, and the symbolic links that lead to them."""

    shares: Sequence[Share]
    links: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tree:
    """A detached tree of mounts for that path, and whether it is a folder."""

    path: str
    folder: bool
    descriptor: int


def plan(shares: Iterable[Share]) -> Plan:
    """What has to be attached, besides the system's folders, so that the shares are seen.

    What lies in another one is seen with it. Paths that do not exist are left out.
    """
    return _plan(shares, _system().shares)


@functools.cache
def _system() -> Plan:
    return _plan([Share(path) for path in SYSTEM], [])


def _plan(shares: Iterable[Share], there: Sequence[Share]) -> Plan:
    kept: list[Share] = []
    links: dict[str, str] = {}
    resolved = ((*_resolve(share.path), share.writable) for share in shares if os.path.lexists(share.path))
    for real, passed, writable in sorted(resolved, key=lambda each: (each[0], not each[2])):
        covered = any(_contains(each.path, real) and each.writable >= writable for each in (*there, *kept))
        if not covered and os.path.exists(real):
            kept.append(Share(real, writable))
        links.update(passed)
    return Plan(kept, list(links.items()))


def needed(program: Sequence[str], words: Sequence[str], module: str | None = None) -> list[Share]:
    """What a program needs that the system's folders do not have.

    The working directory; the interpreter and the packages of this process; what PATH leads to; the folders of the
    `program` (a name or a path, or none) and of the files whose absolute paths are among the `words` of its command;
    the folder of a `module`, imported as this process does. A folder as wide as a home is none of them: there it is the
    file alone.
    """
    paths = (_working_directory(), os.environ.get("PATH", os.defpath), os.environ.get("HOME"))
    return _needed(tuple(program), tuple(words), module, paths, tuple(sys.path))


@functools.lru_cache(maxsize=64)
def _needed(
    program: Sequence[str], words: Sequence[str], module: str | None, paths: tuple[str, str, str | None], _path: object
) -> list[Share]:
    """As `needed`, which gives all that the result depends on, but for the files of the machine."""
    directory, search_path, _home = paths
    folders = [directory, *_of_python(), *_of_path(search_path), *([] if module is None else _of_module(module))]
    files = [found for found in (programs.find(word) for word in program) if found is not None]
    named = [part for word in words for part in (word, word.partition("=")[2])]  # as in --config=/a/file
    files += [part for part in named if part.startswith("/") and os.path.exists(part)]
    for file in (os.path.abspath(each) for each in files):
        real = os.path.realpath(file)
        for each in () if _strays(file, directory) else (file, real):
            folder = each if os.path.isdir(each) else os.path.dirname(each)
            folders.append(each if _is_wide(folder) else folder)
    return [Share(folder) for folder in dict.fromkeys(folders) if _may_be_seen(folder, directory)]


def _may_be_seen(path: str, directory: str) -> bool:
    """Whether a program may see what it needs there."""
    real = os.path.realpath(path)
    return not (_strays(path, directory) or _is_wide(path) or _is_wide(real) or _is_special(real))


def _strays(path: str, directory: str) -> bool:
    """Whether a path in the working directory leads out of it, by a link.

    A program that could change the directory may have made it, so that the next one sees what it leads to.
    """
    return _contains(directory, path) and not _contains(os.path.realpath(directory), os.path.realpath(path))


def _is_special(real: str) -> bool:
    """Whether the path is of the kernel or of running programs, or of something else than a file or a folder."""
    if any(_contains(each, real) for each in (*_OF_THE_KERNEL, "/run", "/var/run")):
        return True
    try:
        mode = os.stat(real).st_mode
    except OSError:
        return True
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def opened(planned: Plan) -> Iterator[list[Tree]]:
    """The trees of a plan, to be attached once; they are closed at the end of the block. Raises OSError."""
    with contextlib.ExitStack() as stack:
        trees = []
        for share in planned.shares:
            descriptor = stack.enter_context(mounts.cloned(share.path))
            mounts.restrict(descriptor, read_only=not share.writable)
            trees.append(Tree(share.path, stat.S_ISDIR(os.fstat(descriptor).st_mode), descriptor))
        yield trees


def attach(trees: Iterable[Tree], links: Iterable[tuple[str, str]], root: str = "") -> None:
    """Attach trees, parents first, below a root that can be written, and make the links to them. Raises OSError."""
    for path, target in links:
        # It is there already if a tree contains it.
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(target, root + path)
    for tree in trees:
        _make_mount_point(root + tree.path, folder=tree.folder)
        mounts.attach(tree.descriptor, root + tree.path)


def build(root: str, planned: Plan, *, command: bool = False) -> None:
    """Make the file system over the folder `root` of this mount namespace. Raises OSError.

    It has the system's folders, what is planned, this namespace's /proc and /sys, and devices that hold nothing. What
    is private is missing (see `make_private`) but for a `command`, which also gets a terminal and TUN devices.
    """
    system = _system()
    with contextlib.ExitStack() as stack:
        # Before anything is mounted: a mount may hide what belongs into the view.
        trees = [*stack.enter_context(opened(system)), *stack.enter_context(opened(planned))]
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


def _make_mount_point(path: str, *, folder: bool) -> None:
    if folder:
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))


def _resolve(path: str) -> tuple[str, dict[str, str]]:
    """The real path, and the symbolic links (path -> target) on the way."""
    links: dict[str, str] = {}
    current, left = "/", [*PurePosixPath(path).parts[1:]]
    while left:
        part = left.pop(0)
        if part == "..":
            current = os.path.dirname(current)
            continue
        step = os.path.join(current, part)
        if not os.path.islink(step) or len(links) > _MOST_LINKS:
            current = step
            continue
        target = os.readlink(step)
        links[step] = target
        if target.startswith("/"):
            current = "/"
        left = [part for part in target.split("/") if part not in ("", ".")] + left
    return current, links


def _of_python() -> list[str]:
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    package = str(programs.PACKAGE)
    # In a checkout the folders of the package are links to those of the project.
    real = os.path.dirname(os.path.realpath(os.path.join(package, "lab")))
    return [*prefixes, os.path.dirname(package), real, *(path for path in sys.path if os.path.isabs(path))]


def _of_module(name: str) -> list[str]:
    """The folders that a top-level module of this process is imported from; none for one that cannot be found."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        return []
    packages = [os.path.dirname(folder) for folder in found.submodule_search_locations or ()]
    return packages or ([os.path.dirname(found.origin)] if found.origin is not None and found.has_location else [])


def _of_path(search_path: str) -> list[str]:
    found = []
    for folder in search_path.split(os.pathsep):
        path = PurePosixPath(folder)
        if path.is_absolute() and os.path.isdir(folder):
            parent = str(path.parent)
            whole = (
                path.name in _PROGRAM_FOLDERS and not _is_private(parent) and not _is_private(os.path.realpath(parent))
            )
            found.append(parent if whole else folder)
    return found


def _is_private(folder: str) -> bool:
    """Whether a folder above programs may hold what is not for others, as ~/.local and ~/.cargo do."""
    return _is_wide(folder) or (_is_home(os.path.dirname(folder)) and os.path.basename(folder) not in _VERSIONS)


def _is_wide(path: str) -> bool:
    """Whether more than a project or a program can be in the folder: a home, a folder of homes, or what is private."""
    return _is_home(path) or any(_contains(path, each) for each in (*_homes(), *_PRIVATE))


def _is_home(path: str) -> bool:
    return path in _homes() or os.path.dirname(path) == _HOMES


def _homes() -> set[str]:
    """The homes of this machine's users, for root may work in another's, and the folder that they are in."""
    return {os.environ.get("HOME", _HOMES), _HOMES, *_of_people()} - {"", "/"}


@functools.cache
def _of_people() -> frozenset[str]:
    """The homes of root and of accounts that are no system's, by the usual ranges of their ids."""
    people = (entry for entry in pwd.getpwall() if entry.pw_uid == 0 or 1000 <= entry.pw_uid < 65534)
    return frozenset(entry.pw_dir for entry in people)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return "/"
