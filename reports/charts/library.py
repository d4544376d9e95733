"""Imports matplotlib without the settings file of the working directory, which may come from a stranger."""

from __future__ import annotations

import os
from contextlib import suppress


def load() -> None:
    """Import matplotlib.

    Its import reads `matplotlibrc` in the working directory, waits if that is a FIFO, and in old versions evaluates
    code in it. So the working directory is / during the import.
    """
    here = None
    with suppress(FileNotFoundError):  # the working directory was removed
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")
    try:
        import matplotlib  # noqa: F401
    finally:
        if here is not None:
            os.fchdir(here)
            os.close(here)
