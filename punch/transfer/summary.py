"""An offer in so few lines that a person reads them all, and that no hidden file gets lost among others.

Every file that programs run or trust without asking is listed by itself, before everything else. Then come the other
hidden files and directories, then the rest by what is at the top. Each of the three lists is bounded, and says how many
more there are.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from punchlab.punch.fields import Json
from punchlab.punch.transfer.offer import DirectoryInfo, FileInfo, Offered, count_directories, total_size

LISTED = 20
"""Lines of each list at most."""

_SENSITIVE = (
    *("*/.ssh/*", "*/.gnupg/*", "*/.pki/*", "*/.aws/*", "*/.kube/*", "*/.docker/*", "*/.netrc", "*/.pgpass"),
    *("*/.bash*", "*/.profile", "*/.zsh*", "*/.zprofile", "*/.zlog*", "*/.ksh*", "*/.csh*", "*/.tcsh*", "*/.login"),
    *("*/.logout", "*/.inputrc", "*/.config/fish/*", "*/.envrc", "*/.pam_environment", "*/.config/environment.d/*"),
    *("*/.xinitrc", "*/.xsession*", "*/.xprofile", "*/.xserverrc", "*/.config/autostart/*", "*.desktop", "*/.forward"),
    *("*/.config/systemd/*", "*/.local/share/*", "*/.local/bin/*", "*/.local/lib/*", "*/library/launchagents/*"),
    *("*/.git/config", "*/.git/hooks/*", "*/.gitconfig", "*/.config/git/*", "*/.github/workflows/*", "*/.hg/hgrc"),
    *("*/.hgrc", "*/.vim*", "*/.exrc", "*/.nvim*", "*/.config/nvim/*", "*/.emacs*", "*/.config/emacs/*", "*/.nanorc"),
    *("*/.gdbinit", "*/.lldbinit", "*/.python*", "*/.npmrc", "*/.yarnrc*", "*/.pypirc", "*/.condarc", "*/.cargo/*"),
    *("*/.tmux*", "*/.screenrc", "*/.curlrc", "*/.wgetrc", "*/.vscode/*", "*/.idea/*", "*/.mozilla/*", "*/.direnv*"),
    *("*/.rhosts", "*/.shosts", "*/.k5login", "*/.procmailrc", "*/.mailcap", "*/.config/*rc", "*/.config/*/config*"),
)
"""Names, in lower case and after a slash, of files that programs run or trust because of where they are."""


@functools.cache
def _sensitive() -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(each) for each in _SENSITIVE))  # takes 50 ms: most offers need it not


class _Line(NamedTuple):
    """A file, or a directory with a slash at its end; what is below it is counted."""

    name: str
    size: int | None
    files: int
    marks: tuple[str, ...]

    def to_json(self) -> Json:
        return {"name": self.name, "size": self.size, "files": self.files, "marks": list(self.marks)}


def summarize(offered: Sequence[Offered]) -> Json:
    """The summary as the fields of an event.

    `files`, `directories`, `bytes` (None if unknown), `hidden`, `sensitive` and `executable` count all that is offered.
    `entries` are the lines: `name`, `size` (bytes or None), `files` and `marks`. `unlisted` says how many of each list
    are not among them.
    """
    sensitive = [info for info in offered if _is_sensitive(info.name)]
    hidden = [info for info in offered if _is_hidden(info.name)]
    named = {info.name for info in sensitive}
    others = [info for info in offered if info.name not in named]
    lists = {
        "sensitive": sorted(_line(info.name, [info]) for info in sensitive),
        "hidden": _grouped(info for info in others if _is_hidden(info.name)),
        "other": _grouped(info for info in others if not _is_hidden(info.name)),
    }
    return {
        "files": sum(not isinstance(info, DirectoryInfo) for info in offered),
        "directories": count_directories(offered),
        "bytes": total_size(offered),
        "hidden": len(hidden),
        "sensitive": len(sensitive),
        "executable": sum(isinstance(info, FileInfo) and info.executable for info in offered),
        "entries": [line.to_json() for lines in lists.values() for line in lines[:LISTED]],
        "unlisted": {name: max(0, len(lines) - LISTED) for name, lines in lists.items()},
    }


def _is_hidden(name: str) -> bool:
    return f"/{name}".find("/.") >= 0


def _is_sensitive(name: str) -> bool:
    path = f"/{name}".lower()
    candidate = "/." in path or "/library/" in path or path.endswith(".desktop")
    return candidate and _sensitive().match(path) is not None


def _grouped(offered: Iterable[Offered]) -> list[_Line]:
    """One line for each hidden file or directory, or, if nothing is hidden, for what is at the top."""
    groups: dict[str, list[Offered]] = {}
    for info in offered:
        parts = info.name.split("/")
        depth = next((index for index, part in enumerate(parts, start=1) if part.startswith(".")), 1)
        name = "/".join(parts[:depth])
        groups.setdefault(name if depth == len(parts) else f"{name}/", []).append(info)
    return sorted(_line(name, infos) for name, infos in groups.items())


def _line(name: str, infos: Sequence[Offered]) -> _Line:
    files = [info for info in infos if not isinstance(info, DirectoryInfo)]
    found = {
        "sensitive": _is_sensitive(name) and not name.endswith("/"),
        "hidden": _is_hidden(name),
        "executable": any(isinstance(info, FileInfo) and info.executable for info in infos),
    }
    if len(infos) == 1 and isinstance(infos[0], DirectoryInfo) and not name.endswith("/"):
        name = f"{name}/"
    return _Line(name, total_size(infos), len(files), tuple(mark for mark, has in found.items() if has))
