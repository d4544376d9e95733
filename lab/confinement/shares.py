"""What of the machine a confined program is shown: which files and folders, under which names, to read or to change."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import punchlab.lab
from punchlab.lab.confinement import paths
from punchlab.lab.confinement.paths import HERE, Found, Paths
from punchlab.lab.kernel import programs

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/snap"),
    # Without the sockets of their daemons.
    *("/nix/store", "/nix/var/nix/profiles", "/gnu/store"),
)
"""Where distributions keep programs, libraries and their settings."""

_PRIVATE = ("/tmp", "/run", "/dev", "/proc", "/sys", "/var")  # noqa: S108 - made private in `view`
_HOMES = "/home"
_VERSIONS = (".pyenv", ".rbenv", ".nodenv", ".asdf")
"""Folders of a home with programs in many versions, which those in `shims` start."""
_OF_THE_KERNEL = ("/dev", "/proc", "/sys")
_PROGRAM_FOLDERS = ("bin", "sbin", "shims")

_SOURCES = os.path.dirname(os.path.realpath(punchlab.lab.__path__[0]))
"""In a checkout the folders of the package are links to those of the project; found when this process imports them."""


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """A file or folder of the machine, or `HERE`; with `writable` the program may change it."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """A program that is to run: what it needs is shown to it.

    That is the working directory; the interpreter and the packages of this process; what PATH leads to; the folders of
    the `program` (a name or a path, or none) and of the files whose absolute paths are among the `words` of its
    command; the folder of a `module`, imported as this process does. A folder as wide as a home is none of them: there
    it is the file alone.
    """

    program: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    module: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to show besides the system's folders. Nothing is looked up before it is shown."""

    shares: tuple[Share, ...] = ()
    needs: Needs | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What is attached where: files and folders, parents first, whether each can be changed, and links to them."""

    shares: Sequence[tuple[Found, bool]]
    links: Sequence[tuple[str, str]]


def resolve(plan: Plan, known: Paths) -> Resolved:
    """What has to be attached so that the plan is seen.

    What lies in another share, or in the system's folders, is seen with it. Left out is what does not exist, and what
    only a link leads to that lies in a folder which confined programs may change: the working directory, or one that
    the plan lets the program change.
    """
    _distrust(plan, known)
    found = [(known.find(share.path), share.writable) for share in plan.shares]
    if plan.needs is not None:
        found += [(each, False) for each in _needed(plan.needs, known)]
    return _covering(((each, writable) for each, writable in found if each is not None), _system_folders())


def resolve_system(known: Paths) -> Resolved:
    """The system's folders."""
    found = (known.find(path) for path in SYSTEM)
    return _covering(((each, False) for each in found if each is not None), [])


def is_wide(path: str) -> bool:
    """Whether more than a project or a program can be in the folder: a home, a folder of homes, or what is private."""
    return _is_wide(path, os.environ.get("HOME", _HOMES))


def leads_through_a_link(path: str) -> bool:
    """Whether a path exists and is shown to nobody, because of a link in the working directory."""
    with paths.opened() as known:
        _distrust(Plan(), known)
        return known.find(path) is None and os.path.exists(path)


@functools.cache
def _system_folders() -> Sequence[str]:
    """Their real paths, which no confined program can change."""
    with paths.opened() as known:
        return [found.path for found, _writable in resolve_system(known).shares]


def _distrust(plan: Plan, known: Paths) -> None:
    """Name all folders in which a confined program could have made links."""
    here = known.here()
    # Wide ones are never shown as a working directory.
    if here is not None and not is_wide(here.path):
        known.distrust(here)
    # All of them are resolved before any is distrusted, for one may be in another one.
    for found in [known.find(share.path) for share in plan.shares if share.writable]:
        if found is not None:
            known.distrust(found)


