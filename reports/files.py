"""Write several files atomically."""

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
    """Write `files` (relative name -> content) under `directory`; each is renamed into place when all are on disk.

    If the process is killed, every file has its old or its new content. The folder `replaced` contains only such
    files: PNG and SVG files of an earlier call that this call does not write are removed. Concurrent calls wait for
    each other. Raises `InputError` if the directory cannot be written, and `LabError` for a full disk.
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
        if (directory / name).is_dir():  # before the first file is renamed
            raise InputError("out", str(directory / name), "a file or no entry at a path of the report")
    staging = directory / ".report.tmp"  # a killed process may leave one: it is overwritten and removed below
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
