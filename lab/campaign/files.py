"""Files that are replaced atomically: written under another name and renamed."""

from __future__ import annotations

import errno
from pathlib import Path

from punchlab.lab.errors import InputError, LabError, PunchlabError
from punchlab.lab.kernel.folder import Folder

_REFUSALS = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,
}
"""Errors that depend on the path; others are errors of the system, such as a full disk."""


def write_error(field: str, path: Path, error: OSError, kind: str = "a file") -> PunchlabError:
    """Return the error of a path that cannot be written: `InputError` if another path may work, else `LabError`."""
    reason = error.strerror or str(error)
    if error.errno in _REFUSALS:
        return InputError(field, str(path), f"{kind} that can be written ({reason})")
    return LabError(f"{field}: {path}: {reason}")


def write_file(path: Path, content: bytes, field: str = "out") -> None:
    """Write the file atomically. Raises `InputError` or `LabError`."""
    try:
        with Folder.open(path.parent) as folder:
            folder.replace(path.name, content)
    except OSError as error:
        raise write_error(field, path, error) from error
