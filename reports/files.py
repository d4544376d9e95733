"""Write several files atomically."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from punchlab.lab.campaign.files import write_error
from punchlab.lab.errors import InputError
from punchlab.lab.kernel.folder import Folder

_STAGING = ".report.tmp"


def put_files(directory: Path, files: Mapping[str, bytes], replaced: str) -> None:
    """Write `files` (relative name -> content) under `directory`; each is renamed into place when all are on disk.

    If the process is killed, every file has its old or its new content. The folder `replaced` contains only such
    files: PNG and SVG files of an earlier call that this call does not write are removed. Concurrent calls wait for
    each other. Raises `InputError` if the directory cannot be written, and `LabError` for a full disk.
    """
    try:
        with Folder.open(directory, create=True) as folder, folder.folder(replaced, create=True) as own:
            fcntl.flock(own.descriptor, fcntl.LOCK_EX)  # the kernel unlocks when the process dies
            _put_files(folder, files, replaced, own)
    except OSError as error:
        raise write_error("out", directory, error, "a directory") from error


def _put_files(folder: Folder, files: Mapping[str, bytes], replaced: str, own: Folder) -> None:
    targets = {name: (own, name.removeprefix(f"{replaced}/")) for name in files if name.startswith(f"{replaced}/")}
    targets |= {name: (folder, name) for name in files if name not in targets}
    for name, (parent, entry) in targets.items():
        try:
            parent.check_replaceable(entry)  # before the first file is renamed
        except OSError as error:
            raise InputError(
                "out", str(folder.path / name), f"a file or no entry at a path of the report ({error.strerror})"
            ) from None
    try:
        with folder.folder(_STAGING, create=True) as staging:  # a killed process may leave one
            drafts = {name: _draft(staging, content) for name, content in files.items()}
            for name, draft in drafts.items():
                staging.move(draft, *targets[name])
    finally:
        with contextlib.suppress(OSError):
            folder.remove(_STAGING)
    keep = {entry for parent, entry in targets.values() if parent is own}
    for entry in own.files():
        if entry not in keep and entry.endswith((".png", ".svg")):
            own.unlink(entry)


def _draft(staging: Folder, content: bytes) -> str:
    """Write the content to disk under a new name, and return the name."""
    name, file = staging.draft()
    with file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return name
