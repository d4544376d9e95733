"""A summary of an offer that is short enough to read and does not hide any hidden or sensitive file.

Sensitive files, which programs run or trust without asking, are listed first, one per line. Other hidden files and
directories follow, then the rest, grouped by top-level name. Each of the three lists is limited, and its number of
unlisted entries is given.
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
"""Maximum lines of each list."""

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
"""Patterns, in lower case and after a slash, of files that programs run or trust because of their location."""


@functools.cache
def _sensitive() -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(each) for each in _SENSITIVE))  # 50 ms, which most offers do not need


class _Line(NamedTuple):
    """A file, or a directory with a trailing slash and the number of files below it."""

    name: str
    size: int | None
    files: int
    marks: tuple[str, ...]

    def to_json(self) -> Json:
        return {"name": self.name, "size": self.size, "files": self.files, "marks": list(self.marks)}


def summarize(offered: Sequence[Offered]) -> Json:
    """Return the summary as the fields of an event.

    `files`, `directories`, `bytes` (None if unknown), `hidden`, `sensitive` and `executable` are totals of the offer.
    `entries` are the lines: `name`, `size` (bytes or None), `files` and `marks`. `unlisted` is the number of missing
    entries per list.
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
    """Return one line per hidden file or directory; one per top-level name for the others."""
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