def _covering(found: Iterable[tuple[Found, bool]], there: Sequence[str]) -> Resolved:
    """What covers all that was found, without what is in the folders that are there."""
    kept: list[tuple[Found, bool]] = []
    links: dict[str, str] = {}
    for each, writable in sorted(found, key=lambda one: (one[0].path, not one[1])):
        seen = [*((folder, False) for folder in there), *((one.path, can) for one, can in kept)]
        if not any(_contains(folder, each.path) and can >= writable for folder, can in seen):
            kept.append((each, writable))
        links.update(each.links)
    return Resolved(kept, list(links.items()))


def _needed(needs: Needs, known: Paths) -> list[Found]:
    folders = [HERE, *_of_python(), *_of_path(known), *([] if needs.module is None else _of_module(needs.module))]
    files = [found for found in (programs.find(word) for word in needs.program) if found is not None]
    named = (part for word in needs.words for part in (word, word.partition("=")[2]))  # as in --config=/a/file
    files += [part for part in named if part.startswith("/")]
    for path in (os.path.abspath(each) for each in files):
        folders += _of_file(path, known)
    wanted = ((path, known.find(path)) for path in dict.fromkeys(folders))
    return [found for path, found in wanted if found is not None and _may_be_seen(path, found)]


def _of_file(path: str, known: Paths) -> Iterator[str]:
    """The folder of a file, and the one that a link to it leads to."""
    found = known.find(path)
    if found is None:
        return
    for each in (path, found.path):
        folder = each if found.is_folder else os.path.dirname(each)
        yield each if is_wide(folder) else folder


def _may_be_seen(path: str, found: Found) -> bool:
    """Whether a program may see what it needs there."""
    return not (is_wide(path) or is_wide(found.path) or _is_special(found))


def _is_special(found: Found) -> bool:
    """Whether it is of the kernel or of running programs, or something else than a file or a folder."""
    if any(_contains(each, found.path) for each in (*_OF_THE_KERNEL, "/run", "/var/run")):
        return True
    return not (stat.S_ISREG(found.mode) or found.is_folder)


def _of_python() -> list[str]:
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    package = os.path.dirname(programs.PACKAGE)
    return [*prefixes, package, _SOURCES, *(path for path in sys.path if os.path.isabs(path))]


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


def _of_path(known: Paths) -> Iterator[str]:
    """The folders in PATH, or the ones above them that have their programs' libraries."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.normpath(folder)
        found = known.find(path) if path.startswith("/") else None
        if found is None or not found.is_folder:
            continue
        above, name = os.path.split(path)
        parent = known.find(above) if name in _PROGRAM_FOLDERS else None
        private = parent is None or _is_private(above) or _is_private(parent.path)
        yield path if private else above


def _is_private(folder: str) -> bool:
    """Whether a folder above programs may hold what is not for others, as ~/.local and ~/.cargo do."""
    return is_wide(folder) or (_is_home(os.path.dirname(folder)) and os.path.basename(folder) not in _VERSIONS)


@functools.lru_cache(maxsize=1024)
def _is_wide(path: str, own: str) -> bool:
    return _is_home(path) or any(_contains(path, each) for each in (*_homes(own), *_PRIVATE))


def _is_home(path: str) -> bool:
    return path in _homes(os.environ.get("HOME", _HOMES)) or os.path.dirname(path) in _folders_of_homes()


@functools.cache
def _homes(own: str) -> frozenset[str]:
    """The homes of this machine's users, for root may work in another's, and the folder that they are in.

    Users are root and accounts that are no system's, by the usual ranges of their ids; `own` is HOME.
    """
    people = (entry for entry in pwd.getpwall() if entry.pw_uid == 0 or 1000 <= entry.pw_uid < 65534)
    homes = {own, *_folders_of_homes(), *(entry.pw_dir for entry in people)}
    return frozenset({*homes, *map(os.path.realpath, homes)} - {"", "/"})


@functools.cache
def _folders_of_homes() -> frozenset[str]:
    return frozenset({_HOMES, os.path.realpath(_HOMES)})


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
