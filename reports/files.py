"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from punchlab.lab.campaign.files import write_error
from punchlab.lab.errors import InputError


def put_files(directory: Path, files: Mapping[str, bytes], replaced: str) -> None:
    """Write `files` (relative name -> content) under `directory`; each is renamed into place once all are on disk.

    A process killed on the way leaves every file as it was or as it shall be. The folder named `replaced` belongs to
    these files alone: what an earlier call left there and this one does not write is removed. Two callers at once take
    turns. Raises `InputError` if the directory cannot be written, and `LabError` for a full disk.
    """
    try:
        own = directory / replaced
        own.mkdir(parents=True, exist_ok=True)
        lock = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel unlocks when the process dies
            _put_files(directory, files, own)
        finally:
            os.close(lock)
    except OSError as error:
        raise write_error("out", directory, error, "a directory") from error


def _put_files(directory: Path, files: Mapping[str, bytes], own: Path) -> None:
    for name in files:
        if (directory / name).is_dir():  # found before the first file is renamed
            raise InputError("out", str(directory / name), "a file or nothing where a file of the report belongs")
    staging = directory / ".report.tmp"  # a killed process may have left one: it is written over, and removed below
    try:
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            (staging / name).replace(directory / name)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)
    keep = {directory / name for name in files}
    for path in own.iterdir():
        if path not in keep and path.suffix in {".png", ".svg"}:
            path.unlink()
